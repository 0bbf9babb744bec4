"""What RefDrop writes into the parameters of pictures: about those that it had a part in, and no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .infotext import NOTE, written_keys


def write(p: Any, texts: Mapping[str, Any], notes: Sequence[str], only_first: bool = False) -> None:
    """Into the parameters of this batch's pictures; those of an earlier batch, and of a generation that ``p`` is a copy
    of, say nothing about them. Of ``only_first`` the others of the batch say nothing either.

    Hosts ask a value that is callable anew for each picture (AUTOMATIC1111 since 1.10, and its kin).
    """
    clear(p)
    texts = dict(texts)
    if notes:
        texts[NOTE] = " ".join(notes)
    if only_first and getattr(p, "batch_size", 1) > 1:
        texts = {key: _OfFirst(str(value)) for key, value in texts.items()}
    p.extra_generation_params.update(texts)


def clear(p: Any) -> None:
    """Takes everything of ours out, in a dictionary of ``p``'s own: copies share theirs with what they are copied
    from."""
    keys = written_keys()
    if keys & set(p.extra_generation_params):
        p.extra_generation_params = {key: value for key, value in p.extra_generation_params.items() if key not in keys}


class _OfFirst(str):
    """A value that stands in the parameters of the job's first picture only; everywhere else hosts see a text."""

    def __call__(self, index: int = 0, **more: Any) -> str | None:
        return str(self) if index == 0 else None
