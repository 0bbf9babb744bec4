"""Trains the demo model's autoencoder (AutoencoderKL, factor 8, the shape that `ldm` web UIs accept)."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional as F

from .schedule import Budget, load_checkpoint, save_checkpoint

log = logging.getLogger(__name__)


def new_autoencoder() -> AutoencoderKL:
    """Four levels (factor 8), 4 latent channels, 32 groups: what the original single-file layout can hold."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(32, 32, 64, 64), layers_per_block=1, latent_channels=4, norm_num_groups=32, sample_size=128,
    )


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """``[N, H, W, 3]`` uint8 to ``[N, 3, H, W]`` float in [−1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_autoencoder(pictures: np.ndarray, seconds: float, checkpoint: Path, seed: int) -> AutoencoderKL:
    """Trains for ``seconds``, continuing from ``checkpoint`` where there is one.

    Three quarters of the time is spent on quarter-size crops, four times as many for the same work; the last quarter on
    whole pictures, so that the middle attention sees them too.
    """
    torch.manual_seed(seed)
    model = new_autoencoder().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    budget = Budget(seconds, peak=2.5e-3)
    step = 0
    if state := load_checkpoint(checkpoint):
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        budget.resume(state["spent"])
        step = state["step"]
    rng = np.random.default_rng(seed + step)
    saved = budget.spent
    while not budget.over:
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate()
        batch = to_tensor(_crops(pictures, rng) if budget.tick() < 0.75
                          else pictures[rng.integers(0, len(pictures), 6)])
        loss, error = _loss(model, batch.contiguous(memory_format=torch.channels_last))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0:
            log.info("autoencoder step %d, %.0f s: %.1f dB", step, budget.spent, -10 * np.log10(error / 4))
        if budget.spent - saved > 120 or budget.over:
            saved = budget.spent
            save_checkpoint(checkpoint, model=model.state_dict(), optimizer=optimizer.state_dict(),
                            spent=budget.spent, step=step)
    return model.eval()


def _crops(pictures: np.ndarray, rng: np.random.Generator, size: int = 64, count: int = 20) -> np.ndarray:
    which = rng.integers(0, len(pictures), count)
    tops, lefts = rng.integers(0, pictures.shape[1] - size + 1, (2, count))
    return np.stack([pictures[i, t:t + size, x:x + size] for i, t, x in zip(which, tops, lefts)])


def _loss(model: AutoencoderKL, batch: torch.Tensor) -> tuple[torch.Tensor, float]:
    posterior = model.encode(batch).latent_dist
    drawn = model.decode(posterior.sample()).sample
    error = F.mse_loss(drawn, batch)
    edges = sum((drawn.diff(dim=d) - batch.diff(dim=d)).abs().mean() for d in (2, 3))
    divergence = posterior.kl().mean() * (128 * 128) / (batch.shape[2] * batch.shape[3])
    return F.l1_loss(drawn, batch) + 0.5 * error + 0.5 * edges + 2e-7 * divergence, error.item()
