"""The demo model's architecture: Stable Diffusion's, small. Random weights until trained."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .autoencoder import new_autoencoder
from .tokenizer import new_tokenizer

TEXT_WIDTH = 128


def new_unet() -> UNet2DConditionModel:
    """Two levels (16×16 and 8×8 latent cells at 128 px), eleven self-attention layers.

    Few levels on purpose: convolutions see little of the picture, so what two figures share has to go through
    self-attention. Widths are multiples of 32, heads are counted (4), both as the single-file `ldm` layout needs.
    """
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=2, block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH, attention_head_dim=4, norm_num_groups=32,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=77, projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's own noise schedule, with v-prediction."""
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                         set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction")


def new_pipeline(seed: int = 0) -> StableDiffusionPipeline:
    """The whole pipeline with random weights, for tests that need the shape but not the skill."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = new_tokenizer(Path(folder))
    return assemble(tokenizer, new_text_encoder(tokenizer), new_autoencoder(), new_unet())


def assemble(tokenizer, text_encoder, autoencoder, unet) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline(
        vae=autoencoder.eval(), text_encoder=text_encoder.eval(), tokenizer=tokenizer, unet=unet.eval(),
        scheduler=new_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
