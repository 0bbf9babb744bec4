"""The adapter for AUTOMATIC1111: SD1.x and SD2.x (``ldm``) and SDXL (``sgm``) under any attention optimisation.

The optimisations rewrite methods of classes whenever a model is loaded or an option changes, so nothing is replaced
here: hooks on every ``attn1`` module take what the layer computes, however it does, as the plain half.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..words import RefDropError
from ..techniques.reference.rfg import attention
from ..techniques.sampling_pass import SamplingPass
from ..model.rows import COND, UNCOND, Row
from ..model.sites import Lineage, Site
from ..model.schedule import SigmaClock
from .hooked_layer import HookedLayer
from .ldm_names import lineage_of, self_attentions
from .notes import BATCH_CHANGED, SWAPPED
from .unet_call import UNetCall


class A1111Adapter:
    """Reaches ``p.sd_model.model.diffusion_model``; the branches are read from the denoiser of ``p.sampler``."""

    @staticmethod
    def fits(p: Any) -> bool:
        unet = _unet(p)
        return unet is not None and hasattr(p.sd_model, "alphas_cumprod") and bool(self_attentions(unet))

    def lineage(self, p: Any) -> Lineage:
        return lineage_of(_unet(p))

    def element_size(self, p: Any) -> int:
        computes_in = getattr(sys.modules.get("modules.devices"), "dtype", None) or next(_unet(p).parameters()).dtype
        return torch.empty(0, dtype=computes_in).element_size()

    def attach(self, p: Any, sampling_pass: SamplingPass) -> A1111Attachment:
        """Raises :class:`RefDropError` where the model's own layers will not run, or there is no denoiser to read."""
        replaced = _replacement_unet()
        if replaced:
            raise RefDropError(f"RefDrop cannot guide while the UNet is replaced by {replaced}; choose SD UNet None in "
                               "the settings.")
        denoiser = getattr(p.sampler, "model_wrap_cfg", None)
        if not isinstance(denoiser, nn.Module):
            raise RefDropError(f"RefDrop cannot follow the sampler {p.sampler_name}; choose another.")
        return A1111Attachment(p.sd_model, denoiser, sampling_pass)


class A1111Attachment:
    """Hooks for one sampling pass.

    They do something only inside a call of this pass's own denoiser. Should a host forget to close a generation that
    failed, what is left behind is inert, and goes when this object does.
    """

    def __init__(self, model: Any, denoiser: nn.Module, sampling_pass: SamplingPass) -> None:
        self._model, self._pass = model, sampling_pass
        self._checkpoint = getattr(model, "sd_checkpoint_info", None)
        self._clock = SigmaClock(model.alphas_cumprod)
        self._inside = self._called = False  # in a call of the denoiser; did that call reach the UNet
        self._expected: list[Row] = []  # the rows it has yet to send there
        self._rows = 0  # of the UNet call that is running, 0 where it is not ours to touch
        unet, mine = model.model.diffusion_model, weakref.ref(self)
        handles = [denoiser.register_forward_pre_hook(_before_denoiser(mine), with_kwargs=True),
                   denoiser.register_forward_hook(_after_denoiser(mine)),
                   unet.register_forward_pre_hook(_before_unet(mine), with_kwargs=True)]
        self._remove = weakref.finalize(self, _remove_all, handles)
        for site, layer in self_attentions(unet).items():
            handles += HookedLayer(layer, _at(mine, site), "x", "context", _attend).handles

    def detach(self) -> None:
        self._remove()
        self._inside, self._rows = False, 0

    def denoise(self, x: Tensor, cond: Any) -> None:
        """The denoiser starts: it sends every part of every prompt, then the negative ones, in one call or several."""
        halves = 2 if getattr(self._model, "cond_stage_key", None) == "edit" else 1  # InstructPix2Pix has a third part
        self._expected = [Row(COND, image, part) for image, parts in enumerate(cond.batch) for part in range(len(parts))]
        self._expected += [Row(UNCOND, image, half) for half in range(halves) for image in range(len(x))]
        self._inside, self._called, self._rows = True, False, 0

    def denoised(self) -> None:
        if self._inside and not self._called and self._pass.calls:  # a refiner of another architecture is another object
            self._pass.note(SWAPPED)
        self._inside, self._rows = False, 0

    def call(self, call: UNetCall) -> None:
        """The UNet starts."""
        rows, self._rows = len(call.x), 0
        if not self._inside:
            return
        if self._pass.replaying:
            self._rows = rows
            return
        self._called = True
        if getattr(self._model, "sd_checkpoint_info", None) is not self._checkpoint:
            self._pass.note(SWAPPED)  # a refiner of the same architecture comes into the same modules, hooks and all
        elif rows > len(self._expected):
            self._pass.note(BATCH_CHANGED)
        else:
            rows_now, self._expected = self._expected[:rows], self._expected[rows:]
            self._pass.call(self._clock(call.timestep), rows_now, call)
            self._rows = rows

    def at(self, site: Site, own: Tensor, layer: HookedLayer) -> Tensor:
        if not self._rows:
            return own
        if own.shape[0] != self._rows:
            self._pass.note(BATCH_CHANGED)
            return own
        return self._pass.attention(site, own, layer)


def _before_denoiser(mine):
    def hook(module, args, kwargs):
        if attachment := mine():
            cond = kwargs["cond"] if "cond" in kwargs else args[3]
            attachment.denoise(args[0] if args else kwargs["x"], cond)

    return hook


def _after_denoiser(mine):
    def hook(module, args, output):
        if attachment := mine():
            attachment.denoised()

    return hook


def _before_unet(mine):
    def hook(module, args, kwargs):
        if attachment := mine():
            attachment.call(UNetCall(module, args, kwargs))

    return hook


def _at(mine, site: Site):
    def at(own: Tensor, layer: HookedLayer) -> Tensor:
        attachment = mine()
        return own if attachment is None else attachment.at(site, own, layer)

    return at


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None) -> Tensor:
    """Attention over a reference, in the precision that the user lets attention run in."""
    if not _upcasts() or q.dtype == torch.float32:
        return attention(q, k, v, heads, bias)
    with torch.autocast(q.device.type, enabled=False) if torch.is_autocast_enabled() else nullcontext():
        return attention(q.float(), k.float(), v.float(), heads, bias).to(q.dtype)


def _remove_all(handles: Sequence[Any]) -> None:
    for handle in handles:
        handle.remove()


def _unet(p: Any) -> nn.Module | None:
    unet = getattr(getattr(getattr(p, "sd_model", None), "model", None), "diffusion_model", None)
    return unet if isinstance(unet, nn.Module) else None


def _replacement_unet() -> str | None:
    """The name of what runs in the UNet's place (TensorRT and kin), if anything does."""
    current = getattr(sys.modules.get("modules.sd_unet"), "current_unet", None)
    if current is None:
        return None
    return str(getattr(getattr(current, "option", None), "label", None) or type(current).__name__)


def _upcasts() -> bool:
    """Whether the user lets attention run in full precision: some SD2 models overflow otherwise."""
    options = getattr(sys.modules.get("modules.shared"), "opts", None)
    return bool(getattr(options, "upcast_attn", False))
