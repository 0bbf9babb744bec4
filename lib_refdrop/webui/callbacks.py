"""What RefDrop asks the host to call, apart from the script's own hooks."""

from __future__ import annotations

from modules import script_callbacks

from .options import add_options
from .xyz import add_axes


def register() -> None:
    """Called whenever the host loads its scripts: it has forgotten earlier callbacks by then."""
    script_callbacks.on_before_ui(add_axes)
    script_callbacks.on_ui_settings(add_options)
