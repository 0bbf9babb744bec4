"""K and V are made once for the calls that one recorded noise level serves, and within a limit."""

from __future__ import annotations

import pytest
import torch

from lib_refdrop.hosts.hooked_layer import HookedLayer
from lib_refdrop.references.on_device import Projected
from lib_refdrop.references.plan import Recipe
from lib_refdrop.techniques.reference import serving


@pytest.fixture
def projections(monkeypatch) -> list:
    """Filled with the layers that project."""
    made, project = [], HookedLayer.project
    monkeypatch.setattr(HookedLayer, "project", lambda layer, hidden: made.append(layer) or project(layer, hidden))
    return made


def test_steps_that_one_level_serves_share_its_k_and_v(studio, projections, monkeypatch):
    reference, _ = studio.record(plan=Recipe(levels=2).plan("sparse", studio.lineage), steps=8)
    shared, _ = studio.use(reference, 0.4, seed=2, steps=8)
    assert len(projections) == 2 * 2 * len(studio.lineage.sites)  # two levels, two branches
    monkeypatch.setattr(serving, "Projected", lambda: Projected(limit=0))
    anew, _ = studio.use(reference, 0.4, seed=2, steps=8)
    assert len(projections) == (2 + 8) * 2 * len(studio.lineage.sites) and torch.equal(shared, anew)


def test_what_does_not_fit_is_not_kept_and_what_is_left_behind_frees_its_room():
    site, other, kept = "first", "second", Projected(limit=100)
    value = torch.zeros(10), torch.zeros(10), None  # 80 bytes
    kept.keep("one", site, value)
    kept.keep("one", other, value)
    assert kept.find("one", site) is value and kept.find("one", other) is None
    kept.only(["two"])
    kept.keep("two", other, value)
    assert kept.find("one", site) is None and kept.find("two", other) is value
