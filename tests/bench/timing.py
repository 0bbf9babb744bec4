"""Times of variants over a plain run, so measured that a machine that slows down or speeds up matters little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Variant:
    """Something to be timed; ``before`` and ``after`` are not."""

    run: Callable[[], object]
    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None


@dataclass
class Timed:
    """A variant's seconds, and how many times those of the plain runs right before and after each they are.

    ``cpu_ratios`` are those of the processor's time, which other programs on the machine hardly disturb.
    """

    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    cpu_ratios: list[float] = field(default_factory=list)

    @property
    def middle(self) -> float:
        """The median of its seconds."""
        return statistics.median(self.seconds)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def cpu_ratio(self) -> float:
        return statistics.median(self.cpu_ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest ratio."""
        return min(self.ratios), max(self.ratios)


def interleave(plain: Variant, variants: Mapping[str, Variant], rounds: int, device: str = "cpu",
               tell: Callable[[str], None] = lambda text: None, clock: Callable[[], float] = time.perf_counter,
               cpu_clock: Callable[[], float] = time.process_time,
               between: int = 1) -> tuple[Timed, dict[str, Timed]]:
    """Plain, first variant, plain, second variant … plain, ``rounds`` times over, after one plain run not counted.

    With ``between`` n there are n variants between two plain runs: quicker, and less exact.
    """
    def timed(name: str, variant: Variant) -> tuple[float, float]:
        tell(name)
        variant.before()
        _wait(device)
        start = clock(), cpu_clock()
        variant.run()
        _wait(device)
        taken = clock() - start[0], cpu_clock() - start[1]
        variant.after()
        return taken

    timed("warming up", plain)
    base, found = Timed(), {name: Timed() for name in variants}
    for turn in range(1, rounds + 1):
        before = timed(f"round {turn} of {rounds}, plain", plain)
        base.seconds.append(before[0])
        for start in range(0, len(variants), between):
            taken = {name: timed(f"round {turn} of {rounds}, {name}", variants[name])
                     for name in list(variants)[start:start + between]}
            after = timed(f"round {turn} of {rounds}, plain", plain)
            for name, (seconds, cpu_seconds) in taken.items():
                found[name].seconds.append(seconds)
                found[name].ratios.append(2 * seconds / (before[0] + after[0]))
                found[name].cpu_ratios.append(2 * cpu_seconds / (before[1] + after[1]))
            base.seconds.append(after[0])
            before = after
    return base, found


def _wait(device: str) -> None:
    """Until a GPU has done all it was told to."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
