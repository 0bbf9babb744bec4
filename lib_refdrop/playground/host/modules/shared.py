"""What every part of a web UI shares: the running job, options, command line and the loaded model."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any


class State:
    """The job that runs now; the page and the API read it from other threads, and interrupt it."""

    def __init__(self) -> None:
        self.interrupted = self.skipped = self.stopping_generation = False
        self.job, self.job_no, self.job_count, self.job_timestamp = "", 0, 0, "0"
        self.sampling_step = self.sampling_steps = 0
        self.time_start: float | None = None
        self.textinfo: str | None = None

    def begin(self, job: str = "") -> None:
        """A job starts; an interrupt meant for an earlier one is forgotten."""
        self.__init__()
        self.job, self.time_start = job, time.time()
        self.job_timestamp = time.strftime("%Y%m%d%H%M%S")

    def end(self) -> None:
        self.job, self.job_no, self.job_count, self.sampling_step, self.sampling_steps = "", 0, 0, 0, 0

    def interrupt(self) -> None:
        """Asks the running job to stop after its current step."""
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
    """Settings of the host by name, also as attributes; :attr:`defaults` says which there are, and of what type."""

    own = {
        "sd_model_checkpoint": "",
        "samples_format": "png",
        "grid_save": False,
        "return_grid": False,
        "send_seed": True,
        "enable_pnginfo": True,
        "live_previews_enable": False,
    }

    def __init__(self) -> None:
        self.data, self.defaults = dict(self.own), dict(self.own)

    def add_option(self, name: str, option: OptionInfo) -> None:
        self.defaults[name] = option.default
        self.data.setdefault(name, option.default)

    def __getattr__(self, name: str) -> Any:
        if name not in ("data", "defaults") and name in self.data:
            return self.data[name]
        raise AttributeError(f"there is no option named {name!r}")

    def get(self, name: str, default: Any = None) -> Any:
        return self.data.get(name, default)


state = State()
opts = Options()
cmd_opts = Namespace(refdrop_dir=None)
sd_model: Any = None
