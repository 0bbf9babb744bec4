"""What scripts find of a host: the running job, options, command line and the loaded model. One object a playground."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

from torch import Tensor

from ..hosts.diffusers import encoded
from ..webui.prompt_words import Prompts
from .errors import ApiError, shown
from .fields import Field, check
from .prompts.encoder import TextEncoder
from .scripts import AlwaysVisible, Script


class State:
    """The job that runs now; the page and the API read it from other threads, and interrupt it."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.interrupted = self.skipped = self.stopping_generation = False
        self.job, self.job_no, self.job_count, self.job_timestamp = "", 0, 0, "0"
        self.sampling_step = self.sampling_steps = 0
        self.time_start: float | None = None
        self.textinfo: str | None = None

    def begin(self, job: str = "") -> None:
        """A job starts; an interrupt meant for an earlier one is forgotten."""
        self._reset()
        self.job, self.time_start = job, time.time()
        self.job_timestamp = time.strftime("%Y%m%d%H%M%S")

    def end(self) -> None:
        self.job, self.job_no, self.job_count, self.sampling_step, self.sampling_steps = "", 0, 0, 0, 0

    def interrupt(self) -> None:
        """Asks the running job to stop before its next model call."""
        self.interrupted = True

    def skip(self) -> None:
        self.skipped = True

    def nextjob(self) -> None:
        self.job_no += 1
        self.sampling_step = 0

    @property
    def progress(self) -> float:
        """How much of the job is done, 0 to 1."""
        if not self.job_count:
            return 0.0
        within = self.sampling_step / self.sampling_steps if self.sampling_steps else 0.0
        return min((self.job_no + within) / self.job_count, 1.0)

    def dict(self) -> dict[str, Any]:
        """As web UIs report it."""
        names = ("skipped", "interrupted", "stopping_generation", "job", "job_count", "job_timestamp", "job_no",
                 "sampling_step", "sampling_steps")
        return {name: getattr(self, name) for name in names}


class Options:
    """Settings of the host by name, also as attributes. Names, defaults and meaning are those of AUTOMATIC1111."""

    own = {
        "sd_model_checkpoint": Field(""),
        "samples_format": Field("png"),
        "grid_save": Field(False),
        "return_grid": Field(False),
        "send_seed": Field(True),
        "enable_pnginfo": Field(True),
        "live_previews_enable": Field(False),
        "CLIP_stop_at_last_layers": Field(1, 1, 12),
        "img2img_fix_steps": Field(False),  # as many steps as asked for, whatever the denoising strength
        "s_min_uncond": Field(0.0, 0, 15),
        "s_min_uncond_all": Field(False),
        "skip_early_cond": Field(0.0, 0, 1),
        "batch_cond_uncond": Field(True),
        "eta_ancestral": Field(1.0, 0, 1),
        "eta_ddim": Field(0.0, 0, 1),
    }

    def __init__(self) -> None:
        self.fields = dict(self.own)
        self.data = {name: field.default for name, field in self.own.items()}

    def add_option(self, name: str, default: Any) -> None:
        """A script's own; numbers may be as large as they like."""
        self.fields[name] = Field(default, -1e9, 1e9)
        self.data.setdefault(name, default)

    def __getattr__(self, name: str) -> Any:
        if name not in ("data", "fields") and name in self.data:
            return self.data[name]
        raise AttributeError(f"there is no option named {name!r}")

    def get(self, name: str, default: Any = None) -> Any:
        return self.data.get(name, default)

    def checked(self, changes: Any, what: str = "Options") -> dict[str, Any]:
        """``changes`` with values in their types. Raises :class:`ApiError` 422 for a name or value that cannot be."""
        if not isinstance(changes, Mapping):
            raise ApiError(422, f"{what} must be a JSON object.")
        for name in changes:
            if name not in self.fields:
                raise ApiError(422, f"There is no option named {shown(name)}; there is: "
                                    f"{', '.join(self.fields)}.")
        return {name: check(name, value, self.fields[name]) for name, value in changes.items()}

    @contextmanager
    def overridden(self, changes: Mapping[str, Any], restore: bool = True) -> Iterator[None]:
        """Other values while the block runs, and as they were afterwards if ``restore``."""
        before = {name: self.data[name] for name in changes}
        self.data.update(changes)
        try:
            yield
        finally:
            if restore:
                self.data.update(before)


class PlaygroundHost:
    """The host's side of everything that a script may ask: :class:`~lib_refdrop.webui.host.Host`."""

    Script: type = Script
    AlwaysVisible: object = AlwaysVisible

    def __init__(self) -> None:
        self.state, self.opts = State(), Options()
        self.cmd_opts = Namespace(refdrop_dir=None, refdrop_memory=None)
        self.sd_model: Any = None  # the pipeline that is loaded
        self.one_at_a_time = RLock()  # generations take turns, for there is one state
        self._before_ui: list[Callable[[], None]] = []
        self._ui_settings: list[Callable[[], None]] = []

    def add_option(self, name: str, default: Any, label: str, info: str, section: tuple[str, str]) -> None:
        self.opts.add_option(name, default)

    def on_before_ui(self, callback: Callable[[], None]) -> None:
        self._before_ui.append(callback)

    def on_ui_settings(self, callback: Callable[[], None]) -> None:
        self._ui_settings.append(callback)

    def before_ui(self) -> None:
        """A page is about to be built."""
        for callback in self._before_ui:
            callback()

    def ui_settings(self) -> None:
        """Scripts are loaded and may add their options."""
        for callback in self._ui_settings:
            callback()

    def plot_scripts(self) -> Sequence[Any]:
        return ()  # the playground draws no X/Y/Z plots

    def loaded_model(self) -> Any:
        return self.sd_model

    def encode(self, p: Any, pixels: Tensor) -> Tensor:
        return encoded(p.sd_model.vae, pixels)

    def prompts(self, p: Any) -> Prompts:
        encoder = TextEncoder(p.sd_model)
        return Prompts([[part.schedule.said for part in parts] for parts in p.c], lambda: p.denoiser.step,
                       encoder.tokens)
