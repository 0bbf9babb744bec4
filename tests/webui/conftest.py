"""Processing objects as web UIs hand them to scripts, over the tiny UNet of tests/hosts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lib_refdrop.playground.host import PlaygroundHost
from lib_refdrop.webui import run as runs
from lib_refdrop.webui.options import add_options
from lib_refdrop.webui.shelf import Shelf
from tests.hosts.tiny import UNet, a1111, sample_a1111


class Processing(SimpleNamespace):
    """What a web UI makes for one generation."""

    def comment(self, text: str) -> None:
        self.comments.append(text)

    def close(self) -> None:
        self.closed.append(id(self))


class Program:
    """A web UI's process: one host, one shelf, generations one after another."""

    def __init__(self, folder, memory: float | None = None) -> None:
        self.host = PlaygroundHost()
        self.host.cmd_opts.refdrop_dir, self.host.cmd_opts.refdrop_memory = str(folder), memory
        add_options(self.host)
        self.host.state.begin("test")
        self.shelf = Shelf(self.host)
        with torch.no_grad():
            self._loaded = a1111(UNet().eval().requires_grad_(False)).sd_model

    def new(self, **more: Any) -> Processing:
        """A processing object, as AUTOMATIC1111 makes it."""
        sampler = a1111(self._loaded.model.diffusion_model).sampler  # every generation has its own
        return Processing(**{**dict(
            sd_model=self._loaded, sampler=sampler, sampler_name="Euler", steps=3, seed=5, batch_size=1,
            prompt="pirate", negative_prompt="", cfg_scale=4.0, width=48, height=48, extra_generation_params={},
            comments=[],
            closed=[]), **more})

    def generate(self, p: Processing, args: list, words: str = "pirate", inside=None, fail=None) -> torch.Tensor | None:
        """The hooks of one generation in a web UI's order; ``inside(p)`` runs where detailers do, ``fail`` is raised in
        the middle of sampling."""
        runs.start(p, args, self.host, self.shelf)
        run = runs.run_of(p)
        if run:
            run.check()
        if self.host.state.interrupted:
            return None
        if run:
            run.begin_batch(0)
            run.begin_pass()
        if fail:
            raise fail
        picture = sample_a1111(p, [[words]])
        if run:
            run.end_batch()
        if inside:
            inside(p)
        if run:
            run.finish()
        return picture


@pytest.fixture
def program(tmp_path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def new(program):
    return program.new


@pytest.fixture
def generate(program):
    return program.generate
