"""Trains the demo model's UNet and text encoder on latents of drawn characters.

Three kinds of batch, because self-attention learns to look at another figure only where pictures give it a reason:

- *single*: one figure, its caption;
- *strip*: several views of one character side by side in one wide or tall picture, as on a comic page;
- *group*: views of one character in separate pictures whose self-attention sees the others' tokens as well (one picture
  whose gutters no convolution crosses). This resembles what a reference does at run time; the model card says so.
"""

from __future__ import annotations

import copy
import logging
import random
from pathlib import Path

import torch
import torch.distributed as distributed
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.nn import functional as F

from .characters import Character, caption, strip_caption
from .schedule import Budget, load_checkpoint, save_checkpoint

log = logging.getLogger(__name__)

KINDS = {"single": 0.25, "strip": 0.25, "group": 0.5}
PICTURES = 16  # figures in one batch, whatever its kind
DROPOUT = 0.12  # share of captions left out, for classifier-free guidance
DECAY = 0.9990  # of the averaged weights


class GroupAttention:
    """Self-attention of each picture over the tokens of all pictures of its group, in the order of the batch.

    Projections follow the autocast; the attention itself is computed in float32, because PyTorch's backward of it is
    slower in bfloat16 on a processor.
    """

    def __init__(self) -> None:
        self.size = 1

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is None and self.size > 1:
            batch, tokens, width = hidden_states.shape
            together = hidden_states.view(batch // self.size, self.size * tokens, width)
            keys = together.repeat_interleave(self.size, dim=0)
        q, k, v = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2).float()
                   for part in (attn.to_q(hidden_states), attn.to_k(keys), attn.to_v(keys)))
        with torch.autocast("cpu", enabled=False):
            seen = F.scaled_dot_product_attention(q, k, v)
        return attn.to_out[1](attn.to_out[0](seen.transpose(1, 2).flatten(-2)))


class _Crew:
    """The workers that train one model together, or this process alone."""

    def __init__(self) -> None:
        self._size = distributed.get_world_size() if distributed.is_initialized() else 1
        self.rank = distributed.get_rank() if self._size > 1 else 0

    def agree(self, over: bool) -> bool:
        """Whether the first worker says that it is over."""
        if self._size == 1:
            return over
        said = torch.tensor([float(over)])
        distributed.broadcast(said, src=0)
        return bool(said.item())

    def average(self, weights: list[torch.Tensor]) -> None:
        """Every weight's gradient becomes the mean over the workers."""
        if self._size == 1:
            return
        flat = torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])
        distributed.all_reduce(flat)
        flat /= self._size
        for weight in weights:
            if weight.grad is not None:
                weight.grad.copy_(flat[:weight.numel()].view_as(weight))
                flat = flat[weight.numel():]


