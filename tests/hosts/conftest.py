"""A reference, made and used through a host's adapter."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lib_refdrop.hosts import find_adapter
from lib_refdrop.references.plan import preset
from lib_refdrop.techniques.reference.recording import Recorder
from lib_refdrop.references.reference import Reference
from lib_refdrop.techniques.sampling_pass import Outcome, Session
from lib_refdrop.model.sites import SECTIONS

from .tiny import UNet


@pytest.fixture
def unet() -> UNet:
    with torch.no_grad():
        return UNet().eval().requires_grad_(False)


def record(p: SimpleNamespace, sample: Callable[[], Tensor], keep: str = "Exact") -> tuple[Tensor, Reference]:
    """A pass that is recorded, and the reference made of it."""
    adapter = find_adapter(p)
    recorder = Recorder(adapter.lineage(p), {}, preset(keep, adapter.lineage(p)))
    recorder.begin_pass("base")
    attachment = adapter.attach(p, Session(adapter.lineage(p), SECTIONS, recorders=[recorder]))
    picture = sample()
    attachment.detach()
    return picture, recorder.reference("hero")


def guided(p: SimpleNamespace, sample: Callable[[], Tensor], reference: Reference,
           c: float = 0.4) -> tuple[Tensor, Outcome]:
    """A pass that is guided, and what it did."""
    adapter = find_adapter(p)
    session = Session(adapter.lineage(p), SECTIONS, guides=[(reference, c)])
    attachment = adapter.attach(p, session)
    try:
        return sample(), session.finish()
    finally:
        attachment.detach()
