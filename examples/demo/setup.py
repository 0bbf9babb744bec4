"""What both commands do before and around their work: checks, progress, and problems told in a sentence."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOM = 256 * 2**20  # bytes that references and pictures may take


class Problem(Exception):
    """Something the user has to see to; ``str(problem)`` is the sentence."""


def prepare(root: Path, model: Path, out: Path) -> None:
    """Makes the packages importable and the output folder ready. Raises :class:`Problem`."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads: spinning threads starve each other
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is here; nothing is to be asked of the network
    sys.path.insert(0, str(root))
    if not (model / "model_index.json").is_file():
        raise Problem(f"There is no model in {model}: take the whole repository, or train one with "
                      "examples/train_demo_model.py.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out).free
    except OSError as error:
        raise Problem(f"The folder {out} cannot be made ({error.strerror}); choose another with --out.") from error
    if not os.access(out, os.W_OK):
        raise Problem(f"The folder {out} cannot be written to; choose another with --out.")
    if free < _ROOM:
        raise Problem(f"Only {free / 1e6:.0f} MB are free where {out} lies; {_ROOM / 1e6:.0f} MB are needed.")


@contextmanager
def problems_are_sentences() -> Iterator[None]:
    """Turns the errors of a run that the user can do something about into :class:`Problem`."""
    from lib_refdrop.words import RefDropError

    from .client import RequestRefused
    from .reader import ReaderUnusable
    try:
        yield
    except (RequestRefused, RefDropError, ReaderUnusable) as error:
        raise Problem(str(error)) from error
    except OSError as error:
        raise Problem(f"A file could not be written or read: {error}.") from error


class Ticker:
    """One line that says where a run is, written over on a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._open = False

    def __enter__(self) -> Ticker:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._open:
            print(flush=True)

    def show(self, text: str) -> None:
        if not self._terminal:
            print(text, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        print("\r" + text[:width].ljust(width), end="", flush=True)
        self._open = True
