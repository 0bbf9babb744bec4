"""A recording that goes into a store as it comes: what was begun twice counts once, and nothing waits in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_refdrop.references.plan import preset
from lib_refdrop.stores import DiskStore, MemoryStore
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.techniques.technique import Technique

from ..fuzz.files import SmallModel


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return SmallModel()


def recorded(model, plan, store, name, *seeds):
    """A reference of the last picture of some, each drawn in a pass that begins anew under the same name."""
    recording = Recording(model.lineage, {}, plan, store.writer(name))
    for seed in seeds:
        recording.begin_pass("base")
        sampling_pass = SamplingPass([recording])
        model.draw(sampling_pass, seed=seed)
        sampling_pass.finish()
    return store.load(recording.commit().name)


@pytest.mark.parametrize("keep", ["Exact", "Balanced", "Tiny"])
@pytest.mark.parametrize("kind", [DiskStore, MemoryStore])
def test_a_pass_that_begins_again_is_recorded_once(model, tmp_path, kind, keep) -> None:
    """Forge announces the second pass twice."""
    store, plan = DiskStore(tmp_path) if kind is DiskStore else MemoryStore(), preset(keep, model.lineage)
    once, twice = recorded(model, plan, store, "once", 4), recorded(model, plan, store, "twice", 1, 4)
    assert set(once.features) == set(twice.features) and once.passes == twice.passes
    assert all(torch.equal(once.features[name], twice.features[name]) for name in once.features)
    assert once.manifest["given"] == twice.manifest["given"]
    assert once.manifest["kept"] == twice.manifest["kept"]


class Watching(Technique):
    """Looks at the size of the file that is being written, before each model call."""

    def __init__(self, folder) -> None:
        self._folder, self.sizes = folder, []

    def call(self, call) -> None:
        self.sizes.append(sum(path.stat().st_size for path in self._folder.iterdir()))


@pytest.mark.parametrize("keep", ["Exact", "Tiny"])
@pytest.mark.parametrize("percent, calls", [(100, 3), (60, 2), (20, 1)])
def test_a_part_of_the_schedule_goes_to_the_disk_as_it_comes(model, tmp_path, keep, percent, calls) -> None:
    plan = replace(preset(keep, model.lineage), percent=percent)
    whole = recorded(model, plan, DiskStore(tmp_path / "known"), "once", 4)
    levels, numbers = [call.sigma for call in whole.passes["base"].calls], sum(
        tensor.nbytes for tensor in whole.features.values())
    folder = tmp_path / "watched"
    recording, watching = Recording(model.lineage, {}, plan, DiskStore(folder).writer("hero")), Watching(folder)
    recording.begin_pass("base", levels)
    model.draw(SamplingPass([watching, recording]), seed=4)
    watching.call(None)  # all is drawn, nothing is committed
    grown = [after - before for before, after in zip(watching.sizes, watching.sizes[1:])]
    assert [growth > numbers / calls / 2 for growth in grown] == [number < calls for number in range(3)]
    assert numbers <= sum(grown) <= numbers + 2**17  # all of it, and nothing else but room for the header
    assert recording.commit().bytes >= numbers
