"""Keys and values that serve several model calls in a row, kept between them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from torch import Tensor

from ..model.sites import Site

LIMIT = 128 * 10**6  # bytes on the model's device; what does not fit is computed anew in every call

KeyValues = tuple[Tensor, Tensor, "Tensor | None"]  # K, V, the bias of the logits


class Projected:
    """What a reference's features were made into, by where they came from; the first that fit into ``limit`` bytes."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit, self._bytes = limit, 0
        self._kept: dict[Hashable, dict[Site, KeyValues]] = {}

    def only(self, sources: Iterable[Hashable]) -> None:
        """Forgets what came from elsewhere."""
        wanted = set(sources)
        for source in [source for source in self._kept if source not in wanted]:
            self._bytes -= sum(map(_bytes, self._kept.pop(source).values()))

    def find(self, source: Hashable, site: Site) -> KeyValues | None:
        return self._kept.get(source, {}).get(site)

    def keep(self, source: Hashable, site: Site, value: KeyValues) -> None:
        if site not in self._kept.get(source, ()) and self._bytes + _bytes(value) <= self._limit:
            self._kept.setdefault(source, {})[site] = value
            self._bytes += _bytes(value)


def _bytes(value: KeyValues) -> int:
    return sum(part.nbytes for part in value if part is not None)
