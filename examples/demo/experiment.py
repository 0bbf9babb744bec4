"""The main job, once for every pair: record a reference, then draw its target plain and guided by it.

Everything goes through a client's ``txt2img``, with the payloads any API client sends.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .client import Answer, Client, LocalClient, Recipe, RequestRefused
from .pairs import Order, Pair

OWN_SEED_COEFFICIENTS = (0.3, 0.7, -0.5)
Progress = Callable[[str], None]


@dataclass
class Results:
    """What an experiment made, pair by pair. Times are seconds a picture."""

    pairs: list[Pair]
    references: list[Image.Image] = field(default_factory=list)
    plain: list[Image.Image] = field(default_factory=list)
    guided: dict[float, list[Image.Image]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"plain": [], "save": [], "use": []})
    reference_bytes: list[int] = field(default_factory=list)
    reference_files: list[int] = field(default_factory=list)
    self_reproduction_max_abs: int = 0
    zero_identical: bool | None = None

    def median_seconds(self) -> dict[str, float]:
        return {name: round(statistics.median(times), 4) for name, times in self.seconds.items() if times}


class Experiment:
    """Draws pairs through a client. ``name`` is the reference's; every pair after the first replaces it."""

    def __init__(self, client: Client, recipe: Recipe, name: str = "reference", progress: Progress = print) -> None:
        self.client, self.recipe, self.name, self._progress = client, recipe, name, progress

    def run(self, pairs: Sequence[Pair], coefficients: Sequence[float], own_seed_checks: int = 1) -> Results:
        """Raises :class:`RequestRefused` where a picture could not be made as asked, guided ones included."""
        results = Results(list(pairs), guided={c: [] for c in coefficients})
        each = 2 + len(coefficients)
        for number, pair in enumerate(pairs):
            self._progress(f"pair {number + 1} of {len(pairs)} ({pair.kind}): reference and {each - 1} targets")
            saved = self._save(pair.reference, results)
            results.references.append(saved.image)
            plain = self._timed("plain", results, self.plain(pair.target))
            results.plain.append(plain.image)
            for c in coefficients:
                answer = self._timed("use", results, self.use(pair.target, c))
                results.guided[c].append(answer.image)
                if c == 0:
                    same = answer.image.tobytes() == plain.image.tobytes()
                    results.zero_identical = same and results.zero_identical is not False
            if number < own_seed_checks:
                self._check_own_seed(pair.reference, results)
        return results

    def use(self, order: Order, c: float, store: str = "Disk") -> Answer:
        """A picture guided by the reference, with coefficient ``c``."""
        return self.guided(order, {"rfg": c}, store)

    def guided(self, order: Order, settings: Mapping[str, Any], store: str = "Disk") -> Answer:
        """A picture guided by the reference, with any settings of a Use."""
        answer = self.client.txt2img(self.recipe.payload(order, {
            "enabled": True, "mode": "Use", "store": store, "reference": self.name, "on_problem": "Stop", **settings}))
        if settings.get("rfg") != 0 and not answer.guided:
            raise RequestRefused(f"The picture for {order.prompt!r} came back without guidance by {self.name!r}.")
        return answer

    def plain(self, order: Order) -> Answer:
        """A picture of a request that does not mention RefDrop."""
        return self.client.txt2img(self.recipe.payload(order))

    def save(self, order: Order) -> Answer:
        """Keeps the reference, in place of the one of before."""
        return self.client.txt2img(self._saving(order))

    def _saving(self, order: Order, **settings: str) -> dict:
        return self.recipe.payload(order, {"enabled": True, "mode": "Save", "store": "Disk", "reference": self.name,
                                           "replace": True, **settings})

    def _save(self, order: Order, results: Results) -> Answer:
        before = self._files()
        answer = self._timed("save", results, self.save(order))
        if isinstance(self.client, LocalClient):
            path = self.client.file_of(self.name)
            if not path.is_file():
                raise RequestRefused(f"The reference was not saved: there is no {path}.")
            results.reference_bytes.append(path.stat().st_size)
            results.reference_files.append(len((self._files() - before) | {path}))
        return answer

    def _files(self) -> set[Path]:
        """What lies in the references' folder, where it can be looked into."""
        return set(self.client.references.rglob("*")) if isinstance(self.client, LocalClient) else set()

    def _check_own_seed(self, order: Order, results: Results) -> None:
        """A reference that is kept whole gives its own picture with its own seed and prompt, at every c (to
        rounding)."""
        wanted = results.references[-1]
        self.client.txt2img(self._saving(order, store="RAM", keep="Exact"))
        for c in OWN_SEED_COEFFICIENTS:
            difference = largest_difference(self.use(order, c, "RAM").image, wanted)
            results.self_reproduction_max_abs = max(results.self_reproduction_max_abs, difference)

    @staticmethod
    def _timed(what: str, results: Results, answer: Answer) -> Answer:
        results.seconds[what].append(answer.seconds)
        return answer


def largest_difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of two pictures anywhere, in grey levels, 0 to 255."""
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())


def files_without(client: Client, orders: Sequence[Order], recipe: Recipe) -> list[list[bytes]]:
    """The files (PNG with infotext) of requests that do not mention RefDrop, from a client that has never loaded it."""
    return [client.txt2img(recipe.payload(order)).files for order in orders]


def off_identical(client: Client, orders: Sequence[Order], recipe: Recipe, without: list[list[bytes]]) -> bool:
    """Whether a client that has RefDrop, and may have guided before, makes the very files of :func:`files_without`.

    To the byte. RefDrop is switched off in these requests, with values that would matter if it were on.
    """
    off = {"enabled": False, "mode": "Use", "rfg": 1.0, "reference": "no such reference"}
    return [client.txt2img(recipe.payload(order, off)).files for order in orders] == without
