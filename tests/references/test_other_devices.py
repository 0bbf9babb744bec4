"""Devices that lack a type of number: Apple's MPS has no float64, DirectML no bfloat16."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lib_refdrop.model.schedule import SigmaClock
from lib_refdrop.references.codec import Representation, encode


class Elsewhere(torch.Tensor):
    """A tensor that says it is on another device, and refuses there what that has not; on the CPU it has everything."""

    lacks: torch.dtype
    kind = "mps"

    @property
    def device(self):
        return SimpleNamespace(type=self.kind)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.Tensor.double, torch.Tensor.bfloat16) or any(
                each is cls.lacks for each in (*args, *kwargs.values())):
            to = {torch.Tensor.double: torch.float64, torch.Tensor.bfloat16: torch.bfloat16}.get(function, cls.lacks)
            if to == cls.lacks:
                raise TypeError(f"{cls.kind} has no {cls.lacks}")
        made = super().__torch_function__(function, types, args, kwargs)
        if function is torch.Tensor.cpu or (function is torch.Tensor.to and "cpu" in args):
            return made.as_subclass(torch.Tensor)
        return made


class OnMPS(Elsewhere):
    lacks = torch.float64


class OnDirectML(Elsewhere):
    lacks, kind = torch.bfloat16, "privateuseone"


def test_the_schedule_is_read_where_there_is_no_float64() -> None:
    alphas = torch.linspace(0.999, 0.005, 1000)
    there = alphas.as_subclass(OnMPS)
    with pytest.raises(TypeError):
        there.double()
    clock, own = SigmaClock(there), SigmaClock(alphas)
    assert [clock(step) for step in (0, 1.5, 999)] == [own(step) for step in (0, 1.5, 999)]


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("what", ["hidden", "kv"])
def test_features_are_kept_in_steps_where_there_is_no_bfloat16(what, precision) -> None:
    given = {name: torch.randn(24, 16, generator=torch.Generator().manual_seed(3)) for name in ("hidden", "k", "v")}
    there = {name: value.as_subclass(OnDirectML) for name, value in given.items()}
    with pytest.raises(TypeError):
        there["k"].to(torch.bfloat16)
    kept = encode(Representation(what, precision), **given)
    made = encode(Representation(what, precision), **there)
    assert set(made) == set(kept)
    for name, part in kept.items():
        found = made[name].as_subclass(torch.Tensor)
        assert found.dtype == part.dtype and torch.equal(found, part)
