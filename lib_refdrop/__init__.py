"""SD-RefDrop: consistent, or deliberately different, images by Reference Feature Guidance (arXiv 2405.17661).

Inside a web UI the extension does everything. In a program of one's own: :func:`use` and :func:`record`, see
:mod:`lib_refdrop.pipelines`.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.2.0"
_OFFERED = ("use", "record")


def __getattr__(name: str) -> Any:
    """Loads what a program asks for when it asks: a web UI never does."""
    if name in _OFFERED:
        from . import pipelines
        return getattr(pipelines, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
