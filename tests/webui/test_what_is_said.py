"""What a Use says of itself: how far it was guided, and what happened to its file meanwhile."""

from __future__ import annotations

import os

import pytest

from lib_refdrop.stores import machine
from lib_refdrop.webui import run as runs
from lib_refdrop.webui.infotext import PROBLEM
from lib_refdrop.webui.shelf import Shelf

from ..fuzz.forging import Forged
from ..hosts.tiny import sample_a1111
from .conftest import Program

SAVE = [{"enabled": True, "mode": "Save", "reference": "hero", "keep": "Exact"}]
USE = [{"enabled": True, "mode": "Use", "reference": "hero", "rfg": 0.5}]


def without(path, *starts: str) -> None:
    """Takes features out of a file."""
    forged = Forged.of(path)
    forged.tensors = {name: raw for name, raw in forged.tensors.items() if not name.startswith(starts)}
    forged.write(path)


@pytest.mark.parametrize("percent, left_out, said", [
    (100, (), "Guided by 'hero' at 0.5, throughout."),
    (50, (), "Guided by 'hero' at 0.5, in 2 of 3 model calls."),
    (100, ("base/0001/output.0.0/uncond/",),
     "Guided by 'hero' at 0.5, in 3 of 3 model calls, in 2 of them on every row."),
    (50, ("base/0001/output.0.0/uncond/", "base/0000/middle.0.0/cond/"),
     "Guided by 'hero' at 0.5, in 2 of 3 model calls, in 0 of them on every row."),
])
def test_throughout_is_said_only_of_all_rows_of_all_calls(tmp_path, new, generate, percent, left_out, said) -> None:
    generate(new(), [{**SAVE[0], "save_percent": percent}])
    if left_out:
        without(tmp_path / "hero.safetensors", *left_out)
    p = new()
    generate(p, USE, "nurse")
    assert p.comments[-1] == said


def test_a_replay_says_what_part_of_the_schedule_was_asked_for(new, generate) -> None:
    generate(new(), [{**SAVE[0], "keep": "Tiny", "save_percent": 34}])
    p = new()
    generate(p, USE, "nurse")
    assert p.comments[-1] == "Guided by 'hero' at 0.5, in 2 of 3 model calls."


def test_a_file_that_somebody_writes_into_while_it_is_used_is_told(program: Program, tmp_path, new, generate) -> None:
    generate(new(), SAVE)
    p, path = new(), tmp_path / "hero.safetensors"
    runs.start(p, USE, program.host, program.shelf)
    run = runs.run_of(p)
    run.check()
    run.begin_batch(0)
    run.begin_pass()
    sample_a1111(p, [["nurse"]])
    with open(path, "r+b") as file:  # in place, of the same size
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**7))  # where two times would be the same
    run.end_batch()
    assert "Reference 'hero' was changed by another program while it was in use" in p.extra_generation_params[PROBLEM]
    assert "RefDrop RFG" not in p.extra_generation_params and not any("Guided" in said for said in p.comments)


@pytest.mark.parametrize("asked, has, limit", [(None, 8 * 10**9, 2 * 10**9), (3.0, 8 * 10**9, 3 * 10**9),
                                               (None, None, 4 * 10**9)])
def test_a_quarter_of_what_the_program_may_have_unless_asked(program, monkeypatch, asked, has, limit) -> None:
    """Of a container's share, where it is in one: that is what the system's answer is."""
    monkeypatch.setattr(machine, "memory", lambda: has)
    program.host.cmd_opts.refdrop_memory = asked
    assert Shelf(program.host).memory.budget.limit == limit
