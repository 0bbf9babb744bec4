"""Masks by a word: from what layers say to where the word is, and where references then act."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lib_refdrop.model.layer import ModelCall
from lib_refdrop.model.rows import Row
from lib_refdrop.model.sites import Lineage, Site, SiteShape
from lib_refdrop.references.plan import preset
from lib_refdrop.techniques.reference.guidance import Guidance
from lib_refdrop.techniques.reference.masks import Mask
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.techniques.reference.strength import Strength
from lib_refdrop.techniques.reference.word_masks import Watch, Word, drawn_to, parted, sharpened, threshold, words_of
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.words import ReferenceProblem

SITES = {Site("input", 1, 0): SiteShape(2, 16, 0), Site("output", 0, 0): SiteShape(2, 16, 1),
         Site("output", 3, 0): SiteShape(2, 16, 0), Site("output", 3, 1): SiteShape(2, 16, 0)}
LINEAGE, SIDE = Lineage(SITES), 8


def square(left: int, top: int) -> Tensor:
    """``[64]``: 1 in a square of 4 × 4 places of 8 × 8."""
    found = torch.zeros(SIDE, SIDE)
    found[top:top + 4, left:left + 4] = 1
    return found.flatten()


class Layer:
    """Is drawn to the token at place 2 in one corner of a figure, but all of the figure looks at itself."""

    def __init__(self, figures: list[Tensor], noise: float = 0.3) -> None:
        self.figures, self.noise = figures, noise

    def logits(self, row: int, positions) -> Tensor:
        generator = torch.Generator().manual_seed(row)
        corner = self.figures[row] * (torch.arange(SIDE * SIDE) % SIDE < SIDE // 2)
        found = self.noise * torch.randn(2, SIDE * SIDE, len(positions), generator=generator)
        for at, place in enumerate(positions):
            found[..., at] += {0: 1.0, 2: 4 * corner, 5: 4 * (1 - self.figures[row])}[place]
        return found

    def attention_map(self, row: int) -> Tensor:
        figure = self.figures[row]
        same = figure[:, None] == figure[None]
        looks = torch.where(same, 1.0, 0.1)
        return looks / looks.sum(1, keepdim=True)


class Host:
    size = (SIDE, SIDE)


def call(*rows: Row) -> ModelCall:
    return ModelCall(1.0, rows, {row.kind: 0 for row in rows}, Host())  # type: ignore[arg-type]


def see(watch: Watch, layer: Layer) -> None:
    for site in SITES:
        watch.self_attention(site, layer)
        if site in watch.sites:
            watch.cross_attention(site, layer)


def test_a_word_is_all_of_what_belongs_together_and_each_picture_has_its_own() -> None:
    """The word draws one half of each figure only."""
    figures = [square(0, 0), square(2, 3), square(4, 4)]
    watch = Watch(LINEAGE, Word("pirate", lambda row: [[2]] if row.image < 2 else []))
    assert watch.sites == {Site("input", 1, 0), Site("output", 0, 0), Site("output", 3, 1)}  # the last of each block
    watch.begin_call(call(Row("cond", 1), Row("cond", 0), Row("cond", 2), Row("uncond", 0)))
    assert watch.mask(0) is None  # until something was seen
    see(watch, Layer([figures[1], figures[0], figures[2]]))
    watch.end()
    for image in (0, 1):
        mask = watch.mask(image)
        assert mask is not None and torch.equal(mask.picture.flatten(), figures[image])
    assert watch.mask(2) is None  # its prompt does not have the word


def test_several_words_are_where_any_of_them_is() -> None:
    layer = Layer([square(0, 0)], noise=0.0)
    word, ground = drawn_to(layer, 0, [[2]]), drawn_to(layer, 0, [[5]])
    both = drawn_to(layer, 0, [[2], [5]])
    assert torch.equal(both, torch.maximum(word, ground)) and abs(float(word.mean())) < 1e-6
    assert words_of(" pirate  ship,parrot ,") == ["pirate", "ship", "parrot"] and words_of(" , ") == []


def test_sharpening_is_a_sum_of_powers() -> None:
    torch.manual_seed(0)
    links, words = torch.rand(9, 9).softmax(1), torch.randn(9)
    wanted = sum(torch.linalg.matrix_power(links, k) @ words for k in range(5))
    assert torch.allclose(sharpened(words, links), wanted, atol=1e-5)


def test_numbers_are_parted_where_that_parts_them_best() -> None:
    values = torch.tensor([0.0, 0.1, 0.2, 5.0, 5.2, 0.15])
    assert threshold(values) == pytest.approx(2.6)
    best = min(((values <= t).sum() * values[values <= t].var(correction=0)
                + (values > t).sum() * values[values > t].var(correction=0), t) for t in (0.05, 0.125, 0.18, 2.6, 5.1))
    assert best[1] == 2.6
    assert parted(torch.zeros(4), torch.full((4, 4), 0.25)).tolist() == [1, 1, 1, 1]  # nothing stands out


def test_layers_that_say_nothing_are_a_sentence() -> None:
    watch = Watch(LINEAGE, Word("pirate", lambda row: [[2]]))
    watch.begin_call(call(Row("cond")))
    with pytest.raises(ReferenceProblem, match="Where 'pirate' is in the picture cannot be told here"):
        watch.begin_call(call(Row("cond")))


def test_large_pictures_are_looked_at_in_coarser_layers() -> None:
    class Large(Host):
        size = (64, 48)

    watch = Watch(LINEAGE, Word("pirate", lambda row: [[2]]))
    watch.begin_call(ModelCall(1.0, (Row("cond"),), {}, Large()))  # type: ignore[arg-type]
    assert watch._grid == (32, 24) and watch._chosen == [Site("output", 0, 0)]


def test_a_mask_is_kept_as_json_and_read_back() -> None:
    mask = Mask(torch.tensor([[0.0, 1.0, 0.2], [1.0, 0.4, 0.6]]))
    again = Mask.read(mask.kept())
    assert again is not None and torch.allclose(again.picture, mask.picture, atol=1 / 255)
    for bad in (None, [], {"grid": [2, 3]}, {**mask.kept(), "grid": [9, 9]}, {**mask.kept(), "mask": "?"},
                {"grid": [1, 1], "mask": "AA=="}):
        assert Mask.read(bad) is None


def test_a_reference_acts_where_the_word_is_from_the_second_call_on(studio) -> None:
    """In a batch the second picture does not have the word, and is drawn plain."""
    reference, _ = studio.record(seed=4)
    word = Word("pirate", lambda row: [[2]] if row.image == 0 else [])
    plain = studio.draw(seed=9, batch=2)
    masked, outcome = studio.use(reference, Strength(0.5, word=word), seed=9, batch=2)
    assert torch.allclose(masked[1], plain[1], atol=1e-4) and outcome.calls == 4 and outcome.acted == 3
    everywhere = studio.use(reference, 0.5, seed=9, batch=2)[0]
    assert 1e-2 < (masked[0] - plain[0]).abs().mean() < (everywhere[0] - plain[0]).abs().mean()
    assert torch.equal(studio.use(reference, Strength(0.0, word=word), seed=9, batch=2)[0], plain)
    with pytest.raises(ReferenceProblem, match="from the second step on"):
        studio.use(reference, Strength(0.5, word=word), seed=9, steps=1)


def test_what_a_save_marks_is_all_that_is_looked_at(studio) -> None:
    recording = Recording(studio.lineage, {}, preset("Exact", studio.lineage))
    recording.begin_pass("base", None, Word("pirate", lambda row: [[2]]))
    sampling_pass = SamplingPass([recording])
    watched = studio.draw(sampling_pass, seed=4)
    sampling_pass.finish()
    assert torch.equal(watched, studio.draw(seed=4))
    marked = recording.reference("marked")
    mask = Mask.read(marked.manifest["marked"]["base"])
    assert marked.manifest["marked"]["base"]["words"] == "pirate" and mask is not None
    found = studio.use(marked, 0.5, seed=9)[0]
    assert torch.equal(found, studio.use(marked, Strength(0.5, marked_only=False, looks_at=mask), seed=9)[0])
    assert not torch.allclose(found, studio.use(marked, Strength(0.5, marked_only=False), seed=9)[0], atol=1e-3)
    broken = {**marked.manifest, "marked": {"base": {"grid": [2], "mask": ""}}}
    marked.manifest = broken
    with pytest.raises(ReferenceProblem, match="What was marked in reference 'marked' cannot be read"):
        Guidance([(marked, 0.5)], studio.lineage)
