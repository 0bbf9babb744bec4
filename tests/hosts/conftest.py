"""A reference, made and used through a host's adapter."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from lib_refdrop.hosts import find_adapter
from lib_refdrop.model.layer import ModelCall
from lib_refdrop.model.rows import Row
from lib_refdrop.references.plan import preset
from lib_refdrop.references.reference import Reference
from lib_refdrop.techniques.reference.guidance import Guidance
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.techniques.reference.strength import Strength
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.techniques.technique import Outcome, Technique

from .tiny import UNet


@pytest.fixture
def unet() -> UNet:
    with torch.no_grad():
        return UNet().eval().requires_grad_(False)


def record(p: SimpleNamespace, sample: Callable[[], Tensor], keep: str = "Exact",
           image: int = 0) -> tuple[Tensor, Reference]:
    """A pass that is recorded, and the reference made of it."""
    adapter = find_adapter(p)
    recording = Recording(adapter.lineage(p), {}, preset(keep, adapter.lineage(p)), image=image)
    recording.begin_pass("base")
    sampling_pass = SamplingPass([recording])
    attachment = adapter.attach(p, sampling_pass)
    picture = sample()
    attachment.detach()
    sampling_pass.finish()
    return picture, recording.reference("hero")


def guided(p: SimpleNamespace, sample: Callable[[], Tensor], reference: Reference,
           c: float | Strength = 0.4) -> tuple[Tensor, Outcome]:
    """A pass that is guided, and what it did."""
    return watched(p, sample, Guidance([(reference, c)], find_adapter(p).lineage(p)))


def guiding(p: SimpleNamespace, reference: Reference, c: float | Strength = 0.5) -> SamplingPass:
    """A pass in which a reference guides."""
    return SamplingPass([Guidance([(reference, c)], find_adapter(p).lineage(p))])


def watched(p: SimpleNamespace, sample: Callable[[], Tensor], technique: Technique) -> tuple[Tensor, Outcome]:
    """A pass in which a technique takes part, and what it did. Raises the problem it had, if any."""
    sampling_pass = SamplingPass([technique])
    attachment = find_adapter(p).attach(p, sampling_pass)
    try:
        return sample(), sampling_pass.finish()[0]
    finally:
        attachment.detach()


class Seen(NamedTuple):
    """One row of a model call, and what the model was called on there."""

    sigma: float
    row: Row
    latent: Tensor
    prompt: Tensor


class Watching(Technique):
    """Remembers every row of every model call, and how many layers it was told of in each."""

    def __init__(self) -> None:
        self.rows: list[Seen] = []
        self.layers: list[int] = []
        self.tiled: list[bool] = []

    def call(self, call: ModelCall) -> None:
        self.layers.append(0)
        self.tiled.append(call.tiled)
        for at, row in enumerate(call.rows):
            inputs = call.host.inputs(at)
            self.rows.append(Seen(call.sigma, row, inputs["x"], inputs["context"]))

    def attention(self, site, own, layer):
        self.layers[-1] += 1
        return own

    def finish(self) -> Outcome:
        return Outcome(calls=len(self.layers))
