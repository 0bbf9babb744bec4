"""Which adapter applies is found out by what a host can do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from lib_refdrop.words import RefDropError
from lib_refdrop.hosts import find_adapter
from lib_refdrop.hosts.a1111 import A1111Adapter
from lib_refdrop.hosts.forge import ForgeAdapter

from .tiny import Patcher, UNet, a1111, forge


def test_by_capability(unet: UNet) -> None:
    assert isinstance(find_adapter(forge(unet)), ForgeAdapter)
    assert isinstance(find_adapter(a1111(unet)), A1111Adapter)


def test_a_host_with_the_attributes_of_both_is_forges_kin(unet: UNet) -> None:
    both = a1111(unet)
    both.sd_model.forge_objects = forge(unet).sd_model.forge_objects
    assert isinstance(find_adapter(both), ForgeAdapter)


@pytest.mark.parametrize("p", [
    SimpleNamespace(), SimpleNamespace(sd_model=None), SimpleNamespace(sd_model=SimpleNamespace(model=nn.Identity())),
    SimpleNamespace(sd_model=SimpleNamespace(forge_objects=SimpleNamespace(unet=Patcher(nn.Identity())))),
], ids=["nothing", "no model", "another model", "a transformer"])
def test_others_get_one_sentence(p) -> None:
    with pytest.raises(RefDropError, match="Stable Diffusion 1.x"):
        find_adapter(p)
