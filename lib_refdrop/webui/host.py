"""The web UI that RefDrop runs in, as far as it is asked for anything: the only file that imports its ``modules``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


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
