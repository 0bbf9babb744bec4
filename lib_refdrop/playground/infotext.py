"""The text that web UIs write into an image's ``parameters``, and read back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d+)x(\d+)")
_FEWEST = 3  # pairs that make a line one of parameters


def quote(text: Any) -> str:
    """A value as it stands in infotext: in quotes where it has a comma, colon or line break."""
    text = str(text)
    return json.dumps(text, ensure_ascii=False) if any(letter in text for letter in ",\n:") else text


def unquote(text: str) -> str:
    """The inverse; what only looks quoted stays as it is."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text


def build(prompt: str, negative_prompt: str, parameters: Mapping[str, Any]) -> str:
    """Prompt, negative prompt and ``Name: value`` pairs, as AUTOMATIC1111 formats them; None values are left out."""
    pairs = ", ".join(name if name == value else f"{name}: {quote(value)}"
                      for name, value in parameters.items() if value is not None)
    negative = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    return f"{prompt}{negative}\n{pairs}".strip()


def parse(text: str) -> dict[str, str]:
    """The inverse: pairs by name, with "Prompt" and "Negative prompt" among them.

    As in web UIs a value such as ``512x768`` becomes two, ``Size-1`` and ``Size-2``, whatever its name.
    """
    *lines, last = text.strip().split("\n")
    if len(_PAIR.findall(last)) < _FEWEST:
        lines, last = [*lines, last], ""
    prompt: list[str] = []
    negative: list[str] = []
    here = "prompt"
    for line in lines:
        if line.startswith("Negative prompt:"):
            here, line = "negative", line[len("Negative prompt:"):].strip()
        (prompt if here == "prompt" else negative).append(line)
    found = {"Prompt": "\n".join(prompt), "Negative prompt": "\n".join(negative)}
    for name, value in _PAIR.findall(last):
        value = unquote(value.strip())
        if size := _SIZE.fullmatch(value):
            found |= {f"{name}-1": size[1], f"{name}-2": size[2]}
        else:
            found[name] = value
    return found
