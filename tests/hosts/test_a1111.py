"""The adapter for AUTOMATIC1111: guides whatever way the rows come, and leaves nothing behind."""

from __future__ import annotations

import gc
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from lib_refdrop.hosts import find_adapter
from lib_refdrop.model.rows import COND, UNCOND, Row
from lib_refdrop.model.sites import Site
from lib_refdrop.references.plan import preset
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.words import RefDropError, ReferenceProblem

from .conftest import Watching, guided, guiding, record, watched
from .test_forge import EVERY_STEP, PROMPTS
from .tiny import LEVELS, SIGMAS, STEPS, TOKENS, InnerTimesteps, UNet, a1111, latents, prompt, sample_a1111

REFERENCE, TARGET = [["pirate"]], [["nurse"]]


def hooks(p: SimpleNamespace) -> int:
    modules = [*p.sd_model.model.diffusion_model.modules(), *p.sampler.model_wrap_cfg.modules()]
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._load_state_dict_post_hooks)
               for module in modules)


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


@pytest.mark.parametrize("chunk", [None, 1, 2, 3])
@pytest.mark.parametrize("case", PROMPTS)
def test_every_row_is_named_as_the_host_made_it(p, case: str, chunk: int | None) -> None:
    words, watching = PROMPTS[case], Watching()
    if "lengths" in case:
        words = [[word.replace("long ", "") for word in parts] for parts in words]  # the host pads parts
        p.sampler.model_wrap_cfg.negative = "long negative"
    p.sampler.model_wrap_cfg.chunk = chunk
    watched(p, lambda: sample_a1111(p, words), watching)
    wanted = [(sigma, Row(COND, image, part)) for sigma in LEVELS for image, parts in enumerate(words)
              for part in range(len(parts))]
    wanted += [(sigma, Row(UNCOND, image)) for sigma in LEVELS for image in range(len(words))]
    assert sorted((round(seen.sigma, 4), seen.row) for seen in watching.rows) == \
        sorted((round(sigma, 4), row) for sigma, row in wanted)
    for seen in watching.rows:
        word = words[seen.row.image][seen.row.part] if seen.row.branch == COND else p.sampler.model_wrap_cfg.negative
        assert torch.equal(seen.prompt, prompt(word)[0])
        if round(seen.sigma, 4) == round(LEVELS[0], 4):
            assert torch.equal(seen.latent, latents(len(words))[seen.row.image])


@pytest.mark.parametrize(("scale", "parts"), [(1.5, 2), (1.0, 1), (None, 1)])
def test_instruct_pix2pix_has_a_third_row(p, scale: float | None, parts: int) -> None:
    p.sd_model.cond_stage_key = "edit"
    denoiser, watching = p.sampler.model_wrap_cfg, Watching()
    denoiser.edits, denoiser.image_cfg_scale = True, scale
    watched(p, lambda: sample_a1111(p, [["nurse"], ["king"]]), watching)
    rows = [Row(COND, 0), Row(COND, 1)] + [Row(UNCOND, image, part) for part in range(parts) for image in range(2)]
    assert [seen.row for seen in watching.rows] == 3 * rows


def test_steps_without_a_negative_row(p) -> None:
    p.sampler.model_wrap_cfg.skip_uncond = True
    watching = Watching()
    watched(p, lambda: sample_a1111(p, [["nurse", "king"]]), watching)
    assert [seen.row for seen in watching.rows] == 3 * [Row(COND, 0, 0), Row(COND, 0, 1)]


@pytest.mark.parametrize("keep", ["Exact", "Tiny"])
@pytest.mark.parametrize("image", [0, 1])
@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("words", [PROMPTS["two"], PROMPTS["two with AND"], "editing"], ids=str)
def test_a_picture_of_a_batch_gives_itself(p, keep: str, image: int, chunk: int | None, words) -> None:
    each = {"prompts": EVERY_STEP} if words == "editing" else {}
    words = words if words != "editing" else PROMPTS["two"]
    p.sampler.model_wrap_cfg.chunk = chunk
    both, reference = record(p, lambda: sample_a1111(p, words, **each), keep, image)
    p.sampler.model_wrap_cfg.chunk = None
    alone = {"prompts": [[step[image]] for step in EVERY_STEP]} if each else {}
    made, outcome = guided(p, lambda: sample_a1111(p, [words[image]], seed=image, **alone), reference, 0.8)
    assert torch.allclose(made[0], both[image], atol=1e-4) and outcome.acted_on_all == outcome.calls


