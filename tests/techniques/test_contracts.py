"""The promises of the design that a sampling pass has to keep, on a real pipeline."""

import pytest
import torch

from lib_refdrop.hosts.diffusers import attached, lineage_of, self_attentions
from lib_refdrop.model.rows import Kind, Row
from lib_refdrop.model.sites import SECTIONS, Lineage, Site, SiteShape
from lib_refdrop.references.reference import Reference
from lib_refdrop.techniques.reference.guidance import Guidance
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.words import ReferenceProblem


def state_of(unet):
    """Everything a wrapper could leave behind: attributes, hooks and processors of every module."""
    return [(name, sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks),
             len(module._forward_hooks_with_kwargs), id(getattr(module, "processor", None)))
            for name, module in unet.named_modules()]


def test_saving_does_not_change_the_picture(studio):
    _, saved = studio.record(seed=4)
    assert torch.equal(saved, studio.draw(seed=4))


def test_zero_coefficient_is_bit_identical_to_off(studio):
    reference, _ = studio.record(seed=4)
    image, outcome = studio.use(reference, 0.0, seed=9, batch=2)
    assert torch.equal(image, studio.draw(seed=9, batch=2))
    assert outcome.acted == 0


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm"])
@pytest.mark.parametrize("c", [0.3, 0.7, -0.5, 1.0])
def test_own_seed_gives_the_own_picture_at_every_c(studio, sampler, c):
    reference, image = studio.record(seed=4, sampler=sampler)
    again, outcome = studio.use(reference, c, seed=4, sampler=sampler)
    assert outcome.acted == outcome.calls > 0
    assert (again - image).abs().max() < 1e-4


def test_guidance_changes_other_pictures_more_with_larger_c(studio):
    """In one model call; over several, random weights are chaotic. What a trained model does, evaluate.py shows."""
    one = dict(steps=1, cfg=1.0)
    reference, _ = studio.record(seed=4, prompt="a nurse waving on snow", **one)
    plain = studio.draw(seed=9, **one)
    moved = [(studio.use(reference, c, seed=9, **one)[0] - plain).abs().mean().item() for c in (0.1, 0.3, 0.6)]
    assert 0 < moved[0] < moved[1] < moved[2]


def test_another_sampler_steps_size_and_batch_are_served(studio):
    reference, _ = studio.record(seed=4, steps=20, sampler="euler")
    image, outcome = studio.use(reference, 0.3, seed=9, steps=12, sampler="heun", batch=4, size=96)
    assert image.shape[0] == 4 and torch.isfinite(image).all()
    assert outcome.calls == 23 == outcome.acted  # Heun calls the model 2N−1 times
    assert not torch.equal(image, studio.draw(seed=9, steps=12, sampler="heun", batch=4, size=96))


def test_every_picture_of_a_batch_is_guided_as_it_would_be_alone(studio):
    reference, _ = studio.record(seed=4)
    batch, _ = studio.use(reference, 0.5, seed=9, batch=3)
    for row in range(3):
        alone, _ = studio.use(reference, 0.5, seed=9 + row)
        assert (batch[row] - alone[0]).abs().max() < 1e-3


def layer_by_layer(studio, reference, rows, sample, condition):
    """One model call with a given layout of branches."""
    rows = [Row(branch) for branch in rows]
    with attached(studio.unet, studio.guiding(reference, 0.6), lambda n: rows,
                  studio.pipeline.scheduler.alphas_cumprod), torch.no_grad():
        return studio.unet(sample, 999, condition).sample


def test_branches_are_read_from_the_host_in_any_layout(studio):
    reference, _ = studio.record(seed=4)
    torch.manual_seed(0)
    sample, condition = torch.randn(3, 4, 8, 8), torch.randn(3, 77, 128)
    together = layer_by_layer(studio, reference, ["cond", "uncond", "cond"], sample, condition)
    for row, branch in enumerate(("cond", "uncond", "cond")):
        alone = layer_by_layer(studio, reference, [branch], sample[row:row + 1], condition[row:row + 1])
        torch.testing.assert_close(together[row:row + 1], alone, atol=1e-4, rtol=1e-3)
        wrong = layer_by_layer(studio, reference, ["uncond" if branch == "cond" else "cond"], sample[row:row + 1],
                               condition[row:row + 1])
        assert (wrong - alone).abs().max() > 1e-3


def test_a_reference_without_one_branch_serves_both_and_says_so(studio):
    reference, _ = studio.record(seed=4, cfg=1.0)
    _, outcome = studio.use(reference, 0.3, seed=9, cfg=5.0)
    assert outcome.acted == outcome.calls
    assert "without the unconditional branch" in outcome.notes[0]


def test_nothing_is_left_behind(studio):
    before = state_of(studio.unet)
    reference, _ = studio.record(seed=4)
    studio.use(reference, 0.3, seed=9)
    assert state_of(studio.unet) == before
    with pytest.raises(ZeroDivisionError):
        with attached(studio.unet, SamplingPass([]), lambda n: [], studio.pipeline.scheduler.alphas_cumprod):
            raise ZeroDivisionError
    assert state_of(studio.unet) == before


