"""The text that web UIs write into an image's ``parameters``, and read back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_PAIR = re.compile(r'\s*([\w][\w .\-/]*):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def quote(text: Any) -> str:
    """A value as it stands in infotext: in quotes where it has a comma, colon or line break."""
    text = str(text)
    return json.dumps(text, ensure_ascii=False) if any(letter in text for letter in ',\n:"') else text


def build_infotext(prompt: str, negative_prompt: str, parameters: Mapping[str, Any]) -> str:
    """Prompt, negative prompt and ``Name: value`` pairs, as AUTOMATIC1111 formats them; None values are left out."""
    pairs = ", ".join(name if name == value else f"{name}: {quote(value)}"
                      for name, value in parameters.items() if value is not None)
    negative = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    return f"{prompt}{negative}\n{pairs}".strip()


def parse_generation_parameters(text: str) -> dict[str, str]:
    """The inverse: pairs by name, with "Prompt" and "Negative prompt" among them."""
    *lines, last = text.strip().split("\n")
    if not _PAIR.match(last):
        lines, last = [*lines, last], ""
    prompt, negative, here = [], [], "prompt"
    for line in lines:
        if line.startswith("Negative prompt:"):
            here, line = "negative", line[len("Negative prompt:"):].strip()
        (prompt if here == "prompt" else negative).append(line)
    found = {"Prompt": "\n".join(prompt), "Negative prompt": "\n".join(negative)}
    for name, value in _PAIR.findall(last):
        found[name.strip()] = json.loads(value) if value.startswith('"') else value.strip()
    return found
