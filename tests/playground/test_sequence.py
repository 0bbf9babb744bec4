"""Sequences: later pictures of a generation, or of several, are guided by earlier ones, through the API."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from .conftest import Made, Studio

FIRST, PREVIOUS, BOTH = "First", "Previous", "First and previous"


class Small(Studio):
    """Many pictures are to be drawn, so they are small."""

    def draw(self, settings=None, tab="txt2img", **payload) -> Made:
        return super().draw(settings, tab, **{"width": 64, "height": 64, "steps": 2, **payload})


@pytest.fixture
def studio(studio: Studio) -> Small:
    return Small(studio.playground)


@pytest.fixture
def memory(playground):
    """The store in RAM, empty before and after, with no replay of other tests beside it."""
    def empty() -> None:
        for name in playground.shelf.memory.names():
            playground.shelf.memory.delete(name)
        for content, *_ in list(playground.shelf.replays._kept):
            playground.shelf.replays.forget(content)

    empty()
    yield playground.shelf.memory
    empty()


def used(store) -> int:
    gc.collect()  # what finished passes had in use
    return store.budget.used


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other)


def test_the_first_is_plain_and_the_second_is_guided_by_it(studio: Studio, memory) -> None:
    before, plain = used(memory), studio.draw(n_iter=2)
    made = studio.draw({"sequence": FIRST, "rfg": 0.4}, n_iter=2)
    assert same(made.pictures[0], plain.pictures[0]) and not same(made.pictures[1], plain.pictures[1])
    assert "RefDrop RFG" not in made.parameters[0] and "RefDrop RFG: 0.4" in made.parameters[1]
    assert "first picture (seed 5) at 0.4" in made.parameters[1] and "Guided by" in made.comments
    # The same in two requests: saved by one, used by the other.
    studio.draw({"mode": "Save", "store": "RAM", "reference": "hero"})
    by_hand = studio.draw({"store": "RAM", "reference": "hero", "rfg": 0.4}, seed=6)
    assert same(made.pictures[1], by_hand.pictures[0])
    memory.delete("hero")
    assert used(memory) == before and not memory.names()


def test_previous_and_both_differ_from_the_third_picture_on(studio: Studio, memory) -> None:
    first, previous, both = (studio.draw({"sequence": which}, n_iter=3).pictures
                             for which in (FIRST, PREVIOUS, BOTH))
    assert same(first[1], previous[1]) and same(first[1], both[1])
    assert len({picture[2].tobytes() for picture in (first, previous, both)}) == 3


def test_both_share_the_coefficient(studio: Studio, memory) -> None:
    made = studio.draw({"sequence": BOTH, "rfg": 0.4}, n_iter=3)
    assert "(0.4 together)" in made.comments and "previous picture (seed 6) at 0.2" in made.parameters[2]
    for name, seed, settings in (("one", 5, {}), ("two", 6, {"references": "one: 0.4"})):
        if settings:  # the second picture as it was drawn, and kept for the third
            studio.draw({"sequence": PREVIOUS, "sequence_name": "by hand", "rfg": 0.4}, seed=5)
            studio.draw({"sequence": PREVIOUS, "sequence_name": "by hand", "rfg": 0.4}, seed=6)
        else:
            studio.draw({"mode": "Save", "store": "RAM", "reference": name}, seed=seed)
    third = studio.draw({"store": "RAM", "references": "one: 0.2; by hand previous: 0.2"}, seed=7)
    assert same(third.pictures[0], made.pictures[2])


def test_a_named_one_goes_on_over_requests_whatever_their_prompts(studio: Studio, memory) -> None:
    def draw(seed: int, prompt: str):
        return studio.draw({"sequence": BOTH, "sequence_name": "story"}, seed=seed, prompt=prompt)

    one, two = draw(5, "a pirate arms up on grass"), draw(9, "a pirate waving on snow")
    assert "RefDrop RFG" not in one.parameters[0] and "sequence 'story'" in one.parameters[0]
    assert "first picture (seed 5) at 0.3" in two.parameters[0]
    assert memory.names() == ["story first", "story previous"]
    three = draw(11, "a pirate on sand")
    assert "first picture (seed 5) at 0.15 and the previous picture (seed 9) at 0.15" in three.parameters[0]
    assert memory.load("story previous").manifest["seed"] == 11
    other = studio.draw({"sequence": BOTH, "sequence_name": "another"})
    assert "drawn plain" in other.parameters[0]


def test_the_same_request_draws_the_same_sequence_and_its_parameters_ask_for_it(studio: Studio, memory) -> None:
    studio.save("hero", prompt="a king on sand", seed=9)
    made = studio.draw({"sequence": PREVIOUS, "reference": "hero", "rfg": 0.35, "references": ""}, n_iter=2)
    again = studio.draw(infotext=made.parameters[0], n_iter=2)
    assert all(map(same, again.pictures, made.pictures)) and again.parameters == made.parameters
    alone = studio.draw({"reference": "hero", "rfg": 0.35}, n_iter=2)
    assert same(made.pictures[0], alone.pictures[0]) and not same(made.pictures[1], alone.pictures[1])
    plain = studio.draw({"sequence": PREVIOUS}, n_iter=2)  # the panel's reference is emptied, too
    assert all(map(same, studio.draw(infotext=plain.parameters[1], seed=5, n_iter=2).pictures, plain.pictures))


def test_adain_alone_is_shared_too(studio: Studio, memory) -> None:
    plain, made = studio.draw(n_iter=3), studio.draw({"sequence": BOTH, "rfg": 0, "adain": 0.6}, n_iter=3)
    assert same(made.pictures[0], plain.pictures[0]) and not same(made.pictures[1], plain.pictures[1])
    assert "AdaIN 0.6" in made.parameters[1] and made.parameters[2].count("AdaIN 0.3") == 2
    assert "throughout" in made.comments


def test_further_references_guide_throughout(studio: Studio, memory) -> None:
    studio.save("hero", prompt="a king on sand", seed=9)
    made = studio.draw({"sequence": FIRST, "references": "hero: -0.2"}, n_iter=2)
    assert "Guided by 'hero' at -0.2, throughout" in made.comments
    assert "Guided by 'first picture (seed 5)' at 0.3 and 'hero' at -0.2 (0.1 together)" in made.comments


def test_frames_that_begin_in_a_picture(studio: Studio, memory) -> None:
    picture = studio.draw().pictures[0]
    plain = studio.draw_from(picture, n_iter=2, denoising_strength=0.6, steps=4)
    made = studio.draw_from(picture, {"sequence": FIRST, "rfg": 0.5}, n_iter=2, denoising_strength=0.6, steps=4)
    assert same(plain.pictures[0], made.pictures[0]) and not same(plain.pictures[1], made.pictures[1])
    assert "throughout" in made.comments


def test_the_second_pass_is_part_of_it_where_asked_for(studio: Studio, memory) -> None:
    both = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.6, "n_iter": 2, "steps": 2}
    made = studio.draw({"sequence": FIRST, "enabled_hr": True, "rfg": 0.5}, **both)
    base = studio.draw({"sequence": FIRST, "rfg": 0.5}, **both)
    assert not same(made.pictures[1], base.pictures[1]) and same(made.pictures[0], base.pictures[0])
    assert used(memory) == 0


def test_what_only_has_a_trajectory_is_replayed_and_forgotten(studio: Studio, memory) -> None:
    tiny = studio.draw({"sequence": PREVIOUS, "keep": "Tiny"}, n_iter=3)
    exact = studio.draw({"sequence": PREVIOUS, "keep": "Exact"}, n_iter=3)
    plain = studio.draw(n_iter=3)
    off = [np.abs(each.pictures[2].astype(int) - exact.pictures[2]).mean() for each in (tiny, plain)]
    assert off[0] < 1 < 5 * off[0] + 1 < off[1]
    assert used(memory) == 0 and not studio.playground.shelf.replays._kept


def test_one_picture_is_no_sequence_and_0_is_off(studio: Studio, memory) -> None:
    alone = studio.draw({"sequence": FIRST})
    assert "A sequence is of several pictures" in alone.comments and same(
        alone.pictures[0], studio.draw().pictures[0])
    zero = studio.draw({"sequence": BOTH, "rfg": 0}, n_iter=2)
    assert "nothing was guided" in zero.comments
    assert all(map(same, zero.pictures, studio.draw(n_iter=2).pictures))


@pytest.mark.parametrize("settings, sentence", [
    ({"mode": "Save", "sequence": FIRST}, "which is mode Use"),
    ({"sequence": "Last"}, "Sequence must be Off or First"),
    ({"sequence": FIRST, "sequence_name": "a/b"}, "cannot be a sequence's name"),
    ({"sequence": BOTH, "references": ["hero"] * 7}, "9 are too many"),
    ({"sequence": FIRST, "layers": "output.77=0"}, "no self-attention in 'output.77'"),
    ({"sequence": FIRST, "reference": "nobody"}, "There is no reference 'nobody'"),
])
def test_what_cannot_be_is_a_sentence(studio: Studio, settings, sentence) -> None:
    problem = studio.refusal(settings, n_iter=2)
    assert sentence in str(problem) and "\n" not in str(problem)


def test_no_room_is_a_sentence_and_leaves_nothing(studio: Studio, memory, monkeypatch) -> None:
    monkeypatch.setattr(memory.budget, "limit", 100_000)
    problem = studio.refusal({"sequence": FIRST}, n_iter=2)
    assert problem.status == 507 and "first picture" in str(problem) and used(memory) == 0


def test_an_interrupt_or_a_fault_leaves_nothing(studio: Studio, memory, monkeypatch) -> None:
    from lib_refdrop.playground import passes

    real, drawn = passes.decode, []

    def failing(p, latents):
        drawn.append(1)
        if len(drawn) == 2:
            raise RuntimeError("the decoder fails")
        return real(p, latents)

    monkeypatch.setattr(passes, "decode", failing)
    with pytest.raises(RuntimeError, match="the decoder fails"):
        studio.draw({"sequence": BOTH}, n_iter=3)
    assert used(memory) == 0
    monkeypatch.setattr(passes, "decode", lambda p, latents: p.host.state.interrupt() or real(p, latents))
    studio.draw({"sequence": BOTH}, n_iter=3)
    assert used(memory) == 0 and not memory.names()


def test_a_skipped_picture_is_none_that_others_go_by(studio: Studio, memory, monkeypatch) -> None:
    from lib_refdrop.playground import passes

    real = passes.decode
    monkeypatch.setattr(passes, "decode", lambda p, latents: (
        p.host.state.skip() if p.iteration == 0 else None) or real(p, latents))
    made = studio.draw({"sequence": PREVIOUS}, n_iter=3)
    assert "drawn plain" in made.parameters[1] and "previous picture (seed 6)" in made.parameters[2]
