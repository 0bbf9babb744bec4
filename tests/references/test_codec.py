"""Features come back as they were, or as near as their precision says, whatever their shape, type and magnitude.

`python -m tests.references.test_codec` prints the table of errors in codec.py.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lib_refdrop.references.codec import (
    KINDS,
    PARTS,
    POOLS,
    PRECISIONS,
    Representation,
    decode,
    encode,
    encoded_bytes,
)
from lib_refdrop.references.merging import aimed_grid, merge
from lib_refdrop.techniques.reference.rfg import attention
from lib_refdrop.words import ReferenceProblem


class Copies(TorchDispatchMode):
    """Remembers the copies to another device: the type of what was copied, and whether it was waited for."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default and kwargs.get("device") == torch.device("meta"):
            self.seen.append((args[0].dtype, bool(kwargs.get("non_blocking"))))
        return function(*args, **kwargs)


FLOATS = (torch.float32, torch.float16, torch.bfloat16)
ALL = [*(Representation(*parts) for parts in itertools.product(KINDS, PRECISIONS, POOLS)),
       *(Representation(what, precision, tokens=24) for what in KINDS for precision in PRECISIONS)]
HEADS, GRID, WIDTH = 5, (16, 24), 320

quick = settings(max_examples=60, deadline=None)


def layer_normed(seed, rows=GRID[0], columns=GRID[1], width=WIDTH):
    """What a layer's norm leaves, ``[rows·columns, width]``: neighbours are alike, some channels stand out."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, width, -(-rows // 4), -(-columns // 4), generator=random)
    field = F.interpolate(coarse, size=(rows, columns), mode="bicubic")[0].flatten(1).T
    states = F.layer_norm(field + 0.5 * torch.randn(field.shape, generator=random), (width,))
    weights = torch.Generator().manual_seed(0)  # the layer's own: the same for the picture and its reference
    gain = 0.3 + 0.7 * torch.rand(width, generator=weights)
    gain[torch.randperm(width, generator=weights)[: width // 80]] *= 12
    return states * gain + 0.2 * torch.randn(width, generator=weights)


def layer(width=WIDTH):
    random = torch.Generator().manual_seed(1)
    return [torch.randn(width, width, generator=random) / width**0.5 for _ in "qkv"]


def relative(one, other):
    return ((one.double() - other.double()).norm() / other.double().norm()).item()


def biased_attention(q, k, v, bias, heads=HEADS):
    """Attention with a bias on the logits of each key, written out."""
    split = [part.unflatten(-1, (heads, -1)).transpose(0, 1).double() for part in (q, k, v)]
    logits = split[0] @ split[1].mT / split[0].shape[-1] ** 0.5 + (0 if bias is None else bias.double())
    return (logits.softmax(-1) @ split[2]).transpose(0, 1).flatten(1)


def errors(representation, seed=3):
    """Relative errors of what is kept, and of the output of attention over it."""
    hidden, (to_q, to_k, to_v) = layer_normed(seed), layer()
    q, k, v = layer_normed(seed + 1) @ to_q, hidden @ to_k, hidden @ to_v
    found = decode(encode(representation, hidden, k, v, GRID), torch.float32, "cpu")
    if representation.what == "hidden":
        kept, found = [(found["h"], hidden)], {**found, "k": found["h"] @ to_k, "v": found["h"] @ to_v}
    else:
        kept = [(found["k"], k), (found["v"], v)]
    seen = biased_attention(q, found["k"], found["v"], found.get("bias"))
    same = all(one.shape == other.shape for one, other in kept)
    output = relative(seen, biased_attention(q, k, v, None))
    return [relative(one, other) for one, other in kept] if same else [], output


def feature(shape, dtype, magnitude, seed):
    random = torch.Generator().manual_seed(seed)
    made = torch.randn(shape, generator=random) * magnitude
    made[:, ::3] = made[:1, ::3]  # constant channels
    made[:, 1::5] = 0
    limit = torch.finfo(dtype).max
    return made.clamp(-limit, limit).to(dtype)


shapes = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 17))
dtypes = st.sampled_from(FLOATS)
magnitudes = st.sampled_from((0.0, 1e-38, 1e-7, 1e-3, 1.0, 300.0, 6e4, 1e30, 6e37))


@pytest.mark.parametrize("representation", ALL, ids=str)
def test_a_representation_is_read_back_from_its_words(representation):
    assert Representation.parse(str(representation)) == representation


@pytest.mark.parametrize("text", ["", "hidden", "hidden int7", "kv int8 pool3", "kv int8 pool1", "k int8",
                                  "hidden  int8", "hidden int8 pool2 ", "hidden int8 pool٢", "hidden int8 tokens0",
                                  "hidden int8 tokens",
                                  "hidden int8 tokens09", "hidden int8 pool2 tokens9", "hidden int8 tokens9 pool2"])
def test_other_words_are_none(text):
    with pytest.raises(ValueError):
        Representation.parse(text)


@quick
@given(shapes, dtypes, magnitudes, st.sampled_from(tuple(KINDS)))
def test_own_precision_is_exact(shape, dtype, magnitude, what):
    rows, columns, width = shape
    tensors = [feature((rows * columns, width), dtype, magnitude, seed) for seed in range(3)]
    parts = encode(Representation(what), *tensors)
    found = decode(parts, dtype, "cpu")
    assert set(found) == set(KINDS[what])
    for name, tensor in zip(("h", "k", "v"), tensors):
        if name in found:
            assert torch.equal(found[name], tensor)
            assert parts[name].data_ptr() != tensor.data_ptr()


@quick
@given(shapes, dtypes, magnitudes, st.sampled_from(("int8", "int4", "fp8")), st.integers(0, 9))
def test_rounding_stays_within_its_steps(shape, dtype, magnitude, precision, seed):
    """Half a step: 1/254 of half the range of a channel (K, hidden) or token (V), 1/15 for int4, 1/16 of a number in
    fp8; and the rounding of the target type."""
    rows, columns, width = shape
    k, v = (feature((rows * columns, width), dtype, magnitude, seed + n) for n in range(2))
    hidden = decode(encode(Representation("hidden", precision), k), dtype, "cpu")["h"]
    found = decode(encode(Representation("kv", precision), None, k, v), dtype, "cpu")
    allowed = {"int8": 1 / 254, "int4": 1 / 15, "fp8": 1 / 16}[precision]
    for decoded, original, dim in ((hidden, k, 0), (found["k"], k, 0), (found["v"], v, 1)):
        decoded, original = decoded.double(), original.double()
        half = (original.amax(dim, keepdim=True) - original.amin(dim, keepdim=True)) / 2
        largest = original.abs().amax(dim, keepdim=True)
        slack = largest * (allowed * 2**-7 + 2 * torch.finfo(dtype).eps) + 1e-37 + torch.finfo(dtype).tiny
        assert ((decoded - original).abs() <= half * allowed * 1.02 + slack).all()
        assert (decoded[:, original.abs().amax(0) == 0] == 0).all() or dim == 1


@quick
@given(shapes, dtypes, st.sampled_from(ALL), st.sampled_from(FLOATS))
def test_the_size_is_known_before_and_parts_are_plain(shape, dtype, representation, target):
    rows, columns, width = shape
    tensors = [feature((rows * columns, width), dtype, 1.0, seed) for seed in range(3)]
    parts = encode(representation, *tensors, (rows, columns))
    size = encoded_bytes(representation, (rows, columns), width, width, tensors[0].element_size())
    assert sum(part.nbytes for part in parts.values()) == size
    assert set(parts) <= PARTS and all(part.is_contiguous() for part in parts.values())
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in parts.values())
    found = decode(parts, target, "cpu")
    assert all(part.dtype == target and torch.isfinite(part).all() for name, part in found.items() if name != "bias")


@quick
@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.sampled_from((2, 4)), st.integers(0, 99))
def test_a_merged_token_counts_for_those_it_stands_for(grid, pool, seed):
    """Attention over merged tokens is attention over a picture in which every token is its square's average."""
    random = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, grid[0] * grid[1], 8, generator=random)
    q = torch.randn(5, 8, generator=random)
    found = decode(encode(Representation("kv", "own", pool), None, k, v, grid), torch.float32, "cpu")
    whole = []
    for part in (k, v):
        picture = part.reshape(*grid, 8).clone()
        for row, column in itertools.product(range(0, grid[0], pool), range(0, grid[1], pool)):
            square = picture[row:row + pool, column:column + pool]
            square[:] = square.mean((0, 1))
        whole.append(picture.reshape(-1, 8))
    seen = biased_attention(q, found["k"], found["v"], found.get("bias"), heads=2)
    expected = attention(q[None], whole[0][None], whole[1][None], 2)[0]
    torch.testing.assert_close(seen.float(), expected, atol=1e-5, rtol=1e-4)


