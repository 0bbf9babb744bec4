"""A reference made smaller afterwards is the one that would have been recorded so."""

from dataclasses import replace

import pytest
import torch

from lib_refdrop.model.rows import BRANCHES, COND, Kind
from lib_refdrop.references.codec import Representation
from lib_refdrop.references.plan import RECIPES, Plan, Recipe, preset
from lib_refdrop.references.recode import recode
from lib_refdrop.words import ReferenceProblem

RECIPES_TRIED = {
    **RECIPES, "merged": Recipe("int8", 9), "half": Recipe(levels=2, branches=(COND,), sections=("output",)),
    # of 64 and 16 tokens
    "fp16": Recipe("fp16", 12, levels=2, trajectory=False), "merged where many": Recipe("int8", 30)}


@pytest.fixture(scope="module")
def whole(studio):
    """Everything there is to keep of one picture."""
    return studio.record(plan=replace(preset("Exact", studio.lineage), trajectory=True), seed=4)[0]


@pytest.mark.parametrize("name, percent", [(name, 40.0 if name == "merged" else 100.0) for name in RECIPES_TRIED])
def test_it_equals_a_recording_by_the_same_plan(studio, whole, name, percent):
    plan = RECIPES_TRIED[name].plan(name, studio.lineage, percent)
    made, _ = studio.record(plan=plan, save_percent=percent, sigmas=[call.sigma for call in whole.passes["base"].calls],
                            seed=4)
    again = recode(whole, plan)
    assert set(again.features) == set(made.features) and again.passes == made.passes
    assert all(torch.equal(again.features[each].float(), made.features[each].float()) for each in made.features)
    assert again.nbytes == made.nbytes and again.manifest["kept"] == made.manifest["kept"]


def test_what_is_coarser_already_stays(studio, whole):
    small = recode(whole, Recipe("int4", 16, levels=2, trajectory=False).plan("small", studio.lineage))
    again = recode(small, preset("Exact", studio.lineage))
    assert set(again.features) == set(small.features) and again.passes == small.passes
    assert all(torch.equal(again.features[each], small.features[each]) for each in small.features)
    assert again.manifest["kept"]["levels"] is None and not again.manifest["kept"]["trajectory"]
    fewer = recode(small, Recipe("int8", levels=1).plan("fewer", studio.lineage))
    assert fewer.passes["base"].kept.keys() == {Kind(branch) for branch in BRANCHES}
    assert all(len(calls) == 1 for calls in fewer.passes["base"].kept.values())


def test_merged_tokens_keep_their_weights(studio):
    picture = dict(size=72, seed=4)  # 9 × 9 cells: squares at the edge hold fewer
    # as older ones are
    squares = Plan("merged", dict.fromkeys(studio.lineage.sites, Representation("hidden", "own", 2)))
    merged, _ = studio.record(plan=squares, **picture)
    rounded = recode(merged, Recipe("int8", 16).plan("rounded", studio.lineage))
    weights = {name for name in merged.features if name.endswith("/w")}
    assert weights and all(torch.equal(merged.features[name], rounded.features[name]) for name in weights)
    assert studio.use(rounded, 0.3, **picture)[1].acted


def test_merged_tokens_can_be_merged_further(studio, whole):
    once = recode(whole, Recipe(tokens=36).plan("once", studio.lineage))
    twice = recode(once, Recipe(tokens=9).plan("twice", studio.lineage))
    assert {value.shape[0] for name, value in once.features.items() if name.endswith("/h")} == {36, 16}
    assert {value.shape[0] for name, value in twice.features.items() if name.endswith("/h")} == {9}
    finer = recode(twice, Recipe(tokens=36).plan("finer", studio.lineage))
    assert all(torch.equal(finer.features[name], twice.features[name]) for name in twice.features)


def test_of_a_level_that_the_model_was_called_at_twice_one_call_stays(studio):
    heun, _ = studio.record(plan=replace(preset("Exact", studio.lineage), trajectory=True), seed=4, sampler="heun",
                            steps=4)
    assert {call.visit for call in heun.passes["base"].calls} == {0, 1}
    fewer = recode(heun, Recipe(levels=3).plan("fewer", studio.lineage)).passes["base"]
    assert all(fewer.calls[call].visit == 0 for calls in fewer.kept.values() for call in calls)
    assert [len(calls) for calls in fewer.kept.values()] == [3, 3]


def test_k_and_v_need_the_model(studio, whole):
    site = next(iter(studio.lineage.sites))
    plan = Plan("kv", {site: Representation("kv")}, trajectory=False)
    with pytest.raises(ReferenceProblem, match="only the model can make K and V"):
        recode(whole, plan)
    doubled = recode(whole, plan, lambda site, hidden: (2 * hidden, -hidden))
    name = f"base/0000/{site}/cond/"
    assert torch.equal(doubled.features[name + "k"], 2 * whole.features[name + "h"])
    with pytest.raises(ReferenceProblem, match="only the model can make hidden states"):
        recode(doubled, preset("Exact", studio.lineage))
    assert recode(doubled, replace(plan, sites={site: Representation("kv", "int8")})).nbytes < doubled.nbytes / 3


def test_without_a_size_tokens_are_not_merged(studio):
    bare, _ = studio.record(seed=4)  # neither a trajectory nor a size in the manifest
    merged = Recipe(tokens=4, trajectory=False).plan("merged", studio.lineage)
    with pytest.raises(ReferenceProblem, match="does not tell the size of its base picture"):
        recode(bare, merged)
    bare.manifest.update(width=64, height=64)
    again = recode(bare, merged)
    assert {value.shape[0] for name, value in again.features.items() if name.endswith("/h")} == {4}


def test_nothing_left_is_told(studio):
    cond, _ = studio.record(seed=4, cfg=1.0)
    with pytest.raises(ReferenceProblem, match="Nothing that reference 'ref' has would be left"):
        recode(cond, replace(preset("Exact", studio.lineage), branches=("uncond",)))
