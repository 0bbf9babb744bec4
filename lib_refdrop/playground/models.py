"""Loading a Stable Diffusion model with diffusers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_log
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_log

_PIPELINES = {kind.__name__: kind for kind in (StableDiffusionPipeline, StableDiffusionXLPipeline)}


class ModelProblem(RuntimeError):
    """A model cannot be loaded; the text is one sentence that says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model: its pipeline, the name people know it by, and the start of its weights' SHA-256."""

    pipeline: DiffusionPipeline
    name: str
    path: Path
    hash: str

    @property
    def title(self) -> str:
        return f"{self.name} [{self.hash}]"


def load(path: Path, device: str | None = None, config: Path | None = None) -> Checkpoint:
    """Loads a diffusers folder, or a single-file SD1.5, SD2 or SDXL ``.safetensors`` checkpoint. Never downloads.

    ``device`` None means CUDA, MPS or the CPU, whichever there is; half precision on CUDA, single elsewhere. ``config``
    is a diffusers folder of the same kind of model, for the tokenizer and shapes that a single file does not hold.
    Raises :class:`ModelProblem`.
    """
    path = Path(path)
    device = device or _best_device()
    dtype = torch.float16 if device.startswith("cuda") else torch.float32
    if not path.exists():
        raise ModelProblem(
            f"There is no model at {path}; give --model a diffusers folder or a .safetensors checkpoint."
        )
    try:
        pipeline = _from_folder(path, dtype) if path.is_dir() else _from_file(path, dtype, config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError, RuntimeError) as error:
        if isinstance(error, ModelProblem):
            raise
        raise ModelProblem(f"{path} could not be loaded as a Stable Diffusion model: {_first_line(error)}") from error
    pipeline.set_progress_bar_config(disable=True)
    try:
        pipeline.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelProblem(f"The model could not be put on {device!r}: {_first_line(error)}") from error
    if dtype != torch.float32 and pipeline.vae.config.force_upcast:
        pipeline.vae.to(torch.float32)  # in half precision some autoencoders overflow
    channels = pipeline.unet.config.in_channels
    if channels != pipeline.vae.config.latent_channels:
        raise ModelProblem(
            f"{path.name} is made for inpainting or editing (its UNet takes {channels} channels); choose a "
            "text-to-image model, the playground inpaints with those."
        )
    name = path.resolve().name if path.is_dir() else path.stem
    return Checkpoint(pipeline, name, path, _hash(_weights(path)))


def _from_folder(path: Path, dtype: torch.dtype) -> DiffusionPipeline:
    try:
        kind = json.loads((path / "model_index.json").read_text())["_class_name"]
    except FileNotFoundError:
        raise ModelProblem(
            f"{path} has no model_index.json, so it is no diffusers model; choose another folder."
        ) from None
    if kind not in _PIPELINES:
        raise ModelProblem(f"{path} is a {kind}; the playground runs {' and '.join(_PIPELINES)}.")
    # Some models ship half-precision weights under names of their own.
    half_only = list((path / "unet").glob("*.fp16.safetensors")) and not list(
        (path / "unet").glob("*model.safetensors")
    )
    options = {"safety_checker": None, "requires_safety_checker": False} if kind == "StableDiffusionPipeline" else {}
    with quiet():
        return _PIPELINES[kind].from_pretrained(path, dtype=dtype, local_files_only=True,
                                                variant="fp16" if half_only else None, **options)


def _from_file(path: Path, dtype: torch.dtype, config: Path | None) -> DiffusionPipeline:
    if path.suffix != ".safetensors":
        raise ModelProblem(
            f"{path.name} is not a .safetensors file; others can run code when opened, convert it first."
        )
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
    if not any(name.startswith("model.diffusion_model.input_blocks.") for name in names):
        raise ModelProblem(f"{path.name} holds no Stable Diffusion checkpoint (no model.diffusion_model in it).")
    kind = (
        StableDiffusionXLPipeline if any(name.startswith("conditioner.") for name in names) else StableDiffusionPipeline
    )
    options: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
    if kind is StableDiffusionXLPipeline:
        options = {}
    if config:
        options["config"] = str(config)
    try:
        with quiet():
            return kind.from_single_file(str(path), dtype=dtype, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        if config:
            raise
        raise ModelProblem(f"{path.name} needs a tokenizer and configuration that are not on this machine; give "
                           "--model-config a diffusers folder of the same kind of model.") from error


def _weights(path: Path) -> Path | None:
    return path if path.is_file() else next(iter(sorted((path / "unet").glob("*.safetensors"))), None)


def _hash(path: Path | None) -> str:
    """The first ten digits of the file's SHA-256, as web UIs show it; of a folder's UNet for a diffusers model."""
    if path is None:
        return ""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()[:10]


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".") + "."


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps progress bars, and diffusers' notices, off the screen while a model or a LoRA is loaded."""
    level = diffusers_log.get_verbosity()
    diffusers_log.set_verbosity_error()
    for log in (diffusers_log, transformers_log):
        log.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_log.set_verbosity(level)
        for log in (diffusers_log, transformers_log):
            log.enable_progress_bar()