@quick
@given(st.tuples(st.integers(1, 14), st.integers(1, 14)), st.integers(1, 60), st.integers(0, 99))
def test_parts_of_equal_area_stand_for_the_whole_picture(grid, most, seed):
    """Each is the average over its part of the picture, borders through tokens included: cut fine enough, parts are
    whole."""
    rows, columns = grid
    picture = torch.randn(rows * columns, 3, generator=torch.Generator().manual_seed(seed))
    representation = Representation("hidden", "own", tokens=most)
    parts = encode(representation, picture, grid=grid)
    if rows * columns <= most:
        assert torch.equal(parts["h"], picture)
    high, wide = representation.grid(rows, columns)
    fine = picture.reshape(rows, columns, 3).repeat_interleave(high, 0).repeat_interleave(wide, 1)
    expected = fine.reshape(high, rows, wide, columns, 3).mean((1, 3)).reshape(-1, 3)
    torch.testing.assert_close(parts["h"], expected, atol=1e-5, rtol=1e-4)
    assert set(parts) == {"h"} and len(parts["h"]) <= most


def test_halving_both_sides_is_averaging_over_squares():
    picture = torch.randn(64, 5)
    halved = encode(Representation("hidden", "own", tokens=16), picture, grid=(8, 8))["h"]
    torch.testing.assert_close(halved, merge(picture, (8, 8), 2)[0])


