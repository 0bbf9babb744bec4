"""Pictures that are remembered: any one just made can become the reference afterwards, and none changes by it."""

from __future__ import annotations

import pytest
import torch

from lib_refdrop.webui import options
from lib_refdrop.webui.infotext import PROBLEM


@pytest.fixture
def remembering(program):
    program.host.opts.data |= {options.REMEMBER: True, options.REMEMBER_COUNT: 2}


def test_nothing_is_remembered_unless_asked_for(new, generate, program) -> None:
    generate(new(), [False])
    assert program.shelf.memory.names() == []


def test_a_picture_made_with_refdrop_off_can_become_the_reference(new, generate, program, remembering) -> None:
    own = generate(new(), [False])
    (name,) = program.shelf.memory.names()
    program.host.opts.data[options.REMEMBER] = False
    assert torch.equal(own, generate(new(), [False]))
    use = [{"enabled": True, "mode": "Use", "store": "RAM", "reference": name, "rfg": 0.6}]
    p = new()
    assert torch.allclose(generate(p, use), own, atol=1e-4) and PROBLEM not in p.extra_generation_params
    p = new()
    assert not torch.allclose(generate(p, use, "nurse"), generate(new(), [False], "nurse"))
    assert p.extra_generation_params["RefDrop reference"] == name


def test_only_the_last_ones_are_remembered_and_what_was_saved_stays(new, generate, program, remembering) -> None:
    generate(new(), [{"enabled": True, "mode": "Save", "store": "RAM", "reference": "hero"}])
    for seed in (1, 2, 3):
        p = new()
        p.seed = seed
        generate(p, [False])
    assert program.shelf.memory.names() == ["hero", "pirate-2", "pirate-3"]
