"""Any picture as a reference: opened, brought to a size, and from its latent to what a model would be called on.

No model made it, so no sampler ever came past it: the trajectory is made up, by adding one fixed noise to the picture's
latent at every noise level (a straight line from noise to the picture).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import math
import re

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..words import SettingsError, first_line

_MOST_PIXELS = 8192 * 8192
_LONGEST_TEXT = 400_000_000  # of base64; a PNG of that many pixels is shorter
_MOST_SLENDER = 8  # times as long as wide
_DATA_URL = re.compile(r"data:[^,]{0,200},")
_DIGEST = re.compile("[0-9a-f]{10}")  # no base64 text has that length
CELL = 8  # pixels of a latent's cell, both ways


def opened(given: str | Image.Image) -> Image.Image:
    """The picture in RGB, upright, white where it is transparent: from base64 text (with or without
    ``data:image/png;base64,``), or an image. Raises :class:`SettingsError` where it is none or none that can serve."""
    image = decoded(given)
    if max(image.size) > _MOST_SLENDER * min(image.size):
        raise SettingsError(f"The picture is too slender ({image.width}×{image.height} pixels); cut it to at most "
                            f"{_MOST_SLENDER} times as long as wide.")
    return _plain(image)


def decoded(given: str | Image.Image, what: str = "The picture") -> Image.Image:
    """An image as it is, upright, read to its end. Raises :class:`SettingsError` as :func:`opened` does; ``what`` it is
    called there."""
    image = _read(given, what) if isinstance(given, str) else given
    wide, high = image.size
    if not wide or not high:
        raise SettingsError(f"{what} has no pixels ({wide}×{high}); give another one.")
    if wide * high > _MOST_PIXELS:
        raise SettingsError(f"{what} is too large ({wide}×{high} pixels); give one of at most 8192×8192.")
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(error, what) from error


def digest(image: Image.Image) -> str:
    """Ten hexadecimal digits, equal for equal pixels only."""
    return hashlib.sha256(f"{image.size} ".encode() + image.tobytes()).hexdigest()[:10]


def is_digest(text: object) -> bool:
    """Whether this is what :func:`digest` gives, which stands for a picture in parameters."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def size_for(picture: tuple[int, int], area: float, multiple: int) -> tuple[int, int]:
    """Width and height in pixels with the shape of ``picture`` (width, height) and about so large an ``area``: sides
    are multiples of ``multiple``, so that the model can halve them as often as it does."""
    wide, high = picture
    scale = math.sqrt(area / (wide * high))
    return tuple(max(1, round(side * scale / multiple)) * multiple for side in (wide, high))  # type: ignore[return-value]


def pixels(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """``[1, 3, height, width]`` float32 from 0 to 1, of ``size`` (width, height): what is over of its shape is cut off
    evenly, nothing is stretched."""
    fitted = image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted, dtype=np.float32)).permute(2, 0, 1)[None] / 255


def seeded_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise, float32, the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noised(latent: Tensor, noise: Tensor, sigma: float, flow: bool = False, spread: float = 1.0) -> Tensor:
    """What a model is called on at a noise level, in the model's own scale.

    ``(z + σε)/√(1 + σ²)`` (Karras et al. 2022) where the model predicts eps or v; ``(1 − σ)z + σε`` where it is one of
    rectified flow. ``spread`` is the standard deviation of the data that the model was made for, if it is not 1.
    """
    if flow:
        return (1 - sigma) * latent + sigma * noise
    return (latent + sigma * noise) / math.sqrt(spread**2 + sigma**2)


def _read(text: str, what: str) -> Image.Image:
    if is_digest(text):
        raise SettingsError(f"{what} is known here by its number only ({text}); give the picture itself.")
    if len(text) > _LONGEST_TEXT:
        raise SettingsError(f"{what} is {len(text) // 10**6} million letters of text; give a smaller one.")
    start = _DATA_URL.match(text)
    try:
        data = base64.b64decode(re.sub(r"\s+", "", text[start.end() if start else 0:]), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SettingsError(f"{what} must be an image's bytes as base64 text, or a data URL.") from error
    try:
        return Image.open(io.BytesIO(data))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(error, what) from error


def _plain(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits a pixel, which a plain conversion would cut off
        numbers = np.asarray(image, dtype=np.float64)
        image = Image.fromarray((numbers / max(255.0, numbers.max()) * 255 if image.mode == "F"
                                 else numbers / 257).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    return image.convert("RGB")


def _unreadable(error: Exception, what: str) -> SettingsError:
    return SettingsError(f"{what} cannot be read; give a PNG, JPEG or WebP ({first_line(error, 80)}).")
