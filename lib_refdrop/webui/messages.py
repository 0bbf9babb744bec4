"""How a web UI is told to stop, and where people are told what happened: page, API's answer, log."""

from __future__ import annotations

import logging
import sys
from typing import Any

from ..words import RefDropError
from .host import Host
from .infotext import PROBLEM
from .shelf import Shelf
from .xyz import is_cell

logger = logging.getLogger("RefDrop")


def set_up_log() -> None:
    """Lets a line at INFO through to the terminal where the host set up nothing for it: hosts' own level is WARNING,
    and what was saved or guided belongs to what they print of a generation. More than once does no harm."""
    logger.setLevel(logging.INFO)
    if not any(handler.level <= logging.INFO for handler in logging.getLogger().handlers) and not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("RefDrop: %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def interrupted(host: Host) -> bool:
    """Whether the user has cut the generation short."""
    return bool(host.state.interrupted or host.state.skipped)


def stop(p: Any, problem: RefDropError, host: Host) -> None:
    """Ends the generation. An exception would not: hosts log what a hook raises and go on.

    Of a plot that compares settings of ours it ends this cell; the others may be sound.
    """
    if getattr(p, "refdrop_stopped", None) is None:  # the first is why
        p.refdrop_stopped = problem
    if is_cell(p):
        host.state.skip()
    else:
        host.state.interrupt()


def stopped_cell(p: Any) -> bool:
    """Whether ``p`` is a cell of a plot that cannot be drawn."""
    return is_cell(p) and getattr(p, "refdrop_stopped", None) is not None


def complain(p: Any, problem: RefDropError, shelf: Shelf) -> None:
    """Says what went wrong where people look: on the page, in an API's answer and once in the log."""
    logger.warning("%s", problem)
    for parameters in (p.extra_generation_params, getattr(p, "refdrop_job", {})):
        parameters.setdefault(PROBLEM, str(problem))
    show(p, str(problem), shelf)


def tell(p: Any, sentence: str, shelf: Shelf) -> None:
    """Says what happened, on the page and once in the log."""
    logger.info("%s", sentence)
    show(p, sentence, shelf)


def show(p: Any, sentence: str, shelf: Shelf) -> None:
    """On the page: in the panel, and under the pictures."""
    shelf.message = sentence
    comment = getattr(p, "comment", None)
    if callable(comment):  # every host has it since AUTOMATIC1111 1.6
        comment(sentence)
