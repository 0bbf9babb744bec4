"""The adapter for AUTOMATIC1111: SD1.x and SD2.x (``ldm``) and SDXL (``sgm``) under any attention optimisation.

The optimisations rewrite methods of classes whenever a model is loaded or an option changes, so nothing is replaced
here: hooks on every ``attn1`` module take what the layer computes, however it does, as the plain half.
"""

from __future__ import annotations

import sys
import weakref
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..model.layer import PromptInput
from ..model.rows import COND, UNCOND, Row
from ..model.schedule import SigmaClock
from ..model.sites import Block, Lineage, Site
from ..references.inversion import EPS, V
from ..techniques.reference.rfg import attention
from ..techniques.sampling_pass import SamplingPass
from ..words import RefDropError
from .hooked_layer import HookedLayer
from .hooked_prompt import cross_attentions, hooked_prompts
from .hooks import BATCH_CHANGED, SWAPPED, TILED, block_hooks, guarded, on_loaded, remove_all
from .original_layout import UNetCall, lineage_of, outputs, self_attentions
from .schedules import noise_levels


class A1111Adapter:
    """Reaches ``p.sd_model.model.diffusion_model``; the rows are read from the denoiser of ``p.sampler``."""

    @staticmethod
    def fits(p: Any) -> bool:
        unet = _unet(p)
        return unet is not None and hasattr(p.sd_model, "alphas_cumprod") and bool(self_attentions(unet))

    def lineage(self, p: Any) -> Lineage:
        return lineage_of(_unet(p))

    def element_size(self, p: Any) -> int:
        computes_in = getattr(sys.modules.get("modules.devices"), "dtype", None) or next(_unet(p).parameters()).dtype
        return torch.empty(0, dtype=computes_in).element_size()

    def sigmas(self, p: Any) -> list[float] | None:
        return noise_levels(p, p.sd_model.alphas_cumprod)

    def attach(self, p: Any, sampling_pass: SamplingPass) -> A1111Attachment:
        """Raises :class:`RefDropError` where the model's own layers will not run, or there is no denoiser to read."""
        replaced = _replacement_unet()
        if replaced:
            raise RefDropError(f"RefDrop cannot guide while the UNet is replaced by {replaced}; choose SD UNet None in "
                               "the settings.")
        denoiser = getattr(p.sampler, "model_wrap_cfg", None)
        if not isinstance(denoiser, nn.Module) or not isinstance(getattr(denoiser, "inner_model", None), nn.Module):
            raise RefDropError(f"RefDrop cannot follow the sampler {p.sampler_name}; choose another.")
        return A1111Attachment(p.sd_model, denoiser, sampling_pass)


class _Batch(NamedTuple):
    """One of the batches that the denoiser sends to the model: its rows, its size, and whether the UNet has had it."""

    rows: list[Row]
    size: tuple[int, int]
    called: bool = False


