"""Writes the demo model's card. Its figures are read from the model, the training's checkpoints and the reader."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from .characters import NAMED, SIZE, SKEW, STEREOTYPES, UNNAMED, draw, draw_character
from .diffusion import DROPOUT, KINDS, PICTURES
from .reader import READER, through, to_tensor
from .schedule import load_checkpoint

NOTES = "notes.txt"  # in the training's folder: what happened there that no checkpoint tells
HELD_OUT = 96  # drawings the autoencoder is measured on


def write_card(model: Path, work: Path, workers: int) -> str:
    """Writes ``README.md`` into a trained model's folder and returns it; ``work`` holds the training's checkpoints."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32, safety_checker=None,
                                                       requires_safety_checker=False, local_files_only=True)
    reader = json.loads((model / READER).with_suffix(".json").read_text(encoding="utf-8"))
    text = "\n".join((_HEAD, _data(work), _architecture(pipeline, model), _training(pipeline.vae, work, workers),
                      _ATTENTION, _reading(reader), _LIMITS))
    (model / "README.md").write_text(text, encoding="utf-8")
    return text


@torch.no_grad()
def decibels(autoencoder, count: int) -> float:
    """Peak signal-to-noise ratio of so many pictures, drawn for this only, that went through the autoencoder."""
    rng = random.Random("drawings to measure the autoencoder with")
    errors = []
    for _ in range(count):
        picture = to_tensor(np.array(draw(draw_character(rng), rng))[None])
        errors.append((through(autoencoder)(picture).clamp(-1, 1) - picture).square().mean().item())
    return float(-10 * np.log10(np.mean(errors) / 4))


_HEAD = """---
license: mit
library_name: diffusers
pipeline_tag: text-to-image
---
# The demo model of SD-RefDrop

A small latent text-to-image model in Stable Diffusion's layout, trained from nothing on drawings, so that Reference
Feature Guidance can be seen and measured on any machine. Made by `examples/train_demo_model.py`, which also wrote this
card; `examples/export_ldm.py` converts it to a single file. MIT licence; the drawings come
from `examples/demo/characters.py`, and no other picture, text or weight was used.
"""


def _data(work: Path) -> str:
    latents = torch.load(work / "latents.pt", map_location="cpu", weights_only=True, mmap=True)
    characters, views = latents.shape[:2]
    named = "\n".join(f"| {name} | yes | {', '.join(words)} |" for name, words in NAMED.items())
    unnamed = "\n".join(f"| {name} | | {', '.join(words)} |" for name, words in UNNAMED.items())
    skewed = "; ".join(f"{kind}: {', '.join(f'{name} {word}' for name, word in values.items())}"
                       for kind, values in STEREOTYPES.items())
    return f"""## Data
{characters * views:,} procedurally drawn pictures of {SIZE}×{SIZE} px: {characters:,} characters in {views} views each.
A view changes pose and ground and keeps the rest.

| attribute | named in captions | words |
|---|---|---|
{named}
{unnamed}

Captions name kind, pose and ground only (`a pirate arms up on grass`, with the grammar varied, and pose or ground left
out now and then), so the seed decides the rest. Some unnamed attributes are skewed on purpose: with probability
{SKEW:g} a character has its kind's stereotype, else any word. Negative coefficients can be seen to break it.
Stereotypes: {skewed}.
"""


def _architecture(pipeline: StableDiffusionPipeline, model: Path) -> str:
    unet, vae, text = pipeline.unet, pipeline.vae, pipeline.text_encoder
    layers = sum(".attn1." in name for name in unet.attn_processors)
    noise, size = pipeline.scheduler.config, sum(file.stat().st_size for file in model.rglob("*.safetensors")) / 1e6
    prediction, schedule = (name.replace("_", "-") for name in (noise.prediction_type, noise.beta_schedule))
    shapes = {
        "UNet2DConditionModel": (unet, f"widths {_list(unet.config.block_out_channels)}, "
                                 f"{unet.config.layers_per_block} layers a block, self- and cross-attention at every "
                                 f"level ({layers} self-attention layers), {unet.config.attention_head_dim} heads"),
        "AutoencoderKL": (vae, f"factor {pipeline.vae_scale_factor}, {vae.config.latent_channels} latent channels, "
                          f"widths {_list(vae.config.block_out_channels)}, scaling factor "
                          f"{vae.config.scaling_factor:g}"),
        "CLIPTextModel": (text, f"width {text.config.hidden_size}, {text.config.num_hidden_layers} layers, "
                          f"{text.config.max_position_embeddings} tokens; every word of the captions is one token"),
    }
    rows = "\n".join(f"| {name} | {shape} | {_count(part)} |" for name, (part, shape) in shapes.items())
    return f"""## Architecture
| part | shape | parameters |
|---|---|---|
{rows}

{prediction} on Stable Diffusion's {schedule} schedule of {noise.num_train_timesteps:,} steps. fp16 safetensors,
{size:.1f} MB with the reader.
"""


