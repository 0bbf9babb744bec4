"""RefDrop's part of the host's settings page."""

from __future__ import annotations

from ..settings import SCRIPT_NAME
from .host import Host

INNER_PASSES = "refdrop_inner_passes"
REMEMBER = "refdrop_remember"
REMEMBER_COUNT = "refdrop_remember_count"
_OPTIONS = {
    INNER_PASSES: (False, "Guide the inner passes of detailers as well",
                   "Scripts such as face detailers generate parts of a picture again; they run plain otherwise"),
    REMEMBER: (False, "Remember recent pictures in memory",
               "Any picture just made can then become a reference: choose it under RAM; works with RefDrop switched "
               "off, too, and changes no picture"),
    REMEMBER_COUNT: (20, "How many recent pictures to remember", "About 1 to 3 MB each for SDXL"),
}


def add_options(host: Host) -> None:
    for name, (default, label, info) in _OPTIONS.items():
        host.add_option(name, default, label, info, ("refdrop", SCRIPT_NAME))


def option(host: Host, name: str) -> bool:
    """A switch; its default in hosts without a settings page."""
    return bool(getattr(host.opts, name, _OPTIONS[name][0]))


def number(host: Host, name: str) -> int:
    """A whole number, as :func:`option`."""
    return int(getattr(host.opts, name, _OPTIONS[name][0]) or 0)
