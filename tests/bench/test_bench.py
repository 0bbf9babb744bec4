"""What the benchmark measures is what it says: on a UNet small enough for seconds."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from lib_refdrop.hosts.diffusers import self_attentions
from lib_refdrop.references.plan import PRESETS

from . import memory, models, original, report, run, sizes, speed
from .models import Model, Scene
from .standin import attention_only, hollow
from .timing import Variant, interleave

VARIANTS = {"save", "save_exact", "save_original", "use_exact", "use_balanced", "use_small", "use_tiny_first",
            "use_tiny", "use_original"}


def small_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=2,
        norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2)


@pytest.fixture
def model() -> Model:
    return Model("small", small_unet, 64, 48, 3)


@pytest.fixture
def made(model, tmp_path) -> speed.Generations:
    generations = speed.Generations(model, model.filled("cpu"), "cpu", tmp_path)
    generations.references = generations.make_references()
    return generations


def test_every_variant_is_timed_and_the_table_shows_it(model, tmp_path):
    found = speed.measure(model, "cpu", 2, tmp_path)
    assert set(found["ratio"]) == set(found["spread"]) == VARIANTS
    for name, (low, high) in found["spread"].items():
        assert 0 < low <= found["ratio"][name] <= high < math.inf
    assert set(found["bytes"]) == {"exact", "balanced", "small", "tiny", "original"}
    text = report.table({quantity: {model.key: value} for quantity, value in found.items()})
    assert all(each in text for each in report.NAMES.values()) and "\nsmall" not in text


def test_variants_guide_and_the_original_guides_alike(made):
    plain, exact, original_way = made.plain(), made.use("Exact"), made.use_original()
    assert not torch.allclose(exact, plain, atol=1e-2)
    assert torch.allclose(exact, original_way, atol=1e-3)
    assert torch.allclose(made.use("Tiny"), exact, atol=1e-3)


def test_the_unet_is_left_as_it_was(made):
    before, processors = made.plain(), [layer.processor for layer in self_attentions(made.unet).values()]
    for variant in speed.variants(made).values():
        variant.before()
        variant.run()
        variant.after()
    assert torch.equal(made.plain(), before)
    assert processors == [layer.processor for layer in self_attentions(made.unet).values()]
    assert not list((made.folder / "timed").iterdir())


def test_the_original_writes_two_files_a_layer_and_call(made, model):
    layers, files = self_attentions(made.unet), list((made.folder / "original").iterdir())
    assert len(files) == made.references["files"]["original"] == 2 * len(layers) * model.steps
    k = torch.load(original.file_of(made.folder / "original", 0, 0, "k"), weights_only=True)
    assert k.shape == (2, 48, 32)  # both branches, 6 × 8 tokens


def test_the_stand_in_leaves_what_the_unet_itself_would(made, model, tmp_path):
    found = sizes.measure(model, tmp_path)
    names = [name.lower() for name in PRESETS]
    assert {name: found["bytes"][name] for name in names} == pytest.approx(
        {name: made.references["bytes"][name] for name in names}, abs=8)  # digits of noise levels in the manifest
    assert set(found["how"].values()) == {"written"} and set(found["files"].values()) == {1, 2 * 2 * 7 * model.steps}
    assert not list(tmp_path.glob("*sizes*"))


def test_estimates_stand_in_where_there_is_no_room(model, tmp_path):
    written, estimated = sizes.measure(model, tmp_path), sizes.measure(model, tmp_path, most=1)
    assert set(estimated["how"].values()) == {"estimated"} and estimated["files"] == written["files"]
    assert estimated["bytes"]["original"] == pytest.approx(written["bytes"]["original"], rel=0.02)
    assert {name: estimated["bytes"][name] for name in sizes.estimates(model)} == sizes.estimates(model)


def test_attention_alone_can_be_guided(model, tmp_path):
    speed.Generations(model, hollow(model), "cpu", tmp_path).save("Balanced", place="references")
    made = speed.Generations(model, attention_only(model), "cpu", tmp_path)
    assert torch.equal(made.use("Balanced"), made.plain())  # nothing but attention runs, and its output goes nowhere


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the peak of a process")
def test_memory_is_measured_from_the_disk(model, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "sdxl", lambda steps: model)
    speed.Generations(model, hollow(model), "cpu", tmp_path).save(*memory.PRESETS, place="references")
    for whole in (False, True):
        found = memory.measure(tmp_path, whole)
        # In a process that did other things before, memory may also be handed back meanwhile.
        assert found["plain"] > 100 and found["use_balanced_from_disk_over_plain"] < 50


def test_a_plain_run_on_either_side_is_what_a_variant_is_held_against():
    took = iter([9.0, 1.0, 3.0, 2.0, 6.0, 4.0])  # warming up; plain, first, plain, second, plain
    now = [0.0]

    def tick():
        now[0] += next(took)

    plain, found = interleave(Variant(tick), {"first": Variant(tick), "second": Variant(tick)}, 1, clock=lambda: now[0])
    assert plain.seconds == [1.0, 2.0, 4.0]
    assert found["first"].ratio == 2.0 and found["second"].ratio == 2.0 and found["second"].spread == (2.0, 2.0)


def test_shapes_are_those_of_the_published_models():
    assert models.sd15(1).lineage.family == "SD1.5"
    assert models.sdxl(1).lineage.family == "SDXL"
    assert models.sdxl(1).empty().add_embedding.linear_1.in_features == 2816


def test_random_weights_keep_numbers_in_range(model):
    unet = model.filled("cpu")
    latent = Scene.of(model, unet, "cpu", 1).draw(unet)
    assert latent.shape == (1, 4, 6, 8) and torch.isfinite(latent).all() and latent.std() < 100


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells the peak of a process")
def test_the_peak_is_that_of_the_run_alone():
    low = memory.peak(lambda: torch.ones(2**20))
    high = memory.peak(lambda: torch.ones(2**25))
    again = memory.peak(lambda: torch.ones(2**20))
    assert high - low > 2**26 and abs(again - low) < 2**25


def test_results_are_plain_json_with_the_names_promised(tmp_path, monkeypatch, model):
    monkeypatch.setattr(models, "demo", lambda steps: model)
    monkeypatch.setattr(models, "sdxl", lambda steps: model)
    options = run.parse(["--quick", "--parts", "sizes,demo", "--rounds", "1", "--variants", "save,use_exact"])
    results = json.loads(json.dumps(run.measure(options, tmp_path, lambda text: None)))
    assert set(results["bytes"]["small_20"]) == {"exact", "balanced", "small", "tiny", "original"}
    assert set(results["files"]["small_20"]) == set(results["bytes"]["small_20"])
    assert set(results["ratio"]["small"]) == {"save", "use_exact"}
    assert report.table(results)


def test_several_variants_may_share_the_plain_runs_around_them():
    took = iter([9.0, 1.0, 4.0, 6.0, 3.0, 2.0, 1.0])  # warming up; plain, first, second, plain, third, plain
    now = [0.0]

    def tick():
        now[0] += next(took)

    names = ("first", "second", "third")
    plain, found = interleave(Variant(tick), dict.fromkeys(names, Variant(tick)), 1, clock=lambda: now[0], between=2)
    assert plain.seconds == [1.0, 3.0, 1.0]
    assert [found[name].ratio for name in names] == [2.0, 3.0, 1.0]


def test_a_generation_at_cfg_1_has_one_branch(model, tmp_path):
    made = speed.Generations(replace(model, rows=models.ONE), model.filled("cpu"), "cpu", tmp_path)
    made.make_references()
    assert not torch.equal(made.use("Exact"), made.plain())
    assert made.picture.branches == 1
