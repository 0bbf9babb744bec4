"""One generation after another, inside another, or copied from another: each gets what it asked for and no more."""

from __future__ import annotations

import copy

import pytest
import torch

from lib_refdrop.webui import options
from lib_refdrop.webui.infotext import PROBLEM

from .conftest import Program

SAVE = [{"enabled": True, "mode": "Save", "reference": "hero"}]
USE = [{"enabled": True, "mode": "Use", "reference": "hero", "rfg": 0.5}]


def test_save_then_use_changes_the_picture_and_says_so(new, generate) -> None:
    generate(new(), SAVE)
    plain, p = generate(new(), [False], "nurse"), new()
    assert not torch.allclose(generate(p, USE, "nurse"), plain)
    assert p.extra_generation_params["RefDrop RFG"] == 0.5 and "throughout" in p.comments[-1]


def test_off_leaves_the_processing_object_as_it_is(new, generate) -> None:
    p = new()
    before = dict(vars(p))
    generate(p, [False, 0.9])
    assert vars(p) == before and "close" not in vars(p)


def test_closing_closes_the_object_itself_too(new, generate) -> None:
    p = new()
    generate(p, SAVE)
    p.close()
    assert p.closed == [id(p)]


def test_a_copy_of_a_finished_generation_starts_anew(new, generate) -> None:
    generate(new(), SAVE)
    first = new()
    generate(first, USE, "nurse")
    second = copy.copy(first)
    assert torch.equal(generate(second, [False], "nurse"), generate(new(), [False], "nurse"))
    assert "RefDrop RFG" not in second.extra_generation_params and "RefDrop RFG" in first.extra_generation_params
    second.close()
    assert first.closed == [id(second)]  # one list, shared by the copies


@pytest.mark.parametrize("allowed", [False, True])
def test_an_inner_generation_runs_plain_unless_asked_for(new, generate, program, allowed: bool) -> None:
    program.host.opts.data[options.INNER_PASSES] = allowed
    generate(new(), SAVE)
    plain, made = generate(new(), [False], "king"), []

    def detail(p) -> None:
        made.append(generate(new(), USE, "king"))
        made.append(generate(new(), SAVE, "king"))  # a detail never becomes a reference

    generate(new(), USE, "nurse", inside=detail)
    assert torch.equal(made[0], plain) != allowed
    assert torch.equal(made[1], plain)


def test_generations_one_after_another_are_not_inside_each_other(new, generate) -> None:
    def script(p) -> torch.Tensor:
        generate(p, SAVE)
        p2 = new()
        generate(p2, USE, "nurse")
        return p2.extra_generation_params["RefDrop RFG"]

    assert script(new()) == 0.5


def test_a_missing_reference_stops_before_a_picture_and_says_why(new, generate) -> None:
    p = new()
    assert generate(p, USE) is None
    assert "hero" in p.extra_generation_params[PROBLEM] and "hero" in p.comments[-1]


def test_or_the_picture_is_plain_where_the_user_wants_it(new, generate) -> None:
    p = new()
    made = generate(p, [{**USE[0], "on_problem": "Continue"}], "nurse")
    assert torch.equal(made, generate(new(), [False], "nurse")) and PROBLEM in p.extra_generation_params


def test_attention_that_never_ran_is_not_called_guidance(new, generate) -> None:
    generate(new(), SAVE)
    p = new()
    p.sampler.model_wrap_cfg.forward = lambda x, sigma, uncond, cond: x  # another extension has its own model
    generate(p, USE)
    assert "nothing was guided" in p.extra_generation_params[PROBLEM]
    assert "RefDrop RFG" not in p.extra_generation_params


def test_a_cell_of_a_plot_has_its_own_settings(new, generate) -> None:
    generate(new(), SAVE)
    p = new(refdrop_axes={"rfg": 0.25})
    generate(p, [True, 0.9, "Use"], "nurse")
    assert p.extra_generation_params["RefDrop RFG"] == 0.25


def test_memory_has_the_limit_that_was_asked_for(tmp_path) -> None:
    program = Program(tmp_path, memory=1e-8)
    p = program.new()
    program.generate(p, [{**SAVE[0], "store": "RAM"}])
    assert "--refdrop-memory" in p.extra_generation_params[PROBLEM]
