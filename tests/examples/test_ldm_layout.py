"""The single-file layout holds the demo model whole: diffusers' own reader brings every weight back."""

import torch
from demo.ldm_layout import config, schedule_tables, single_file
from demo.model import new_pipeline
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint


def test_every_weight_comes_back():
    pipeline = new_pipeline(1)
    written = single_file(pipeline)
    for part, back in (("unet", convert_ldm_unet_checkpoint(dict(written), dict(pipeline.unet.config))),
                       ("vae", convert_ldm_vae_checkpoint(dict(written), dict(pipeline.vae.config)))):
        weights = getattr(pipeline, part).state_dict()
        assert set(back) == set(weights)
        assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_the_shape_respects_what_the_original_classes_take():
    params = config(new_pipeline(1), "text")["model"]["params"]
    unet = params["unet_config"]["params"]
    assert unet["model_channels"] % 32 == 0 and all(isinstance(factor, int) for factor in unet["channel_mult"])
    assert len(params["first_stage_config"]["params"]["ddconfig"]["ch_mult"]) == 4
    assert params["parameterization"] == "v"


def test_schedule_tables_agree_with_the_scheduler():
    scheduler = new_pipeline(1).scheduler
    torch.testing.assert_close(schedule_tables(scheduler.betas)["alphas_cumprod"], scheduler.alphas_cumprod)
