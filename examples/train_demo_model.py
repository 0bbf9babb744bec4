"""Trains the demo model from nothing: drawings, autoencoder, latents, text-to-image UNet, attribute reader.

    python examples/train_demo_model.py --work FOLDER

Makes its environment in .venv first. Every stage keeps a checkpoint in ``--work`` and continues from it, so the command
can be stopped and given again; the model is written to ``--out`` in diffusers' layout, fp16 safetensors, with its card.
The card quotes ``notes.txt`` in ``--work``, where there is one: what the checkpoints cannot tell about a training.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
from pathlib import Path

import environment

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other on a busy machine


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo-model")
    parser.add_argument("--characters", type=int, default=3000)
    parser.add_argument("--autoencoder-seconds", type=float, default=1500)
    parser.add_argument("--unet-seconds", type=float, default=3900)
    parser.add_argument("--reader-seconds", type=float, default=180)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=2, help="processes that train the UNet together")
    parser.add_argument("--seed", type=int, default=20260101)
    return parser.parse_args(arguments)


if __name__ == "__main__":  # not in the processes that it starts, which import this file
    OPTIONS = parse(sys.argv[1:])
    environment.enter()

import numpy as np
import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
from demo.autoencoder import new_autoencoder, to_tensor, train_autoencoder
from demo.characters import draw, draw_character
from demo.diffusion import LatentData, train_diffusion
from demo.model import assemble, new_text_encoder, new_unet
from demo.model_card import write_card
from demo.reader import READER, through, train_reader
from demo.schedule import load_checkpoint
from demo.tokenizer import new_tokenizer
from demo.vocabulary import write_vocabulary

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


def train_in_worker(rank: int, args: argparse.Namespace, latents: torch.Tensor, views, scaling: float) -> None:
    """One of ``--workers`` one-threaded processes; the first writes the checkpoint that the others share at the end."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(max(1, args.threads // args.workers))
    if args.workers > 1:
        distributed.init_process_group("gloo", init_method=(args.work / "meeting").resolve().as_uri(), rank=rank,
                                       world_size=args.workers)
    pipeline = new_untrained(args, scaling)
    train_diffusion(pipeline, LatentData(latents * scaling, views, args.seed), args.unet_seconds,
                    args.work / "diffusion.pt", args.seed)


def new_untrained(args: argparse.Namespace, scaling: float):
    """The pipeline with a random UNet and text encoder, the same ones each time."""
    torch.manual_seed(args.seed)
    tokenizer = new_tokenizer(args.work / "tokenizer")
    autoencoder = new_autoencoder()
    autoencoder.register_to_config(scaling_factor=scaling)
    return assemble(tokenizer, new_text_encoder(tokenizer), autoencoder, new_unet())


def main(args: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)

    pictures, views = draw_all(args.characters, args.seed)
    flat = pictures.reshape(-1, *pictures.shape[2:])
    autoencoder = train_autoencoder(flat, args.autoencoder_seconds, args.work / "autoencoder.pt", args.seed)
    latents = encode_all(autoencoder, pictures, args.work / "latents.pt")
    scaling = round(1 / latents.std().item(), 5)
    (args.work / "meeting").unlink(missing_ok=True)
    multiprocessing.spawn(train_in_worker, (args, latents, views, scaling), nprocs=args.workers)

    pipeline = new_untrained(args, scaling)
    trained = load_checkpoint(args.work / "diffusion.pt")["average"]
    pipeline.unet.load_state_dict(trained["unet"])
    pipeline.text_encoder.load_state_dict(trained["text"])
    pipeline.vae.load_state_dict(autoencoder.state_dict())
    pipeline.to(torch.float16).save_pretrained(args.out)
    for name in ("vocab.json", "merges.txt"):
        (args.out / "tokenizer" / name).write_bytes((args.work / "tokenizer" / name).read_bytes())
    if not (args.out / READER).exists():
        train_reader(args.out, args.reader_seconds, args.seed, through(autoencoder))
    write_card(args.out, args.work, args.workers)
    write_vocabulary(args.out)
    log.info("wrote %s: %s", args.out, json.dumps({"scaling_factor": scaling}))


if __name__ == "__main__":
    main(OPTIONS)
