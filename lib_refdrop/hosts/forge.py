"""The adapter for Forge and its kin (reForge, Forge Classic): a patched clone of the UNet patcher for each pass.

These hosts put their own objects back before every pass, so a clone with patches lives exactly as long as it should.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..words import RefDropError
from ..techniques.reference.rfg import attention
from ..techniques.sampling_pass import SamplingPass
from ..model.rows import COND, UNCOND, chunks, number_parts
from ..model.sites import Lineage, Site
from .ldm_names import lineage_of, self_attentions
from .notes import BATCH_CHANGED, SWAPPED
from .unet_call import UNetCall

# What a host's layers call their attention, in the order of preference; looked up in the module that defines the layer.
_ATTENTION_NAMES = ("attention_function", "optimized_attention")

Attend = Callable[[Tensor, Tensor, Tensor, dict], Tensor]  # q, k, v, the host's extra options


class ForgeAdapter:
    """Reaches ``p.sd_model.forge_objects.unet``; sigma and branches come with every call of the patch."""

    @staticmethod
    def fits(p: Any) -> bool:
        patcher = _patcher(p)
        return patcher is not None and bool(self_attentions(patcher.model.diffusion_model))

    def lineage(self, p: Any) -> Lineage:
        return lineage_of(_patcher(p).model.diffusion_model)

    def element_size(self, p: Any) -> int:
        model = _patcher(p).model
        computes_in = (getattr(model, "computation_dtype", None) or getattr(model, "manual_cast_dtype", None)
                       or next(model.diffusion_model.parameters()).dtype)
        return torch.empty(0, dtype=computes_in).element_size()

    def attach(self, p: Any, sampling_pass: SamplingPass) -> ForgeAttachment:
        """Raises :class:`RefDropError` where the host's attention cannot be found."""
        return ForgeAttachment(p, sampling_pass)


class ForgeAttachment:
    """A clone of the patcher, given to the host in place of the one that was there.

    Hosts deep-copy what is in a clone's options: patches there must be plain functions, and the state stays here.
    """

    def __init__(self, p: Any, sampling_pass: SamplingPass) -> None:
        self._p, self._model = p, p.sd_model
        self._objects = objects = p.sd_model.forge_objects
        self._found = objects.unet
        layers = self_attentions(objects.unet.model.diffusion_model)
        calls = _Calls(sampling_pass)
        plain = _host_attention(next(iter(layers.values())))
        clone = objects.unet.clone()
        replacements = clone.model_options.get("transformer_options", {}).get("patches_replace", {}).get("attn1", {})
        # Hosts prefer a layer's patch to its block's. A block's is what others (PAG, say) put theirs over for one call:
        # ours must not stand above it.
        for block in {(site.section, site.block) for site in layers}:
            clone.set_model_attn1_replace(_patch(calls, layers, block, plain, replacements.get(block)), *block)
        for site in layers:
            block = (site.section, site.block)
            if previous := replacements.get((*block, site.index)):
                clone.set_model_attn1_replace(_patch(calls, layers, block, plain, previous), *block, site.index)
        clone.set_model_attn1_patch(_sees_hidden(calls))
        hook = objects.unet.model.diffusion_model.register_forward_pre_hook(_before_unet(calls), with_kwargs=True)
        self._unhook = weakref.finalize(self, hook.remove)
        objects.unet = clone
        self._calls, self._clone = calls, clone

    def detach(self) -> None:
        self._unhook()
        if self._calls.sampling_pass is not None and self._refined():
            self._calls.note(SWAPPED)
        self._calls.sampling_pass = None  # where another extension has cloned our clone, what is left there does nothing
        if self._objects.unet is self._clone:
            self._objects.unet = self._found
        self._found = self._clone = None

    def _refined(self) -> bool:
        """Whether a refiner took over: another model, which has no patches."""
        refiner, now = getattr(self._p, "refiner_checkpoint_info", None), self._p.sd_model
        return refiner is not None and now is not self._model and getattr(now, "sd_checkpoint_info", None) == refiner


