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


@pytest.mark.parametrize("kind", [SelfAttention, Fused, Tiled])
def test_other_queries_may_stand_in_the_place_of_its_own(kind, reference):
    torch.manual_seed(0)
    layer, x, q = kind().requires_grad_(False), torch.randn(3, 8, WIDTH), torch.randn(1, 8, WIDTH)
    own = layer.to_q(x)
    plain, seen = layer(x), []

    def at(own, site):
        seen.append((site.queries(slice(1, 2)), site.project_queries(x[0])))
        return torch.cat([own[:1], site.attend(slice(1, 2), *reference, q=q), own[2:]])

    hooked = HookedLayer(layer, at, "x", "context")
    made = layer(x)
    for handle in hooked.handles:
        handle.remove()
    assert torch.allclose(made[1:2], layer.to_out(attention(q, reference[:1], reference[1:], HEADS)), atol=1e-6)
    assert torch.allclose(made[[0, 2]], plain[[0, 2]], atol=1e-6)
    assert torch.allclose(seen[0][0], own[1:2], atol=1e-6) and torch.allclose(seen[0][1], own[0], atol=1e-6)


def test_a_layer_is_self_attention_by_its_place(reference):
    """sd-webui-controlnet gives the hidden state as the context as well, and its reference-only adds a picture to
    it."""
    context = torch.randn(3, 12, WIDTH)
    made, plain, expected, told = run(SelfAttention, reference, context=context)
    assert torch.allclose(made, expected, atol=1e-6) and not torch.allclose(made, plain, atol=1e-3) and len(told) == 1


def test_attention_over_another_batch_is_left_alone(reference):
    class Broadcast(SelfAttention):
        def forward(self, x, context=None):
            return super().forward(x, None if context is None else context.expand(len(x), -1, -1))

    made, plain, _, told = run(Broadcast, reference, context=torch.randn(1, 8, WIDTH))
    assert torch.equal(made, plain) and not told


def test_a_layer_in_which_some_rows_do_not_attend_is_left_alone(reference):
    class Perturbed(SelfAttention):
        """As in Perturbed-Attention Guidance: the last row goes on with its own values."""

        def forward(self, x, context=None):
            n = x[:-1]
            attended = attention(self.to_q(n), self.to_k(n), self.to_v(n), self.heads)
            return torch.cat([self.to_out(attended), self.to_out(self.to_v(x[-1:]))])

    made, plain, _, told = run(Perturbed, reference)
    assert torch.equal(made, plain) and not told


def kept(layer: SelfAttention, x: torch.Tensor, context: torch.Tensor | None = None):
    """What is kept of row 1 of a layer: the hidden state, K and V."""
    found = []
    look = lambda own, site: found.append((site.hidden(1), *site.key_values(1))) or own  # noqa: E731
    hooked = HookedLayer(layer, look, "x", "context")
    layer(x, context)
    for handle in hooked.handles:
        handle.remove()
    return found[0]


@pytest.mark.parametrize("given", ["nothing", "itself", "more"])
def test_what_is_kept_is_what_keys_and_values_are_made_of(given: str):
    layer, x = SelfAttention().requires_grad_(False), torch.randn(3, 8, WIDTH)
    source = torch.cat([x, torch.randn(3, 4, WIDTH)], 1) if given == "more" else x
    hidden, k, v = kept(layer, x, None if given == "nothing" else source)
    assert torch.equal(hidden, source[1])
    assert torch.allclose(k, layer.to_k(source[1]), atol=1e-6) and torch.allclose(v, layer.to_v(source[1]), atol=1e-6)


def test_a_hypernetwork_leaves_keys_and_values_only():
    layer, x = SelfAttention().requires_grad_(False), torch.randn(3, 8, WIDTH)
    layer.hypernetwork = lambda context: (2 * context, context.tanh())
    hidden, k, v = kept(layer, x)
    assert hidden is None
    assert torch.allclose(k, layer.to_k(2 * x[1]), atol=1e-6) and torch.allclose(v, layer.to_v(x[1].tanh()), atol=1e-6)


def test_under_autocast_it_is_kept_as_keys_and_values_are_computed():
    layer, norm = SelfAttention().requires_grad_(False), nn.LayerNorm(WIDTH)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x = norm(torch.randn(3, 8, WIDTH))
        assert x.dtype == torch.float32
        hidden, k, _ = kept(layer, x)
        assert hidden.dtype == k.dtype == torch.bfloat16 and torch.equal(layer.to_k(hidden[None])[0], k)


def test_a_layer_of_another_kind_is_left_without_hooks():
    layer = SelfAttention()
    layer.to_out = nn.Identity()
    with pytest.raises(TypeError):
        HookedLayer(layer, lambda own, site: own, "x", "context")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules())
