"""Features on the model's device: on CUDA the next layer's travel on a stream of their own while this one computes.

Nothing here waits for the device: it is the device's own streams that wait for each other.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .pinned import pinned
from .reference import Key, Reference
from ..model.rows import Kind
from ..model.sites import Site

_SHARE = 8  # features stay on the device up to this part of what was free there when they were first needed

Place = tuple[Site, Kind]  # a layer, and the kind of the rows that ask
Parts = dict[str, Tensor]


class _Sent(NamedTuple):
    parts: Parts
    arrived: torch.cuda.Event
    bytes: int


class Ahead:
    """A reference's features for one pass on ``device``.

    ``key_of`` tells which feature serves a place in the model call that runs, None where there is none to fetch. The
    order of the layers is learned from the calls themselves. Off CUDA features are handed out as they are kept.
    """

    def __init__(self, features: Reference, key_of: Callable[[Site, Kind], Key | None], device: torch.device) -> None:
        self._features, self._key_of, self._device = features, key_of, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._room = torch.cuda.mem_get_info(device)[0] // _SHARE if self._stream else 0
        self._sent: OrderedDict[Key, _Sent] = OrderedDict()  # the least recently used first
        self._bytes = 0
        self._following: dict[Place, Place] = {}
        self._last: Place | None = None

    def begin_call(self) -> None:
        """The model is called again: its first layer comes next."""
        self._last = None

    def take(self, site: Site, kind: Kind) -> Parts | None:
        """The parts of the feature that serves here, as :func:`~lib_refdrop.references.codec.decode` wants them."""
        key = self._key_of(site, kind)
        if key is None or self._stream is None:
            return None if key is None else self._features.feature(key)
        sent = self._send(key)
        if self._last is not None:
            self._following[self._last] = site, kind
        self._last = site, kind
        if sent is None:
            return None
        current = torch.cuda.current_stream(self._device)
        current.wait_event(sent.arrived)
        for part in sent.parts.values():
            part.record_stream(current)
        if self._last in self._following and (following := self._key_of(*self._following[self._last])):
            self._send(following)
        self._make_room()
        return sent.parts

    def _send(self, key: Key) -> _Sent | None:
        if key in self._sent:
            self._sent.move_to_end(key)
            return self._sent[key]
        parts = self._features.feature(key)
        if parts is None:
            return None
        with torch.cuda.stream(self._stream):
            there = {name: pinned(part).to(self._device, non_blocking=True) for name, part in parts.items()}
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