def _training(vae, work: Path, workers: int) -> str:
    coder, unet = (load_checkpoint(work / name) for name in ("autoencoder.pt", "diffusion.pt"))
    notes = work / NOTES
    more = f"\n{notes.read_text(encoding='utf-8').strip()}\n" if notes.exists() else ""
    return f"""## Training
- Autoencoder: {coder["step"]:,} steps in {coder["spent"]:,.0f} s, on crops first and whole pictures last; absolute,
  squared and edge errors. {decibels(vae, HELD_OUT):.1f} dB on {HELD_OUT} drawings made to measure it with.
- UNet and text encoder together: {unet["step"]:,} steps in {unet["spent"]:,.0f} s. Workers: {workers}, each with
  {PICTURES} figures a step, so {unet["step"] * PICTURES * workers:,} samples. AdamW, cosine learning rate,
  {DROPOUT:.0%} of the captions left out for classifier-free guidance. These are the averaged weights (EMA).
{more}"""


_ATTENTION = f"""## What makes attention share
RefDrop acts through self-attention, and self-attention learns to look at another figure only where pictures give it a
reason. A batch is of one of three kinds:
- *single* ({KINDS["single"]:.0%}): one figure with its caption;
- *strip* ({KINDS["strip"]:.0%}): two views of one character in one wide or tall picture, as on a comic page;
- *group* ({KINDS["group"]:.0%}): two views of one character in two pictures that share keys and values in
  self-attention.

To be open about it: *group* resembles what a reference does at run time, so this model is readier for RefDrop than
models trained on pictures from the world, which have only strips (character sheets, comic pages, groups in uniform).
What is measured here shows that the mechanism works and how it depends on the coefficient, not how strong it is
elsewhere.
"""


def _reading(reader: dict) -> str:
    accuracy = reader["accuracy"]
    names = list(next(iter(accuracy.values())))
    rows = "\n".join(f"| {name} | " + " | ".join(f"{each[name]:.3f}" for each in accuracy.values()) + " |"
                     for name in names)
    drawings = reader["drawings"]
    return f"""## The attribute reader
`reader/` holds a small convolutional network that reads the attributes back from a picture. It was trained for
{reader["seconds"]} s on {drawings["training"]:,} drawings with independent, uniform attributes, so that it cannot guess
a shirt from the kind. Accuracy on {drawings["held_out"]} held-out drawings: as drawn, softened (moved, blurred, tinted,
grainy), and behind the autoencoder, as generated pictures are:

| attribute | {" | ".join(accuracy)} |
|---|{"---|" * len(accuracy)}
{rows}

It always answers with one of its words, also where a generated picture is unclear.
"""


_LIMITS = f"""## Limits
- One figure of six kinds in front of a plain sky, {SIZE}×{SIZE} px; soft edges and faces. Words outside the captions
  mean nothing to it, and naming an unnamed attribute (`red shirt`) does nothing: it never saw such a caption.
- Other sizes work, but away from {SIZE} px figures may repeat: that is what strips look like.
- The stereotypes are made up for measuring; nothing about people can be learned from them.
- It is for trying and testing RefDrop. It says little about how strongly a coefficient acts in large models.
"""


def _count(module: torch.nn.Module) -> str:
    return f"{sum(weight.numel() for weight in module.parameters()):,}"


def _list(widths) -> str:
    return ", ".join(map(str, widths))
