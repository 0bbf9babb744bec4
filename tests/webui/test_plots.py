"""X/Y/Z plots: every cell has its own settings, and one that cannot be drawn says so and leaves the others alone."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest

from lib_refdrop.webui import script, xyz
from lib_refdrop.webui.infotext import PROBLEM
from lib_refdrop.webui.run import run_of
from lib_refdrop.webui.sentence import picture
from tests.hosts.tiny import sample_a1111

SAVE = [{"enabled": True, "mode": "Save", "reference": "hero"}]
USE = [{"enabled": True, "mode": "Use", "reference": "hero", "rfg": 0.5}]


class AxisOption(SimpleNamespace):
    """As the plot script defines it."""

    def __init__(self, label, type, apply, **more) -> None:
        super().__init__(label=label, type=type, apply=apply, **more)


@pytest.fixture
def axes(program) -> dict[str, AxisOption]:
    module = SimpleNamespace(axis_options=[], AxisOption=AxisOption)
    program.host.plot_scripts = lambda: [module]
    xyz.add_axes(program.host, program.shelf)
    xyz.add_axes(program.host, program.shelf)
    return {option.label: option for option in module.axis_options}


def plot(program, axis, values, args, p=None):
    """The cells of a plot, as the host draws them: copies of one object that is itself never drawn, each run through
    ``process_images``; what the user sees of each, and the parameters that the API answers with."""
    made = script.script_class(program.host, program.shelf)()
    base, state, shown, first = p or program.new(override_settings={}, n_iter=1), program.host.state, [], None
    for value in values:
        if state.interrupted:
            shown.append(None)
            continue
        pc = copy.copy(base)
        axis.apply(pc, axis.type(value), values)
        pictures = []
        made.before_process(pc, *args)
        made.process(pc, *args)
        for number in range(pc.n_iter):
            state.skipped = False
            if state.interrupted:
                break
            made.process_batch(pc, *args, batch_number=number)
            made.process_before_every_sampling(pc, *args)
            pictures.append(sample_a1111(pc, [["nurse"]]))
            made.postprocess_batch(pc, *args, batch_number=number)
        processed = SimpleNamespace(images=pictures, extra_generation_params=pc.extra_generation_params)
        made.postprocess(pc, processed, *args)
        first = first or processed
        shown.append((processed.images, dict(pc.extra_generation_params)))
    return shown, first.extra_generation_params


def test_axes_are_added_once_and_read_numbers_and_their_ranges(axes) -> None:
    axis = axes["[RefDrop] RFG coefficient"]
    # What plots ask before they read ranges.
    assert axis.type == float and not axis.type != float and axis.type != int  # noqa: E721
    assert [axis.type(text) for text in ("\u22120.3", "0.25", 0.5)] == [-0.3, 0.25, 0.5]
    assert len(axes) == len(set(axes)) and axes["[RefDrop] Reference"].type is str


def test_a_cell_that_cannot_be_drawn_says_why_and_the_others_are_drawn(program, axes) -> None:
    program.generate(program.new(), SAVE)
    shown, info = plot(program, axes["[RefDrop] Reference"], ["hero", "nobody", "hero"], USE)
    (good, made), (images, said), (again, last) = shown
    assert made["RefDrop reference"] == last["RefDrop reference"] == "hero"
    assert PROBLEM not in made and PROBLEM not in last
    assert np.array_equal(good[0], again[0])
    assert "There is no reference 'nobody'" in said[PROBLEM] and "RefDrop RFG" not in said
    assert len(images) == 1 and images[0].size == (48, 48) and np.asarray(images[0]).any()
    assert "There is no reference 'nobody'" in info[PROBLEM]  # of an API's answer: that of the first cell
    assert not program.host.state.interrupted


def test_a_cell_that_fails_while_it_is_drawn_says_so_too(program, axes, monkeypatch) -> None:
    program.generate(program.new(), SAVE)
    from lib_refdrop.techniques.reference.guidance import Guidance
    from lib_refdrop.words import ReferenceProblem

    whole = Guidance.call

    def broken(self, call) -> None:
        if self._guides[0].strength.c < 0:
            raise ReferenceProblem("Reference 'hero' is damaged.")
        whole(self, call)

    monkeypatch.setattr(Guidance, "call", broken)
    shown, info = plot(program, axes["[RefDrop] RFG coefficient"], ["0.5", "\u22120.5", "0.5"], USE)
    assert [PROBLEM in said for _, said in shown] == [False, True, False]
    assert shown[1][0][0].size == (48, 48) and info[PROBLEM] == "Reference 'hero' is damaged."


def test_a_plot_of_something_else_stops_as_a_generation_does(program, axes) -> None:
    seeds = AxisOption("Seed", int, lambda p, value, values: setattr(p, "seed", value))
    shown, info = plot(program, seeds, [1, 2], USE)
    assert shown[0][0] == [] and shown[1] is None
    assert "There is no reference 'hero'" in info[PROBLEM]


def test_the_object_that_cells_are_copied_from_has_no_run(program, axes) -> None:
    program.generate(program.new(), SAVE)
    base = program.new(override_settings={}, n_iter=1)
    plot(program, axes["[RefDrop] RFG coefficient"], ["0.5", "0.2"], USE, base)
    assert run_of(base) is None and not hasattr(base, "refdrop_stopped")


@pytest.mark.parametrize("size", [(64, 64), (512, 768), (1024, 1024)])
def test_a_sentence_as_a_picture_can_be_read(size) -> None:
    shown = np.asarray(picture("There is no reference 'h\u00e9ros \u5c0f' \u2212 on disk.", *size))
    assert shown.shape == (size[1], size[0], 3) and 0.002 < (shown > 128).mean() < 0.5


def test_a_picture_is_no_axis_and_its_seed_is_one_of_whole_numbers(axes) -> None:
    assert "[RefDrop] Picture" not in axes and axes["[RefDrop] Picture seed"].type is int
