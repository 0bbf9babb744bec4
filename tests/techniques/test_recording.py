"""A recording holds what a plan asks for, however the host calls its model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_refdrop.hosts.diffusers import attached
from lib_refdrop.model.rows import Kind, Row
from lib_refdrop.references.plan import Recipe, preset
from lib_refdrop.references.recode import recode
from lib_refdrop.references.reference import PassRecord, RecordedCall
from lib_refdrop.references.replay import Replays
from lib_refdrop.techniques.reference.guidance import Guidance
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.techniques.sampling_pass import SamplingPass

COND, SECOND, UNCOND = Kind("cond"), Kind("cond", 1), Kind("uncond")
TIMESTEPS = (900, 700, 500, 250, 40)
CASTLE, RUIN, NEGATIVE = 1, 2, 3  # seeds of "prompts"


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Host:
    """Calls the model as a web UI does, step by step, with whatever rows and prompts a step has."""

    def __init__(self, studio) -> None:
        self.unet, self.alphas = studio.unet, studio.pipeline.scheduler.alphas_cumprod
        self.lineage = studio.lineage

    def draw(self, sampling_pass: SamplingPass | None, steps, seeds=(4,)) -> torch.Tensor:
        """``steps`` are lists of ``(kind, prompt)``, the conditional kinds last; latents ``[images, 4, 8, 8]``."""
        x = torch.cat([noise(seed, 1, 4, 8, 8) for seed in seeds])
        with torch.no_grad():
            for timestep, parts in zip(TIMESTEPS, steps):
                rows = [Row(kind.branch, image, kind.part) for kind, _ in parts for image in range(len(seeds))]
                contexts = torch.cat([noise(100 * prompt, 1, 77, 128).repeat(len(seeds), 1, 1) for _, prompt in parts])
                with attached(self.unet, sampling_pass or SamplingPass([]), lambda batch, rows=rows: rows, self.alphas):
                    out = self.unet(x.repeat(len(parts), 1, 1, 1), timestep, contexts).sample.chunk(len(parts))
                x = 0.6 * x - 0.3 * out[-1] + 0.1 * sum(out[:-1])
        return x

    def record(self, steps, plan, image=0, **more):
        recording = Recording(self.lineage, {}, plan, image=image)
        recording.begin_pass("base")
        sampling_pass = SamplingPass([recording])
        picture = self.draw(sampling_pass, steps, **more)
        sampling_pass.finish()
        return recording.reference("hero"), picture

    def use(self, reference, c, steps, replays=None, **more):
        sampling_pass = SamplingPass([Guidance([(reference, c)], self.lineage, replays=replays)])
        picture = self.draw(sampling_pass, steps, **more)
        return picture, sampling_pass.finish()[0]


@pytest.fixture(scope="module")
def host(studio) -> Host:
    return Host(studio)


def steps(*prompts: int, second: int | None = None):
    """One prompt a step, with the negative one; a second part of an AND prompt on request."""
    more = [] if second is None else [(SECOND, second)]
    return [[(UNCOND, NEGATIVE), (COND, prompt), *more] for prompt in prompts]


EDITED = steps(CASTLE, CASTLE, RUIN, RUIN, RUIN)
ALTERNATING = steps(CASTLE, RUIN, CASTLE, RUIN, CASTLE)
BOTH = steps(*[CASTLE] * 5, second=RUIN)
SIMPLE = steps(*[CASTLE] * 5)


@pytest.mark.parametrize("keep", ["Exact", "Tiny"])
@pytest.mark.parametrize("schedule", [EDITED, ALTERNATING, BOTH], ids=["edited", "alternating", "AND"])
@pytest.mark.parametrize("image", [0, 1])
def test_own_seed_gives_the_own_picture_with_every_form_of_prompt(host, keep, schedule, image) -> None:
    seeds = (4,) if image == 0 else (7, 4)
    reference, picture = host.record(schedule, preset(keep, host.lineage), image, seeds=seeds)
    again, outcome = host.use(reference, 0.7, schedule, seeds=seeds)
    assert (again[image] - picture[image]).abs().max() < 1e-3
    assert outcome.acted_on_all == outcome.calls == 5
    if image:
        assert (again[0] - picture[0]).abs().max() > 1e-2  # the other picture of the batch was guided


def test_each_content_of_a_conditioning_is_kept_once(host) -> None:
    reference, _ = host.record(ALTERNATING, preset("Tiny", host.lineage))
    assert len([name for name in reference.features if "/given/" in name]) == 3  # two prompts and the negative one
    numbers = reference.manifest["given"]["base"]["cond"]
    assert numbers[0] == numbers[2] == numbers[4] != numbers[1] == numbers[3]


def test_a_reference_of_one_part_serves_every_part(host) -> None:
    reference, _ = host.record(SIMPLE, preset("Exact", host.lineage))
    assert host.use(reference, 0.3, BOTH)[1].acted_on_all == 5


def test_where_a_branch_was_not_seen_the_other_serves(host) -> None:
    """Hosts can leave the negative half out of some steps; both halves are then guided by the one that was seen
    there."""
    without = [[(COND, CASTLE)] if number in (0, 3, 4) else step for number, step in enumerate(SIMPLE)]
    reference, _ = host.record(without, preset("Exact", host.lineage))
    record = reference.passes["base"]
    assert len(record.kept[COND]) == 5 and len(record.kept[UNCOND]) == 2
    for call in record.calls:
        serving = record.calls[record.serving(call.sigma, 0, UNCOND).call]
        assert serving.sigma == call.sigma  # its own level, never another
    assert host.use(reference, 0.3, SIMPLE)[1].acted_on_all == 5


def test_guided_on_some_rows_is_not_called_guided_on_all(host) -> None:
    """A feature that a damaged plan left out: the negative half's at one level."""
    reference, _ = host.record(SIMPLE, preset("Exact", host.lineage))
    site = max(reference.sites("base"))
    start = f"base/0002/{site}/uncond"
    lacking = {name: value for name, value in reference.features.items() if not name.startswith(start)}
    outcome = host.use(replace(reference, features=lacking), 0.3, SIMPLE)[1]
    assert outcome.acted == 5 and outcome.acted_on_all == 4


