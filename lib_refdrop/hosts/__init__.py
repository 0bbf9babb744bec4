"""Ways of being called at a site, one module for each family of hosts, chosen by what a host can do."""

from __future__ import annotations

from typing import Any, Protocol

from ..model.sites import Lineage
from ..techniques.sampling_pass import SamplingPass
from ..words import RefDropError
from .a1111 import A1111Adapter
from .diffusers import DiffusersAdapter
from .forge import ForgeAdapter


class Attachment(Protocol):
    """A sampling pass in place. ``detach`` leaves the model as it was found; more than once does no harm."""

    def detach(self) -> None: ...


class Adapter(Protocol):
    """How one family of hosts is reached from its processing object ``p``."""

    def lineage(self, p: Any) -> Lineage: ...

    def element_size(self, p: Any) -> int:
        """Bytes of one number as the model computes."""

    def sigmas(self, p: Any) -> list[float] | None:
        """The noise levels of the pass that is about to be sampled, the noisiest first; None where nobody knows them in
        advance. Changes nothing of ``p``."""

    def attach(self, p: Any, sampling_pass: SamplingPass) -> Attachment: ...


class NoModelYet(RefDropError):
    """The host loads its model only when the first picture is made."""


def find_adapter(p: Any) -> Adapter:
    """The adapter for the host that made ``p``, found by what it can do. Raises :class:`NoModelYet` before there is a
    model, :class:`RefDropError` for another kind of one."""
    for adapter in (ForgeAdapter, A1111Adapter, DiffusersAdapter):  # reForge has A1111's attributes, too
        if adapter.fits(p):
            return adapter()
    model = getattr(p, "sd_model", None)
    if not any(getattr(model, name, None) is not None for name in ("forge_objects", "model", "unet")):
        raise NoModelYet("No model is loaded yet; it is with the first picture.")
    raise RefDropError("RefDrop cannot reach the self-attention of this model here; it needs a Stable Diffusion 1.x, "
                       "2.x or XL UNet.")