class A1111Attachment:
    """Hooks for one sampling pass, on what calls what: the denoiser (a step), its inner model (a batch), the UNet
    (that batch, or a tile of it), the UNet's first block, and each self-attention layer.

    They do something only inside a call of this pass's own denoiser. Should a host forget to close a generation that
    failed, what is left behind is inert, and goes when this object does.
    """

    def __init__(self, model: Any, denoiser: nn.Module, sampling_pass: SamplingPass) -> None:
        self._model, self.sampling_pass = model, sampling_pass
        self._checkpoint = getattr(model, "sd_checkpoint_info", None)
        self._clock = SigmaClock(model.alphas_cumprod)
        self._gives_sigmas = hasattr(denoiser.inner_model, "sigmas")  # other denoisers (DDIM's) are given timesteps
        self._inside = self._called = False  # in a call of the denoiser; did that call reach the UNet
        self._expected: list[Row] = []  # the rows it has yet to send there
        self._sigma = 0.0
        self._batch: _Batch | None = None
        self._rows, self._x = 0, torch.empty(0)  # of the UNet call that is running, 0 where it is not ours to touch
        self._own = False  # whether the layers run on what the UNet was called on
        unet, mine = model.model.diffusion_model, weakref.ref(self)
        handles = [denoiser.register_forward_pre_hook(guarded(mine, "denoise"), with_kwargs=True),
                   denoiser.register_forward_hook(guarded(mine, "denoised")),
                   denoiser.inner_model.register_forward_pre_hook(guarded(mine, "batch")),
                   unet.register_forward_pre_hook(guarded(mine, "call"), with_kwargs=True),
                   unet.register_forward_hook(guarded(mine, "returned")),
                   unet.input_blocks[0].register_forward_pre_hook(guarded(mine, "first_block")),
                   on_loaded(unet, guarded(mine, "swapped"))]
        self._remove = weakref.finalize(self, remove_all, handles)
        for site, layer in self_attentions(unet).items():
            at = guarded(mine, "at", lambda site, own, layer: own)
            handles += HookedLayer(layer, _with(at, site), "x", "context", _attend).handles
        if sampling_pass.hears_blocks:
            handles += block_hooks(outputs(unet), guarded(mine, "block", lambda block, output: output))
        handles += hooked_prompts(cross_attentions(self_attentions(unet), unet), sampling_pass.cross_sites,
                                  guarded(mine, "sees_prompt"))

    def detach(self) -> None:
        self._remove()
        self._inside, self._rows = False, 0

    def denoise(self, denoiser: Any, args: tuple, kwargs: dict) -> None:
        """A step: it sends every part of every prompt, then the negative ones, in one call of the model or several."""
        given = dict(zip(("x", "sigma", "uncond", "cond"), args)) | kwargs
        images = range(len(given["x"]))
        # InstructPix2Pix has a third part, unless its strength is 1.
        edits = getattr(self._model, "cond_stage_key", None) == "edit" and \
            getattr(denoiser, "image_cfg_scale", None) not in (None, 1.0)
        self._expected = [Row(COND, image, part) for image, parts in enumerate(given["cond"].batch)
                          for part in range(len(parts))]
        self._expected += [Row(UNCOND, image, part) for part in range(2 if edits else 1) for image in images]
        level = float(given["sigma"].flatten()[0])
        # The UNet's own timestep may be rounded to half precision: this is the number that the schedule has.
        self._sigma = level if self._gives_sigmas else self._clock(level)
        self._inside, self._called, self._rows, self._batch = True, False, 0, None

    def denoised(self, denoiser: nn.Module, args: tuple, output: Any) -> None:
        if self._inside and not self._called and self.sampling_pass.calls:  # a refiner of another architecture
            self.swapped()
        self._inside, self._rows = False, 0

    def batch(self, inner: nn.Module, args: tuple) -> None:
        """The denoiser sends the next rows; when none are left, it is another extension that calls the model (SAG)."""
        if self._inside and args:
            rows = len(args[0])
            taken = self._expected[:rows] if rows <= len(self._expected) else []
            self._expected = self._expected[len(taken):]
            self._batch = _Batch(taken, tuple(args[0].shape[-2:])) if taken else None

    def call(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        """The UNet starts."""
        self._rows, self._own = 0, False
        if not self._inside:
            return
        call = UNetCall(unet, args, kwargs, prediction=_prediction(self._model))
        self._x = call.x
        if self.sampling_pass.replaying:
            self._rows = len(call.x)
            return
        self._called = True
        if getattr(self._model, "sd_checkpoint_info", None) is not self._checkpoint:
            self.swapped()  # a refiner of the same architecture comes into the same modules, hooks and all
            return
        if self._batch is None:
            return
        rows, size, called = self._batch
        whole = call.size == size and len(call.x) == len(rows)
        if whole and called:
            return
        if len(call.x) % len(rows):
            self.sampling_pass.note(BATCH_CHANGED)
            return
        if not whole:
            self.sampling_pass.note(TILED)
        self._batch = _Batch(rows, size, True)  # tiles come one after another, each with all rows
        self.sampling_pass.call(self._sigma, rows * (len(call.x) // len(rows)), call, tiled=not whole)
        self._rows, self._x, self._own = len(call.x), call.x, False  # a replay was inside

    def first_block(self, block: nn.Module, args: tuple) -> None:
        """The layers run. ControlNet's reference-only runs them on another picture first, in the same UNet
        call."""
        if self._rows and args:
            self._own = _same(args[0], self._x)

    def returned(self, unet: nn.Module, args: tuple, output: Any) -> None:
        if self._rows and not self._own and not self.sampling_pass.replaying:
            self.sampling_pass.note(BATCH_CHANGED)
        self._rows = 0

    def at(self, site: Site, own: Tensor, layer: HookedLayer) -> Tensor:
        if not self._rows or not self._own:
            return own
        if own.shape[0] != self._rows:
            self.sampling_pass.note(BATCH_CHANGED)
            return own
        return self.sampling_pass.attention(site, own, layer)

    def block(self, block: Block, output: Tensor) -> Tensor:
        if not self._rows or not self._own or len(output) != self._rows:
            return output
        return self.sampling_pass.block(block, output)

    def sees_prompt(self, site: Site, rows: int, layer: PromptInput) -> None:
        """A layer that looks at the prompt runs, on a batch of so many rows."""
        if self._own and rows == self._rows:
            self.sampling_pass.cross_attention(site, layer)

    def swapped(self) -> None:
        """Other weights are in the model's place."""
        self.sampling_pass.note(SWAPPED)
        self._checkpoint = self  # which no checkpoint is


def _with(at, site: Site):
    return lambda own, layer: at(site, own, layer)


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and torch.equal(one, other.to(one)))


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None) -> Tensor:
    """Attention over a reference, in the precision that the user lets attention run in."""
    if not _upcasts() or q.dtype == torch.float32:
        return attention(q, k, v, heads, bias)
    with torch.autocast(q.device.type, enabled=False) if torch.is_autocast_enabled() else nullcontext():
        return attention(q.float(), k.float(), v.float(), heads, bias).to(q.dtype)


def _unet(p: Any) -> Any:
    unet = getattr(getattr(getattr(p, "sd_model", None), "model", None), "diffusion_model", None)
    return unet if isinstance(unet, nn.Module) else None


def _replacement_unet() -> str | None:
    """The name of what runs in the UNet's place (TensorRT and kin), if anything does."""
    current = getattr(sys.modules.get("modules.sd_unet"), "current_unet", None)
    if current is None:
        return None
    return str(getattr(getattr(current, "option", None), "label", None) or type(current).__name__)


def _prediction(model: Any) -> str:
    found = getattr(model, "parameterization", "")
    return found if found in (EPS, V) else ""


def _upcasts() -> bool:
    """Whether the user lets attention run in full precision: some SD2 models overflow otherwise."""
    options = getattr(sys.modules.get("modules.shared"), "opts", None)
    return bool(getattr(options, "upcast_attn", False))