class LatentData:
    """Latents ``[characters, views, 4, 16, 16]`` with their captions, served as batches of the three kinds."""

    def __init__(self, latents: torch.Tensor, views: list[list[Character]], seed: int) -> None:
        self.latents, self.views, self.rng = latents, views, random.Random(seed)

    def batch(self, kind: str) -> tuple[torch.Tensor, list[str], int]:
        """Latents, one caption a picture, and the size of the groups that share self-attention."""
        rng, size = self.rng, (1 if kind == "single" else 2)
        who = [rng.randrange(len(self.views)) for _ in range(PICTURES // size)]
        chosen = [(i, j) for i in who for j in rng.sample(range(len(self.views[0])), size)]
        latents = torch.stack([self.latents[i, j] for i, j in chosen])
        if kind == "strip":
            pairs = latents.view(-1, 2, *latents.shape[1:])
            along = 3 if rng.random() < 0.7 else 2  # side by side, or one above the other
            latents = torch.cat([pairs[:, 0], pairs[:, 1]], dim=along)
            return latents, [self._maybe(strip_caption(self.views[i][0])) for i in who], 1
        dropped = [rng.random() < DROPOUT for _ in who]
        captions = [caption(self.views[i][j], rng) for i, j in chosen]
        return latents, ["" if dropped[n // size] else text for n, text in enumerate(captions)], size

    def _maybe(self, text: str) -> str:
        return "" if self.rng.random() < DROPOUT else text


def train_diffusion(pipeline, data: LatentData, seconds: float, checkpoint: Path, seed: int) -> None:
    """Trains ``pipeline``'s UNet and text encoder in place; they end as the averaged weights (EMA).

    v-prediction on a uniformly drawn timestep, mean squared error. Where torch.distributed is initialised every worker
    draws its own batches and gradients are averaged: one-threaded workers waste less than threads that wait for each
    other.
    """
    unet, text = pipeline.unet.train(), pipeline.text_encoder.train()
    attention = _install(unet)
    weights = [*unet.parameters(), *text.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-3)
    budget, step, crew = Budget(seconds, peak=1.2e-3), 0, _Crew()
    average = {"unet": copy.deepcopy(unet.state_dict()), "text": copy.deepcopy(text.state_dict())}
    if state := load_checkpoint(checkpoint):
        unet.load_state_dict(state["unet"])
        text.load_state_dict(state["text"])
        optimizer.load_state_dict(state["optimizer"])
        average, step = state["average"], state["step"]
        budget.resume(state["spent"])
    kinds = random.Random(f"{seed} {step}")  # the same in every worker, so that none waits for a slower kind
    data.rng.seed(f"{seed} {step} {crew.rank}")
    torch.manual_seed(seed + 1000 * step + crew.rank)
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    mean, saved = dict.fromkeys(KINDS, 0.0), budget.spent
    while not crew.agree(budget.over):
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate()
        kind = kinds.choices(list(KINDS), list(KINDS.values()))[0]
        latents, captions, attention.size = data.batch(kind)
        loss = _loss(unet, text, pipeline.tokenizer, schedule, latents, captions, attention.size)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        crew.average(weights)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        step += 1
        _blend(average["unet"], unet.state_dict(), min(DECAY, step / (step + 10)))
        _blend(average["text"], text.state_dict(), min(DECAY, step / (step + 10)))
        mean[kind] += (loss.item() - mean[kind]) * 0.02 if mean[kind] else loss.item()
        if crew.rank:
            continue
        if step % 100 == 0:
            log.info("diffusion step %d, %.0f s: %s", step, budget.spent,
                     ", ".join(f"{name} {value:.4f}" for name, value in mean.items()))
        if budget.spent - saved > 180 or budget.over:
            saved = budget.spent
            save_checkpoint(checkpoint, unet=unet.state_dict(), text=text.state_dict(), average=average,
                            optimizer=optimizer.state_dict(), spent=budget.spent, step=step)
    unet.load_state_dict(average["unet"])
    text.load_state_dict(average["text"])
    unet.set_attn_processor(AttnProcessor2_0())
    unet.eval(), text.eval()


def _install(unet: UNet2DConditionModel) -> GroupAttention:
    shared = GroupAttention()
    unet.set_attn_processor(dict.fromkeys(unet.attn_processors, shared))
    return shared


def _loss(unet, text, tokenizer, schedule, latents, captions, group: int) -> torch.Tensor:
    unique = sorted(set(captions))
    ids = tokenizer(unique, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    rows = torch.tensor([unique.index(caption) for caption in captions])
    # Pictures of one group are denoised together, as a reference and its target are: at one noise level.
    steps = torch.randint(0, schedule.config.num_train_timesteps, (len(latents) // group,)).repeat_interleave(group)
    noise = torch.randn_like(latents)
    target = schedule.get_velocity(latents, noise, steps)
    with torch.autocast("cpu", torch.bfloat16):  # a fifth faster; weights and their updates stay in float32
        condition = text(ids)[0][rows]
        predicted = unet(schedule.add_noise(latents, noise, steps), steps, condition).sample
    return F.mse_loss(predicted.float(), target)


@torch.no_grad()
def _blend(average: dict, current: dict, decay: float) -> None:
    for name, value in current.items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
