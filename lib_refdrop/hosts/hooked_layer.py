"""A self-attention layer of ``ldm``, ``sgm`` or diffusers under hooks: whoever computes it makes the plain half.

Queries are taken from ``to_q`` and the blend is put in at the door of ``to_out``, so that neither is computed twice.
Where an implementation passes these by (fused projections) or cuts the picture into tiles (HyperTile), the layer's own
output is blended instead: ``to_out`` is affine, so behind it the blend is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..techniques.reference.rfg import attention, attention_map

Attend = Callable[[Tensor, Tensor, Tensor, int, "Tensor | None"], Tensor]  # q, k, v, heads, bias


class HookedLayer:
    """One layer as :class:`~lib_refdrop.model.layer.SiteInput`; ``handles`` take the hooks off.

    It is self-attention by its place in the model, whatever it is called with: some extensions name the hidden state as
    the ``context`` as well, others add to it what else the layer is to look at. In every call ``at(own, self)`` gives
    what the layer goes on with; ``hidden`` and ``context`` are what the layer calls its parameters, ``attend`` is how
    attention over a reference is computed.
    """

    def __init__(self, layer: Any, at: Callable[[Tensor, HookedLayer], Tensor], hidden: str, context: str,
                 attend: Attend = attention) -> None:
        self._layer, self._at, self._attend, self._names = layer, at, attend, (hidden, context)
        self._waiting = self._behind = False  # for the pass to be told; told behind to_out
        self._hidden: Any = None  # a tensor in the middle of a call: what queries are made of
        self._source: Any = None  # and what keys and values are made of
        self._queries: Tensor | None = None
        self._made: dict[str, tuple[Tensor, Tensor]] = {}  # keys and values: what each was made of, and what came of it
        to_q, to_out = layer.to_q, layer.to_out[0]  # a layer of another kind fails here, with no hook on it yet
        self.handles = [layer.register_forward_pre_hook(self._enter, with_kwargs=True),
                        to_q.register_forward_hook(self._queried), to_out.register_forward_pre_hook(self._attended),
                        layer.register_forward_hook(self._leave)]
        self.handles += [getattr(layer, name).register_forward_hook(self._projected(name)) for name in ("to_k", "to_v")]

    def hidden(self, row: int) -> Tensor | None:
        if any(given is not self._source for given, _ in self._made.values()):
            return None  # a hypernetwork, say, makes keys and values of something else
        hidden = self._source[row]
        k = self._made["to_k"][1] if "to_k" in self._made else hidden
        return hidden.to(k.dtype) if k.element_size() < hidden.element_size() else hidden  # autocast: as K is computed

    def key_values(self, row: int) -> tuple[Tensor, Tensor]:
        if len(self._made) == 2:
            return self._made["to_k"][1][row], self._made["to_v"][1][row]
        return self.project(self._source[row])

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self._layer.to_k(hidden[None])[0], self._layer.to_v(hidden[None])[0]

    def queries(self, rows: slice) -> Tensor:
        if self._queries is None:
            self._queries = self._layer.to_q(self._hidden)
        return self._queries[rows]

    def project_queries(self, hidden: Tensor) -> Tensor:
        return self._layer.to_q(hidden[None])[0]

    def attention_map(self, row: int) -> Tensor:
        return attention_map(self.queries(slice(row, row + 1))[0], self.key_values(row)[0], self._layer.heads)

    def attend(self, rows: slice, k: Tensor, v: Tensor, bias: Tensor | None = None,
               q: Tensor | None = None) -> Tensor:
        q = self.queries(rows) if q is None else q
        out = self._attend(q, k[None].to(q.dtype), v[None].to(q.dtype), self._layer.heads, bias)
        if self._behind:
            out = self._layer.to_out[0](out) / getattr(self._layer, "rescale_output_factor", 1)
        return out

    def _enter(self, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        hidden, context = self._names
        self._hidden, self._queries, self._made = (args[0] if args else kwargs[hidden]), None, {}
        given = args[1] if len(args) > 1 else kwargs.get(context)
        self._source = self._hidden if given is None else given
        self._waiting, self._behind = len(self._source) == len(self._hidden), False

    def _queried(self, to_q: nn.Module, args: tuple, queries: Tensor) -> None:
        if self._waiting and queries.shape[:2] == self._hidden.shape[:2]:
            self._queries = queries
        elif len(queries) < len(self._hidden):  # not all rows attend here (PAG replaces it for some): to be left alone
            self._waiting = False

    def _projected(self, name: str) -> Callable[[nn.Module, tuple, Tensor], None]:
        def hook(module: nn.Module, args: tuple, made: Tensor) -> None:
            if self._waiting and made.shape[:2] == self._source.shape[:2]:
                self._made[name] = args[0], made

        return hook

    def _attended(self, to_out: nn.Module, args: tuple) -> tuple | None:
        if not self._waiting or self._queries is None or args[0].shape != self._queries.shape:
            return None
        self._waiting = False
        return (self._at(args[0], self),)

    def _leave(self, layer: nn.Module, args: tuple, own: Tensor) -> Tensor:
        if self._waiting:
            self._waiting, self._behind = False, True
            own = self._at(own, self)
        self._hidden = self._source = self._queries = None
        self._made = {}
        return own
