"""The adapter for Forge and its kin (reForge, Forge Classic): a patched clone of the UNet patcher for each pass.

These hosts put their own objects back before every pass, so a clone with patches lives exactly as long as it should.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..errors import RefDropError
from ..session import Session
from ..sites import COND, UNCOND, Lineage, Site
from .ldm_names import lineage_of, self_attentions
from .notes import BATCH_CHANGED, SWAPPED

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

    def attach(self, p: Any, session: Session) -> ForgeAttachment:
        """Raises :class:`RefDropError` where the host's attention cannot be found."""
        return ForgeAttachment(p, session)


class ForgeAttachment:
    """A clone of the patcher, given to the host in place of the one that was there.

    Hosts deep-copy what is in a clone's options: patches there must be plain functions, and the state stays here.
    """

    def __init__(self, p: Any, session: Session) -> None:
        self._p, self._model = p, p.sd_model
        self._objects = objects = p.sd_model.forge_objects
        self._found = objects.unet
        layers = self_attentions(objects.unet.model.diffusion_model)
        calls = _Calls(session)
        plain = _host_attention(next(iter(layers.values())))
        clone = objects.unet.clone()
        replacements = clone.model_options.get("transformer_options", {}).get("patches_replace", {}).get("attn1", {})
        for site in layers:
            block = (site.section, site.block)
            previous = replacements.get((*block, site.index)) or replacements.get(block)
            clone.set_model_attn1_replace(_patch(calls, site, plain, previous), *block, site.index)
        objects.unet = clone
        self._calls, self._clone = calls, clone

    def detach(self) -> None:
        if self._calls.session is not None and self._refined():
            self._calls.note(SWAPPED)
        self._calls.session = None  # where another extension has cloned our clone, what is left there does nothing
        if self._objects.unet is self._clone:
            self._objects.unet = self._found
        self._found = self._clone = None

    def _refined(self) -> bool:
        """Whether a refiner took over: another model, which has no patches."""
        refiner, now = getattr(self._p, "refiner_checkpoint_info", None), self._p.sd_model
        return refiner is not None and now is not self._model and getattr(now, "sd_checkpoint_info", None) == refiner


class _Calls:
    """Which model call runs: every call brings a list of its own, so another list is another call."""

    def __init__(self, session: Session) -> None:
        self.session: Session | None = session
        self._chunks: list[int] | None = None
        self._rows = 0

    def running(self, extra: dict, rows: int) -> bool:
        """Tells the session when a call begins; False where these ``rows`` are no batch that can be understood."""
        chunks = extra.get("cond_or_uncond")
        sigmas = extra.get("sigmas")
        if not chunks or sigmas is None or rows % len(chunks):
            self.note(BATCH_CHANGED)
            return False
        if chunks is not self._chunks:
            self._chunks, self._rows = chunks, rows
            branches = [COND if chunk == 0 else UNCOND for chunk in chunks for _ in range(rows // len(chunks))]
            self.session.begin_call(float(sigmas.flatten()[0]), branches)
        if rows != self._rows:
            self.note(BATCH_CHANGED)
        return rows == self._rows

    def note(self, note: str) -> None:
        if note not in self.session.outcome.notes:
            self.session.outcome.notes.append(note)


class _Layer:
    """One self-attention layer in the middle of a call, as :class:`~lib_refdrop.session.SiteInput`."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, extra: dict, plain: Attend) -> None:
        self._q, self._k, self._v, self._extra, self._plain = q, k, v, extra, plain

    def key_values(self, row: int) -> tuple[Tensor, Tensor]:
        return self._k[row], self._v[row]

    def attend(self, rows: slice, k: Tensor, v: Tensor) -> Tensor:
        q = self._q[rows]
        # Expanded, for the hosts' attention folds a batch that does not fit into the tokens instead of refusing it.
        k, v = (part.to(q).expand(len(q), *part.shape).contiguous() for part in (k, v))
        return self._plain(q, k, v, self._extra)


def _patch(calls: _Calls, site: Site, plain: Attend, previous: Attend | None) -> Attend:
    """The replacement for one layer; what was there before (StyleAlign, say) makes the plain half."""

    def attn1(q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        own, session = (previous or plain)(q, k, v, extra), calls.session
        if session is None or not calls.running(extra, q.shape[0]) or own.shape[0] != q.shape[0]:
            return own
        return session.at(site, own, _Layer(q, k, v, extra, plain))

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