@pytest.mark.parametrize("chunk", [1, 2])
def test_cond_and_uncond_in_separate_calls_are_told_apart(p, chunk: int) -> None:
    _, reference = record(p, lambda: sample_a1111(p, REFERENCE))
    words = TARGET if chunk == 1 else TARGET * 2
    together, _ = guided(p, lambda: sample_a1111(p, words), reference)
    p.sampler.model_wrap_cfg.chunk = chunk
    apart, outcome = guided(p, lambda: sample_a1111(p, words), reference)
    assert torch.allclose(together, apart, atol=1e-5) and outcome.calls == 6


def test_the_noise_level_is_the_schedules_where_the_timestep_is_rounded(p) -> None:
    """In half precision timestep 900.3 is 900.5, a level 0.2 % off: no level of the schedule."""
    p.sampler.model_wrap_cfg.inner_model.half = True
    watching = Watching()
    watched(p, lambda: sample_a1111(p, REFERENCE), watching)
    assert sorted({seen.sigma for seen in watching.rows}, reverse=True) == pytest.approx(LEVELS, rel=1e-5)


def test_denoisers_that_are_given_timesteps_are_understood(p, unet: UNet) -> None:
    p.sampler.model_wrap_cfg.inner_model = InnerTimesteps(unet)
    watching = Watching()
    watched(p, lambda: sample_a1111(p, REFERENCE), watching)
    assert sorted({seen.sigma for seen in watching.rows}, reverse=True) == pytest.approx(LEVELS, rel=1e-5)
    assert len(STEPS) == len(LEVELS)


def test_calls_that_other_extensions_add_are_none_of_the_steps(p) -> None:
    p.sampler.model_wrap_cfg.degraded = True
    watching = Watching()
    watched(p, lambda: sample_a1111(p, REFERENCE), watching)
    assert watching.layers == [3, 3, 3] and len(watching.rows) == 6
    own, reference = record(p, lambda: sample_a1111(p, REFERENCE))
    again, outcome = guided(p, lambda: sample_a1111(p, REFERENCE), reference, 0.9)
    assert torch.allclose(again, own, atol=1e-5) and outcome.calls == 3


def controlnet(unet: UNet, reference_only: bool = False, bank: bool = False) -> None:
    """What sd-webui-controlnet puts into a UNet: blocks that name the hidden state as the context, and, for
    reference-only, a run over another picture before the own one, in the same call."""
    other, seen = latents(1, seed=77), {}
    original = unet.layers

    def block_forward(block):
        def forward(x, options):
            n = block.norm1(x)
            context = n
            if bank and seen.get("writing"):
                seen[id(block)] = n
            elif bank and id(block) in seen:
                context = torch.cat([n, seen[id(block)].expand(len(n), -1, -1)], 1)
            return x + block.attn1(n, context=context)

        return forward

    for part in (unet.input_blocks[1], unet.middle_block, unet.output_blocks[0]):
        for block in part[1].transformer_blocks:
            block.forward = block_forward(block)

    def forward(x, timesteps, context, transformer_options=None):
        if reference_only:
            seen["writing"] = True
            original(other.expand_as(x).clone(), timesteps, context, transformer_options)
            seen["writing"] = False
        return original(x, timesteps, context, transformer_options)

    unet.forward = forward


