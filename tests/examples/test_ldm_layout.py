"""The single-file layout holds the demo model whole: diffusers' own reader brings every weight back."""

import torch
from demo.ldm_layout import config, schedule_tables, single_file
from demo.model import new_pipeline
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint


def test_every_weight_comes_back():
    pipeline = new_pipeline(1)
    written = single_file(pipeline)
    for part, back in (("unet", convert_ldm_unet_checkpoint(dict(written), dict(pipeline.unet.config))),
                       ("vae", convert_ldm_vae_checkpoint(dict(written), dict(pipeline.vae.config)))):
        weights = getattr(pipeline, part).state_dict()
        assert set(back) == set(weights)
        assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_a_model_with_levels_without_attention_has_sd15s_names():
    pipeline = new_pipeline(1)
    pipeline.unet = UNet2DConditionModel(
        block_out_channels=(32, 64, 64, 64), layers_per_block=2, cross_attention_dim=32, attention_head_dim=2,
        norm_num_groups=8)  # diffusers' block types by default are SD1.5's
    written = single_file(pipeline)
    names = {name.removeprefix("model.diffusion_model.") for name in written if name.startswith("model.diffusion_mod")}
    upsamplers = {name for name in names if name.startswith("output_blocks") and name.endswith("conv.weight")}
    assert upsamplers == {"output_blocks.2.1.conv.weight", "output_blocks.5.2.conv.weight",
                          "output_blocks.8.2.conv.weight"}  # as in v1-5-pruned-emaonly.safetensors
    back, weights = (convert_ldm_unet_checkpoint(dict(written), dict(pipeline.unet.config)),
                     pipeline.unet.state_dict())
    assert set(back) == set(weights) and all(torch.equal(back[name], weights[name]) for name in weights)
    resolutions = config(pipeline, "text")["model"]["params"]["unet_config"]["params"]["attention_resolutions"]
    assert resolutions == [1, 2, 4]  # v1-inference.yaml


def test_the_shape_respects_what_the_original_classes_take():
    params = config(new_pipeline(1), "text")["model"]["params"]
    unet = params["unet_config"]["params"]
    assert unet["model_channels"] % 32 == 0 and all(isinstance(factor, int) for factor in unet["channel_mult"])
    assert len(params["first_stage_config"]["params"]["ddconfig"]["ch_mult"]) == 4
    assert params["parameterization"] == "v"


def test_schedule_tables_agree_with_the_scheduler():
    scheduler = new_pipeline(1).scheduler
    torch.testing.assert_close(schedule_tables(scheduler.betas)["alphas_cumprod"], scheduler.alphas_cumprod)
