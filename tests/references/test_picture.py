"""A picture on its way to a reference: read whatever it is in, of a size that suits, and noised by the formula."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from lib_refdrop.references.picture import digest, noised, opened, pixels, seeded_noise, size_for
from lib_refdrop.words import SettingsError

RED = Image.new("RGB", (30, 20), (200, 10, 10))


def as_text(image: Image.Image, form: str = "PNG", **how) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("given", [
    as_text(RED), f"data:image/png;base64,{as_text(RED)}", "\n".join(as_text(RED)[i:i + 76] for i in range(0, 999, 76)),
    f"data:image/webp;base64,{as_text(RED, 'WEBP', lossless=True)}", as_text(RED.quantize(4)), RED,
    RED.convert("RGBA")], ids=["png", "url", "lines", "webp", "palette", "image", "alpha"])
def test_every_form_of_a_picture_gives_its_pixels(given) -> None:
    found = opened(given)
    assert (found.mode, found.size) == ("RGB", (30, 20)) and found.getpixel((7, 7)) == (200, 10, 10)
    assert digest(found) == digest(RED)


def test_what_is_transparent_is_white_and_what_lies_on_its_side_is_upright() -> None:
    hidden = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert opened(as_text(hidden)).getpixel((3, 3)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert opened(as_text(RED, "JPEG", exif=exif)).size == (20, 30)


def test_sixteen_bits_a_pixel_are_not_cut_off() -> None:
    half = Image.fromarray(np.full((8, 8), 257 * 100, np.uint16))
    assert opened(as_text(half)).getpixel((0, 0)) == (100, 100, 100)


def bomb() -> str:
    """A PNG of a few bytes that says that it has 30000×30000 pixels."""
    content = bytearray(base64.b64decode(as_text(RED)))
    content[16:24] = (30000).to_bytes(4, "big") * 2
    import zlib
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return base64.b64encode(bytes(content)).decode()


@pytest.mark.parametrize("given, word", [
    ("hello there!", "as base64 text"), ("http://somewhere/picture.png", "as base64 text"),
    ("/etc/passwd", "as base64 text"), ("data:image/png;base64,*", "as base64 text"), ("abcdé", "as base64 text"),
    (base64.b64encode(b"no image at all").decode(), "cannot be read"), ("A" * 4000, "cannot be read"),
    (base64.b64encode(base64.b64decode(as_text(RED))[:50]).decode(), "cannot be read"),
    (Image.new("RGB", (0, 5)), "no pixels"), (bomb(), "too large|cannot be read"),
    (Image.new("L", (900, 100)), "too slender")])
def test_what_is_no_picture_is_one_short_sentence(given, word) -> None:
    with pytest.raises(SettingsError, match=word) as caught:
        opened(given)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize("picture, area, multiple, wanted", [
    ((512, 512), 512 * 512, 64, (512, 512)), ((4000, 3000), 512 * 512, 64, (576, 448)),
    ((300, 400), 1024 * 1024, 32, (896, 1184)), ((10, 80), 512 * 512, 64, (192, 1472)),
    ((1, 1), 64 * 64, 64, (64, 64)), ((800, 100), 64 * 64, 64, (192, 64))])
def test_a_size_has_the_pictures_shape_and_the_generations_area(picture, area, multiple, wanted) -> None:
    assert size_for(picture, area, multiple) == wanted


def test_a_picture_is_cut_not_stretched() -> None:
    disc = Image.new("L", (200, 100))
    disc.paste(255, (75, 25, 125, 75))  # a square of 50 in the middle
    found = pixels(disc.convert("RGB"), (64, 64))
    assert found.shape == (1, 3, 64, 64) and found.dtype == torch.float32 and 0 <= found.min() <= found.max() <= 1
    seen = found[0, 0] > 0.5
    assert seen.any(0).sum() == seen.any(1).sum() == 32


def test_the_noise_belongs_to_the_seed() -> None:
    assert torch.equal(seeded_noise((4, 8, 8), 3), seeded_noise((4, 8, 8), 3))
    assert not torch.equal(seeded_noise((4, 8, 8), 3), seeded_noise((4, 8, 8), 4))
    before = torch.get_rng_state()
    seeded_noise((4, 8, 8), 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sigma, flow, spread, kept, added", [
    (0.0, False, 1.0, 1.0, 0.0), (1.0, False, 1.0, math.sqrt(0.5), math.sqrt(0.5)),
    (3.0, False, 1.0, 0.31622777, 0.9486833),
    (0.0, True, 1.0, 1.0, 0.0), (0.25, True, 1.0, 0.75, 0.25), (1.0, True, 1.0, 0.0, 1.0),
    (1.2, False, 0.5, 1 / 1.3, 1.2 / 1.3)])
def test_noise_is_added_as_the_model_was_taught(sigma, flow, spread, kept, added) -> None:
    latent, noise = torch.full((4, 2, 2), 2.0), torch.full((4, 2, 2), -1.0)
    assert torch.allclose(noised(latent, noise, sigma, flow, spread), torch.full((4, 2, 2), 2 * kept - added))