def test_the_processor_that_is_there_makes_the_plain_half(studio):
    """Sliced attention, and a processor object of somebody else, are called and found again."""
    from diffusers.models.attention_processor import AttnProcessor

    class Counting(AttnProcessor):
        calls = 0

        def __call__(self, *args, **kwargs):
            Counting.calls += 1
            return super().__call__(*args, **kwargs)

    found = dict(studio.unet.attn_processors)
    try:
        for slices in ("sliced", "own"):
            if slices == "sliced":
                studio.pipeline.enable_attention_slicing(1)
            else:
                studio.unet.set_attn_processor(Counting())
            installed = dict(studio.unet.attn_processors)
            reference, image = studio.record(seed=4)
            again, _ = studio.use(reference, 0.7, seed=4)
            assert (again - image).abs().max() < 1e-3
            assert all(studio.unet.attn_processors[name] is processor for name, processor in installed.items())
        assert Counting.calls > 0
    finally:
        studio.unet.set_attn_processor(found)


def test_another_lineage_is_refused_in_one_sentence(studio):
    reference, _ = studio.record(seed=4)
    sdxl = Lineage({Site("output", n, i): SiteShape(10, 640 if n > 2 else 1280) for n in range(7) for i in range(10)})
    with pytest.raises(ReferenceProblem,
                       match=r"was made with a model with 11 self-attention layers \(.*\), this model is SDXL"):
        Guidance([(reference, 0.3)], sdxl)


def test_layers_left_out_are_neither_saved_nor_guided(studio):
    reference, _ = studio.record(seed=4, sections=("output",))
    assert {site.section for site in reference.sites("base")} == {"output"}
    with pytest.raises(ReferenceProblem, match="none of the layers"):
        studio.use(reference, 0.3, sections=("input", "middle"))


@pytest.mark.parametrize("known", [True, False])
def test_save_percent_keeps_exactly_the_first_steps(studio, known):
    whole, _ = studio.record(seed=4, steps=8)
    sigmas = [call.sigma for call in whole.passes["base"].calls] if known else None
    part, _ = studio.record(save_percent=25, sigmas=sigmas, seed=4, steps=8)
    record = part.passes["base"]
    assert sorted(record.kept[Kind("cond")]) == [0, 1]
    assert part.nbytes * 4 == whole.nbytes
    guided, outcome = studio.use(part, 0.5, seed=9, steps=8)
    assert outcome.acted == 2  # silent where nothing was kept
    assert not torch.equal(guided, studio.draw(seed=9, steps=8))


def test_a_run_that_was_not_guided_at_all_says_so(studio):
    part, _ = studio.record(save_percent=10, seed=4, steps=10)
    sampling_pass = studio.guiding(part, 0.3)
    sampling_pass.call(0.05, [Row("cond")])
    with pytest.raises(ReferenceProblem, match="no features at the noise levels"):
        sampling_pass.finish()


def test_nan_is_not_saved(studio):
    weight = next(iter(self_attentions(studio.unet).values())).to_k.weight
    value = weight[0, 0].item()
    try:
        weight.data[0, 0] = float("nan")
        with pytest.raises(ReferenceProblem, match="NaN"):
            studio.record(seed=4, steps=1)
    finally:
        weight.data[0, 0] = value


@pytest.mark.parametrize("shape", ["sd15", "sd2", "sdxl"])
def test_sites_are_named_as_in_the_original_layout(shape):
    """SD1.5 has self-attention in input 1, 2, 4, 5, 7, 8, the middle, and output 3 to 11; SDXL in 70 layers."""
    from diffusers import UNet2DConditionModel

    base = dict(block_out_channels=(32, 64, 128, 128), cross_attention_dim=16, norm_num_groups=32, layers_per_block=2)
    if shape == "sdxl":
        base |= dict(block_out_channels=(32, 64, 128), transformer_layers_per_block=(1, 2, 10),
                     attention_head_dim=(2, 4, 8),
                     down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                     up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"))
    elif shape == "sd2":
        base |= dict(attention_head_dim=(1, 2, 4, 4), use_linear_projection=True)
    lineage = lineage_of(UNet2DConditionModel(**base))
    if shape == "sdxl":
        assert len(lineage.sites) == 70
        assert sum(site.section == "output" and site.block == 0 for site in lineage.sites) == 10
    else:
        blocks = {section: sorted({site.block for site in lineage.sites if site.section == section})
                  for section in SECTIONS}
        assert blocks == {"input": [1, 2, 4, 5, 7, 8], "middle": [0], "output": list(range(3, 12))}


@pytest.mark.parametrize("family", ["whole", "of an earlier version"])
def test_two_builds_of_one_name_are_told_apart(family) -> None:
    """What is said of a model must not be the same for both sides of a sentence that says they differ."""
    here, there = (Lineage({Site("input", block, 0): SiteShape(2, 64) for block in blocks})
                   for blocks in (range(11), range(1, 12)))
    assert here.family == there.family
    named = there.family if family == "whole" else "a model with 11 self-attention layers"
    reference = Reference("hero", {"lineage": there.signature, "family": named}, {}, {})
    with pytest.raises(ReferenceProblem) as caught:
        Guidance([(reference, 0.3)], here)
    said = str(caught.value)
    assert "of another build" in said and there.signature in said and here.signature in said


def test_models_of_other_names_are_told_by_these() -> None:
    lineage = Lineage({Site("input", 0, 0): SiteShape(2, 64)})
    with pytest.raises(ReferenceProblem) as caught:
        Guidance([(Reference("hero", {"lineage": "0" * 16, "family": "SDXL"}, {}, {}), 0.3)], lineage)
    assert "made with SDXL, this model is a model with 1 self" in str(caught.value)
    assert "another build" not in str(caught.value)
