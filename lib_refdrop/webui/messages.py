"""How a web UI is told to stop, and where people are told why."""

from __future__ import annotations

import logging
from typing import Any

from modules import shared

from ..words import RefDropError
from .infotext import PROBLEM
from .shelf import Shelf

logger = logging.getLogger("RefDrop")


def interrupted() -> bool:
    """Whether the user has cut the generation short."""
    return bool(shared.state.interrupted or shared.state.skipped)


def stop(p: Any, problem: RefDropError) -> None:
    """Ends the generation. An exception would not: hosts log what a hook raises and go on."""
    p.refdrop_stopped = problem
    shared.state.interrupt()


def complain(p: Any, problem: RefDropError, shelf: Shelf) -> None:
    """Says what went wrong where people look: on the page, in an API's answer and once in the log."""
    logger.warning("RefDrop: %s", problem)
    p.extra_generation_params[PROBLEM] = str(problem)
    show(p, str(problem), shelf)


def show(p: Any, sentence: str, shelf: Shelf) -> None:
    """On the page: in the panel, and under the pictures."""
    shelf.message = sentence
    comment = getattr(p, "comment", None)
    if callable(comment):  # every host has it since AUTOMATIC1111 1.6
        comment(sentence)
