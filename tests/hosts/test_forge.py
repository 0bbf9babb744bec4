"""The adapter for Forge and its kin: patches a clone, chains what is there, reads the batch from the host."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from lib_refdrop.hosts import find_adapter
from lib_refdrop.hosts.original_layout import self_attentions
from lib_refdrop.model.rows import COND, Row
from lib_refdrop.references.plan import preset
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.techniques.reference.strength import Strength
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.words import ReferenceProblem

from .conftest import Watching, guided, guiding, record, watched
from .tiny import (
    LEVELS,
    UNet,
    a1111,
    attention_function,
    forge,
    in_tiles,
    latents,
    perturb,
    prepend_reference,
    prompt,
    sample_a1111,
    sample_forge,
)


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


PROMPTS = {"one": [["nurse"]], "two": [["nurse"], ["king"]], "AND": [["nurse", "king"]],
           "two with AND": [["nurse", "king"], ["clown", "sailor"]], "three parts": [["nurse", "king", "ship"]],
           "lengths": [["nurse", "long king", "ship"]],
           "two with lengths": [["long nurse", "king"], ["long clown", "sailor"]]}


@pytest.mark.parametrize("most", [1, 2, 3, 99])
@pytest.mark.parametrize("case", PROMPTS)
def test_every_row_is_named_as_the_host_made_it(p, case: str, most: int) -> None:
    words, watching, scale = PROMPTS[case], Watching(), 4.0
    watched(p, lambda: sample_forge(p, words, most=most, scale=scale), watching)
    wanted = [(sigma, Row(COND, image, part)) for sigma in LEVELS for image, parts in enumerate(words)
              for part in range(len(parts))]
    wanted += [(sigma, Row("uncond", image)) for sigma in LEVELS for image in range(len(words))]
    assert sorted((round(seen.sigma, 4), seen.row) for seen in watching.rows) == \
        sorted((round(sigma, 4), row) for sigma, row in wanted)
    for seen in watching.rows:
        word = words[seen.row.image][seen.row.part] if seen.row.branch == COND else ""
        assert torch.equal(seen.prompt, prompt(word)[0])
        if round(seen.sigma, 4) == round(LEVELS[0], 4):
            assert torch.equal(seen.latent, latents(len(words))[seen.row.image])


def test_at_scale_1_there_is_no_negative_row(p) -> None:
    watching = Watching()
    watched(p, lambda: sample_forge(p, ["nurse"], scale=1.0), watching)
    assert [seen.row for seen in watching.rows] == [Row(COND)] * 3


EVERY_STEP = [[["castle"], ["nurse"]], [["ruin"], ["nurse"]], [["castle"], ["king"]]]  # editing and alternation


@pytest.mark.parametrize("keep", ["Exact", "Tiny"])
@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("how", [{}, {"most": 1}, {"most": 2}, {"scale": 1.0}], ids=str)
@pytest.mark.parametrize("words", [*(PROMPTS[case] for case in PROMPTS if case.startswith("two")), "editing"], ids=str)
def test_a_picture_of_a_batch_gives_itself(p, keep: str, image: int, how: dict, words) -> None:
    each = {"prompts": EVERY_STEP} if words == "editing" else {}
    words = words if words != "editing" else PROMPTS["two"]
    both, reference = record(p, lambda: sample_forge(p, words, **how, **each), keep, image)
    alone = {"prompts": [[step[image]] for step in EVERY_STEP]} if each else {}
    # The same picture alone, with the batch's calls laid out in another way.
    made, outcome = guided(p, lambda: sample_forge(p, [words[image]], seed=image, scale=how.get("scale", 4.0), **alone),
                           reference, 0.8)
    assert torch.allclose(made[0], both[image], atol=1e-4) and outcome.acted_on_all == outcome.calls


def test_every_picture_of_a_batch_is_guided(p) -> None:
    _, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    both, _ = guided(p, lambda: sample_forge(p, ["nurse", "king"]), reference)
    alone, _ = guided(p, lambda: sample_forge(p, ["nurse"]), reference)
    assert torch.allclose(both[:1], alone, atol=1e-5)


@pytest.mark.parametrize("words", [["pirate"], [["pirate", "ship"]]], ids=str)
def test_a_reference_of_one_web_ui_serves_in_another(p, unet: UNet, words) -> None:
    _, reference = record(p, lambda: sample_forge(p, words))
    other = a1111(unet)
    _, theirs = record(other, lambda: sample_a1111(other, words))
    assert set(reference.features) == set(theirs.features)
    first = [name for name in theirs.features if name.startswith("base/0000/") and name.endswith("/h")]
    # To the step of the timestep that this host rounds otherwise; part 1 is the second part in both.
    assert all(torch.allclose(reference.features[name], theirs.features[name], atol=2e-3) for name in first)
    assert guided(other, lambda: sample_a1111(other, words), reference, 0.9)[1].acted == 3


def test_adain_acts_on_blocks_alike_in_both_web_uis(p, unet: UNet) -> None:
    own, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    other = a1111(unet)
    _, theirs = record(other, lambda: sample_a1111(other, ["pirate"]))
    names = [name for name in reference.features if name.endswith("/stats") and name.startswith("base/0000/")]
    assert {name.split("/")[2] for name in names} == {"input.1", "middle.0", "output.0"} and len(names) == 6
    assert all(torch.allclose(reference.features[name], theirs.features[name], atol=2e-3) for name in names)
    alone = Strength(0.0, adain=1.0)
    for host, sample in ((p, sample_forge), (other, sample_a1111)):
        plain = sample(host, ["nurse"])
        made, outcome = guided(host, partial(sample, host, ["nurse"]), reference, alone)
        assert outcome.acted_on_all == 3 and (made - plain).abs().max() > 1e-2
        assert torch.equal(sample(host, ["nurse"]), plain)
    assert torch.allclose(guided(p, lambda: sample_forge(p, ["pirate"]), reference, alone)[0], own, atol=1e-5)


@pytest.mark.parametrize("blend", [None, 1.0], ids=["coefficient", "concatenate"])
def test_queries_and_keys_are_aligned_in_both_web_uis(p, unet: UNet, blend) -> None:
    for host, sample in ((p, sample_forge), (a1111(unet), sample_a1111)):
        own, reference = record(host, partial(sample, host, ["pirate"]))
        strength = Strength(0.5, weight=blend)
        made, without = (guided(host, partial(sample, host, ["nurse"]), reference, each)[0]
                         for each in (replace(strength, adain_attention=1.0), strength))
        assert (made - without).abs().max() > 1e-2
        if blend is None:
            again = guided(host, partial(sample, host, ["pirate"]), reference, replace(strength, adain_attention=1.0))
            assert torch.allclose(again[0], own, atol=1e-4)


def test_no_block_is_hooked_unless_that_is_wanted(p, unet: UNet) -> None:
    _, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    last = [part[-1] for part in (unet.input_blocks[1], unet.middle_block, unet.output_blocks[0])]
    for host in (p, a1111(unet)):
        for strength, count in ((0.5, 0), (Strength(0.0, adain=1.0), 1)):
            attachment = find_adapter(host).attach(host, guiding(host, reference, strength))
            assert {len(module._forward_hooks) for module in last} == {count}
            attachment.detach()
            assert {len(module._forward_hooks) for module in last} == {0}


def test_only_a_clone_is_patched_and_it_goes_with_the_pass(p) -> None:
    found = p.sd_model.forge_objects.unet
    unet = found.model.diffusion_model
    adapter = find_adapter(p)
    attachment = adapter.attach(p, SamplingPass([]))
    assert p.sd_model.forge_objects.unet is not found
    attachment.detach()
    attachment.detach()
    assert p.sd_model.forge_objects.unet is found and found.model_options == {"transformer_options": {}}
    assert not (unet._forward_hooks or unet._forward_pre_hooks or unet._load_state_dict_post_hooks)


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


@pytest.mark.parametrize("words", [["pirate"], ["pirate", "king"]], ids=str)
def test_where_a_layer_is_let_look_at_more_its_own_picture_is_still_its_own(p, words) -> None:
    """As Forge's reference-only does: more keys for the rows of the prompt, none for the others. Of features only: what
    it lets a layer look at in a step is not there when a trajectory is replayed."""
    def looks_at_more(q, k, v, extra):
        assert len(q) == len(k) == len(v) == len(words) * len(extra["cond_or_uncond"])
        torch.manual_seed(7)
        more = torch.randn(1, 3, k.shape[-1]).expand(len(words), -1, -1)
        made = []
        for chunk, what in enumerate(extra["cond_or_uncond"]):
            rows = slice(chunk * len(words), (chunk + 1) * len(words))
            keys, values = (torch.cat([part[rows], more], 1) if what == 0 else part[rows] for part in (k, v))
            made.append(attention_function(q[rows], keys, values, extra["n_heads"]))
        return torch.cat(made)

    plain = sample_forge(p, words)
    for site in self_attentions(p.sd_model.forge_objects.unet.model.diffusion_model):
        p.sd_model.forge_objects.unet.set_model_attn1_replace(looks_at_more, site.section, site.block)
    own, reference = record(p, lambda: sample_forge(p, words))
    assert not torch.allclose(own, plain, atol=1e-3)
    made, _ = guided(p, lambda: sample_forge(p, words), reference, 0.9)
    assert torch.allclose(made[0], own[0], atol=1e-4)
    other = sample_forge(p, ["nurse"] * len(words))
    assert not torch.allclose(guided(p, lambda: sample_forge(p, ["nurse"] * len(words)), reference, 0.9)[0], other)


def test_what_others_replace_for_one_call_is_what_it_was(p) -> None:
    perturb(p.sd_model.forge_objects.unet)

    def sample(word: str):
        return lambda: sample_forge(p, [word])

    plain = sample("nurse")()
    unperturbed = forge(p.sd_model.forge_objects.unet.model.diffusion_model)
    assert not torch.allclose(plain, sample_forge(unperturbed, ["nurse"]))
    own, reference = record(p, sample("nurse"))
    assert torch.equal(own, plain)
    assert torch.equal(guided(p, sample("nurse"), reference, 0.0)[0], plain)
    assert torch.allclose(guided(p, sample("nurse"), reference, 0.9)[0], plain, atol=1e-5)
    assert not torch.allclose(guided(p, sample("king"), reference, 0.4)[0], sample("king")())


@pytest.mark.parametrize("first", [True, False], ids=["added before us", "added after us"])
@pytest.mark.parametrize("what", [prepend_reference, perturb])
def test_calls_that_other_extensions_add_are_none_of_the_steps(p, unet: UNet, what, first: bool) -> None:
    plain = forge(unet)
    own = sample_forge(plain, ["pirate"])
    watching = Watching()
    adapter = find_adapter(p)
    if first:
        what(p.sd_model.forge_objects.unet)
    recording = Recording(adapter.lineage(p), {}, preset("Exact", adapter.lineage(p)))
    recording.begin_pass("base")
    sampling_pass = SamplingPass([recording, watching])
    attachment = adapter.attach(p, sampling_pass)
    if not first:
        clone = p.sd_model.forge_objects.unet.clone()
        what(clone)
        p.sd_model.forge_objects.unet = clone
    made = sample_forge(p, ["pirate"])
    attachment.detach()
    sampling_pass.finish()
    assert watching.layers == [3, 3, 3]  # three calls, each with its three layers
    reference = recording.reference("hero")
    assert len(reference.passes["base"].calls) == 3
    if what is prepend_reference:  # it only adds a call here: without it the same picture
        assert torch.equal(made, own)
        again, outcome = guided(plain, lambda: sample_forge(plain, ["pirate"]), reference, 0.9)
        assert torch.allclose(again, own, atol=1e-5) and outcome.calls == 3


@pytest.mark.parametrize("batch", [1, 2])
def test_tiles_are_guided_alike_however_many_come_in_a_call(p, unet: UNet, batch: int) -> None:
    words = ["nurse", "king"][:batch]
    _, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    made = []
    for at_once in (1, 2):
        in_tiles(p.sd_model.forge_objects.unet, at_once)
        picture, outcome = guided(p, lambda: sample_forge(p, words), reference)
        assert not torch.allclose(picture, sample_forge(p, words))
        assert outcome.acted_on_all == outcome.calls and "tiles" in outcome.notes[0]
        made.append(picture)
    assert torch.allclose(*made, atol=1e-5)


def test_of_tiles_no_reference_is_made(p) -> None:
    in_tiles(p.sd_model.forge_objects.unet, 1)
    with pytest.raises(ReferenceProblem, match="tiles"):
        record(p, lambda: sample_forge(p, ["pirate"]))


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
    def wrapper(model_function, args):  # one row more than the host sent
        more = {**args["c"], "c_crossattn": torch.cat([args["c"]["c_crossattn"], args["c"]["c_crossattn"][:1]])}
        x, t = args["input"], args["timestep"]
        return model_function(torch.cat([x, x[:1]]), torch.cat([t, t[:1]]), **more)[:-1]

    _, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    p.sd_model.forge_objects.unet.set_model_unet_function_wrapper(wrapper)
    plain = sample_forge(p, ["nurse"])
    made, outcome = guided(p, lambda: sample_forge(p, ["nurse"]), reference)
    assert torch.equal(made, plain) and "batch" in outcome.notes[0] and outcome.acted == 0


def test_keys_made_of_something_else_are_saved_as_they_are(p) -> None:
    def louder(n, context, value, extra):
        return n, 2 * context, value

    p.sd_model.forge_objects.unet.set_model_attn1_patch(louder)
    own, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    assert {name.rsplit("/")[-1] for name in reference.features if name.count("/") == 4} == {"k", "v", "stats"}
    again, _ = guided(p, lambda: sample_forge(p, ["pirate"]), reference, 0.9)
    assert torch.allclose(again, own, atol=1e-5)


def test_weights_that_come_into_the_same_model_end_it_with_a_note(p, unet: UNet) -> None:
    other = UNet(seed=5).state_dict()
    own = {name: value.clone() for name, value in unet.state_dict().items()}

    def swapped() -> torch.Tensor:
        sample_forge(p, ["nurse"])
        unet.load_state_dict(other)  # Neo's refiner, "Reload state_dict only"
        plain = sample_forge(forge(unet), ["nurse"])
        assert torch.equal(sample_forge(p, ["nurse"]), plain)
        return plain

    _, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    outcome = guided(p, swapped, reference)[1]
    unet.load_state_dict(own)
    assert outcome.acted == outcome.calls == 3 and "refiner" in outcome.notes[0]


@pytest.mark.parametrize("model", ["Neo", "reForge"])
def test_models_of_rectified_flow_are_a_lineage_of_their_own(unet: UNet, model: str) -> None:
    flow, noise = forge(unet, "const"), forge(unet, "v_prediction")
    if model == "reForge":
        CONST = type("CONST", (), {})
        del flow.sd_model.forge_objects.unet.model.predictor
        flow.sd_model.forge_objects.unet.model.model_sampling = type("ModelSampling", (CONST,), {})()
    assert find_adapter(flow).lineage(flow).flow and not find_adapter(noise).lineage(noise).flow
    assert find_adapter(flow).lineage(flow).signature != find_adapter(noise).lineage(noise).signature
    _, reference = record(noise, lambda: sample_forge(noise, ["pirate"]))
    with pytest.raises(ReferenceProblem, match="rectified flow|another build"):
        guiding(flow, reference)


def test_a_fault_in_the_adapter_is_told_and_the_picture_is_the_plain_one(p, monkeypatch) -> None:
    from lib_refdrop.hosts import forge as adapter

    def broken(*given):
        raise TypeError("no float64 here")

    plain = sample_forge(p, ["nurse"])
    _, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    monkeypatch.setattr(adapter, "chunks", broken)
    told = []
    sampling_pass = guiding(p, reference)
    sampling_pass._tell = lambda technique, problem: told.append(str(problem))
    attachment = find_adapter(p).attach(p, sampling_pass)
    made = sample_forge(p, ["nurse"])
    attachment.detach()
    assert torch.equal(made, plain) and len(told) == 1 and "TypeError: no float64 here" in told[0]


@pytest.mark.parametrize("refines", [True, False])
def test_a_refiner_that_is_another_model_is_noted_when_the_pass_is_over(p, unet: UNet, refines: bool) -> None:
    """It has no patches, so that nobody is told while it runs."""
    _, reference = record(p, lambda: sample_forge(p, ["pirate"]))
    first, sampling_pass = p.sd_model, guiding(p, reference)
    attachment = find_adapter(p).attach(p, sampling_pass)
    sample_forge(p, ["nurse"])
    other = forge(UNet(seed=4).eval()).sd_model
    other.sd_checkpoint_info = object()
    p.refiner_checkpoint_info = other.sd_checkpoint_info if refines else object()
    p.sd_model = other
    attachment.detach()
    (outcome,) = sampling_pass.finish()
    assert outcome.acted == 3 and [("refiner" in note) for note in outcome.notes] == [True] * refines
    p.sd_model = first
