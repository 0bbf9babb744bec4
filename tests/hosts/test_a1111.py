"""The adapter for AUTOMATIC1111: guides whatever way the rows come, and leaves nothing behind."""

from __future__ import annotations

import gc
import sys
from types import SimpleNamespace

import pytest
import torch

from lib_refdrop.words import RefDropError
from lib_refdrop.hosts import find_adapter
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.model.sites import Site

from .conftest import guided, guiding, record
from .tiny import UNet, a1111, sample_a1111

REFERENCE, TARGET = [["pirate"]], [["nurse"]]


def hooks(p: SimpleNamespace) -> int:
    modules = [*p.sd_model.model.diffusion_model.modules(), *p.sampler.model_wrap_cfg.modules()]
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


@pytest.fixture
def p(unet: UNet) -> SimpleNamespace:
    return a1111(unet)


def test_sites_are_named_by_the_original_layout(p) -> None:
    assert set(find_adapter(p).lineage(p).sites) == {Site("input", 1, 0), Site("middle", 0, 0), Site("output", 0, 0)}


def test_a_reference_guides_another_prompt_and_reproduces_its_own(p) -> None:
    own, reference = record(p, lambda: sample_a1111(p, REFERENCE))
    plain = sample_a1111(p, TARGET)
    made, outcome = guided(p, lambda: sample_a1111(p, TARGET), reference)
    assert outcome.acted == outcome.calls == 3 and not torch.allclose(made, plain)
    assert torch.allclose(guided(p, lambda: sample_a1111(p, REFERENCE), reference, 0.9)[0], own, atol=1e-5)
    assert torch.equal(guided(p, lambda: sample_a1111(p, TARGET), reference, 0.0)[0], plain)


@pytest.mark.parametrize("chunk", [1, 2])
def test_cond_and_uncond_in_separate_calls_are_told_apart(p, chunk: int) -> None:
    _, reference = record(p, lambda: sample_a1111(p, REFERENCE))
    words = TARGET if chunk == 1 else TARGET * 2
    together, _ = guided(p, lambda: sample_a1111(p, words), reference)
    p.sampler.model_wrap_cfg.chunk = chunk
    apart, outcome = guided(p, lambda: sample_a1111(p, words), reference)
    assert torch.allclose(together, apart, atol=1e-5) and outcome.calls == 6


def test_recording_in_separate_calls_gives_the_same_reference(p) -> None:
    _, together = record(p, lambda: sample_a1111(p, REFERENCE))
    p.sampler.model_wrap_cfg.chunk = 1
    _, apart = record(p, lambda: sample_a1111(p, REFERENCE))
    assert set(together.features) == set(apart.features)
    assert all(torch.allclose(together.features[name], apart.features[name], atol=1e-5) for name in together.features)


def test_prompts_of_several_parts_and_steps_without_uncond(p) -> None:
    _, reference = record(p, lambda: sample_a1111(p, REFERENCE))
    assert guided(p, lambda: sample_a1111(p, [["nurse", "king"]]), reference)[1].acted == 3
    p.sampler.model_wrap_cfg.skip_uncond = True
    assert guided(p, lambda: sample_a1111(p, TARGET), reference)[1].acted == 3


def test_nothing_is_left_after_a_pass_or_an_exception(p) -> None:
    _, reference = record(p, lambda: sample_a1111(p, REFERENCE))
    assert hooks(p) == 0

    def fail() -> None:
        sample_a1111(p, TARGET)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guided(p, fail, reference)
    assert hooks(p) == 0


def test_what_a_host_forgets_to_take_off_does_nothing_and_goes(p) -> None:
    _, reference = record(p, lambda: sample_a1111(p, REFERENCE))
    plain, adapter = sample_a1111(p, TARGET), find_adapter(p)
    forgotten = adapter.attach(p, guiding(p, reference))
    later = a1111(p.sd_model.model.diffusion_model)  # every generation has a sampler of its own
    assert torch.equal(sample_a1111(later, TARGET), plain)
    del forgotten
    gc.collect()
    assert hooks(p) == 0


def test_guidance_ends_with_a_note_where_a_refiner_takes_over(p) -> None:
    _, reference = record(p, lambda: sample_a1111(p, REFERENCE))

    def refined() -> torch.Tensor:
        sample_a1111(p, TARGET)
        p.sd_model.sd_checkpoint_info = object()  # other weights came into the same modules
        plain = sample_a1111(a1111(p.sd_model.model.diffusion_model), TARGET)
        assert torch.equal(sample_a1111(p, TARGET), plain)
        return plain

    outcome = guided(p, refined, reference)[1]
    assert outcome.acted == 3 and "refiner" in outcome.notes[0]


def test_rows_that_cannot_be_told_apart_are_left_plain_with_a_note(p, unet: UNet) -> None:
    _, reference = record(p, lambda: sample_a1111(p, REFERENCE))
    plain, forward = sample_a1111(p, TARGET), unet.forward
    tiled = SimpleNamespace(forward=lambda x, t, c: (unet(x.repeat(2, 1, 1), t.repeat(2), c.repeat(2, 1, 1))[:len(x)]))
    adapter = find_adapter(p)
    sampling_pass = guiding(p, reference)
    attachment = adapter.attach(p, sampling_pass)
    p.sampler.model_wrap_cfg.unet = [tiled.forward]
    assert torch.allclose(sample_a1111(p, TARGET), plain, atol=1e-5) and unet.forward == forward
    attachment.detach()
    outcome = sampling_pass.finish()[0]
    assert "batch" in outcome.notes[0] and outcome.acted == 0


def test_a_unet_that_is_replaced_altogether_is_refused(p, monkeypatch) -> None:
    option = SimpleNamespace(label="[TRT] engine")
    monkeypatch.setitem(sys.modules, "modules.sd_unet", SimpleNamespace(current_unet=SimpleNamespace(option=option)))
    adapter = find_adapter(p)
    with pytest.raises(RefDropError, match="TRT"):
        adapter.attach(p, SamplingPass([]))
    assert hooks(p) == 0
