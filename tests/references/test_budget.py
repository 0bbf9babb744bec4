"""A budget gets the best that fits, gives up nothing for nothing, and is never exceeded by what is written."""

from __future__ import annotations

import pytest
from demo.shapes import SD15, SDXL
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_refdrop.model.rows import BRANCHES
from lib_refdrop.model.sites import SECTIONS
from lib_refdrop.references.budget import within
from lib_refdrop.references.codec import Representation
from lib_refdrop.references.contributions import Contributions, load
from lib_refdrop.references.plan import Recipe, preset
from lib_refdrop.references.sizes import Picture, estimate
from lib_refdrop.stores import DiskStore, LimitReached, MemoryStore
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.words import ReferenceProblem

MB = 10**6
LANDSCAPE = Picture(64, 96, 20)  # 512×768, 20 steps, both branches, 16 bit
TABLE = Contributions("a test", {
    "int8": 0.99, "int4": 0.96, "merged4": 0.9, "merged16": 0.6, "levels7": 0.98, "levels5": 0.95, "levels3": 0.9,
    "levels2": 0.7, "cond_only": 0.8, "without_input": 0.9, "without_middle": 0.97, "without_output": 0.3})


@settings(max_examples=8, deadline=None)
@given(st.integers(3 * MB, 4000 * MB), st.sampled_from((SD15, SDXL)),
       st.sampled_from(((LANDSCAPE,), (Picture(48, 48, 9, 1, 4),),
                        (LANDSCAPE, Picture(96, 144, 10, pass_name="hires")))),
       st.sampled_from((SECTIONS, ("output",))), st.sampled_from((100.0, 30.0)))
def test_a_budget_is_kept_to_and_honours_what_the_user_chose(budget, lineage, pictures, sections, percent):
    plan = within(budget, lineage, *pictures, table=TABLE, sections=sections, percent=percent)
    if plan.sites:
        assert estimate(plan, lineage, *pictures) <= budget
    assert plan.percent == percent and {site.section for site in plan.sites} <= set(sections)
    assert plan.explanation.startswith(f"{budget / MB:g} MB: ") and plan.explanation.endswith("B).")


def test_more_room_is_never_worse():
    def promised(budget):
        plan = within(budget * MB, SDXL, LANDSCAPE, table=TABLE)
        return int(plan.explanation.split("expected to keep ")[1].split(" %")[0])
    kept = [promised(budget) for budget in (10, 30, 64, 150, 400, 1000, 4000)]
    assert kept == sorted(kept) and kept[-1] == 100


def test_the_choice_is_the_best_that_fits_and_says_so():
    table = Contributions("", {"int8": 0.97, "levels3": 0.95, "levels5": 0.99})
    plan = within(410 * MB, SDXL, LANDSCAPE, table=table)
    assert set(plan.sites.values()) == {Representation("hidden", "int8")} and plan.levels == 5
    size = f"{estimate(plan, SDXL, LANDSCAPE) / MB:.0f} MB"
    assert plan.explanation == ("410 MB: hidden states in int8, 5 noise levels, both branches; expected to keep 96 % "
                                f"of the effect ({size}).")


def test_nothing_is_given_up_for_nothing():
    """What leaves out the middle layers was measured to cost next to nothing: with room for all they stay."""
    table = Contributions("", {"int8": 1.0, "levels2": 1.001, "without_middle": 0.999, "cond_only": 1.0})
    plan = within(20_000 * MB, SDXL, LANDSCAPE, table=table)
    assert plan.sites == preset("Exact", SDXL).sites and plan.levels is None and plan.branches == BRANCHES
    assert within(20_000 * MB, SDXL, LANDSCAPE).sites == preset("Exact", SDXL).sites


def test_what_was_not_measured_is_not_done():
    plan = within(1000 * MB, SDXL, LANDSCAPE, table=Contributions("", {"levels5": 0.9, "int8": 0.1}))
    assert plan.levels == 5 and set(plan.sites.values()) == {Representation()}
    merged = within(30 * MB, SDXL, LANDSCAPE, table=Contributions("", {"int8": 0.9, "levels2": 0.9, "merged2": 0.9}))
    assert not merged.sites  # 1,536 tokens to 512 or fewer would be needed


def test_merging_costs_what_was_measured_near_it():
    table = Contributions("", {"merged4": 0.9, "merged16": 0.6})
    assert [table.merging(times) for times in (1, 2, 4, 8, 16)] == pytest.approx([1, 0.95, 0.9, 0.75, 0.6])
    assert table.merging(17) is None and Contributions("", {}).merging(2) is None


