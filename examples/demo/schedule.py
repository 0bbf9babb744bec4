"""A training clock measured in seconds, so that a run fits the machine it is given and can be continued."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch


class Budget:
    """Cosine learning rate over ``seconds`` of training, warm-up included; ``spent`` survives a restart."""

    def __init__(self, seconds: float, peak: float, warmup: float = 0.02) -> None:
        self.seconds, self.peak, self.warmup = seconds, peak, warmup
        self.spent = 0.0
        self._last = time.monotonic()

    def resume(self, spent: float) -> None:
        self.spent, self._last = spent, time.monotonic()

    def tick(self) -> float:
        """Fraction of the budget spent, in [0, 1]."""
        now = time.monotonic()
        self.spent, self._last = self.spent + now - self._last, now
        return min(1.0, self.spent / self.seconds)

    def learning_rate(self) -> float:
        fraction = self.tick()
        rise = min(1.0, (fraction + 1e-3) / self.warmup)
        return self.peak * rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fraction)))

    @property
    def over(self) -> bool:
        return self.spent >= self.seconds


def save_checkpoint(path: Path, **state) -> None:
    """Written beside and renamed, so that a stopped run leaves the last whole checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> dict | None:
    """The state written by :func:`save_checkpoint`, or None; tensors and plain values only."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
