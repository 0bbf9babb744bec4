"""How events of the page reach the panel, in every gradio."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def each_time(event: Callable[..., Any]) -> dict[str, Any]:
    """Arguments for a component's ``change``: every change is told of, in order.

    Newer gradio holds back what comes while an answer is under way, and versions of it (6.31) then tell of the same
    change again after every answer, for ever. gradio 3 has no such choice and does neither.
    """
    return {"trigger_mode": "multiple"} if "trigger_mode" in inspect.signature(event).parameters else {}
