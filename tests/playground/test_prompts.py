"""Prompts as web UIs read them: right values from their documentation, and from diffusers' own encoder."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from lib_refdrop.model.rows import Row
from lib_refdrop.playground.prompts import emphasis, grammar
from lib_refdrop.playground.prompts.conditioning import Prompts
from lib_refdrop.playground.prompts.encoder import TextEncoder
from lib_refdrop.playground.sampling.denoiser import CFGDenoiser, Guidance
from lib_refdrop.playground.sampling.model import Conditioning


@pytest.mark.parametrize("prompt, versions", [
    ("a castle", [(10, "a castle")]),
    ("a [red:blue:3] castle", [(3, "a red castle"), (10, "a blue castle")]),
    ("a [red:blue:0.25] castle", [(2, "a red castle"), (10, "a blue castle")]),
    ("a [red:blue:.5] castle", [(5, "a red castle"), (10, "a blue castle")]),
    ("a castle[ on a hill:4]", [(4, "a castle"), (10, "a castle on a hill")]),
    ("a castle[ on a hill::0.6]", [(6, "a castle on a hill"), (10, "a castle")]),
    ("[a:b:1.0]", [(10, "a")]), ("[a:b:1]", [(1, "a"), (10, "b")]), ("[a:b: 2 ]", [(2, "a"), (10, "b")]),
    ("[a:b:0]", [(10, "b")]), ("[a:b:40]", [(10, "a")]),
    ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]), ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
    ("a (red [car:boat:5]:1.3)", [(5, "a (red car:1.3)"), (10, "a (red boat:1.3)")]),
    ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
    ("a [unbalanced", [(10, "a [unbalanced")]), ("[less]", [(10, "[less]")]), (r"\[a:b:3\]", [(10, r"\[a:b:3\]")]),
    ("a | b [c:3]", [(10, "a | b [c:3]")]), ("", [(10, "")]),
])
def test_prompt_editing(prompt, versions):
    assert grammar.versions(prompt, 10) == versions


@pytest.mark.parametrize("prompt, words", [
    ("[cow|horse] in a field", ["cow", "horse", "cow", "horse"]), ("[fe|]male", ["female", "male", "female", "male"]),
    ("[a|b|c]", ["a", "b", "c", "a"]), ("[a|[b:c:3]]", ["a", "b", "a", "c"]),
])
def test_alternation(prompt, words):
    versions = grammar.versions(prompt, 4)
    assert [step for step, _ in versions] == [1, 2, 3, 4]
    assert [text.replace(" in a field", "") for _, text in versions] == words


def test_editing_goes_on_in_the_second_pass():
    """Steps count on from the first pass, shares from 1."""
    assert grammar.versions("[a:b:15]", 8, 10) == [(5, "a"), (8, "b")]
    assert grammar.versions("[a:b:1.5]", 8, 10) == [(4, "a"), (8, "b")]
    assert grammar.versions("[a:b:0.5]", 8, 10) == [(8, "b")] and grammar.versions("[a:b:5]", 8, 10) == [(8, "b")]
    assert grammar.versions("[a:b:1.5]", 8) == [(8, "a")]


def test_parts_and_their_weights():
    assert grammar.parts("a cat :1.2 AND a dog AND a fish:0.5 ") == [("a cat", 1.2), (" a dog", 1.0), (" a fish", 0.5)]
    assert grammar.parts("a HAND AND [a:b:0.5]") == [("a HAND", 1.0), (" [a:b:0.5]", 1.0)]
    assert grammar.parts("a cat") == [("a cat", 1.0)] and grammar.parts("a AND b :-.5")[1] == (" b", -0.5)


@pytest.mark.parametrize(
    "prompt", ["[" * 30000, "[a|" * 9000 + "]" * 9000, "(a:" * 20000, "[a:" * 9000 + ":3]" * 9000, "\\"]
)
def test_a_prompt_made_to_hurt_is_read_in_no_time(prompt):
    grammar.versions(prompt, 20)
    emphasis.weighted(prompt[:2000])


@pytest.mark.parametrize("prompt, stretches", [
    ("a word", [("a word", 1.0)]),
    ("a (word) here", [("a ", 1.0), ("word", 1.1), (" here", 1.0)]),
    ("((word))", [("word", 1.21)]), ("[word]", [("word", 1 / 1.1)]), ("(word:1.5)", [("word", 1.5)]),
    ("(word: 0.25 )", [("word", 0.25)]), ("((word:1.5) there)", [("word", 1.65), (" there", 1.1)]),
    (r"\(word\)", [("(word)", 1.0)]), ("(open", [("open", 1.1)]), ("shut) it", [("shut) it", 1.0)]), ("", [("", 1.0)]),
    ("(one)(two)", [("onetwo", 1.1)]), ("a (b:1.2.3) c", [("a ", 1.0), ("b:1.2.3", 1.1), (" c", 1.0)]),
])
def test_emphasis(prompt, stretches):
    found = emphasis.weighted(prompt)
    assert [text for text, _ in found] == [text for text, _ in stretches]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in stretches])


@pytest.fixture
def pipeline(playground):
    return playground.model.pipeline


@torch.no_grad()
def theirs(pipeline, text, **options):
    """What diffusers' pipeline tells the UNet of a prompt of up to 75 tokens."""
    return pipeline.encode_prompt(text, "cpu", 1, False, **options)[0][0]


