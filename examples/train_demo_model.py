"""Trains the demo model from nothing: drawings, autoencoder, latents, text-to-image UNet, attribute reader.

    python examples/train_demo_model.py --work FOLDER

Every stage keeps a checkpoint in ``--work`` and continues from it, so the command can be stopped and given again; the
model is written to ``--out`` in diffusers' layout, fp16 safetensors.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other on a busy machine

import numpy as np
import torch

from demo.autoencoder import to_tensor, train_autoencoder
from demo.characters import draw, draw_character
from demo.diffusion import LatentData, train_diffusion
from demo.model import assemble, new_text_encoder, new_unet
from demo.tokenizer import new_tokenizer

VIEWS = 4  # pictures of each character
log = logging.getLogger("train")


def draw_all(characters: int, seed: int):
    """``characters`` × :data:`VIEWS` pictures, ``[N, VIEWS, 128, 128, 3]`` uint8, and who is in each."""
    rng = random.Random(seed)
    views = [[first.view(rng) for _ in range(VIEWS)] for first in (draw_character(rng) for _ in range(characters))]
    return np.stack([[np.asarray(draw(view, rng)) for view in group] for group in views]), views


@torch.no_grad()
def encode_all(autoencoder, pictures: np.ndarray, cache: Path) -> torch.Tensor:
    """Latents ``[N, VIEWS, 4, 16, 16]`` (the posterior's mean, unscaled), kept in ``cache``."""
    if cache.exists():
        return torch.load(cache, weights_only=True)
    flat, parts = pictures.reshape(-1, *pictures.shape[2:]), []
    for start in range(0, len(flat), 16):
        batch = to_tensor(flat[start:start + 16]).contiguous(memory_format=torch.channels_last)
        parts.append(autoencoder.encode(batch).latent_dist.mean)
        if start % 1600 == 0:
            log.info("encoded %d of %d", start, len(flat))
    latents = torch.cat(parts).view(*pictures.shape[:2], *parts[0].shape[1:])
    torch.save(latents, cache)
    return latents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo-model")
    parser.add_argument("--characters", type=int, default=3000)
    parser.add_argument("--autoencoder-seconds", type=float, default=1500)
    parser.add_argument("--unet-seconds", type=float, default=3900)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=20260101)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)

    pictures, views = draw_all(args.characters, args.seed)
    flat = pictures.reshape(-1, *pictures.shape[2:])
    autoencoder = train_autoencoder(flat, args.autoencoder_seconds, args.work / "autoencoder.pt", args.seed)
    latents = encode_all(autoencoder, pictures, args.work / "latents.pt")
    autoencoder.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))

    torch.manual_seed(args.seed)
    tokenizer = new_tokenizer(args.work / "tokenizer")
    pipeline = assemble(tokenizer, new_text_encoder(tokenizer), autoencoder, new_unet())
    data = LatentData(latents * autoencoder.config.scaling_factor, views, args.seed)
    train_diffusion(pipeline, data, args.unet_seconds, args.work / "diffusion.pt", args.seed)

    pipeline.to(torch.float16).save_pretrained(args.out)
    for name in ("vocab.json", "merges.txt"):
        (args.out / "tokenizer" / name).write_bytes((args.work / "tokenizer" / name).read_bytes())
    log.info("wrote %s: %s", args.out, json.dumps({"scaling_factor": autoencoder.config.scaling_factor}))


if __name__ == "__main__":
    main()
