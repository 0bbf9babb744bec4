"""Loading a Stable Diffusion model with diffusers, and asking it for text embeddings and starting noise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_log
from safetensors import SafetensorError, safe_open
from torch import Tensor
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
    scheduler_config: dict

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
        raise ModelProblem(f"There is no model at {path}; give --model a diffusers folder or a .safetensors checkpoint.")
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
    weights = _weights(path)
    return Checkpoint(pipeline, path.resolve().name if path.is_dir() else path.stem, path, _hash(weights),
                      dict(pipeline.scheduler.config))


def encode(pipeline: DiffusionPipeline, prompts: Sequence[str], negatives: Sequence[str], cfg: float) -> dict[str, Any]:
    """Text embeddings ``[B, tokens, width]`` (and pooled ones for SDXL) as the pipeline's own arguments.

    The negative ones are None where the pipeline does not guide: at CFG scale 1, or with the scale built into the UNet.
    """
    guided = cfg > 1 and pipeline.unet.config.time_cond_proj_dim is None
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    embeds = pipeline.encode_prompt(prompt=list(prompts), device=pipeline._execution_device, num_images_per_prompt=1,
                                    do_classifier_free_guidance=guided, negative_prompt=list(negatives))
    return dict(zip(names, embeds))


def noise(pipeline: DiffusionPipeline, seeds: Sequence[int], width: int, height: int) -> tuple[Tensor, list[torch.Generator]]:
    """Starting noise ``[B, C, height/8, width/8]`` and the generators for noise added later, one an image.

    Made on the CPU, so that a seed is the same picture on every device and at every place in a batch.
    """
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    scale, unet = pipeline.vae_scale_factor, pipeline.unet
    shape = (1, unet.config.in_channels, height // scale, width // scale)
    rows = [torch.randn(shape, generator=generator) for generator in generators]
    return torch.cat(rows).to(pipeline._execution_device, unet.dtype), generators


def too_long(pipeline: DiffusionPipeline, prompts: Sequence[str]) -> list[str]:
    """One sentence for every prompt of which the text encoder leaves the end unread."""
    tokenizer = pipeline.tokenizer
    longest = tokenizer.model_max_length
    return [f"A prompt has {count - 2} tokens, this model reads the first {longest - 2} of them."
            for count in {len(tokenizer(prompt).input_ids) for prompt in set(prompts)} if count > longest]


def _from_folder(path: Path, dtype: torch.dtype) -> DiffusionPipeline:
    try:
        kind = json.loads((path / "model_index.json").read_text())["_class_name"]
    except FileNotFoundError:
        raise ModelProblem(f"{path} has no model_index.json, so it is no diffusers model; choose another folder.") from None
    if kind not in _PIPELINES:
        raise ModelProblem(f"{path} is a {kind}; the playground runs {' and '.join(_PIPELINES)}.")
    # Some models ship half-precision weights under names of their own.
    half_only = list((path / "unet").glob("*.fp16.safetensors")) and not list((path / "unet").glob("*model.safetensors"))
    options = {"safety_checker": None, "requires_safety_checker": False} if kind == "StableDiffusionPipeline" else {}
    with _quiet():
        return _PIPELINES[kind].from_pretrained(path, dtype=dtype, local_files_only=True,
                                                variant="fp16" if half_only else None, **options)


def _from_file(path: Path, dtype: torch.dtype, config: Path | None) -> DiffusionPipeline:
    if path.suffix != ".safetensors":
        raise ModelProblem(f"{path.name} is not a .safetensors file; others can run code when opened, convert it first.")
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
    if not any(name.startswith("model.diffusion_model.input_blocks.") for name in names):
        raise ModelProblem(f"{path.name} holds no Stable Diffusion checkpoint (no model.diffusion_model in it).")
    kind = StableDiffusionXLPipeline if any(name.startswith("conditioner.") for name in names) else StableDiffusionPipeline
    options = {} if kind is StableDiffusionXLPipeline else {"safety_checker": None, "requires_safety_checker": False}
    if config:
        options["config"] = str(config)
    try:
        with _quiet():
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
def _quiet() -> Iterator[None]:
    """Keeps progress bars, and diffusers' notice about a safety checker, off the screen while a model is loaded."""
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
