"""A problem of a technique's ends with the technique, never in the host's model call."""

from __future__ import annotations

import logging

import pytest
import torch

from lib_refdrop.model.rows import Kind, Row
from lib_refdrop.model.sites import Site
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.techniques.technique import Outcome, Technique
from lib_refdrop.words import Interrupted, RefDropError, ReferenceProblem, StoreProblem

SITE, OWN = Site("output", 3, 0), torch.zeros(2, 4, 8)
ROWS = [Row("uncond"), Row("cond")]


class Doubling(Technique):
    """Adds one to every layer, and remembers what it was told."""

    def __init__(self) -> None:
        self.told = []

    def call(self, call) -> None:
        self.told.append(call)

    def attention(self, site, own, layer):
        return own + 1

    def finish(self) -> Outcome:
        return Outcome(len(self.told), len(self.told), len(self.told))


class Failing(Technique):
    """Raises at one event."""

    def __init__(self, event: str, error: BaseException) -> None:
        self._event, self._error = event, error

    def call(self, call) -> None:
        self._raise("call")

    def attention(self, site, own, layer):
        self._raise("attention")
        return own - 100

    def finish(self) -> Outcome:
        self._raise("finish")
        return Outcome()

    def _raise(self, event: str) -> None:
        if event == self._event:
            raise self._error


@pytest.mark.parametrize("event", ["call", "attention", "finish"])
@pytest.mark.parametrize("error, kind, words", [
    (ReferenceProblem("Reference 'hero' is damaged."), ReferenceProblem, "Reference 'hero' is damaged."),
    (KeyError("base/0000"), RefDropError, "RefDrop failed (KeyError: 'base/0000')"),
    (RuntimeError("CUDA error: an assert\nCompile with …\n\nand so on"), RefDropError, "CUDA error: an assert)"),
    (torch.cuda.OutOfMemoryError("CUDA out of memory"), StoreProblem, "not enough memory"),
], ids=["ours", "a fault", "many lines", "memory"])
def test_one_sentence_and_the_others_go_on(event, error, kind, words, caplog) -> None:
    told, other = [], Doubling()
    sampling_pass = SamplingPass([Failing(event, error), other], lambda technique, problem: told.append(problem))
    with caplog.at_level(logging.ERROR):
        sampling_pass.call(3.0, ROWS)
        out = sampling_pass.attention(SITE, OWN, None)
        outcomes = sampling_pass.finish()
    assert type(told[0]) is kind and words in str(told[0]) and "\n" not in str(told[0]) and len(told) == 1
    assert torch.equal(out, OWN - 99 if event == "finish" else OWN + 1)
    assert outcomes == [Outcome(1, 1, 1)]
    assert ("Traceback" in caplog.text) == (kind is RefDropError)  # a fault of ours is logged whole


def test_without_anybody_to_tell_the_first_problem_is_raised_at_the_end() -> None:
    first, second = ReferenceProblem("first"), ReferenceProblem("second")
    sampling_pass = SamplingPass([Failing("call", first), Failing("finish", second)])
    sampling_pass.call(3.0, ROWS)
    with pytest.raises(ReferenceProblem, match="first"):
        sampling_pass.finish()


def test_a_problem_counts_more_than_an_interrupt_before_it() -> None:
    interrupt, problem = Interrupted("stopped"), ReferenceProblem("damaged")
    sampling_pass = SamplingPass([Failing("call", interrupt), Failing("finish", problem)])
    sampling_pass.call(3.0, ROWS)
    with pytest.raises(ReferenceProblem, match="damaged"):
        sampling_pass.finish()


def test_what_ends_the_program_is_let_through() -> None:
    sampling_pass = SamplingPass([Failing("attention", KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        sampling_pass.attention(SITE, OWN, None)


def test_visits_of_a_level_are_counted_for_each_kind_of_row() -> None:
    technique = Doubling()
    sampling_pass = SamplingPass([technique])
    sampling_pass.call(3.0000001, [Row("cond"), Row("cond", 0, 1)])
    sampling_pass.call(3.0, [Row("cond", 1), Row("uncond", 1)])  # rounded on another road: the same level
    sampling_pass.call(1.0, [Row("cond")])
    assert [dict(call.visits) for call in technique.told] == [
        {Kind("cond"): 0, Kind("cond", 1): 0}, {Kind("cond"): 1, Kind("uncond"): 0}, {Kind("cond"): 0}]
    assert technique.told[0].sigma == technique.told[1].sigma


def test_what_an_adapter_noted_is_the_reason_where_nothing_could_be_done() -> None:
    sampling_pass = SamplingPass([Failing("finish", ReferenceProblem("no features at these levels"))])
    sampling_pass.note("Another extension changes the batch.")
    with pytest.raises(RefDropError, match="Another extension changes the batch."):
        sampling_pass.finish()