def ours(pipeline, text, clip_skip=1):
    return TextEncoder(pipeline, clip_skip).encode([text])[0].context


def test_a_plain_prompt_is_encoded_as_by_diffusers(pipeline):
    for text in ("a pirate arms up on grass", "", "a pirate, " * 20):
        assert torch.equal(ours(pipeline, text), theirs(pipeline, text))


def test_clip_skip_takes_an_earlier_layer(pipeline):
    """As an encoder without its last layer would say it."""
    shorter, ids = copy.deepcopy(pipeline.text_encoder), pipeline.tokenizer("a pirate", padding="max_length").input_ids
    shorter.encoder.layers = shorter.encoder.layers[:-1]
    expected = shorter(torch.tensor([ids])).last_hidden_state[0]
    assert torch.allclose(ours(pipeline, "a pirate", clip_skip=2), expected, atol=1e-6)
    assert not torch.allclose(ours(pipeline, "a pirate"), expected, atol=1e-2)


def test_more_than_75_tokens_are_read_chunk_by_chunk(pipeline):
    words = ["a", "pirate", "on", "grass"] * 40
    chunks = [" ".join(words[start:start + 75]) for start in (0, 75, 150)]
    assert torch.allclose(
        ours(pipeline, " ".join(words)), torch.cat([theirs(pipeline, chunk) for chunk in chunks]), atol=1e-5
    )


def test_a_chunk_ends_at_a_comma_of_its_last_twenty_tokens(pipeline):
    near, far = "a " * 60 + ", " + "snow " * 30, "a " * 40 + ", " + "snow " * 50
    assert torch.allclose(
        ours(pipeline, near), torch.cat([theirs(pipeline, "a " * 60 + ","), theirs(pipeline, "snow " * 30)]), atol=1e-5
    )
    assert torch.allclose(ours(pipeline, far), torch.cat([theirs(pipeline, "a " * 40 + ", " + "snow " * 34),
                                                          theirs(pipeline, "snow " * 16)]), atol=1e-5)


def test_break_begins_another_chunk(pipeline):
    assert torch.allclose(ours(pipeline, "a pirate BREAK on grass"),
                          torch.cat([theirs(pipeline, "a pirate"), theirs(pipeline, "on grass")]), atol=1e-6)


def test_emphasis_weighs_the_words_and_keeps_the_mean(pipeline):
    plain, weighed = theirs(pipeline, "a pirate on grass"), ours(pipeline, "a (pirate:1.4) on grass")
    expected = plain.clone()
    expected[2] *= 1.4  # after the start token and "a"
    assert float(weighed.mean()) == pytest.approx(float(plain.mean()), rel=1e-4)
    assert torch.allclose(weighed, expected * (plain.mean() / expected.mean()), atol=1e-5)


class Steps:
    """Conditionings that tell themselves apart by their number."""

    def __init__(self, *numbers, tokens=77):
        self.weight, self.schedule = 1.0, self
        self._numbers, self._tokens = numbers, tokens

    def at(self, step):
        return Conditioning(torch.full((self._tokens, 2), float(self._numbers[min(step, len(self._numbers) - 1)])))

    def weighing(self, weight):
        self.weight = weight
        return self


def denoiser(prompts, negatives, calls, **options):
    """Its model answers every row with the row's conditioning, and notes the rows of each call."""
    def model(x, sigma, conditionings):
        calls.append([tuple(row) for row in made.rows])
        return torch.stack([torch.full(x.shape[1:], float(each.context[0, 0])) for each in conditionings])

    made = CFGDenoiser(model, prompts, negatives, Guidance(**{"cfg_scale": 2.0, "total_steps": 10, **options}))
    return made


def test_rows_are_laid_out_as_in_web_uis():
    calls: list = []
    images = torch.zeros(2, 1, 1, 1)
    seen = denoiser([[Steps(3), Steps(5).weighing(0.5)], [Steps(7)]], [Steps(1), Steps(2)], calls)(images, 4.0)
    assert calls == [[("cond", 0, 0), ("cond", 0, 1), ("cond", 1, 0), ("uncond", 0, 0), ("uncond", 1, 0)]]
    # u + scale · Σ weight · (c − u): 1 + 2 · ((3 − 1) + (5 − 1) / 2) and 2 + 2 · (7 − 2)
    assert seen.flatten().tolist() == [9.0, 12.0]


def test_guidance_of_one_needs_no_unconditional_rows():
    calls: list = []
    seen = denoiser([[Steps(3)]], [Steps(1)], calls, cfg_scale=1.0)(torch.zeros(1, 1, 1, 1), 4.0)
    assert calls == [[("cond", 0, 0)]] and float(seen) == 3.0


