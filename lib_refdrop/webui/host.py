"""The web UI that RefDrop runs in, as far as it is asked for anything: the only file that imports its ``modules``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..words import RefDropError
from .prompt_words import Prompts


class State(Protocol):
    """The job that runs now."""

    interrupted: bool
    skipped: bool
    textinfo: str | None
    # when the job began that the page or the API asked for; generations inside it have the same
    time_start: float | None

    def interrupt(self) -> None: ...

    def skip(self) -> None:
        """Ends this picture, not the others of the job."""


class Host(Protocol):
    """What a web UI, or the playground, offers to extensions."""

    Script: type  # base class of scripts
    AlwaysVisible: object

    @property
    def state(self) -> State: ...

    @property
    def opts(self) -> Any:
        """Settings by name, as attributes; ``data`` is a dictionary of them."""

    @property
    def cmd_opts(self) -> Any:
        """The command line's options, as attributes."""

    def add_option(self, name: str, default: Any, label: str, info: str, section: tuple[str, str]) -> None:
        """Adds a setting to the host's page of settings, which also lets the host restore it after a request with
        ``override_settings``."""

    def on_before_ui(self, callback: Callable[[], None]) -> None: ...

    def on_ui_settings(self, callback: Callable[[], None]) -> None: ...

    def plot_scripts(self) -> Sequence[Any]:
        """The modules of X/Y/Z plot scripts, each with ``axis_options`` and ``AxisOption``."""

    def loaded_model(self) -> Any:
        """The model, None where there is none yet: asking for it must not load one."""

    def encode(self, p: Any, pixels: Tensor) -> Tensor:
        """The latent ``[C, h, w]`` that the model of a processing object is called on for a picture
        ``[1, 3, height, width]`` from 0 to 1."""

    def prompts(self, p: Any) -> Prompts:
        """The prompts of the sampling pass that begins. Raises :class:`RefDropError` where the host does not tell."""


class WebUI:
    """AUTOMATIC1111, Forge, reForge and their kin, from inside their process. Implements :class:`Host`."""

    def __init__(self) -> None:
        from modules import script_callbacks, scripts, shared
        self._callbacks, self._scripts, self._shared = script_callbacks, scripts, shared
        self.Script, self.AlwaysVisible = scripts.Script, scripts.AlwaysVisible

    @property
    def state(self) -> State:
        return self._shared.state

    @property
    def opts(self) -> Any:
        return self._shared.opts

    @property
    def cmd_opts(self) -> Any:
        return self._shared.cmd_opts

    def add_option(self, name: str, default: Any, label: str, info: str, section: tuple[str, str]) -> None:
        self.opts.add_option(name, self._shared.OptionInfo(default, label, section=section).info(info))
        self.opts.data.setdefault(name, default)  # hosts restore only what has a value

    def on_before_ui(self, callback: Callable[[], None]) -> None:
        self._callbacks.on_before_ui(callback)

    def on_ui_settings(self, callback: Callable[[], None]) -> None:
        self._callbacks.on_ui_settings(callback)

    def plot_scripts(self) -> Sequence[Any]:
        return [data.module for data in getattr(self._scripts, "scripts_data", [])
                if str(data.path).endswith("xyz_grid.py")]

    def loaded_model(self) -> Any:
        data = getattr(sys.modules.get("modules.sd_models"), "model_data", None)
        found = self._shared.sd_model if data is None else data.sd_model
        return None if type(found).__name__ == "FakeInitialModel" else found  # Forge and Neo, until something is drawn

    def encode(self, p: Any, pixels: Tensor) -> Tensor:
        """Always by the whole VAE. What it draws of its distribution is the same every time, and the host's own random
        numbers are as if it had drawn none."""
        from modules.sd_samplers_common import images_tensor_to_samples
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            torch.random.default_generator.manual_seed(0)
            if devices:
                torch.cuda.manual_seed(0)
            return images_tensor_to_samples(pixels, approximation=0, model=p.sd_model)[0]

    def prompts(self, p: Any) -> Prompts:
        from modules import prompt_parser
        hires = bool(getattr(p, "is_hr_pass", False))
        prompts = list(p.hr_prompts if hires else p.prompts)
        first = getattr(p, "firstpass_steps", None) or p.steps
        second = (getattr(p, "hr_second_pass_steps", 0) or p.steps) * getattr(p, "step_multiplier", 1)
        parts, texts, _ = prompt_parser.get_multicond_prompt_list(prompts)
        said = prompt_parser.get_learned_conditioning_prompt_schedules(
            list(texts), first, second if hires else None, bool(getattr(self.opts, "use_old_scheduling", False)))
        encoder = _text_encoder(p.sd_model)
        return Prompts([[said[index] for index, _ in image] for image in parts],
                       lambda: int(getattr(p.sampler.model_wrap_cfg, "step", 0)),
                       lambda text: [token for chunk in encoder.tokenize_line(text)[0] for token in chunk.tokens])


def _text_encoder(model: Any) -> Any:
    """What the host reads prompts with: the first of a model's that cuts them into chunks. Raises
    :class:`RefDropError` where there is none."""
    names = ("text_processing_engine", "text_processing_engine_l", "text_processing_engine_g", "cond_stage_model",
             "conditioner")
    for found in (getattr(model, name, None) for name in names):
        for each in (found, *(getattr(found, "embedders", None) or ())):
            if callable(getattr(each, "tokenize_line", None)):
                return each
    raise RefDropError("This web UI does not tell how it reads prompts, so the place of a word cannot be found; take "
                       "the word of the mask out.")
