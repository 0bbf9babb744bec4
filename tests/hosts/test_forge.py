"""The adapter for Forge and its kin: patches a clone, chains what is there, reads the batch from the host."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lib_refdrop.hosts import find_adapter
from lib_refdrop.techniques.sampling_pass import SamplingPass

from .conftest import guided, guiding, record
from .tiny import UNet, a1111, attention_function, forge, sample_a1111, sample_forge


@pytest.fixture
def p(unet: UNet) -> SimpleNamespace:
    return forge(unet)


def test_a_reference_guides_another_prompt_and_reproduces_its_own(p) -> None:
    own, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    plain = sample_forge(p, ["nurse"])
    made, outcome = guided(p, lambda: sample_forge(p, ["nurse"]), reference)
    assert outcome.acted == outcome.calls == 3 and not torch.allclose(made, plain)
    assert torch.allclose(guided(p, lambda: sample_forge(p, ["pirate"]), reference, 0.9)[0], own, atol=1e-5)
    assert torch.equal(guided(p, lambda: sample_forge(p, ["nurse"]), reference, 0.0)[0], plain)


@pytest.mark.parametrize("layout", [(0, 1), (0,), (1, 0, 0)], ids=str)
def test_the_batch_is_laid_out_as_the_host_says(p, layout: tuple[int, ...]) -> None:
    own, reference = record(p, lambda: sample_forge(p, ["pirate"], layout=layout))
    again, outcome = guided(p, lambda: sample_forge(p, ["pirate"], layout=layout), reference, 0.9)
    assert torch.allclose(again, own, atol=1e-5) and outcome.acted == 3


def test_every_picture_of_a_batch_is_guided(p) -> None:
    _, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    both, _ = guided(p, lambda: sample_forge(p, ["nurse", "king"]), reference)
    alone, _ = guided(p, lambda: sample_forge(p, ["nurse"]), reference)
    assert torch.allclose(both[:1], alone, atol=1e-5)


def test_a_reference_of_one_web_ui_serves_in_another(p, unet: UNet) -> None:
    own, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    other = a1111(unet)
    again, outcome = guided(other, lambda: sample_a1111(other, [["pirate"]]), reference, 0.9)
    assert torch.allclose(again, own, atol=1e-4) and outcome.acted == 3


def test_only_a_clone_is_patched_and_it_goes_with_the_pass(p) -> None:
    found = p.sd_model.forge_objects.unet
    adapter = find_adapter(p)
    attachment = adapter.attach(p, SamplingPass([]))
    assert p.sd_model.forge_objects.unet is not found
    attachment.detach()
    attachment.detach()
    assert p.sd_model.forge_objects.unet is found and found.model_options == {"transformer_options": {}}


def test_what_other_extensions_cloned_from_the_clone_does_nothing_afterwards(p) -> None:
    _, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    plain, adapter = sample_forge(p, ["nurse"]), find_adapter(p)
    sampling_pass = guiding(p, reference)
    attachment = adapter.attach(p, sampling_pass)
    theirs = p.sd_model.forge_objects.unet = p.sd_model.forge_objects.unet.clone()
    assert not torch.allclose(sample_forge(p, ["nurse"]), plain)
    attachment.detach()
    assert p.sd_model.forge_objects.unet is theirs and torch.equal(sample_forge(p, ["nurse"]), plain)


@pytest.mark.parametrize("place", [("middle", 0, 0), ("middle", 0)], ids=["layer", "block"])
def test_attention_that_is_replaced_already_makes_the_plain_half(p, place) -> None:
    def aligned(q, k, v, extra):
        return 0.5 * attention_function(q, k, v, extra["n_heads"])

    _, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    p.sd_model.forge_objects.unet.set_model_attn1_replace(aligned, *place)
    theirs = sample_forge(p, ["nurse"])
    assert torch.equal(guided(p, lambda: sample_forge(p, ["nurse"]), reference, 0.0)[0], theirs)
    assert not torch.allclose(guided(p, lambda: sample_forge(p, ["nurse"]), reference, 0.4)[0], theirs)


def test_what_others_replace_for_one_call_is_what_it_was(p) -> None:
    def sample(word: str):
        return lambda: sample_forge(p, [word], perturbed=True)

    plain = sample("nurse")()
    assert not torch.allclose(plain, sample_forge(p, ["nurse"]))
    own, reference = record(p, sample("nurse"))
    assert torch.equal(own, plain)
    assert torch.equal(guided(p, sample("nurse"), reference, 0.0)[0], plain)
    assert torch.allclose(guided(p, sample("nurse"), reference, 0.9)[0], plain, atol=1e-5)
    assert not torch.allclose(guided(p, sample("king"), reference, 0.4)[0], sample("king")())


def test_a_layer_in_tiles_stays_plain_and_the_others_are_guided(p) -> None:
    def tiled(q, k, v, extra):  # HyperTile's queries: more rows, fewer tokens
        return (q.reshape(-1, 3, q.shape[-1]), k, v) if extra["block"] == ("input", 1) else (q, k, v)

    def fold(q, k, v, extra):
        return attention_function(q.reshape(k.shape), k, v, extra["n_heads"]).reshape(q.shape)

    patcher = p.sd_model.forge_objects.unet
    patcher.set_model_attn1_patch(tiled)
    patcher.set_model_attn1_replace(fold, "input", 1)
    plain = sample_forge(p, ["nurse"])
    own, reference = record(p, lambda: sample_forge(p, ["nurse"]))
    assert torch.equal(own, plain) and {site.section for site in reference.sites("base")} == {"middle", "output"}
    made, outcome = guided(p, lambda: sample_forge(p, ["king"]), reference)
    assert outcome.acted == 3 and "batch" in outcome.notes[0]
    assert not torch.allclose(made, sample_forge(p, ["king"]))


def test_a_batch_that_does_not_fit_is_left_plain_with_a_note(p) -> None:
    _, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    adapter = find_adapter(p)
    sampling_pass = guiding(p, reference)
    attachment = adapter.attach(p, sampling_pass)
    unet, options = p.sd_model.forge_objects.unet, {"cond_or_uncond": [1, 0], "sigmas": torch.ones(1)}
    options = {**unet.model_options["transformer_options"], **options}
    x = torch.randn(3, 6, 16)
    out = unet.model.diffusion_model(x, torch.tensor([500.0]), x, options)
    attachment.detach()
    assert torch.equal(out, unet.model.diffusion_model(x, torch.tensor([500.0]), x))
    outcome = sampling_pass.finish()[0]
    assert "batch" in outcome.notes[0] and outcome.acted == 0


def test_keys_made_of_something_else_are_saved_as_they_are(p) -> None:
    def louder(n, context, value, extra):
        return n, 2 * context, value

    p.sd_model.forge_objects.unet.set_model_attn1_patch(louder)
    own, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    assert torch.allclose(guided(p, lambda: sample_forge(p, ["pirate"]), reference, 0.9)[0], own, atol=1e-5)