class _Calls:
    """Which model call runs: every call brings a list of its own, so another list is another call."""

    def __init__(self, sampling_pass: SamplingPass) -> None:
        self.sampling_pass: SamplingPass | None = sampling_pass
        self.unet_call: UNetCall | None = None  # the last that began
        self.hidden: Tensor | None = None  # what the layer that runs makes its keys and values of
        self._chunks: list[int] | None = None
        self._rows = 0

    def running(self, extra: dict, rows: int) -> bool:
        """Tells the session when a call begins; False where these ``rows`` are no batch that can be understood."""
        if self.sampling_pass.replaying:
            return True
        halves = extra.get("cond_or_uncond")
        sigmas = extra.get("sigmas")
        batch = extra.get("original_shape", (rows,))[0]  # a layer's rows may be tiles of it (HyperTile)
        if not halves or sigmas is None or batch % len(halves):
            self.note(BATCH_CHANGED)
            return False
        if halves is not self._chunks:
            self._chunks, self._rows = halves, batch
            kinds = number_parts([COND if half == 0 else UNCOND for half in halves])
            self.sampling_pass.call(float(sigmas.flatten()[0]), chunks(kinds, batch // len(halves)), self.unet_call)
        if rows != self._rows:
            self.note(BATCH_CHANGED)
        return rows == self._rows

    def note(self, note: str) -> None:
        self.sampling_pass.note(note)


class _Layer:
    """One self-attention layer in the middle of a call, as :class:`~lib_refdrop.model.layer.SiteInput`."""

    def __init__(self, layer: nn.Module, hidden: Tensor | None, q: Tensor, k: Tensor, v: Tensor, extra: dict,
                 plain: Attend) -> None:
        self._layer, self._hidden = layer, hidden
        self._q, self._k, self._v, self._extra, self._plain = q, k, v, extra, plain

    def hidden(self, row: int) -> Tensor | None:
        known = self._hidden is not None and self._hidden.shape[:2] == self._k.shape[:2]
        return self._hidden[row] if known else None

    def key_values(self, row: int) -> tuple[Tensor, Tensor]:
        return self._k[row], self._v[row]

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self._layer.to_k(hidden[None])[0], self._layer.to_v(hidden[None])[0]

    def attend(self, rows: slice, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        q = self._q[rows]
        if bias is not None:
            return attention(q, k[None].to(q), v[None].to(q), self._extra["n_heads"], bias)
        # Expanded (as views), for the hosts' attention folds a batch that does not fit into the tokens instead of refusing it.
        k, v = (part.to(q).expand(len(q), *part.shape) for part in (k, v))
        return self._plain(q, k, v, self._extra)


def _before_unet(calls: _Calls):
    def hook(module, args, kwargs):
        if calls.sampling_pass is not None and not calls.sampling_pass.replaying:
            # Given again in a replay: the host's options, but not ControlNet's signals, which the UNet uses up.
            calls.unet_call = UNetCall(module, args, _own_options(kwargs), leave_out=("control",))

    return hook


def _own_options(kwargs: dict) -> dict:
    options = kwargs.get("transformer_options")
    return {**kwargs, "transformer_options": dict(options)} if isinstance(options, dict) else kwargs


def _sees_hidden(calls: _Calls):
    """A patch that changes nothing: it remembers what the layer's keys and values are made of."""

    def attn1(n: Tensor, context: Tensor, value: Tensor, extra: dict) -> tuple[Tensor, Tensor, Tensor]:
        calls.hidden = context if context is value else None
        return n, context, value

    return attn1


def _patch(calls: _Calls, layers: dict[Site, nn.Module], block: tuple[str, int], plain: Attend,
           previous: Attend | None) -> Attend:
    """The replacement for a block's layers; what was there before (StyleAlign, say) makes the plain half."""

    def attn1(q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        hidden, calls.hidden = calls.hidden, None
        own, sampling_pass = (previous or plain)(q, k, v, extra), calls.sampling_pass
        if sampling_pass is None or not calls.running(extra, q.shape[0]) or own.shape[0] != q.shape[0]:
            return own
        site = Site(*block, extra.get("block_index", 0))
        return sampling_pass.attention(site, own, _Layer(layers[site], hidden, q, k, v, extra, plain)) if site in layers else own

    return attn1


def _host_attention(layer: nn.Module) -> Attend:
    """The attention that the host's own layers run, with its choice of optimisation and precision.

    Raises :class:`RefDropError` for a host that names it otherwise.
    """
    module = sys.modules[type(layer).__module__]
    function = next((getattr(module, name) for name in _ATTENTION_NAMES if hasattr(module, name)), None)
    if function is None:
        raise RefDropError("RefDrop does not find this web UI's attention function, so it cannot guide here; please "
                           "report which web UI and version this is.")

    def plain(q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        precision = {"attn_precision": extra["attn_precision"]} if "attn_precision" in extra else {}
        return function(q, k, v, extra["n_heads"], **precision)

    return plain


def _patcher(p: Any) -> Any:
    patcher = getattr(getattr(getattr(p, "sd_model", None), "forge_objects", None), "unet", None)
    unet = getattr(getattr(patcher, "model", None), "diffusion_model", None)
    return patcher if isinstance(unet, nn.Module) and hasattr(patcher, "set_model_attn1_replace") else None
