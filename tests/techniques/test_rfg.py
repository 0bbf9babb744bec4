"""The paper's equations against sums written out by hand."""

import pytest
import torch

from lib_refdrop.techniques.reference.rfg import attention, blend, token_grid, token_mask


def softmax_attention(q, k, v):
    return ((q @ k.T) / q.shape[-1] ** 0.5).softmax(-1) @ v


def test_attention_is_softmax_over_each_head():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 5, 8), torch.randn(2, 7, 8), torch.randn(2, 7, 8)
    out = attention(q, k, v, heads=2)
    for row in range(2):
        for part in (slice(0, 4), slice(4, 8)):
            expected = softmax_attention(q[row, :, part], k[row, :, part], v[row, :, part])
            torch.testing.assert_close(out[row, :, part], expected)


def test_one_reference_serves_every_row():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 5, 8), torch.randn(1, 7, 8), torch.randn(1, 7, 8)
    torch.testing.assert_close(attention(q, k, v, 2), attention(q, k.repeat(3, 1, 1), v.repeat(3, 1, 1), 2))


@pytest.mark.parametrize("shape", [(1, 7, 6), (2, 7, 8)])
def test_attention_refuses_what_does_not_fit(shape):
    with pytest.raises(ValueError, match="do not fit"):
        attention(torch.randn(3, 5, 8), torch.randn(shape), torch.randn(shape), 2)


def test_blend_is_equation_5():
    own, reference = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 0.0]])
    torch.testing.assert_close(blend(own, [reference], [0.25]), 0.25 * reference + 0.75 * own)
    torch.testing.assert_close(blend(own, [reference], [1.0]), reference)


def test_blend_is_equation_7_for_several_references():
    own, first, second = torch.randn(3, 2, 4).unbind(0)
    expected = 0.2 * first + 0.3 * second + (1 - 0.5) * own
    torch.testing.assert_close(blend(own, [first, second], [0.2, 0.3]), expected)


def test_blend_is_equation_6_with_a_mask():
    own, reference = torch.randn(2, 3, 4).unbind(0)
    mask = torch.tensor([[1.0], [0.0], [0.5]])
    expected = (1 - 0.4 * mask) * own + 0.4 * mask * reference
    torch.testing.assert_close(blend(own, [reference], [0.4], [mask]), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_blend_keeps_the_dtype_and_returns_own_itself_at_zero(dtype):
    own, reference = torch.randn(2, 3, 4).to(dtype).unbind(0)
    assert blend(own, [reference], [0.3], [torch.ones(3, 1)]).dtype == dtype
    assert blend(own, [reference], [0.0]) is own
    assert torch.equal(blend(own, [own.clone()], [-0.7]), own)


def test_a_mask_follows_the_token_grid():
    mask = torch.zeros(8, 12)
    mask[:4, :6] = 1
    small = token_mask(mask, 2, 2)
    assert small.flatten().tolist() == [1, 0, 0, 0]
    assert token_grid(96, 64, 96) == (8, 12)
    assert token_grid(3 * 5, 9, 17) == (3, 5)  # every halving rounds up
    with pytest.raises(ValueError, match="no halving"):
        token_grid(50, 64, 64)