def test_a_budget_too_small_for_features_keeps_the_trajectory_and_says_so():
    plan = within(MB, SDXL, LANDSCAPE, table=TABLE)
    assert plan.sites == {} and plan.trajectory
    assert plan.explanation == ("1 MB: too little for features, so only the trajectory is kept and they are computed "
                                "again when it is used (2.63 MB).")


def test_no_branch_is_left_out_where_there_is_one():
    plan = within(20 * MB, SDXL, Picture(64, 96, 20, 1), table=TABLE)
    assert plan.branches == BRANCHES and "branch" not in plan.explanation


def test_the_table_that_comes_along_serves():
    table = load()
    assert table.made_with
    assert within(64 * MB, SDXL, LANDSCAPE).sites
    assert table.of("no such change") is None and Contributions("", {"a": 1.2, "b": -0.3}).of("a") == 1


def test_a_table_that_is_none_is_told(tmp_path):
    path = tmp_path / "contributions.json"
    for text in ("", "[]", "{}", '{"kept": {"int8": "much"}}', '{"kept": {"int8": NaN}}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="--ablate"):
            load(path)


def record(studio, plan, store, limit, sigmas=None, passes=("base",), **picture):
    """What a writer with a limit was left with, and what the last pass said."""
    recording = Recording(studio.lineage, {}, plan, store.writer("hero", limit=limit))
    try:
        for name in passes:
            recording.begin_pass(name, sigmas)
            sampling_pass = SamplingPass([recording])
            studio.draw(sampling_pass, **picture)
            outcome = sampling_pass.finish()[0]
        recording.commit()
    finally:
        recording.abort()
    return store.load("hero"), outcome


@pytest.mark.parametrize("limit", [100_000, 220_000, 400_000, 800_000])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_a_writer_with_a_limit_is_never_exceeded(studio, tmp_path, limit, sampler):
    """A plan of 1.8 MB, 90 kB a level, that somebody counted wrongly."""
    plan = Recipe("int8", trajectory=False).plan("all", studio.lineage)
    reference, outcome = record(studio, plan, DiskStore(tmp_path), limit, steps=20, sampler=sampler)
    size = (tmp_path / "hero.safetensors").stat().st_size
    levels = reference.passes["base"].levels
    assert size <= limit and len(levels) >= 1
    assert size > limit - (90_000 if sampler == "euler" else 180_000)
    assert levels[0] == max(call.sigma for call in reference.passes["base"].calls)
    assert outcome.notes == [f"There was room for {len(levels)} noise levels only."]
    whole = {len(parts) for parts in _by_call(reference).values()}
    assert len(whole) == 1  # no level is half there


def _by_call(reference):
    found = {}
    for name in reference.features:
        found.setdefault(name.split("/")[1], []).append(name)
    return found


def test_a_limit_holds_for_all_passes_and_in_memory(studio, tmp_path):
    plan = Recipe("int8").plan("all", studio.lineage)
    for store in (DiskStore(tmp_path), MemoryStore()):
        reference, _ = record(studio, plan, store, 400_000, passes=("base", "hires"), steps=8)
        assert sum(value.nbytes for value in reference.features.values()) <= 400_000
        kept = [len(reference.passes[name].levels) for name in ("base", "hires")]
        assert min(kept) >= 1 and abs(kept[0] - kept[1]) <= 1
        assert all(len(reference.seen(name)) == 2 for name in ("base", "hires"))  # the trajectory is whole


def test_features_make_room_for_the_trajectory(studio, tmp_path):
    plan = Recipe("int8").plan("all", studio.lineage)
    reference, outcome = record(studio, plan, DiskStore(tmp_path), 130_000, steps=8)
    assert outcome.notes == ["There was no room for features, so only the trajectory is kept."]
    assert {len(calls) for calls in reference.seen("base").values()} == {8} and not reference.passes["base"].levels


def test_where_not_even_that_has_room_nothing_is_kept(studio, tmp_path):
    with pytest.raises(LimitReached, match="'hero' does not fit into the 20.0 kB"):
        record(studio, Recipe("int8").plan("all", studio.lineage), DiskStore(tmp_path), 20_000, steps=8)
    assert not list(tmp_path.glob("*.safetensors"))


def test_not_even_one_level_is_told(studio, tmp_path):
    with pytest.raises(ReferenceProblem, match="no room for a single noise level"):
        plan = Recipe("int8", trajectory=False).plan("all", studio.lineage)
        record(studio, plan, DiskStore(tmp_path), 50_000, steps=4)
