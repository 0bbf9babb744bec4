"""Where a reference acts in the new picture, and what of it may be looked at."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from lib_refdrop.references.plan import RECIPES
from lib_refdrop.techniques.reference.masks import Mask, looked_at
from lib_refdrop.techniques.reference.rfg import attention
from lib_refdrop.techniques.reference.strength import Strength
from lib_refdrop.words import ReferenceProblem, SettingsError

CPU = torch.device("cpu")


def half(side: str, size: int = 64) -> Mask:
    picture = torch.zeros(size, size)
    picture[:, :size // 2] = 1
    return Mask(picture if side == "left" else 1 - picture)


WHITE = Mask(torch.ones(5, 3))


def test_a_mask_is_an_images_alpha_or_else_its_brightness() -> None:
    grey = Image.new("L", (4, 2), 0)
    grey.paste(255, (0, 0, 2, 2))
    clear = Image.new("RGBA", (4, 2), (255, 255, 255, 0))
    clear.paste((0, 0, 0, 128), (0, 0, 2, 2))
    opaque = grey.convert("RGBA")
    assert Mask.of(grey).over((1, 2), CPU).flatten().tolist() == [1, 0]
    assert Mask.of(clear).over((1, 2), CPU).flatten().tolist() == pytest.approx([128 / 255, 0])
    assert Mask.of(opaque).over((1, 2), CPU).flatten().tolist() == [1, 0]
    with pytest.raises(SettingsError, match="black everywhere"):
        Mask.of(Image.new("L", (8, 8), 0))


def test_a_token_has_its_share_of_any_mask_by_area() -> None:
    shares = half("left", 6).over((2, 4), CPU).flatten().tolist()
    assert shares == pytest.approx([1, 1, 0, 0] * 2)
    odd = half("left", 64).where(5 * 3, (10, 6), CPU).flatten().tolist()  # a grid of 5 × 3: the middle is cut in two
    assert odd == pytest.approx([1, 0.5, 0] * 5)
    with pytest.raises(ReferenceProblem, match="token merging"):
        half("left").where(17, (8, 8), CPU)


def test_what_is_looked_at_weighs_as_its_share_says() -> None:
    """By the definition: softmax over the logits of what is left, each times its share."""
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 3, 8), torch.randn(4, 8), torch.randn(4, 8)
    share = torch.tensor([1.0, 0.0, 0.25, 1.0])[:, None]
    keys, values, bias = looked_at(k, v, None, share)
    assert len(keys) == len(values) == 3
    weights = torch.exp(q[0] @ k.T / 8**0.5) * share.T
    wanted = (weights / weights.sum(1, keepdim=True)) @ v
    assert torch.allclose(attention(q, keys[None], values[None], 1, bias)[0], wanted, atol=1e-6)
    hard = looked_at(k, v, None, torch.tensor([1.0, 0, 0, 1])[:, None])
    assert hard[2] is None and torch.equal(hard[0], k[[0, 3]])
    merged = looked_at(k, v, torch.tensor([4.0, 1, 1, 1]).log(), share)[2]
    assert torch.allclose(merged.exp(), torch.tensor([4.0, 0.25, 1.0]))
    assert len(looked_at(k, v, None, torch.full((4, 1), 1e-4))[0]) == 4  # a faint mask is a mask


@pytest.mark.parametrize("recipe", ["Exact", "Balanced", "Tiny"])
def test_white_masks_change_nothing_and_own_pictures_stay_own(studio, recipe) -> None:
    reference, own = studio.record(seed=4, plan=RECIPES[recipe].plan(recipe, studio.lineage))
    plain = studio.use(reference, 0.5, seed=9)[0]
    white, outcome = studio.use(reference, Strength(0.5, mask=WHITE, looks_at=WHITE), seed=9)
    assert (white - plain).abs().max() < 1e-4 and outcome.acted_on_all == outcome.calls
    if recipe != "Balanced":
        again, _ = studio.use(reference, Strength(0.9, mask=half("left")), seed=4)
        # Rows replayed one by one are rounded otherwise, and random weights are chaotic.
        assert (again - own).abs().max() < (1e-2 if recipe == "Tiny" else 1e-4)


def test_a_mask_keeps_guidance_where_it_is_white(studio) -> None:
    """In the first layer, before anything else of the model has spread it."""
    reference, _ = studio.record(seed=4, prompt="a nurse waving on snow")
    first = min(site for site in studio.lineage.sites if site.section == "input")
    seen = {}

    def watch(name):
        def hook(module, args, out):
            seen.setdefault(name, out.detach())
        return hook

    from lib_refdrop.hosts.diffusers import self_attentions
    from lib_refdrop.techniques.reference.course import parse
    layer, only = self_attentions(studio.unet)[first], parse(f"all=0, {first}=1")
    for name, strength in (("plain", 0.0), ("all", Strength(0.5, course=only)),
                           ("left", Strength(0.5, course=only, mask=half("left")))):
        handle = layer.register_forward_hook(watch(name))
        studio.use(reference, strength, seed=9, steps=1, cfg=1.0)
        handle.remove()
    side = int(seen["plain"].shape[1] ** 0.5)
    plain, everywhere, left = (seen[name].reshape(-1, side, side, seen[name].shape[-1]) for name in seen)
    assert torch.equal(left[:, :, side // 2:], plain[:, :, side // 2:])
    assert torch.allclose(left[:, :, :side // 2], everywhere[:, :, :side // 2], atol=1e-6)
    assert not torch.allclose(left[:, :, :side // 2], plain[:, :, :side // 2], atol=1e-3)


def test_parts_of_the_reference_make_other_pictures(studio) -> None:
    reference, _ = studio.record(seed=4, prompt="a nurse waving on snow")
    pictures = [studio.use(reference, Strength(0.5, looks_at=mask), seed=9)[0]
                for mask in (None, half("left"), half("right"))]
    assert all((one - other).abs().max() > 1e-2 for one, other in zip(pictures, pictures[1:] + pictures[:1]))
    another = studio.use(reference, Strength(0.5, looks_at=half("left")), seed=9, size=96)[0]  # its grid is its own
    assert torch.isfinite(another).all()