def test_prompts_of_other_lengths_are_other_calls():
    calls: list = []
    denoiser([[Steps(3, tokens=154)]], [Steps(1)], calls)(torch.zeros(1, 1, 1, 1), 4.0)
    assert calls == [[("cond", 0, 0)], [("uncond", 0, 0)]]
    calls.clear()
    denoiser([[Steps(3, tokens=154), Steps(4)]], [Steps(1)], calls)(torch.zeros(1, 1, 1, 1), 4.0)
    assert calls == [[("cond", 0, 0), ("cond", 0, 1)], [("uncond", 0, 0)]]  # parts are made as long as the longest
    calls.clear()
    denoiser([[Steps(3)]], [Steps(1)], calls, batch_cond_uncond=False)(torch.zeros(1, 1, 1, 1), 4.0)
    assert calls == [[("cond", 0, 0)], [("uncond", 0, 0)]]


@pytest.mark.parametrize("options, sigmas, guided", [
    ({"s_min_uncond": 3.0}, [5.0, 4.0, 2.5, 2.0, 1.0], [True, True, True, False, True]),
    ({"s_min_uncond": 3.0, "s_min_uncond_all": True}, [5.0, 4.0, 2.5, 2.0], [True, True, False, False]),
    ({"skip_early_cond": 0.2}, [5.0, 4.0, 3.0, 2.0], [False, False, False, True]),
])
def test_unconditional_rows_are_left_out_where_asked(options, sigmas, guided):
    calls: list = []
    made = denoiser([[Steps(3)]], [Steps(1)], calls, **options)
    for sigma in sigmas:
        made(torch.zeros(1, 1, 1, 1), sigma)
    assert [len(rows) == 2 for rows in calls] == guided


class Watched:
    """What the UNet is told, call by call."""

    def __init__(self, playground):
        self.contexts, self.rows, self.timesteps = [], [], []
        self._playground = playground

    def __enter__(self):
        def note(module, args, kwargs):
            self.timesteps.append(args[1])
            self.contexts.append(kwargs["encoder_hidden_states"])
        self._handle = self._playground.model.pipeline.unet.register_forward_pre_hook(note, with_kwargs=True)
        return self

    def __exit__(self, *exception):
        self._handle.remove()


def test_the_words_change_at_the_model_call_where_they_do_in_web_uis(studio, pipeline):
    """Up to step 2 of 5: web UIs compare calls counted from 0, so three have the first words."""
    with Watched(studio.playground) as watched:
        studio.draw(prompt="a [pirate:wizard:2] on grass", steps=5)
    first, then = theirs(pipeline, "a pirate on grass"), theirs(pipeline, "a wizard on grass")
    same = [torch.allclose(context[0], first, atol=1e-5) for context in watched.contexts]
    assert same == [True, True, True, False, False]
    assert all(torch.allclose(context[0], then, atol=1e-5) for context in watched.contexts[3:])


def test_samplers_that_call_twice_a_step_have_twice_the_steps(studio, pipeline):
    """Heun, 4 steps: 7 calls on a schedule of 8, so half of it is up to call 4."""
    with Watched(studio.playground) as watched:
        studio.draw(prompt="a [pirate:wizard:0.5] on grass", steps=4, sampler_name="Heun")
    first = theirs(pipeline, "a pirate on grass")
    same = [torch.allclose(context[0], first, atol=1e-5) for context in watched.contexts]
    assert same == [True] * 5 + [False] * 2


def test_rows_of_a_batch_with_parts_reach_the_processing_object(studio):
    seen = []
    playground = studio.playground
    with Watched(playground):
        handle = playground.model.pipeline.unet.register_forward_pre_hook(
            lambda module, args: seen.append(args[0].shape[0]))
        try:
            studio.draw(prompt="a pirate AND a wizard", batch_size=2, steps=2)
        finally:
            handle.remove()
    assert seen == [6, 6]


def test_a_row_is_told_by_name():
    assert Row("cond", 1, 2) == ("cond", 1, 2)


@pytest.mark.parametrize(
    "prompt",
    [
        "a pirate :1.3",
        "a (pirate:1.3)",
        "a pirate BREAK on snow",
        "a pirate AND a wizard",
        "a [pirate|wizard]",
        "a [pirate:wizard:0.5]",
        "a pirate " * 60,
    ],
)
def test_every_kind_of_prompt_draws_another_picture(studio, prompt):
    one, other = studio.draw(prompt=prompt).pictures[0], studio.draw(prompt="a pirate").pictures[0]
    assert np.abs(one.astype(int) - other).mean() > 0.3


def test_an_encoded_text_is_encoded_once(pipeline):
    read = []

    class Counting(TextEncoder):
        def encode(self, texts, negative=False):
            read.extend(texts)
            return super().encode(texts, negative)

    prompts = Prompts(Counting(pipeline), 20)
    parts = [prompts.wanted("a [pirate|wizard] AND snow") for _ in range(3)]
    assert read == ["a pirate", "a wizard", " snow"] and len(parts[0]) == 2
