"""Sizes are known before anything is made, presets are what they promise, and a budget is never exceeded."""

import json
import math
from dataclasses import replace

import pytest
import torch
from demo.shapes import DEMO, SD15, SDXL
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lib_refdrop.references.codec import Representation, encode
from lib_refdrop.references.contributions import Contributions, load
from lib_refdrop.references.plan import PRESETS, Picture, Plan, estimate, levels_kept, preset, tokens, within
from lib_refdrop.model.sites import BRANCHES, COND, SECTIONS, Site

MB = 10**6
LANDSCAPE = Picture(64, 96, 20)  # 512×768, 20 steps, both branches, 16 bit
TABLE = Contributions("a test", {
    "int8": 0.99, "int4": 0.96, "pool2": 0.9, "pool4": 0.6, "pool4_2": 0.7, "stride2": 0.98, "stride5": 0.9,
    "stride10": 0.7, "cond_only": 0.8, "without_input": 0.9, "without_middle": 0.97, "without_output": 0.3})
PLANS = [*(preset(name, DEMO) for name in PRESETS),
         *(Plan("test", dict.fromkeys(DEMO.sites, Representation("kv", precision, pool)), stride=5)
           for precision, pool in (("own", 1), ("fp8", 2), ("int4", 4))),
         Plan("half", {Site("output", 3, 0): Representation("hidden", "int8", 2)}, (COND,), 1, 50.0, trajectory=False)]


def file_of(plan, lineage, picture, path):
    """A file with the tensors that a recording by ``plan`` has, and a manifest as long as one is."""
    numbers = {2: torch.float16, 4: torch.float32}[picture.element_size]
    names = BRANCHES[:picture.branches]
    noisy = math.ceil(picture.steps * plan.percent / 100)
    tensors = {}
    for call in range(0, noisy, plan.stride):
        for site in plan.sites:
            grid, width = tokens(site, lineage, picture), lineage.sites[site].width
            own = torch.rand(grid[0] * grid[1], width).to(numbers)
            parts = encode(plan.kept_as(site, len(own)), own, own, own, grid)
            for branch in set(names) & set(plan.branches):
                tensors |= {f"base/{call:04d}/{site}/{branch}/{part}": value.clone() for part, value in parts.items()}
    if plan.trajectory:
        for branch in names:
            for call in range(picture.steps):
                tensors[f"base/{call:04d}/x/{branch}"] = torch.zeros(4, picture.height, picture.width, dtype=numbers)
                tensors[f"base/{call:04d}/t/{branch}"] = torch.tensor(call)
            tensors[f"base/given/{branch}/context"] = torch.zeros(77, 128, dtype=numbers)
    manifest = {
        "format": 1, "name": "a pirate arms up on grass 1234567", "created": "2026-11-21T15:35:00+00:00",
        "lineage": "0123456789abcdef", "family": "a model with 11 self-attention layers", "prompt": "a pirate " * 60,
        "negative_prompt": "blurry, " * 30, "seed": 1234567, "sampler": "Euler", "scheduler": "Automatic", "steps": 20,
        "cfg_scale": 4.0, "width": 128, "height": 128, "model": "demo-model", "model_hash": "0123456789",
        "kept": {**plan.manifest(), "bytes": 123456789},
        "passes": {"base": [[float(f"{14.6146 / 1.3**call:.6g}"), 0] for call in range(picture.steps)]}}
    save_file(tensors, path, metadata={"format": "pt", "refdrop": json.dumps(manifest)})
    return path.stat().st_size


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.name} {next(iter(plan.manifest()['sites']), '')}")
def test_the_size_is_known_before(plan, tmp_path):
    for picture in (Picture(16, 16, 20), Picture(17, 30, 7, 1, 4)):
        real = file_of(plan, DEMO, picture, tmp_path / "a.safetensors")
        assert estimate(plan, DEMO, picture) == pytest.approx(real, rel=0.02, abs=8192)  # room for the header


def test_presets_have_the_sizes_they_promise():
    sizes = [estimate(preset(name, SDXL), SDXL, LANDSCAPE) for name in ("Exact", "Balanced", "Small", "Tiny")]
    assert 3.14e9 < sizes[0] < 3.2e9
    assert sizes[1] <= 150 * MB and sizes[2] <= 64 * MB and sizes[3] <= 3 * MB
    assert sizes == sorted(sizes, reverse=True)
    assert estimate(preset("Exact", SDXL), SDXL, Picture(128, 128, 20)) > 2.6 * sizes[0]


def test_a_layer_sees_the_picture_halved_as_often_as_its_level_says():
    odd = Picture(65, 97, 20)
    assert [tokens(Site("input", block, 0), SD15, odd) for block in (1, 4, 7)] == [(65, 97), (33, 49), (17, 25)]
    assert tokens(Site("middle", 0, 0), SD15, odd) == (9, 13)


