"""Reference-only: attention over a layer's own keys and a reference's together, with a weight."""

from __future__ import annotations

import pytest
import torch

from lib_refdrop.references.plan import RECIPES
from lib_refdrop.techniques.reference.concatenation import joined
from lib_refdrop.techniques.reference.rfg import attention
from lib_refdrop.techniques.reference.strength import Strength

HEADS, WIDTH = 2, 8


class Layer:
    """Two rows of four tokens, of which each has keys of its own."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.q, self.k, self.v = (torch.randn(2, 4, WIDTH, dtype=torch.float64) for _ in range(3))

    def key_values(self, row):
        return self.k[row], self.v[row]

    def attend(self, rows, k, v, bias=None, q=None):
        return attention(self.q[rows] if q is None else q, k[None], v[None], HEADS, bias)


def by_definition(layer: Layer, row: int, k, v, weights) -> torch.Tensor:
    """Softmax over both, head by head, with every key of the reference counting ``weights`` times."""
    heads = []
    for head in range(HEADS):
        part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        keys, values = torch.cat([layer.k[row], k])[:, part], torch.cat([layer.v[row], v])[:, part]
        exponentials = torch.exp(layer.q[row][:, part] @ keys.T / (WIDTH / HEADS) ** 0.5)
        exponentials = exponentials * torch.cat([torch.ones(len(layer.k[row])), weights])
        heads.append(exponentials @ values / exponentials.sum(1, keepdim=True))
    return torch.cat(heads, 1)


@pytest.mark.parametrize("weight", [0.25, 1.0, 4.0])
def test_it_is_softmax_over_both_with_the_reference_counting_so_often(weight: float) -> None:
    layer, k, v = Layer(), torch.randn(4, WIDTH, dtype=torch.float64), torch.randn(4, WIDTH, dtype=torch.float64)
    made = joined(layer, slice(0, 2), 4, k, v, weight=weight)
    for row in range(2):
        wanted = by_definition(layer, row, k, v, torch.full((4,), weight, dtype=torch.float64))
        assert torch.allclose(made[row], wanted, atol=1e-6)


def test_a_reference_with_fewer_tokens_counts_as_if_it_had_as_many() -> None:
    """Two of the four are kept, one of which stands for three: 4 = 1 + 3, and so the weights are 1 and 3."""
    layer, k, v = Layer(), torch.randn(2, WIDTH, dtype=torch.float64), torch.randn(2, WIDTH, dtype=torch.float64)
    bias = torch.tensor([1.0, 3.0]).log()
    made = joined(layer, slice(1, 2), 4, k, v, bias)
    assert torch.allclose(made[0], by_definition(layer, 1, k, v, torch.tensor([1.0, 3.0], dtype=torch.float64)),
                          atol=1e-6)
    made = joined(layer, slice(0, 1), 4, k, v)  # of two tokens each counts twice
    assert torch.allclose(made[0], by_definition(layer, 0, k, v, torch.tensor([2.0, 2.0], dtype=torch.float64)),
                          atol=1e-6)


@pytest.mark.parametrize("fidelity", [0.0, 0.5, 1.0])
def test_the_own_picture_stays_its_own_and_weight_0_is_off(studio, fidelity: float) -> None:
    reference, own = studio.record(seed=4, plan=RECIPES["Exact"].plan("Exact", studio.lineage))
    again, outcome = studio.use(reference, Strength(0.3, weight=1.0, fidelity=fidelity), seed=4)
    # The softmax over both is rounded otherwise than over one, and random weights are chaotic.
    assert (again - own).abs().max() < 1e-2 and outcome.acted == outcome.calls
    plain = studio.draw(seed=9, batch=2)
    assert torch.equal(studio.use(reference, Strength(0.3, weight=0.0), seed=9, batch=2)[0], plain)
    assert not torch.allclose(studio.use(reference, Strength(0.3, weight=1.0), seed=9, batch=2)[0], plain, atol=1e-2)


def test_style_fidelity_leaves_the_unconditional_branch_alone(studio) -> None:
    reference, _ = studio.record(seed=4)
    free = studio.use(reference, Strength(0.4, fidelity=1.0), seed=9)[0]
    both = studio.use(reference, 0.4, seed=9)[0]
    assert (free - both).abs().max() > 1e-2
    alone = studio.use(reference, Strength(0.4, fidelity=1.0), seed=9, cfg=1.0)[0]  # there is no such branch
    assert torch.equal(alone, studio.use(reference, 0.4, seed=9, cfg=1.0)[0])
