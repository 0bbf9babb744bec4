"""How much of the effect is left when a reference is kept in one cheaper way: measured, not guessed.

The table beside this file is written by `python examples/evaluate.py --ablate`. A *change* is one thing done to an
exact reference: "int8", "levels3" (three noise levels, spread over the schedule), "merged4" (four tokens merged into
one where a layer sees the picture finest), "cond_only", "without_input". What it *keeps* is how far the pictures stay
those of the exact reference: 1 where they are the same, 0 where they are as far away as plain ones. The gain in
agreement says the same, but over some dozens of pairs not exactly enough to choose by.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Contributions:
    """The table: ``kept`` by change; ``made_with`` says by which command, on what."""

    made_with: str
    kept: Mapping[str, float]

    def of(self, change: str) -> float | None:
        """What a change keeps, from 0 to 1; None where it was not measured. Chance may measure more than all."""
        value = self.kept.get(change)
        return None if value is None else min(max(value, 0.0), 1.0)

    def merging(self, times: float) -> float | None:
        """What is kept where so many tokens become one in the finest layers: between what was measured by interpolation
        over the logarithm, beyond it None."""
        if times <= 1:
            return 1.0
        known = [(1.0, 1.0)] + sorted((float(change[6:]), self.of(change) or 0.0) for change in self.kept
                                      if change.startswith("merged"))
        for (fewer, before), (more, after) in zip(known, known[1:]):
            if times <= more:
                return before + (after - before) * math.log(times / fewer) / math.log(more / fewer)
        return None


def load(path: Path = TABLE) -> Contributions:
    """The table in a file. Raises ValueError with a sentence for what is none, OSError where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON; make it again with examples/evaluate.py --ablate.") from error
    kept = content.get("kept") if isinstance(content, dict) else None
    if not isinstance(kept, dict) or not all(
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            for value in kept.values()):
        raise ValueError(f"{path.name} is no table of contributions; make it again with examples/evaluate.py --ablate.")
    return Contributions(str(content.get("made_with", "")), {name: float(value) for name, value in kept.items()})
