"""A reference's size is known before it is made: against files that were really written."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from demo.shapes import SD15, SDXL

from lib_refdrop.model.rows import Kind
from lib_refdrop.model.sites import Site
from lib_refdrop.references.codec import Representation
from lib_refdrop.references.manifest import kept_as
from lib_refdrop.references.plan import RECIPES, Plan, Recipe, preset
from lib_refdrop.references.sizes import Picture, estimate, features_kept, tokens
from lib_refdrop.stores import DiskStore
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.techniques.sampling_pass import SamplingPass

PROVENANCE = {"prompt": "a pirate", "seed": 1}
RECIPES_TRIED = {
    **RECIPES, "kv": Recipe(trajectory=False), "cond": Recipe("int8", 30, branches=("cond",)),
    "half": Recipe("fp16", levels=2, sections=("output",))}


def written(studio, folder, plan, passes, **picture) -> int:
    """The bytes of the file that one recording of some passes, by name and size, leaves on the disk."""
    recording = Recording(studio.lineage, PROVENANCE, plan, DiskStore(folder).writer("hero"))
    for name, size in passes.items():
        recording.begin_pass(name)
        sampling_pass = SamplingPass([recording])
        studio.draw(sampling_pass, size=size, **picture)
        sampling_pass.finish()
    saved = recording.commit()
    assert saved.bytes == saved.path.stat().st_size
    return saved.bytes


@pytest.mark.parametrize("name", RECIPES_TRIED)
@pytest.mark.parametrize("picture", [{}, {"sampler": "heun"}, {"cfg": 1.0}], ids=["euler", "heun", "one branch"])
def test_the_size_is_known_before(studio, tmp_path, name, picture):
    plan = RECIPES_TRIED[name].plan(name, studio.lineage)
    if name == "kv":
        plan = replace(plan, sites=dict.fromkeys(plan.sites, Representation("kv", "int4", tokens=40)))
    real = written(studio, tmp_path, plan, {"base": 64}, steps=6, **picture)
    told = estimate(plan, studio.lineage, Picture(8, 8, 6, 1 if "cfg" in picture else 2, 4, twice="sampler" in picture),
                    provenance=PROVENANCE)
    assert told == pytest.approx(real, rel=0.005)


def test_both_passes_are_in_the_one_file(studio, tmp_path):
    plan = Recipe("int4", 100, 3).plan("both", studio.lineage)
    real = written(studio, tmp_path, plan, {"base": 64, "hires": 128}, steps=6)
    pictures = Picture(8, 8, 6, element_size=4), Picture(16, 16, 6, element_size=4, pass_name="hires")
    assert estimate(plan, studio.lineage, *pictures, provenance=PROVENANCE) == pytest.approx(real, rel=0.005)
    reference = DiskStore(tmp_path).load("hero")
    sites = reference.manifest["kept"]["sites"]
    assert set(sites) == {"base", "hires"}


def test_each_pass_says_how_it_was_kept(studio):
    """Another extension has merged tokens in the base pass, so that they have no places to be merged by."""
    site, shape = next(iter(studio.lineage.sites.items()))
    recording = Recording(studio.lineage, {}, Plan("", {site: Representation("hidden", "int8", tokens=20)}))

    class Layer:
        def __init__(self, tokens: int) -> None:
            self._states = torch.rand(tokens, shape.width)

        def hidden(self, row: int) -> torch.Tensor:
            return self._states

    for name, count in (("base", 37), ("hires", 64)):
        recording.begin_pass(name)
        recording.keep(recording.place(1.0, 0, (8, 8)), site, Kind("cond"), Layer(count), 0)
    manifest = recording.reference("hero").manifest
    assert manifest["kept"]["sites"] == {"base": {"hidden int8": [str(site)]},
                                         "hires": {"hidden int8 tokens20": [str(site)]}}
    assert kept_as(manifest, "hires") == {site: Representation("hidden", "int8", tokens=20)}
    older = {"kept": {"sites": {"hidden int8 pool2": [str(site)]}}}  # one for all passes
    assert kept_as(older, "hires") == {site: Representation("hidden", "int8", 2)} and kept_as({}, "base") == {}


def test_a_layer_sees_the_picture_halved_as_often_as_its_level_says():
    odd = Picture(65, 97, 20)
    assert [tokens(Site("input", block, 0), SD15, odd) for block in (1, 4, 7)] == [(65, 97), (33, 49), (17, 25)]
    assert tokens(Site("middle", 0, 0), SD15, odd) == (9, 13)


@pytest.mark.parametrize("percent, levels, steps, kept", [
    (100, None, 20, 20), (100, 3, 20, 3), (100, 5, 4, 4), (50, None, 20, 10), (33, None, 20, 7), (1, None, 20, 1),
    (1, 5, 4, 1), (25, 2, 20, 2), (0.1, None, 1000, 1)])
def test_calls_are_counted_as_the_recorder_keeps_them(percent, levels, steps, kept):
    plan = Plan("", {}, levels=levels, percent=percent)
    assert features_kept(plan, Picture(8, 8, steps, 1)) == kept
    assert features_kept(plan, Picture(8, 8, steps, 2, parts=2)) == 3 * kept
    assert features_kept(plan, Picture(8, 8, steps, 1, twice=True)) == (kept if levels else 2 * kept - 1)


def test_one_branch_is_half():
    exact, both = preset("Exact", SDXL), Picture(64, 96, 20)
    assert estimate(exact, SDXL, replace(both, branches=1)) == pytest.approx(estimate(exact, SDXL, both) / 2, rel=0.001)