@pytest.mark.parametrize("percent, stride, steps, kept", [
    (100, 1, 20, 20), (100, 3, 20, 7), (100, 5, 20, 4), (50, 1, 20, 10), (33, 1, 20, 7), (1, 1, 20, 1), (1, 5, 4, 1),
    (25, 2, 20, 3), (0.1, 1, 1000, 1)])
def test_levels_are_counted_as_the_recorder_keeps_them(percent, stride, steps, kept):
    assert levels_kept(Plan("", {}, stride=stride, percent=percent), steps) == kept


def test_exact_is_everything_as_the_model_has_it():
    plan = preset("Exact", SD15)
    assert set(plan.sites) == set(SD15.sites) and set(plan.sites.values()) == {Representation()}
    assert (plan.stride, plan.branches, plan.percent, plan.trajectory) == (1, BRANCHES, 100, False)
    assert preset("Tiny", SD15).sites == {} and preset("Tiny", SD15).trajectory


@pytest.mark.parametrize("name", PRESETS)
def test_a_manifest_is_plain_json_that_says_how_each_layer_is_kept(name):
    plan = preset(name, SDXL)
    read = json.loads(json.dumps(plan.manifest()))
    assert read["plan"] == name and name in read["explanation"]
    kept = {Site.parse(site): Representation.parse(words) for words, sites in read["sites"].items() for site in sites}
    assert kept == plan.sites


@settings(max_examples=8, deadline=None)
@given(st.integers(3 * MB, 4000 * MB), st.sampled_from((SD15, SDXL)),
       st.sampled_from((LANDSCAPE, Picture(48, 48, 9, 1, 4))), st.sampled_from((SECTIONS, ("output",))),
       st.sampled_from((100.0, 30.0)))
def test_a_budget_is_never_exceeded_and_honours_what_the_user_chose(budget, lineage, picture, sections, percent):
    plan = within(budget, lineage, picture, TABLE, sections, percent)
    assert estimate(plan, lineage, picture) <= budget * 1.001
    assert plan.percent == percent and {site.section for site in plan.sites} <= set(sections)
    assert plan.explanation.startswith(f"{budget / MB:g} MB: ") and plan.explanation.endswith("B).")


def test_more_room_is_never_worse():
    def promised(budget):
        plan = within(budget * MB, SDXL, LANDSCAPE, TABLE)
        return int(plan.explanation.split("expected to keep ")[1].split(" %")[0])
    kept = [promised(budget) for budget in (10, 30, 64, 150, 400, 1000, 4000)]
    assert kept == sorted(kept) and kept[-1] == 100


def test_the_choice_is_the_best_that_fits_and_says_so():
    table = Contributions("", {"int8": 0.97, "pool2": 0.95, "stride2": 0.99})
    plan = within(210 * MB, SDXL, LANDSCAPE, table)
    assert set(plan.sites.values()) == {Representation("hidden", "int8", 2)} and plan.stride == 2
    size = f"{estimate(plan, SDXL, LANDSCAPE) / MB:.1f} MB"
    assert plan.explanation == ("210 MB: hidden states in int8, 2×2 tokens merged, every 2nd noise level, both "
                                f"branches; expected to keep 91 % of the effect ({size}).")


def test_of_equals_the_smaller_is_taken():
    table = Contributions("", {"int8": 1.0, "stride2": 1.001, "stride3": 0.999})
    plan = within(4000 * MB, SDXL, LANDSCAPE, table)
    assert plan.stride == 3 and set(plan.sites.values()) == {Representation("hidden", "int8")}


def test_what_was_not_measured_is_not_done():
    plan = within(1000 * MB, SDXL, LANDSCAPE, Contributions("", {"stride5": 0.9, "int8": 0.1}))
    assert plan.stride == 5 and set(plan.sites.values()) == {Representation()}


def test_a_budget_too_small_for_features_keeps_the_trajectory_and_says_so():
    plan = within(MB, SDXL, LANDSCAPE, TABLE)
    assert plan.sites == {} and plan.trajectory
    assert plan.explanation == ("1 MB: too little for features, so only the trajectory is kept and they are computed "
                                "again when it is used (2.6 MB).")


def test_one_branch_is_half_and_no_branch_is_left_out():
    alone = replace(LANDSCAPE, branches=1)
    exact = preset("Exact", SDXL)
    assert estimate(exact, SDXL, alone) == pytest.approx(estimate(exact, SDXL, LANDSCAPE) / 2, rel=0.001)
    plan = within(20 * MB, SDXL, alone, TABLE)
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
