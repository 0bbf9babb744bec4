"""A trajectory stands for every feature: replayed on the same model it gives what a recording would have kept."""

from dataclasses import replace

import pytest
import torch

from lib_refdrop.model.rows import Kind
from lib_refdrop.references.plan import preset
from lib_refdrop.references.replay import Replays
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.words import ReferenceProblem
from tests.techniques.test_contracts import state_of


class Counting(Replays):
    """Replays that tell how often they were asked."""

    def __init__(self):
        super().__init__()
        self.told = []

    def progress(self, done, total):
        self.told.append((done, total))


@pytest.fixture(scope="module")
def tiny(studio):
    """A reference that is its trajectory only, and the picture."""
    return studio.record(plan=preset("Tiny", studio.lineage), seed=4)


def test_a_trajectory_is_small_and_holds_no_feature(studio, tiny):
    exact, _ = studio.record(seed=4)
    assert tiny[0].nbytes * 3 < exact.nbytes and not tiny[0].sites("base")


def test_recording_it_does_not_change_the_picture(studio, tiny):
    assert torch.equal(tiny[1], studio.draw(seed=4))


@pytest.mark.parametrize("sampler, cfg", [("euler", 5.0), ("heun", 5.0), ("euler", 1.0)])
def test_a_replay_guides_as_the_recorded_features_do(studio, sampler, cfg):
    like = dict(seed=4, sampler=sampler, cfg=cfg)
    exact, _ = studio.record(**like)
    trajectory, _ = studio.record(plan=preset("Tiny", studio.lineage), **like)
    other = dict(seed=9, steps=1, cfg=cfg, batch=2, size=96)
    for c in (0.3, -0.5):
        recorded, _ = studio.use(exact, c, **other)
        replayed, outcome = studio.use(trajectory, c, **other)
        assert outcome.acted == outcome.calls > 0
        assert (replayed - recorded).abs().max() < 1e-4


def test_the_own_picture_comes_back(studio, tiny):
    again, _ = studio.use(tiny[0], 0.7, seed=4)
    assert (again - tiny[1]).abs().max() < 1e-3


def test_it_is_computed_once_and_told_about(studio, tiny):
    replays = Counting()
    for seed in (9, 10):
        sampling_pass = studio.guiding(tiny[0], 0.3, replays=replays)
        studio.draw(sampling_pass, seed=seed)
        assert sampling_pass.finish()[0].acted == 4
    assert replays.told[0] == (0, 8) and replays.told[-1] == (8, 8)  # four steps, two branches
    assert len([done for done, _ in replays.told if done == 0]) == 1


def test_at_coefficient_zero_nothing_is_computed(studio, tiny):
    replays = Counting()
    sampling_pass = studio.guiding(tiny[0], 0.0, replays=replays)
    assert torch.equal(studio.draw(sampling_pass, seed=9), studio.draw(seed=9)) and not replays.told


def test_nothing_is_left_behind_when_a_replay_is_stopped(studio, tiny):
    class Stopped(Replays):
        def progress(self, done, total):
            if done == 3:
                raise ReferenceProblem("enough")

    before = state_of(studio.unet)
    sampling_pass = studio.guiding(tiny[0], 0.3, replays=Stopped())
    assert torch.equal(studio.draw(sampling_pass, seed=9), studio.draw(seed=9))  # the host's model call goes on
    assert state_of(studio.unet) == before and not sampling_pass.replaying
    with pytest.raises(ReferenceProblem, match="enough"):
        sampling_pass.finish()


def test_another_form_of_prompt_is_refused_in_one_sentence(studio, tiny):
    reference = replace(tiny[0], features={**tiny[0].features, "base/given/0/y": torch.zeros(7)})
    with pytest.raises(ReferenceProblem, match="prompt in another form"):
        studio.use(reference, 0.3, seed=9)


def test_every_picture_of_a_batch_can_be_remembered(studio):
    recordings = [Recording(studio.lineage, {}, preset("Tiny", studio.lineage), image=image) for image in (0, 1)]
    for recording in recordings:
        recording.begin_pass("base")
    studio.draw(SamplingPass(recordings), seed=4, batch=2)
    remembered = [recording.reference("ref") for recording in recordings]
    alone, _ = studio.record(plan=preset("Tiny", studio.lineage), seed=5)
    for index in alone.seen("base")[Kind("cond")]:
        for kind in (Kind("cond"), Kind("uncond")):
            latent = alone.inputs("base", index, kind)["x"]
            first, second = (each.inputs("base", index, kind)["x"] for each in remembered)
            # Random weights are chaotic: what a batch rounds otherwise than one picture grows from step to step.
            assert (second - latent).abs().max() < 0.2 and (first - latent).abs().max() > 1
