"""One processing object, again and again: as img2img's Batch and loops run it, and as plots copy it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from lib_refdrop.webui import run as runs
from lib_refdrop.webui.run import run_of
from tests.hosts.tiny import sample_a1111

from .conftest import Program

PREVIOUS = [{"enabled": True, "sequence": "Previous", "rfg": 0.5}]
FIRST = [{"enabled": True, "sequence": "First", "rfg": 0.5}]
NOTE = "RefDrop note"


@pytest.fixture
def frames(program: Program):
    """A processing object of img2img that its host is to run three times, and says so beforehand."""
    program.host.state.job_count = 3
    return program.new(init_images=[None], n_iter=1, denoising_strength=0.6)


def drawn(program: Program, p: Any, args: list, *words: str) -> list[torch.Tensor]:
    """One picture each, by the same object."""
    return [program.generate(p, args, each) for each in words]


def test_the_files_of_a_folder_are_a_sequence(program: Program, frames) -> None:
    made, notes = [], []
    for words in ("pirate", "nurse", "king"):
        made.append(program.generate(frames, PREVIOUS, words))
        notes.append(frames.extra_generation_params[NOTE])
    plain = drawn(program, program.new(n_iter=1), [False], "pirate", "nurse", "king")
    assert torch.equal(made[0], plain[0])
    assert not torch.allclose(made[1], plain[1]) and not torch.allclose(made[2], plain[2])
    assert notes[0].startswith("The first picture of a sequence, drawn plain; later ones are guided by the one before")
    assert notes[1].startswith("Picture 2 of a sequence: guided by the previous picture (seed 5) at 0.5")
    assert notes[2].startswith("Picture 3")
    assert program.shelf.memory.budget.used > 0
    frames.close()
    assert program.shelf.memory.budget.used == 0 and not program.shelf.memory.names()


def test_each_goes_by_the_one_before_or_by_the_first(program: Program, frames) -> None:
    """As by references saved and used by hand: the third picture is guided by the second as that was drawn."""
    third = drawn(program, frames, FIRST, "pirate", "nurse", "king")[2]
    program.generate(program.new(), [{"enabled": True, "mode": "Save", "store": "RAM", "reference": "hand"}], "pirate")
    by_hand = [{"enabled": True, "store": "RAM", "reference": "hand", "rfg": 0.5}]
    assert torch.equal(third, program.generate(program.new(), by_hand, "king"))
    again = program.new(init_images=[None], n_iter=1, denoising_strength=0.6)
    assert not torch.allclose(third, drawn(program, again, PREVIOUS, "pirate", "nurse", "king")[2])


def test_without_the_extension_in_between_it_begins_anew(program: Program, frames) -> None:
    drawn(program, frames, PREVIOUS, "pirate")
    drawn(program, frames, [False], "nurse")
    assert program.shelf.memory.budget.used == 0 and run_of(frames) is None
    program.generate(frames, PREVIOUS, "king")
    assert "drawn plain" in frames.extra_generation_params[NOTE]


def test_a_copy_has_a_sequence_of_its_own(program: Program, frames) -> None:
    drawn(program, frames, PREVIOUS, "pirate")
    cell = copy.copy(frames)
    program.generate(cell, PREVIOUS, "nurse")
    assert "drawn plain" in cell.extra_generation_params[NOTE]
    program.generate(frames, PREVIOUS, "king")
    assert "Picture 2" in frames.extra_generation_params[NOTE]


def test_what_the_host_closes_after_a_fault_leaves_nothing(program: Program, frames) -> None:
    drawn(program, frames, PREVIOUS, "pirate")
    with pytest.raises(RuntimeError, match="broken"):
        program.generate(frames, PREVIOUS, "nurse", fail=RuntimeError("broken"))
    frames.close()
    assert program.shelf.memory.budget.used == 0


def test_a_plots_cells_are_compared_by_their_sequence(program: Program) -> None:
    p = program.new(n_iter=2, refdrop_axes={"sequence": "First"})
    runs.start(p, [False], program.host, program.shelf)
    run = run_of(p)
    assert run is not None
    for number, words in enumerate(("pirate", "nurse")):
        run.begin_batch(number)
        run.begin_pass()
        sample_a1111(p, [[words]])
        run.end_batch()
    assert "Picture 2 of a sequence" in p.extra_generation_params[NOTE]
    p.close()


def test_no_more_room_in_the_middle_is_a_sentence(program: Program, frames) -> None:
    drawn(program, frames, FIRST, "pirate")
    budget = program.shelf.memory.budget
    budget.put("somebody's", budget.limit - 1, "Something else")  # the first picture has to go
    assert program.generate(frames, FIRST, "nurse") is None or program.host.state.interrupted
    assert "had to go from memory" in frames.extra_generation_params["RefDrop problem"]
    frames.close()
