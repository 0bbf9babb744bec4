"""Masks that pictures were drawn with, kept so that the number in a picture's parameters finds them again."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from ..guides import MASKS, Guide
from ..references.picture import decoded, digest, is_digest
from ..settings import Settings
from ..stores.partial import PartialFile, clean
from ..stores.writer import reason
from ..techniques.reference.masks import grey
from ..words import RefDropError, SettingsError, StoreProblem

if TYPE_CHECKING:
    from .shelf import Shelf

MOST = 200  # masks; the one that was not used for longest goes first


class KeptMasks:
    """A folder of masks, ``<number>.png`` each, of which ``most`` are kept. The number is that of the mask's pixels in
    grey, so that a mask given again, in any form, is the same one."""

    def __init__(self, folder: Path, most: int = MOST) -> None:
        self._folder, self._most = folder, most

    def keep(self, mask: Image.Image | str) -> str:
        """The number of a mask, an image or base64 text of one, which is kept. Raises :class:`StoreProblem`."""
        image = grey(decoded(mask))
        number = digest(image)
        path = self._path(number)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _write(image, path)
            os.utime(path)
            self._forget()
        except OSError as error:
            raise StoreProblem(f"The mask could not be kept in {self._folder}: {reason(error)}; give it again where "
                               "these parameters are to be used.") from error
        return number

    def find(self, number: str) -> Image.Image | None:
        """The mask, "L"; None where it is no longer there, or no longer what it was."""
        try:
            with Image.open(self._path(number)) as file:
                image = file.convert("L")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
        return image if digest(image) == number else None

    def found(self, number: str) -> Image.Image:
        """The same. Raises :class:`SettingsError` where it is not there."""
        image = self.find(number)
        if image is None:
            raise SettingsError(f"The picture was drawn with a mask that is no longer here ({number}); give it again, "
                                "or take it out.")
        return image

    def _path(self, number: str) -> Path:
        return self._folder / f"{number}.png"

    def _forget(self) -> None:
        times = {}
        for path in self._folder.glob("*.png"):
            with suppress(OSError):  # gone meanwhile
                times[path] = path.stat().st_mtime_ns
        for path in sorted(times, key=lambda each: (times[each], each))[:max(0, len(times) - self._most)]:
            with suppress(OSError):
                path.unlink()


Masked = TypeVar("Masked", Guide, Settings)


def with_masks(shelf: Shelf, masked: Masked) -> Masked:
    """The same with the masks that it has by number. Raises :class:`SettingsError` where one is not there."""
    found: dict[str, Any] = {name: shelf.masks.found(number) for name in MASKS
                             if is_digest(number := getattr(masked, name))}
    return replace(masked, **found) if found else masked


def kept(shelf: Shelf, guides: Sequence[Guide]) -> tuple[list[Guide], list[str]]:
    """Guides whose masks are numbers, for a picture's parameters, and a sentence for each that could not be kept."""
    numbered, problems = [], []
    for guide in guides:
        masks: dict[str, Any] = {}
        for name in MASKS:
            if (mask := getattr(guide, name)) != "" and not is_digest(mask):
                masks[name] = digest(grey(decoded(mask)))
                try:
                    shelf.masks.keep(mask)
                except RefDropError as problem:
                    problems.append(str(problem))
        numbered.append(replace(guide, **masks))
    return numbered, list(dict.fromkeys(problems))


def _write(image: Image.Image, path: Path) -> None:
    """Whole or not at all. Raises OSError."""
    clean(path.parent)
    content = io.BytesIO()
    image.save(content, "PNG")
    partial = PartialFile(path.parent)
    try:
        block = memoryview(content.getvalue())
        while block:
            block = block[partial.file.write(block):]
        partial.release()
        os.replace(partial.path, path)
    finally:
        partial.discard()
