"""Samplers and schedules by the names people know from web UIs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from . import adaptive, samplers
from .levels import SCHEDULES, ModelLevels, own_of_ddim


@dataclass(frozen=True)
class Sampler:
    """One sampler: its function, what schedule "Automatic" means for it, and what else hosts know of it."""

    name: str
    function: Callable[..., Tensor]
    automatic: str = "Uniform"
    aliases: tuple[str, ...] = ()
    twice: bool = False  # calls the model about twice a step; prompts' steps are counted so
    brownian: bool = False
    without_next_to_last: bool = False  # of the levels
    own_levels: bool = False  # DDIM's
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def takes_eta(self) -> bool:
        return "eta" in inspect.signature(self.function).parameters

    def calls(self, steps: int) -> int:
        """How many steps prompts are scheduled over."""
        return 2 * steps if self.twice else steps

    def levels(self, schedule: str, model: ModelLevels, steps: int) -> list[float]:
        """The noise levels of a whole pass, falling."""
        if self.own_levels and schedule == "DDIM":
            return own_of_ddim(model, steps)
        found = SCHEDULES[schedule](model, steps + self.without_next_to_last)
        return [*found[:-2], found[-1]] if self.without_next_to_last else found

    def part(self, levels: Sequence[float], steps: int, begun: int) -> list[float]:
        """The levels of a pass that begins from a picture and makes ``begun`` of ``steps`` steps, and one more."""
        if self.own_levels:
            return list(levels[max(len(levels) - 1 - begun, 0):])
        return list(levels[steps - begun - 1:])


SAMPLERS = (
    Sampler("Euler", samplers.euler, aliases=("k_euler",)),
    Sampler("Euler a", samplers.euler_ancestral, aliases=("k_euler_a", "k_euler_ancestral")),
    Sampler("Heun", samplers.heun, aliases=("k_heun",), twice=True),
    Sampler("DPM2", samplers.dpm_2, "Karras", ("k_dpm_2",), twice=True, without_next_to_last=True),
    Sampler("DPM2 a", samplers.dpm_2_ancestral, "Karras", ("k_dpm_2_a",), twice=True, without_next_to_last=True),
    Sampler("DPM++ 2S a", samplers.dpmpp_2s_ancestral, "Karras", ("k_dpmpp_2s_a",), twice=True),
    Sampler("DPM++ 2M", samplers.dpmpp_2m, "Karras", ("k_dpmpp_2m",)),
    Sampler("DPM++ SDE", samplers.dpmpp_sde, "Karras", ("k_dpmpp_sde",), twice=True, brownian=True),
    Sampler("DPM++ 2M SDE", samplers.dpmpp_2m_sde, "Exponential", ("k_dpmpp_2m_sde",), brownian=True),
    Sampler("DPM++ 2M SDE Heun", samplers.dpmpp_2m_sde, "Exponential", ("k_dpmpp_2m_sde_heun",), brownian=True,
            options={"solver": "heun"}),
    Sampler("DPM++ 3M SDE", samplers.dpmpp_3m_sde, "Exponential", ("k_dpmpp_3m_sde",), brownian=True,
            without_next_to_last=True),
    Sampler("DPM adaptive", adaptive.dpm_adaptive, aliases=("k_dpm_ad",)),
    Sampler("Restart", samplers.restart, "Karras", ("restart",), twice=True),
    Sampler("LCM", samplers.lcm, aliases=("lcm",)),
    Sampler("DDIM", samplers.ddim, "DDIM", ("ddim",), own_levels=True),
)


class UnknownSampler(ValueError):
    """Its text is one sentence that lists what there is."""


def find(name: str, schedule: str = "Automatic") -> tuple[Sampler, str]:
    """The sampler and schedule meant; names in any case, "DPM++ 2M Karras" too. Raises :class:`UnknownSampler`."""
    wanted, chosen = name.strip().lower(), schedule.strip().lower().replace("_", " ")
    by_name = {each: sampler for sampler in SAMPLERS for each in (sampler.name.lower(), *sampler.aliases)}
    for suffix in SCHEDULES:
        if wanted not in by_name and wanted.endswith(" " + suffix.lower()) and chosen in ("automatic", suffix.lower()):
            wanted, chosen = wanted[: -len(suffix) - 1], suffix.lower()
            break
    if wanted not in by_name:
        raise UnknownSampler(f"There is no sampler named {name[:60]!r}; choose "
                             f"{_listed([sampler.name for sampler in SAMPLERS])}.")
    if chosen in ("automatic", ""):
        return by_name[wanted], by_name[wanted].automatic
    for each in SCHEDULES:
        if each.lower() == chosen:
            return by_name[wanted], each
    raise UnknownSampler(f"There is no schedule named {schedule[:60]!r}; choose {_listed(['Automatic', *SCHEDULES])}.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " or " + names[-1]
