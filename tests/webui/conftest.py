"""Processing objects as web UIs hand them to scripts, over the tiny UNet of tests/hosts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lib_refdrop.playground import host
from tests.hosts.tiny import UNet, a1111, sample_a1111

host.enter()

from modules import shared  # noqa: E402

from lib_refdrop.webui import run as runs  # noqa: E402
from lib_refdrop.webui.shelf import shelf  # noqa: E402


class Processing(SimpleNamespace):
    """What a web UI makes for one generation."""

    def comment(self, text: str) -> None:
        self.comments.append(text)

    def close(self) -> None:
        self.closed.append(id(self))


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    """A folder and a program of their own."""
    monkeypatch.setattr(shared.cmd_opts, "refdrop_dir", str(tmp_path), raising=False)
    monkeypatch.setattr(shared.cmd_opts, "refdrop_memory", None, raising=False)
    shelf.cache_clear()
    shared.state.begin("test")
    yield
    shelf.cache_clear()
    shared.state.begin("")


@pytest.fixture
def new(monkeypatch):
    """Makes processing objects of one model."""
    with torch.no_grad():
        unet = UNet().eval().requires_grad_(False)

    def make(**more: Any) -> Processing:
        model = a1111(unet)
        return Processing(sd_model=model.sd_model, sampler=model.sampler, sampler_name="Euler", steps=3, seed=5,
                          batch_size=1, prompt="pirate", negative_prompt="", cfg_scale=4.0, width=48, height=48,
                          extra_generation_params={}, comments=[], closed=[], **more)

    return make


def generate(p: Processing, args: list, words: str = "pirate", inside=None) -> torch.Tensor | None:
    """The hooks of one generation in a web UI's order; ``inside(p)`` runs where detailers do."""
    runs.start(p, args)
    run = runs.run_of(p)
    if run:
        run.check()
    if shared.state.interrupted:
        return None
    if run:
        run.begin_batch(0)
        run.begin_pass()
    picture = sample_a1111(p, [[words]])
    if run:
        run.end_batch()
    if inside:
        inside(p)
    if run:
        run.finish()
    return picture
