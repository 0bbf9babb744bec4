"""The blend is the same wherever in a layer it can be put in, and only self-attention is touched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_refdrop.hosts.hooked_layer import HookedLayer
from lib_refdrop.techniques.reference.rfg import attention, blend

from .tiny import HEADS, WIDTH, SelfAttention


class Fused(SelfAttention):
    """One projection for all three: ``to_q`` is passed by."""

    def forward(self, x, context=None):
        weights = torch.cat([layer.weight for layer in (self.to_q, self.to_k, self.to_v)])
        return self.to_out(attention(*nn.functional.linear(x, weights).chunk(3, -1), self.heads))


class Tiled(SelfAttention):
    """The halves of a picture by themselves, as rows of a larger batch."""

    def forward(self, x, context=None):
        tiles = x.reshape(2 * len(x), -1, WIDTH)
        return super().forward(tiles).reshape(x.shape)


@pytest.fixture
def reference():
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))  # K and V of five tokens


def run(kind, reference, c=0.4, context=None):
    """A layer's output, hooked, and what it should be; and how often the session was told."""
    torch.manual_seed(0)
    layer, told = kind().requires_grad_(False), []
    x = torch.randn(3, 8, WIDTH)
    plain = layer(x, context)
    guided = attention(layer.to_q(x), reference[:1], reference[1:], HEADS)
    expected = plain + c * (layer.to_out(guided) - plain)

    def at(own, site):
        told.append(own.shape)
        return blend(own, [site.attend(slice(0, 3), *reference)], [c])

    hooked = HookedLayer(layer, at, "x", "context")
    made = layer(x, context=context)
    for handle in hooked.handles:
        handle.remove()
    assert torch.equal(layer(x, context), plain)
    return made, plain, expected, told


@pytest.mark.parametrize("kind", [SelfAttention, Fused, Tiled])
def test_the_blend_is_the_same_however_a_layer_computes(kind, reference):
    made, plain, expected, told = run(kind, reference)
    assert torch.allclose(made, expected, atol=1e-6) and not torch.allclose(made, plain, atol=1e-3)
    assert told == [(3, 8, WIDTH)]


@pytest.mark.parametrize("kind", [SelfAttention, Fused, Tiled])
def test_a_layer_that_is_not_guided_gives_its_own_output_to_the_bit(kind, reference):
    made, plain, _, _ = run(kind, reference, c=0)
    assert torch.equal(made, plain)


def test_attention_over_something_else_is_left_alone(reference):
    made, plain, _, told = run(SelfAttention, reference, context=torch.randn(3, 8, WIDTH))
    assert torch.equal(made, plain) and not told


def test_a_layer_of_another_kind_is_left_without_hooks():
    layer = SelfAttention()
    layer.to_out = nn.Identity()
    with pytest.raises(TypeError):
        HookedLayer(layer, lambda own, site: own, "x", "context")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules())
