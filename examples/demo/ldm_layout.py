"""The names a Stable Diffusion model's weights have in the original single-file layout.

Source: the module names of CompVis' latent-diffusion (`openaimodel.UNetModel`, `AutoencoderKL`, `FrozenCLIPEmbedder`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
           "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
_EDGES = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
          "conv_in": "input_blocks.0.0",
          "conv_norm_out": "out.0", "conv_out": "out.2"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def single_file(pipeline) -> dict[str, Tensor]:
    """All weights of a diffusers SD1.x pipeline under their single-file names, with the noise schedule's tables."""
    levels = len(pipeline.vae.config.block_out_channels)
    layers, attended = pipeline.unet.config.layers_per_block, _attended(pipeline.unet.config.up_block_types)
    tensors = {f"model.diffusion_model.{_unet_name(name, layers, attended)}": tensor
               for name, tensor in pipeline.unet.state_dict().items()}
    for name, tensor in pipeline.vae.state_dict().items():
        new = _vae_name(name, levels)
        # The original writes the middle attention's projections as 1×1 convolutions.
        is_projection = ".mid.attn_1." in new and new.endswith("weight") and ".norm." not in new
        tensors[f"first_stage_model.{new}"] = tensor[:, :, None, None] if is_projection else tensor
    for name, tensor in pipeline.text_encoder.state_dict().items():
        name = name if name.startswith("text_model.") else f"text_model.{name}"
        tensors[f"cond_stage_model.transformer.{name}"] = tensor
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return {name: tensor.contiguous() for name, tensor in (tensors | schedule_tables(pipeline.scheduler.betas)).items()}


def config(pipeline, text_folder: str) -> dict:
    """The `yaml` that a web UI wants beside such a checkpoint; ``text_folder`` holds tokenizer and text encoder."""
    unet, vae, schedule = pipeline.unet.config, pipeline.vae.config, pipeline.scheduler.config
    base, first = unet.block_out_channels[0], vae.block_out_channels[0]
    ldm = "ldm.modules"
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": {
        "linear_start": schedule.beta_start, "linear_end": schedule.beta_end, "timesteps": 1000,
        "num_timesteps_cond": 1,
        "first_stage_key": "jpg", "cond_stage_key": "txt", "image_size": unet.sample_size, "channels": 4,
        "cond_stage_trainable": False, "conditioning_key": "crossattn", "scale_factor": vae.scaling_factor,
        "parameterization": "v" if schedule.prediction_type == "v_prediction" else "eps", "use_ema": False,
        "unet_config": {"target": f"{ldm}.diffusionmodules.openaimodel.UNetModel", "params": {
            "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": base,
            "attention_resolutions": [2**level for level in _attended(unet.down_block_types)],
            "num_res_blocks": unet.layers_per_block,
            "channel_mult": [width // base for width in unet.block_out_channels],
            "num_heads": unet.attention_head_dim, "use_spatial_transformer": True, "transformer_depth": 1,
            "context_dim": unet.cross_attention_dim, "use_checkpoint": False, "legacy": False}},
        "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": {
            "embed_dim": 4, "monitor": "val/rec_loss", "lossconfig": {"target": "torch.nn.Identity"}, "ddconfig": {
                "double_z": True, "z_channels": 4, "resolution": vae.sample_size, "in_channels": 3, "out_ch": 3,
                "ch": first,
                "ch_mult": [width // first for width in vae.block_out_channels], "num_res_blocks": vae.layers_per_block,
                "attn_resolutions": [], "dropout": 0.0}}},
        "cond_stage_config": {"target": f"{ldm}.encoders.modules.FrozenCLIPEmbedder",
                              "params": {"version": text_folder}},
    }}}


def schedule_tables(betas: Tensor) -> dict[str, Tensor]:
    """The tables that `ldm` keeps beside the weights (DDPM, Ho et al. 2020): a missing one would be read as zeros."""
    betas = betas.double().cpu()
    alphas = 1 - betas
    product = alphas.cumprod(0)
    before = torch.cat([torch.ones(1, dtype=torch.float64), product[:-1]])
    variance = betas * (1 - before) / (1 - product)
    tables = {
        "betas": betas, "alphas_cumprod": product, "alphas_cumprod_prev": before, "sqrt_alphas_cumprod": product.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - product).sqrt(), "log_one_minus_alphas_cumprod": (1 - product).log(),
        "sqrt_recip_alphas_cumprod": (1 / product).sqrt(), "sqrt_recipm1_alphas_cumprod": (1 / product - 1).sqrt(),
        "posterior_variance": variance, "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - product),
        "posterior_mean_coef2": (1 - before) * alphas.sqrt() / (1 - product),
    }
    return {name: table.float() for name, table in tables.items()}


def _attended(block_types: Sequence[str]) -> list[int]:
    """The blocks of one side of a UNet that have attention."""
    return [number for number, kind in enumerate(block_types) if "CrossAttn" in kind]


def _unet_name(name: str, layers: int, attended: list[int]) -> str:
    """``layers``: of ResNet blocks a level; ``attended``: the up blocks with attention."""
    for old, new in _EDGES.items():
        if name.startswith(old + "."):
            return new + name[len(old):]
    if name.startswith("mid_block."):
        part, number, rest = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name).groups()
        place = 1 if part == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{_resnet(rest) if part == 'resnets' else rest}"
    way, level, part, number, rest = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name).groups()
    level, number = int(level), int(number)
    if part == "downsamplers":
        return f"input_blocks.{(level + 1) * (layers + 1)}.0.{rest.replace('conv.', 'op.')}"
    if part == "upsamplers":
        place = 2 if level in attended else 1  # after the ResNet block and, where there is one, the attention
        return f"output_blocks.{level * (layers + 1) + layers}.{place}.{rest}"
    block = f"input_blocks.{1 + level * (layers + 1) + number}" if way == "down" else \
        f"output_blocks.{level * (layers + 1) + number}"
    return f"{block}.0.{_resnet(rest)}" if part == "resnets" else f"{block}.1.{rest}"


def _resnet(rest: str) -> str:
    layer, parameter = rest.rsplit(".", 1)
    return f"{_RESNET[layer]}.{parameter}"


def _vae_name(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if match := re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.*)\.(weight|bias)", name):
        return f"{match[1]}mid.attn_1.{_VAE_ATTENTION[match[2]]}.{match[3]}"
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
