"""The adapter for Forge and its kin (reForge, Classic, Neo): a patched clone of the UNet patcher for each pass.

These hosts put their own objects back before every pass, so a clone with patches lives exactly as long as it should.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..model.layer import PromptInput
from ..model.rows import COND, UNCOND, Kind, chunks
from ..model.sites import Block, Lineage, Site
from ..references.inversion import EPS, FLOW, V
from ..techniques.reference.rfg import attention, attention_map
from ..techniques.sampling_pass import SamplingPass
from ..words import RefDropError
from .forge_step import Step
from .hooked_prompt import cross_attentions, hooked_prompts
from .hooks import BATCH_CHANGED, SWAPPED, TILED, block_hooks, guarded, on_loaded, remove_all
from .original_layout import UNetCall, lineage_of, outputs, self_attentions
from .schedules import noise_levels

# What a host's layers call their attention, in the order of preference; looked up in the module that defines the layer.
_ATTENTION_NAMES = ("attention_function", "optimized_attention")

Attend = Callable[[Tensor, Tensor, Tensor, dict], Tensor]  # q, k, v, the host's extra options


class ForgeAdapter:
    """Reaches ``p.sd_model.forge_objects.unet``; sigma and branches come with every model call."""

    @staticmethod
    def fits(p: Any) -> bool:
        patcher = _patcher(p)
        return patcher is not None and bool(self_attentions(patcher.model.diffusion_model))

    def lineage(self, p: Any) -> Lineage:
        model = _patcher(p).model
        return lineage_of(model.diffusion_model, prediction_of(model) == FLOW)

    def element_size(self, p: Any) -> int:
        model = _patcher(p).model
        computes_in = (getattr(model, "computation_dtype", None) or getattr(model, "manual_cast_dtype", None)
                       or next(model.diffusion_model.parameters()).dtype)
        return torch.empty(0, dtype=computes_in).element_size()

    def sigmas(self, p: Any) -> list[float] | None:
        return noise_levels(p, getattr(p.sd_model, "alphas_cumprod", None))

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
        unet = objects.unet.model.diffusion_model
        layers, calls = self_attentions(unet), _Calls(sampling_pass, prediction_of(objects.unet.model))
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
        clone.add_conditioning_modifier(_begins_step(calls))
        mine = weakref.ref(calls)
        handles = [unet.register_forward_pre_hook(guarded(mine, "begin"), with_kwargs=True),
                   unet.register_forward_hook(guarded(mine, "end")), on_loaded(unet, guarded(mine, "swapped"))]
        if sampling_pass.hears_blocks:
            handles += block_hooks(outputs(unet), guarded(mine, "block", lambda block, output: output))
        handles += hooked_prompts(cross_attentions(layers, unet), sampling_pass.cross_sites,
                                  guarded(mine, "sees_prompt"))
        self._unhook = weakref.finalize(self, remove_all, handles)
        objects.unet = clone
        self._calls, self._clone = calls, clone

    def detach(self) -> None:
        self._unhook()
        if self._calls.active and self._refined():
            self._calls.swapped()
        self._calls.active = False  # where another extension has cloned our clone, what is left there does nothing
        if self._clone is not None and self._objects.unet is self._clone:
            self._objects.unet = self._found
        self._found = self._clone = None

    def _refined(self) -> bool:
        """Whether a refiner took over: another model, which has no patches."""
        refiner, now = getattr(self._p, "refiner_checkpoint_info", None), self._p.sd_model
        return refiner is not None and now is not self._model and getattr(now, "sd_checkpoint_info", None) == refiner


class _Calls:
    """Which model call runs, and whether it is one of the sampler's step."""

    def __init__(self, sampling_pass: SamplingPass, prediction: str) -> None:
        self.sampling_pass, self.active, self._prediction = sampling_pass, True, prediction
        self.hidden: Tensor | None = None  # what the layer that runs makes its keys and values of
        self._step: Step | None = None
        self._told: Sequence[int] | None = None  # the host's list for the last call, and what its chunks are
        self._kinds: list[Kind] | None = None
        self._rows = 0  # of the call that runs; 0 where it is none of the step's

    def begin_step(self, x: Tensor, cond: Any, uncond: Any, cond_scale: float, options: dict) -> None:
        """All is ready for a step's model calls: what other extensions do before is done."""
        without = abs(cond_scale - 1) < 1e-9 and not options.get("disable_cfg1_optimization", False)
        self._step, self._told = Step(x, cond, None if without else uncond), None

    def begin(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        self._rows = 0
        if not self.active or self.sampling_pass.replaying or self._step is None:
            return
        options = kwargs.get("transformer_options") or {}
        told, sigmas = options.get("cond_or_uncond"), options.get("sigmas")
        if not told or sigmas is None:
            return
        again = told is self._told  # every call has a list of its own, which only its tiles share
        if not again:
            self._told, self._kinds = told, self._step.take([COND if each == 0 else UNCOND for each in told])
        if self._kinds is None:
            return
        # Given again in a replay: the host's options, but not ControlNet's signals, which the UNet uses up.
        call = UNetCall(unet, args, {**kwargs, "transformer_options": dict(options)}, leave_out=("control",),
                        prediction=self._prediction)
        images, batch = len(self._kinds) * self._step.images, len(call.x)
        whole = call.size == self._step.size and batch == images
        if whole and again:
            return
        if batch % images:
            self.sampling_pass.note(BATCH_CHANGED)
            return
        if not whole:
            self.sampling_pass.note(TILED)
        rows = chunks(self._kinds, self._step.images) * (batch // images)  # tile after tile, each with all chunks
        self.sampling_pass.call(float(sigmas.flatten()[0]), rows, call, tiled=not whole)
        self._rows = batch

    def end(self, unet: nn.Module, args: tuple, output: Any) -> None:
        self._rows = 0

    def block(self, block: Block, output: Tensor) -> Tensor:
        return self.sampling_pass.block(block, output) if self.takes(len(output)) else output

    def sees_prompt(self, site: Site, rows: int, layer: PromptInput) -> None:
        """A layer that looks at the prompt runs, on a batch of so many rows."""
        if self.takes(rows):
            self.sampling_pass.cross_attention(site, layer)

    def swapped(self) -> None:
        """Other weights are in the model's place."""
        self.sampling_pass.note(SWAPPED)
        self.active = False

    def takes(self, rows: int) -> bool:
        """Whether a layer of so many ``rows`` is told of."""
        if not self.active or (not self._rows and not self.sampling_pass.replaying):
            return False
        if rows != self._rows and not self.sampling_pass.replaying:  # they may be tiles of the batch (HyperTile)
            self.sampling_pass.note(BATCH_CHANGED)
            return False
        return True


class _Layer:
    """One self-attention layer in the middle of a call, as :class:`~lib_refdrop.model.layer.SiteInput`."""

    def __init__(self, layer: Any, hidden: Tensor | None, q: Tensor, k: Tensor, v: Tensor, extra: dict,
                 plain: Attend, previous: Attend | None) -> None:
        self._layer, self._hidden = layer, hidden
        self._q, self._k, self._v, self._extra, self._plain, self._previous = q, k, v, extra, plain, previous

    def hidden(self, row: int) -> Tensor | None:
        if self._hidden is None or self._hidden.shape[:2] != self._k.shape[:2]:
            return None
        hidden = self._hidden[row]
        return hidden.to(self._k.dtype) if self._k.element_size() < hidden.element_size() else hidden

    def key_values(self, row: int) -> tuple[Tensor, Tensor]:
        return self._k[row], self._v[row]

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self._layer.to_k(hidden[None])[0], self._layer.to_v(hidden[None])[0]

    def queries(self, rows: slice) -> Tensor:
        return self._q[rows]

    def project_queries(self, hidden: Tensor) -> Tensor:
        return self._layer.to_q(hidden[None])[0]

    def attention_map(self, row: int) -> Tensor:
        return attention_map(self._q[row], self._k[row], self._extra["n_heads"])

    def attend(self, rows: slice, k: Tensor, v: Tensor, bias: Tensor | None = None,
               q: Tensor | None = None) -> Tensor:
        own, q = q is None, self._q[rows] if q is None else q
        if bias is not None:
            return attention(q, k[None].to(q), v[None].to(q), self._extra["n_heads"], bias)
        if self._previous is not None and k.shape == self._k.shape[1:]:
            return self._previous(self._q if own else _with_rows(self._q, rows, q), _with_rows(self._k, rows, k),
                                  _with_rows(self._v, rows, v), self._extra)[rows]
        # Expanded (as views), for the hosts' attention folds a batch that does not fit into the tokens instead of
        # refusing it.
        k, v = (part.to(q).expand(len(q), *part.shape) for part in (k, v))
        return self._plain(q, k, v, self._extra)


def _with_rows(batch: Tensor, rows: slice, one: Tensor) -> Tensor:
    """A copy of a batch in which ``one``, or as many as there are rows, stands in some of them: whoever tells rows
    apart finds all of them there."""
    changed = batch.clone()
    changed[rows] = one.to(batch)
    return changed


def _begins_step(calls: _Calls) -> Callable[..., tuple]:
    """The last of the host's conditioning modifiers, which come before a step's model calls.

    Some of the others call the model themselves (the reference preprocessors do): whoever was added later is let go
    first.
    """

    def begins(model: Any, x: Tensor, timestep: Tensor, uncond: Any, cond: Any, cond_scale: float, model_options: dict,
               seed: Any) -> tuple:
        modifiers = model_options.get("conditioning_modifiers", [])
        if begins in modifiers and modifiers[-1] is not begins:
            modifiers[modifiers.index(begins)] = _passes_on  # the host walks along this list, to its end
            modifiers.append(begins)
        elif calls.active:
            try:
                calls.begin_step(x, cond, uncond, cond_scale, model_options)
            except Exception as error:
                calls.sampling_pass.failed(error)
        return model, x, timestep, uncond, cond, cond_scale, model_options, seed

    return begins


def _passes_on(*given: Any) -> tuple:
    return given


def _sees_hidden(calls: _Calls) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """A patch that changes nothing: it remembers what the layer's keys and values are made of."""

    def attn1(n: Tensor, context: Tensor, value: Tensor, extra: dict) -> tuple[Tensor, Tensor, Tensor]:
        calls.hidden = context if context is value else None
        return n, context, value

    return attn1


def _patch(calls: _Calls, layers: dict[Site, nn.Module], block: tuple[str, int], plain: Attend,
           previous: Attend | None) -> Attend:
    """The replacement for a block's layers. What was there before (StyleAlign, reference-only) makes the plain half,
    and the reference's where it has as many tokens: a neighbour may let the layer look at more than its own keys, and a
    reference with its own seed is to give its own picture all the same."""

    def attn1(q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        hidden, calls.hidden = calls.hidden, None
        own = (previous or plain)(q, k, v, extra)
        site = Site(*block, extra.get("block_index", 0))
        try:
            if site not in layers or own.shape[0] != q.shape[0] or not calls.takes(q.shape[0]):
                return own
            return calls.sampling_pass.attention(site, own, _Layer(layers[site], hidden, q, k, v, extra, plain,
                                                                            previous))
        except Exception as error:  # not to end the host's model call
            calls.sampling_pass.failed(error)
            return own

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


def prediction_of(model: Any) -> str:
    """What a model's output is, by how the host makes its predictions: "eps", "v", "flow" (a model of rectified flow,
    whose sigma goes from 0 to 1), or empty for something else."""
    predictor = getattr(model, "predictor", None) or getattr(model, "model_sampling", None)
    if (told := getattr(predictor, "prediction_type", None)) is not None:
        return {"const": FLOW, "v_prediction": V, "epsilon": EPS, "eps": EPS}.get(told, "")
    kinds = {kind.__name__ for kind in type(predictor).__mro__}
    if kinds & {"EDM", "X0"}:  # which are made of those below
        return ""
    return next((found for name, found in (("CONST", FLOW), ("V_PREDICTION", V), ("EPS", EPS)) if name in kinds), "")


def _patcher(p: Any) -> Any:
    patcher = getattr(getattr(getattr(p, "sd_model", None), "forge_objects", None), "unet", None)
    unet = getattr(getattr(patcher, "model", None), "diffusion_model", None)
    return patcher if isinstance(unet, nn.Module) and hasattr(patcher, "set_model_attn1_replace") else None
