"""A reference's features on the model's device, there before a layer asks.

On CUDA the next layers' features are read from the disk by a thread and travel on a stream of their own while this
layer computes: no layer waits for the disk, and it is the device's own streams that wait for each other. Elsewhere
copies from ordinary memory that nobody waits for may arrive late and wrong, so there features are handed out as they
are kept.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from ..model.sites import Site
from ..words import first_line
from .reference import Key, Reference

_log = logging.getLogger(__name__)
_SHARE = 8  # features stay on the device up to this part of what was free there when they were first needed
_READ_AHEAD = 6  # features on their way from the disk
_PROJECTED = 128 * 10**6  # bytes of K and V on the device; what does not fit is computed anew in every call

Parts = dict[str, Tensor]


class KeyValues(NamedTuple):
    """K and V ``[S, width]`` of a layer; the bias of the logits ``[S]``, where tokens stand for unequal numbers of
    others; the statistics ``[2, width]`` of the keys and of the queries that belong to them, where those are wanted and
    known."""

    k: Tensor
    v: Tensor
    bias: Tensor | None = None
    keys: Tensor | None = None
    queries: Tensor | None = None



def pinned(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, in page-locked memory where there is CUDA, from which a GPU fetches by itself; itself where
    there is none, or no room."""
    if not torch.cuda.is_available() or tensor.is_pinned():
        return tensor
    try:
        return tensor.pin_memory()
    except RuntimeError as error:
        _log.warning("RefDrop keeps a reference in ordinary memory, pinning failed: %s", first_line(error))
        return tensor


class _Sent(NamedTuple):
    parts: Parts
    arrived: torch.cuda.Event
    bytes: int


class Ahead:
    """A reference's features for one pass on ``device``."""

    def __init__(self, features: Reference, device: torch.device) -> None:
        self._features, self._device = features, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._room = torch.cuda.mem_get_info(device)[0] // _SHARE if self._stream else 0
        self._order: list[Key] = []
        self._places: dict[Key, int] = {}
        self._sent: OrderedDict[Key, _Sent] = OrderedDict()  # the least recently used first
        self._bytes = 0
        self._reader: ThreadPoolExecutor | None = None
        self._reading: dict[Key, Future[Parts | None]] = {}

    def begin_call(self, keys: Sequence[Key]) -> None:
        """The model is about to be called: what its layers are going to take, in their order."""
        if self._stream is None:
            return
        self._order = list(dict.fromkeys(keys))
        self._places = {key: place for place, key in enumerate(self._order)}
        self._read_from(0)

    def take(self, key: Key) -> Parts | None:
        """The parts of a feature, as :func:`~lib_refdrop.references.codec.decode` wants them; None where it was not
        kept."""
        if self._stream is None:
            return self._features.feature(key)
        place = self._places.get(key, len(self._order))
        self._read_from(place + 1)
        sent = self._send(key)
        if sent is None:
            return None
        current = torch.cuda.current_stream(self._device)
        current.wait_event(sent.arrived)
        for part in sent.parts.values():
            part.record_stream(current)
        for following in self._order[place + 1:place + 2]:
            if following in self._sent or (following in self._reading and self._reading[following].done()):
                self._send(following)
        self._make_room()
        return sent.parts

    def _read_from(self, place: int) -> None:
        for key in self._order[place:place + _READ_AHEAD]:
            if key not in self._sent and key not in self._reading:
                if self._reader is None:
                    self._reader = ThreadPoolExecutor(1, "RefDrop reads ahead")
                    weakref.finalize(self, self._reader.shutdown, wait=False)
                self._reading[key] = self._reader.submit(_read, self._features, key)

    def _send(self, key: Key) -> _Sent | None:
        if key in self._sent:
            self._sent.move_to_end(key)
            return self._sent[key]
        reading = self._reading.pop(key, None)
        parts = reading.result() if reading else _read(self._features, key)
        if parts is None:
            return None
        with torch.cuda.stream(self._stream):
            there = {name: part.to(self._device, non_blocking=part.is_pinned()) for name, part in parts.items()}
            arrived = torch.cuda.Event()
            arrived.record(self._stream)
        self._sent[key] = _Sent(there, arrived, sum(part.nbytes for part in there.values()))
        self._bytes += self._sent[key].bytes
        return self._sent[key]

    def _make_room(self) -> None:
        """Lets go of what was not used for longest; never of this layer's and the next one's."""
        while self._bytes > self._room and len(self._sent) > 2:
            _, sent = self._sent.popitem(last=False)
            self._bytes -= sent.bytes


def _read(features: Reference, key: Key) -> Parts | None:
    parts = features.feature(key)
    return parts and {name: pinned(part) for name, part in parts.items()}


class Projected:
    """Keys and values that serve several model calls in a row, by where they came from; the first that fit into
    ``limit`` bytes."""

    def __init__(self, limit: int = _PROJECTED) -> None:
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