@pytest.mark.parametrize("percent, calls", [(20, 1), (40, 2), (60, 3), (100, 5)])
@pytest.mark.parametrize("keep", ["Exact", "Balanced", "Small", "Tiny"])
def test_save_percentage_guides_exactly_the_part_asked_for(host, percent, calls, keep) -> None:
    reference, _ = host.record(SIMPLE, replace(preset(keep, host.lineage), percent=percent))
    assert host.use(reference, 0.3, SIMPLE)[1].acted == calls


class Sparing(Replays):
    """Replays for which there is room for features of two levels."""

    def plan(self, lineage, reference, pass_name):
        return Recipe(levels=2, trajectory=False).plan("two", lineage)


@pytest.mark.parametrize("replays", [Replays, Sparing])
def test_a_replay_guides_exactly_the_part_asked_for_too(host, replays) -> None:
    reference, _ = host.record(SIMPLE, replace(preset("Tiny", host.lineage), percent=60))
    assert host.use(reference, 0.3, SIMPLE, replays=replays())[1].acted == 3


@pytest.mark.parametrize("saved, wanted, calls", [(40, 100, 2), (60, 20, 1), (60, 60, 3), (20, 80, 1)])
@pytest.mark.parametrize("keep", ["Exact", "Balanced", "Tiny"])
def test_what_is_made_smaller_keeps_the_part_asked_for(host, keep, saved, wanted, calls) -> None:
    """A part of the schedule, not of the levels that are left of it; and no plan brings back what was left out."""
    everything = replace(preset("Exact", host.lineage), trajectory=True, percent=saved)
    reference, _ = host.record(SIMPLE, everything)
    again = recode(reference, replace(preset(keep, host.lineage), percent=wanted))
    assert host.use(again, 0.3, SIMPLE)[1].acted == calls
    assert again.manifest["kept"]["save_percent"] == min(saved, wanted)


def test_a_schedule_that_nobody_knew_is_thinned_out_as_it_comes(host) -> None:
    reference, _ = host.record(SIMPLE, replace(preset("Exact", host.lineage), levels=3))
    record = reference.passes["base"]
    assert [round(call.sigma, 2) for call in record.calls] == [8.35, 3.33, 1.62, 0.7, 0.2]
    assert [round(sigma, 2) for sigma in record.levels] == [8.35, 3.33, 0.7]  # those that leave no level far from one


def test_a_reference_made_from_a_picture_is_silent_in_pure_noise() -> None:
    """img2img begins in the middle of a schedule: what it says of its own first level is not true of the noise
    above."""
    calls = tuple(RecordedCall(sigma) for sigma in (1.9, 1.6, 1.3, 0.6, 0.1))
    record = PassRecord(calls, {COND: frozenset(range(5))})
    assert [record.serving(sigma, 0, COND) is not None for sigma in (14.6, 8.0, 4.0, 2.1, 1.9, 0.03)] == [
        False, False, False, True, True, True]