@pytest.mark.parametrize("proportions", [(1, 1), (2, 3), (3, 4), (13, 19), (9, 16)])
def test_a_larger_picture_never_keeps_fewer_tokens(proportions):
    for most in (500, 768, 1024):
        kept = [math.prod(aimed_grid(proportions[0] * size, proportions[1] * size, most)) for size in range(1, 60)]
        assert kept == sorted(kept) and 0.97 * most <= kept[-1] <= most


@pytest.mark.parametrize("grid, most",
                         [((1, 5000), 100), ((5000, 1), 100), ((3, 700), 1), ((64, 64), 1024), ((33, 31), 1022)])
def test_odd_grids_come_near_the_number_aimed_at(grid, most):
    rows, columns = aimed_grid(*grid, most)
    assert rows <= grid[0] and columns <= grid[1] and 0.94 * most <= rows * columns <= most


def test_weights_are_kept_only_where_they_differ():
    even, ragged, thin = torch.rand(48, 4), torch.rand(35, 4), torch.rand(12, 4)
    assert merge(even, (6, 8), 2)[1] is None
    assert merge(thin, (1, 12), 2)[1] is None  # every square holds two tokens of the one row there is
    assert merge(ragged, (5, 7), 4)[1].tolist() == [16, 12, 4, 3]
    assert "w" not in encode(Representation("hidden", "own", 2), even, grid=(6, 8))
    bias = decode(encode(Representation("hidden", "int8", 4), ragged, grid=(5, 7)), torch.float16, "cpu")["bias"]
    assert bias.dtype == torch.float32
    assert bias.tolist() == pytest.approx([math.log(16), math.log(12), math.log(4), math.log(3)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("representation", [r for r in ALL if r.pool < 4], ids=str)
def test_what_is_not_finite_is_told_and_not_kept(representation, bad):
    tensors = [torch.rand(16, 6) for _ in range(3)]
    for tensor in tensors:
        tensor[5, 4] = bad
    with pytest.raises(ReferenceProblem, match="NaN or infinite numbers.*--no-half"):
        encode(representation, *tensors, (4, 4))


def test_numbers_beyond_fp16_are_told():
    with pytest.raises(ReferenceProblem, match="beyond the range of fp16.*bf16 or int8"):
        encode(Representation("hidden", "fp16"), torch.full((4, 4), 1e5))


def test_fp8_where_there_is_none_is_told(monkeypatch):
    monkeypatch.delattr(torch, "float8_e4m3fn")
    with pytest.raises(ReferenceProblem, match="no 8-bit floating point numbers; keep the reference in int8"):
        encode(Representation("hidden", "fp8"), torch.rand(4, 4))


def test_a_grid_is_needed_to_merge_and_shapes_are_checked():
    pooled = Representation("hidden", "own", 2)
    for grid in (None, (3, 5)):
        with pytest.raises(ValueError, match="16 tokens"):
            encode(pooled, torch.rand(16, 4), grid=grid)
    with pytest.raises(ValueError, match="grid"):
        encoded_bytes(pooled, 16, 4, 4, 2)
    for missing in (None, torch.rand(4), torch.rand(0, 4)):
        with pytest.raises(ValueError, match="tokens × width"):
            encode(Representation("hidden"), missing)


@pytest.mark.parametrize("change", [
    {"h.scale": None}, {"h.scale": torch.zeros(2, 3)}, {"h": torch.zeros(9, dtype=torch.int8)}, {"w": torch.ones(5)},
    {"w": torch.ones(4, dtype=torch.uint8)}, {"k": torch.zeros(9, 4)}, {"h": torch.zeros(9, 4, dtype=torch.uint8)},
    {"h": None}])
def test_parts_that_do_not_belong_together_are_told(change):
    parts = {**encode(Representation("hidden", "int8", 2), torch.rand(25, 4), grid=(5, 5)), **change}
    with pytest.raises(ReferenceProblem, match="do not fit together"):
        decode({name: part for name, part in parts.items() if part is not None}, torch.float32, "cpu")


@pytest.mark.parametrize("how", ALL, ids=str)
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64], ids=str)
def test_to_a_device_that_is_not_cuda_travels_what_it_can_take_and_is_waited_for(how, dtype):
    h, k, v = (layer_normed(seed).to(dtype) for seed in (0, 1, 2))
    parts = encode(how, h, k, v, GRID) if how.what == "hidden" else encode(how, None, k, v, GRID)
    with Copies() as copies:
        decode(parts, torch.float16, torch.device("meta"))
    assert copies.seen and not any(unawaited for _, unawaited in copies.seen)
    numbers = {torch.float16, torch.float32, torch.int8, torch.uint8, torch.int16, torch.int32}
    assert {kind for kind, _ in copies.seen} <= numbers


@pytest.mark.parametrize("words, output", [
    ("hidden fp16", 0.0005), ("hidden bf16", 0.004), ("hidden int8", 0.01), ("hidden fp8", 0.03), ("hidden int4", 0.2),
    ("kv fp16", 0.0005), ("kv bf16", 0.004), ("kv int8", 0.01), ("kv fp8", 0.03), ("kv int4", 0.2)])
def test_the_error_of_attention_is_what_the_docstring_says(words, output):
    assert errors(Representation.parse(words))[1] < output


def table():
    lines = [f"{'':18}{'what is kept':>20}{'attention output':>20}"]
    for representation in ALL:
        kept, output = errors(representation)
        lines.append(f"{representation!s:18}{', '.join(f'{each:.2%}' for each in kept):>20}{output:>20.2%}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
