"""How events of the page reach the panel, in every gradio."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def each_time(event: Callable[..., Any]) -> dict[str, Any]:
    """Further arguments for an event, a component's ``change`` above all: it is told of each time, in order.

    Newer gradio holds back what comes while an answer is under way, and versions of it (6.31) then tell of the same
    change again after every answer, for ever. gradio 3 has no such choice and does neither.
    """
    return {"trigger_mode": "multiple"} if _has_modes(event) else {}


def by_people(component: Any) -> Callable[..., Any]:
    """The event of a field that people have changed, not an answer; in gradio 3, where that misses some of what they
    do, of any change."""
    return component.input if _has_modes(component.input) else component.change


def text_changes(text: Any) -> list[Callable[..., Any]]:
    """The events of a text that changed, by people or by an answer: gradio 3 is silent of what people write into one
    that was an answer, until they leave it."""
    return [text.change] if _has_modes(text.change) else [text.change, text.blur]


def _has_modes(event: Callable[..., Any]) -> bool:
    return "trigger_mode" in inspect.signature(event).parameters
