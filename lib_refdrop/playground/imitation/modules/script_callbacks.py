"""Callbacks that scripts register while they are loaded, called when the playground's page and server are made."""

from __future__ import annotations

from collections.abc import Callable

_before_ui: list[Callable[[], None]] = []
_app_started: list[Callable] = []
_ui_settings: list[Callable[[], None]] = []


def on_before_ui(callback: Callable[[], None]) -> None:
    _before_ui.append(callback)


def on_app_started(callback: Callable) -> None:
    """``callback(blocks_or_None, fastapi_app)``."""
    _app_started.append(callback)


def on_ui_settings(callback: Callable[[], None]) -> None:
    """``callback()`` adds the script's options to ``shared.opts``."""
    _ui_settings.append(callback)


def ui_settings_callback() -> None:
    for callback in _ui_settings:
        callback()


def before_ui_callback() -> None:
    for callback in _before_ui:
        callback()


def app_started_callback(blocks, app) -> None:
    for callback in _app_started:
        callback(blocks, app)
