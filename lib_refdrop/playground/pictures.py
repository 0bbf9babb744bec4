"""Pictures on their way in and out: base64, sizes, masks, and tensors between −1 and 1."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageChops, ImageFilter, ImageOps, PngImagePlugin
from torch import Tensor

from .errors import ApiError

_MOST_PIXELS = 8192 * 8192

# Upscalers of a second pass that work on latents, as torch names their ways, and those that work on pictures.
LATENT_UPSCALERS = {
    "Latent": ("bilinear", False), "Latent (antialiased)": ("bilinear", True), "Latent (bicubic)": ("bicubic", False),
    "Latent (bicubic antialiased)": ("bicubic", True), "Latent (nearest)": ("nearest", False),
    "Latent (nearest-exact)": ("nearest-exact", False),
}
PICTURE_UPSCALERS = {"None": Image.LANCZOS, "Lanczos": Image.LANCZOS, "Nearest": Image.NEAREST}
UPSCALERS = (*LATENT_UPSCALERS, *PICTURE_UPSCALERS)


def encode_png(image: Image.Image, parameters: str) -> str:
    """The picture as base64 PNG with its infotext inside."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=infotext_chunk(parameters))
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def to_base64(image: Image.Image) -> str:
    """As PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def infotext_chunk(parameters: str) -> PngImagePlugin.PngInfo:
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text("parameters", parameters)
    return chunk


def decode(text: str, name: str) -> Image.Image:
    """A picture from base64, with or without ``data:image/png;base64,``. Raises :class:`ApiError` 422."""
    try:
        data = base64.b64decode(text.split(",", 1)[-1] if text.startswith("data:") else text, validate=False)
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > _MOST_PIXELS:
            raise ApiError(422, f"The picture in {name} is too large; give one of at most 8192×8192 pixels.")
        image.load()
    except (binascii.Error, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ApiError(422, f"{name} must hold pictures as base64 text (PNG or JPEG).") from error
    return ImageOps.exif_transpose(image)


def flattened(image: Image.Image) -> Image.Image:
    """RGB; what is transparent becomes white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    return image.convert("RGB")


def resized(image: Image.Image, width: int, height: int, crop: bool = False) -> Image.Image:
    """To a size: stretched, or cut to its shape in the middle."""
    if crop:
        return ImageOps.fit(image, (width, height), Image.LANCZOS)
    return image if image.size == (width, height) else image.resize((width, height), Image.LANCZOS)


def filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """``image`` RGB with what ``mask`` (L, white) covers painted over in the colours around it."""
    painted = Image.new("RGBA", image.size)
    kept = image.convert("RGBA")
    kept.putalpha(ImageChops.invert(mask))
    for radius, times in ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1)):
        blurred = kept.convert("RGBa").filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            painted.alpha_composite(blurred)
    return painted.convert("RGB")


def as_tensor(images: Sequence[Image.Image]) -> Tensor:
    """``[B, 3, height, width]`` float32 from −1 to 1."""
    pixels = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


def as_images(pictures: Tensor) -> list[Image.Image]:
    """From ``[B, 3, height, width]`` between 0 and 1."""
    pixels = (pictures.permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)
    return [Image.fromarray(picture) for picture in pixels]


def latent_mask(mask: Image.Image, height: int, width: int) -> Tensor:
    """``[1, 1, height, width]`` of 0 and 1 in latent cells: 1 where the picture is to change."""
    small = np.asarray(mask.convert("L").resize((width, height)), dtype=np.float32) / 255
    return torch.from_numpy(np.around(small))[None, None]


def resized_latents(latents: Tensor, height: int, width: int, upscaler: str) -> Tensor:
    mode, antialias = LATENT_UPSCALERS[upscaler]
    return F.interpolate(latents, size=(height, width), mode=mode, antialias=antialias)
