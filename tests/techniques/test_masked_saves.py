"""References that were saved with a mask: what is outside is not in them, and the rest guides as it would."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lib_refdrop.model.rows import Kind
from lib_refdrop.model.sites import Site
from lib_refdrop.references.codec import decode
from lib_refdrop.references.part import Part
from lib_refdrop.references.plan import RECIPES, Recipe
from lib_refdrop.references.recode import recode
from lib_refdrop.references.reference import Key
from lib_refdrop.references.sizes import Picture, estimate
from lib_refdrop.stores import DiskStore
from lib_refdrop.techniques.reference.masks import Mask
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.techniques.reference.strength import Strength
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.words import ReferenceProblem

LEFT = torch.zeros(8, 8)
LEFT[:, :4] = 1
SOFT = torch.zeros(8, 8)
SOFT[:, :4], SOFT[:, 4] = 1, 51 / 255  # numbers that eight bits hold exactly
MASKS = {"hard": Mask(LEFT), "soft": Mask(SOFT)}
PROVENANCE = {"prompt": "a pirate", "seed": 4}


def record(studio, mask, recipe="Exact", writer=None, **picture):
    plan = (recipe if isinstance(recipe, Recipe) else RECIPES[recipe]).plan("", studio.lineage)
    recording = Recording(studio.lineage, PROVENANCE, plan, writer, part=mask.part if mask else None)
    recording.begin_pass("base")
    sampling_pass = SamplingPass([recording])
    studio.draw(sampling_pass, **{"seed": 4, "prompt": "a nurse waving on snow", **picture})
    sampling_pass.finish()
    return recording.commit() if writer else recording.reference("ref")


@pytest.mark.parametrize("edge", MASKS)
def test_it_guides_as_the_whole_does_where_only_that_part_is_looked_at(studio, edge) -> None:
    mask = MASKS[edge]
    part, whole = record(studio, mask), record(studio, None)
    used, outcome = studio.use(part, 0.5, seed=9)
    wanted, _ = studio.use(whole, Strength(0.5, looks_at=mask), seed=9)
    everything, _ = studio.use(whole, 0.5, seed=9)
    assert (used - wanted).abs().max() < 1e-3 < (used - everything).abs().max()
    assert outcome.acted_on_all == outcome.calls
    again, _ = studio.use(part, Strength(0.5, looks_at=mask), seed=9)  # the same mask twice is the mask
    assert (again - used).abs().max() < 1e-4


def test_what_is_outside_is_not_there(studio) -> None:
    part, whole = record(studio, MASKS["hard"]), record(studio, None)
    for site, shape in studio.lineage.sites.items():
        key = Key("base", 0, site, Kind("cond"))
        (mine,), (all_of_it,) = (list(each.feature(key).values()) for each in (part, whole))
        side = 8 >> shape.level
        assert torch.equal(mine, all_of_it.reshape(side, side, -1)[:, :side // 2].flatten(0, 1))
    assert part.manifest["kept"]["part"] == {"base": 0.5} and "part" not in whole.manifest["kept"]


@pytest.mark.parametrize("recipe", [Recipe("int4", 30, 2), Recipe("int8", 12, trajectory=False), "Balanced"], ids=str)
def test_merged_tokens_are_those_that_touch_the_mask(studio, recipe) -> None:
    part = record(studio, MASKS["hard"], recipe, size=72)  # nine cells a side: odd at every level
    found = Part.of(Mask(LEFT).part((9, 9)).mask / 255)
    for site, how in (recipe if isinstance(recipe, Recipe) else RECIPES[recipe]).plan("", studio.lineage).sites.items():
        feature = next(feature for call in range(4) if (feature := part.feature(Key("base", call, site, Kind("cond")))))
        side = 9
        for _ in range(studio.lineage.sites[site].level):
            side = -(-side // 2)
        rows, columns = how.grid(side, side)
        touched = [column for column in range(columns)
                   if found.mask[0, column * 9 // columns:-(-(column + 1) * 9 // columns)].max() > 0]
        assert len(decode(feature, torch.float32, "cpu")["h"]) == rows * len(touched) < rows * columns
    used, outcome = studio.use(part, 0.5, seed=9)
    assert torch.isfinite(used).all() and outcome.acted_on_all == outcome.calls


def test_a_trajectory_is_replayed_into_the_part(studio) -> None:
    tiny, exact = record(studio, MASKS["hard"], "Tiny"), record(studio, MASKS["hard"])
    one, other = (studio.use(reference, 0.3, seed=9, steps=2)[0] for reference in (tiny, exact))
    whole = studio.use(record(studio, None, "Tiny"), 0.3, seed=9, steps=2)[0]
    # Rows replayed one by one are rounded otherwise, and random weights are chaotic.
    assert (one - other).abs().max() < 1e-2 < (one - whole).abs().max()


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_size_is_known_before_and_it_comes_back_from_a_file(studio, tmp_path, recipe) -> None:
    store = DiskStore(tmp_path)
    mask = MASKS["soft"]
    saved = record(studio, mask, recipe, store.writer("part"), size=72, steps=6)
    whole = record(studio, None, recipe, store.writer("whole"), size=72, steps=6)
    plan = RECIPES[recipe].plan("", studio.lineage)
    told = estimate(plan, studio.lineage, Picture(9, 9, 6, element_size=4, part=mask.part((9, 9))),
                    provenance=PROVENANCE)
    assert told == pytest.approx(saved.bytes, rel=0.005)
    assert saved.bytes < whole.bytes if recipe == "Exact" else saved.bytes < 1.1 * whole.bytes
    reference = store.load("part")
    assert torch.equal(reference.parts["base"].mask, mask.part((9, 9)).mask) and not store.load("whole").parts
    one, two = (studio.use(each, 0.5, seed=9, steps=2)[0] for each in (
        reference, record(studio, mask, recipe, size=72, steps=6)))
    assert torch.equal(one, two)


def test_a_smaller_one_of_it_keeps_its_mask(studio) -> None:
    exact = record(studio, MASKS["soft"])
    small = recode(exact, Recipe("int8", 12, 2, trajectory=False).plan("", studio.lineage))
    assert torch.equal(small.parts["base"].mask, exact.parts["base"].mask) and small.nbytes < exact.nbytes / 2
    one, other = (studio.use(each, 0.5, seed=9, steps=2)[0] for each in (small, exact))
    assert torch.isfinite(one).all() and (one - other).abs().mean() < 0.2


def test_what_lies_apart_is_a_sentence(studio) -> None:
    with pytest.raises(ReferenceProblem, match="keeps nothing of what its mask here lets be looked at"):
        studio.guiding(record(studio, MASKS["hard"]), Strength(0.5, looks_at=Mask(1 - SOFT.ceil())))


def test_a_mask_that_is_not_the_files_is_a_sentence(studio) -> None:
    reference = record(studio, MASKS["hard"])
    for mask, sentence in ((torch.zeros(8, 8, dtype=torch.uint8), "is black"),
                           (torch.full((8, 8), 255, dtype=torch.uint8), "other tokens than the mask leaves")):
        broken = replace(reference, features={**reference.features, "base/mask": mask})
        with pytest.raises(ReferenceProblem, match=sentence):
            outcome = studio.use(broken, 0.5, seed=9, steps=1)
            raise ReferenceProblem(str(outcome))


def test_tokens_that_are_no_places_are_a_sentence(studio) -> None:
    site = next(iter(studio.lineage.sites))
    recording = Recording(studio.lineage, {}, RECIPES["Exact"].plan("", studio.lineage), part=MASKS["hard"].part)

    class Layer:
        def hidden(self, row: int) -> torch.Tensor:
            return torch.rand(37, studio.lineage.sites[site].width)

    recording.begin_pass("base")
    with pytest.raises(ReferenceProblem, match="token merging"):
        recording.keep(recording.place(1.0, 0, (8, 8)), Site.parse(str(site)), Kind("cond"), Layer(), 0)


def test_a_part_is_never_nothing() -> None:
    faint = torch.zeros(64, 64)
    faint[5, 5] = 1
    part = Mask(faint).part((1, 1))
    assert part.count((1, 1)) == 1 and part.kept((1, 1)).tolist() == [True]
    with pytest.raises(ValueError, match="somewhere"):
        Part(torch.zeros(2, 2, dtype=torch.uint8))
