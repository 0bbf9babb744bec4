"""What scripts find of a host: the running job, options, command line and the loaded model. One object a playground."""

from __future__ import annotations

import importlib.util
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ApiError, shown
from .fields import Field, check


_IMITATION = Path(__file__).parent / "imitation"


def enter() -> None:
    """Puts the folder that holds ``modules`` on ``sys.path``, once. Raises RuntimeError inside a web UI's process."""
    loaded = sys.modules.get("modules")
    if loaded is None:
        found = importlib.util.find_spec("modules")
        if found is None:
            sys.path.append(str(_IMITATION))
            return
        origin = found.origin
    else:
        origin = getattr(loaded, "__file__", None)
    if origin is None or Path(origin).parent.parent != _IMITATION:
        raise RuntimeError("The playground is a program of its own and cannot run inside a web UI; start it with python -m "
                           "lib_refdrop.playground.")


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


class OptionInfo:
    """A setting that a script adds: its default and what is said about it."""

    def __init__(self, default: Any, label: str = "", section: tuple[str, str] | None = None) -> None:
        self.default, self.label, self.section, self.comment = default, label, section, ""

    def info(self, comment: str) -> OptionInfo:
        self.comment = comment
        return self


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

    def add_option(self, name: str, option: OptionInfo) -> None:
        """A script's own; numbers may be as large as they like."""
        self.fields[name] = Field(option.default, -1e9, 1e9)
        self.data.setdefault(name, option.default)

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
                raise ApiError(422, f"There is no option named {shown(name)}; there is: {', '.join(self.fields)}.")
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
    """The host's side of everything that a script may ask."""

    def __init__(self) -> None:
        self.state, self.opts = State(), Options()
        self.cmd_opts = Namespace(refdrop_dir=None, refdrop_memory=None)
        self.sd_model: Any = None
