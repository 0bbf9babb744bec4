"""A reference, made and used through a host's adapter."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lib_refdrop.hosts import find_adapter
from lib_refdrop.references.plan import preset
from lib_refdrop.techniques.reference.guidance import Guidance
from lib_refdrop.techniques.reference.recording import Recording
from lib_refdrop.references.reference import Reference
from lib_refdrop.techniques.sampling_pass import SamplingPass
from lib_refdrop.techniques.technique import Outcome

from .tiny import UNet


@pytest.fixture
def unet() -> UNet:
    with torch.no_grad():
        return UNet().eval().requires_grad_(False)


def record(p: SimpleNamespace, sample: Callable[[], Tensor], keep: str = "Exact") -> tuple[Tensor, Reference]:
    """A pass that is recorded, and the reference made of it."""
    adapter = find_adapter(p)
    recording = Recording(adapter.lineage(p), {}, preset(keep, adapter.lineage(p)))
    recording.begin_pass("base")
    attachment = adapter.attach(p, SamplingPass([recording]))
    picture = sample()
    attachment.detach()
    return picture, recording.reference("hero")


def guided(p: SimpleNamespace, sample: Callable[[], Tensor], reference: Reference,
           c: float = 0.4) -> tuple[Tensor, Outcome]:
    """A pass that is guided, and what it did."""
    adapter = find_adapter(p)
    sampling_pass = guiding(p, reference, c)
    attachment = adapter.attach(p, sampling_pass)
    try:
        return sample(), sampling_pass.finish()[0]
    finally:
        attachment.detach()


def guiding(p: SimpleNamespace, reference: Reference, c: float = 0.5) -> SamplingPass:
    """A pass in which a reference guides."""
    return SamplingPass([Guidance([(reference, c)], find_adapter(p).lineage(p))])
