"""Which adapter applies is found out by what a host can do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from lib_refdrop.hosts import NoModelYet, find_adapter
from lib_refdrop.hosts.a1111 import A1111Adapter
from lib_refdrop.hosts.forge import ForgeAdapter
from lib_refdrop.words import RefDropError

from .tiny import KModel, Patcher, UNet, a1111, forge


def test_by_capability(unet: UNet) -> None:
    assert isinstance(find_adapter(forge(unet)), ForgeAdapter)
    assert isinstance(find_adapter(a1111(unet)), A1111Adapter)


def test_a_host_with_the_attributes_of_both_is_forges_kin(unet: UNet) -> None:
    both = a1111(unet)
    both.sd_model.forge_objects = forge(unet).sd_model.forge_objects
    assert isinstance(find_adapter(both), ForgeAdapter)


@pytest.mark.parametrize("p", [
    SimpleNamespace(sd_model=SimpleNamespace(model=nn.Identity())),
    SimpleNamespace(sd_model=SimpleNamespace(unet=nn.Identity())),
    SimpleNamespace(sd_model=SimpleNamespace(forge_objects=SimpleNamespace(unet=Patcher(KModel(nn.Identity()))))),
], ids=["another model", "another pipeline", "a transformer"])
def test_others_get_one_sentence(p) -> None:
    with pytest.raises(RefDropError, match="Stable Diffusion 1.x"):
        find_adapter(p)


class FakeInitialModel:
    """What Forge and Neo have until the first picture is made: not None."""

    cond_stage_model = None
    chunk_length = 75


@pytest.mark.parametrize("p", [SimpleNamespace(), SimpleNamespace(sd_model=None),
                               SimpleNamespace(sd_model=FakeInitialModel())], ids=["nothing", "none", "Forge"])
def test_before_a_model_is_loaded_that_is_said(p) -> None:
    with pytest.raises(NoModelYet, match="No model is loaded yet"):
        find_adapter(p)