@pytest.mark.parametrize("how", [{}, {"reference_only": True}, {"reference_only": True, "bank": True}], ids=str)
def test_controlnet_in_the_model_changes_nothing(p, unet: UNet, how: dict) -> None:
    alone = sample_a1111(p, REFERENCE)
    _, without = record(p, lambda: sample_a1111(p, REFERENCE))
    controlnet(unet, **how)
    own, reference = record(p, lambda: sample_a1111(p, REFERENCE))
    assert torch.equal(own, alone) or how.get("bank")
    assert set(reference.features) == set(without.features)
    if not how.get("bank"):  # what is kept is of the own picture, not of the other one
        assert all(torch.allclose(reference.features[name], without.features[name]) for name in without.features)
    again, outcome = guided(p, lambda: sample_a1111(p, REFERENCE), reference, 0.9)
    assert torch.allclose(again, own, atol=1e-5) and outcome.acted_on_all == outcome.calls == 3
    served, outcome = guided(p, lambda: sample_a1111(p, TARGET), reference)
    assert outcome.acted == 3 and not torch.allclose(served, sample_a1111(p, TARGET))


def tiled(p: SimpleNamespace, at_once: int) -> None:
    """Tiled Diffusion: the denoiser's inner model calls the model on halves of the picture, tile after tile."""
    inner = p.sampler.model_wrap_cfg.inner_model
    original = type(inner).forward.__get__(inner)

    def forward(x, sigma, cond):
        tiles = [x[:, :TOKENS // 2], x[:, TOKENS // 2:]]
        out = []
        for start in range(0, 2, at_once):
            some = tiles[start:start + at_once]
            made = original(torch.cat(some), sigma.repeat(len(some)), cond=cond.repeat(len(some), 1, 1))
            out += made.chunk(len(some))
        return torch.cat(out, dim=1)

    inner.forward = forward


@pytest.mark.parametrize("words", [TARGET, [["nurse", "king"], ["clown"]]], ids=str)
def test_tiles_are_guided_alike_however_many_come_in_a_call(p, words) -> None:
    _, reference = record(p, lambda: sample_a1111(p, REFERENCE))
    made = []
    for at_once in (1, 2):
        tiled(p, at_once)
        picture, outcome = guided(p, lambda: sample_a1111(p, words), reference)
        assert not torch.allclose(picture, sample_a1111(p, words))
        assert outcome.acted_on_all == outcome.calls and "tiles" in outcome.notes[0]
        made.append(picture)
    assert torch.allclose(*made, atol=1e-5)


def test_of_tiles_no_reference_is_made(p) -> None:
    tiled(p, 1)
    with pytest.raises(ReferenceProblem, match="tiles"):
        record(p, lambda: sample_a1111(p, REFERENCE))


def test_with_a_hypernetwork_keys_and_values_are_kept(p, unet: UNet) -> None:
    for part in (unet.input_blocks[1], unet.middle_block, unet.output_blocks[0]):
        part[1].transformer_blocks[0].attn1.hypernetwork = lambda context: (1.5 * context, context.tanh())
    own, reference = record(p, lambda: sample_a1111(p, REFERENCE))
    assert {name.rsplit("/")[-1] for name in reference.features if name.count("/") == 4} == {"k", "v", "stats"}
    again, _ = guided(p, lambda: sample_a1111(p, REFERENCE), reference, 0.9)
    assert torch.allclose(again, own, atol=1e-5)


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


@pytest.mark.parametrize("how", ["another checkpoint's name", "other weights"])
def test_guidance_ends_with_a_note_where_a_refiner_takes_over(p, unet: UNet, how: str) -> None:
    _, reference = record(p, lambda: sample_a1111(p, REFERENCE))

    def refined() -> torch.Tensor:
        sample_a1111(p, TARGET)
        if how == "other weights":
            unet.load_state_dict(UNet(seed=4).state_dict())
        else:
            p.sd_model.sd_checkpoint_info = object()  # other weights came into the same modules
        plain = sample_a1111(a1111(p.sd_model.model.diffusion_model), TARGET)
        assert torch.equal(sample_a1111(p, TARGET), plain)
        return plain

    outcome = guided(p, refined, reference)[1]
    assert outcome.acted == 3 and "refiner" in outcome.notes[0]


def test_rows_that_cannot_be_told_apart_are_left_plain_with_a_note(p, unet: UNet) -> None:
    _, reference = record(p, lambda: sample_a1111(p, REFERENCE))
    plain, inner = sample_a1111(p, TARGET), p.sampler.model_wrap_cfg.inner_model
    original = type(inner).forward.__get__(inner)
    # A row more than the denoiser sent.
    inner.forward = lambda x, sigma, cond: original(torch.cat([x, x[:1]]), torch.cat([sigma, sigma[:1]]),
                                                    cond=torch.cat([cond, cond[:1]]))[:-1]
    made, outcome = guided(p, lambda: sample_a1111(p, TARGET), reference)
    assert torch.allclose(made, plain, atol=1e-5) and "batch" in outcome.notes[0] and outcome.acted == 0


def test_a_fault_in_the_adapter_is_told_and_the_picture_is_the_plain_one(p) -> None:
    """Apple's MPS has no float64; a denoiser of another kind gives no prompts that can be counted."""
    plain = sample_a1111(p, TARGET)
    _, reference = record(p, lambda: sample_a1111(p, REFERENCE))
    told = []
    sampling_pass = guiding(p, reference)
    sampling_pass._tell = lambda technique, problem: told.append(str(problem))
    attachment = find_adapter(p).attach(p, sampling_pass)
    attachment._clock = attachment._model = None
    attachment.denoise = None
    made = sample_a1111(p, TARGET)
    attachment.detach()
    assert torch.equal(made, plain) and len(told) == 1 and "TypeError" in told[0] and "log" in told[0]


def test_a_unet_that_is_replaced_altogether_is_refused(p, monkeypatch) -> None:
    option = SimpleNamespace(label="[TRT] engine")
    monkeypatch.setitem(sys.modules, "modules.sd_unet", SimpleNamespace(current_unet=SimpleNamespace(option=option)))
    adapter = find_adapter(p)
    with pytest.raises(RefDropError, match="TRT"):
        adapter.attach(p, SamplingPass([]))
    assert hooks(p) == 0


def test_of_a_save_that_a_refiner_ended_nothing_is_said_of_guidance(p) -> None:
    """Nothing was guided in it."""
    recording = Recording(find_adapter(p).lineage(p), {}, preset("Exact", find_adapter(p).lineage(p)))
    recording.begin_pass("base", LEVELS)

    def refined() -> torch.Tensor:
        denoiser, x = p.sampler.model_wrap_cfg, latents(1)
        for step, timestep in enumerate(STEPS):
            if step == 2:
                p.sd_model.sd_checkpoint_info = object()
            x = 0.5 * x + 0.5 * denoiser(x, torch.full((1,), SIGMAS[timestep].item()), uncond=[""],
                                         cond=SimpleNamespace(batch=REFERENCE)).tanh()
        return x

    outcome = watched(p, refined, recording)[1]
    assert outcome.notes == ["The model was changed in the middle of the generation (a refiner); RefDrop took no part "
                             "from there on."]
    assert len(recording.reference("hero").passes["base"].calls) == 2


@pytest.mark.parametrize("keep", ["Exact", "Tiny"])
def test_under_autocast_a_reference_is_as_large_as_is_told(p, monkeypatch, keep) -> None:
    """In AUTOMATIC1111 the option that computes in bfloat16 tells so by ``devices.dtype``; latents stay float32."""
    devices = ModuleType("modules.devices")
    devices.dtype = torch.bfloat16
    monkeypatch.setitem(sys.modules, "modules.devices", devices)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        own, reference = record(p, lambda: sample_a1111(p, REFERENCE), keep)
        plain = sample_a1111(p, TARGET)
        guided_by, _ = guided(p, lambda: sample_a1111(p, TARGET), reference, 0.7)
        again, outcome = guided(p, lambda: sample_a1111(p, REFERENCE), reference, 0.7)
    numbers = {value.element_size() for name, value in reference.features.items()
               if value.is_floating_point() and name.split("/")[2] != "t" and not name.endswith("/stats")}
    assert numbers == {find_adapter(p).element_size(p)} == {2}
    assert outcome.acted_on_all == 3
    assert (again - own).abs().max() < 0.05 * (guided_by - plain).abs().max()
