"""Ways to spoil a reference's file that keep most of it: what a fault, another program or an enemy could make of it."""

from __future__ import annotations

import copy
import json
import math
import random
import struct
from collections.abc import Callable
from typing import Any

from .forging import SIZES, Forged, Raw

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, -50, 0.5, 1.5, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), 10**30,
    2**63,
    "", "x", "1.1", "0", "nan", "\ud800", "x" * 5000, "a\nb", "<script>", "../..", [], {}, [[]], [None], [1, 2, 3],
    {"a": 1},
    [[1.0, 0]], {"base": []}, {"base": {"cond": [0]}}, {"": {}}, [[[[[]]]]],
]
SPELLINGS: list[Callable[[str], str]] = [
    lambda part: part + " ", lambda part: " " + part, lambda part: "0" + part, lambda part: "+" + part,
    lambda part: part[1:], lambda part: part[:-1], lambda part: part.upper(), lambda part: part + "\u0301",
    lambda part: "-" + part, lambda part: part.replace("0", "\u0660", 1), lambda part: part.replace("0", "0_", 1),
    lambda part: part + ".0", lambda part: part + "/", lambda part: "", lambda part: part + "\ud800",
    lambda part: part * 50, lambda part: str(10**30), lambda part: "\u200b" + part,
]
PARTS = ("base", "hires", "0000", "0001", "0009", "input.1.0", "output.3.0", "middle.0.0", "output.99.0", "cond",
         "uncond",         "cond.1", "uncond.7", "k", "v", "h", "k.scale", "v.scale", "h.scale", "w", "x", "t",
         "given", "0", "1", "7",
         "context",
         "y")


def mutate(chance: random.Random, forged: Forged) -> tuple[Forged, str | None, list[str]]:
    """A spoilt copy, checksums of tensors to write in place of the right ones (None: the right ones),
    and what was done."""
    forged, done, sums = copy.deepcopy(forged), [], None
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        change = chance.choice(CHANGES)
        if change is flip_bits and forged.has_sums and chance.random() < 0.5:
            sums = forged.sums()  # a bit that the disk lost: nobody made the checksums right
        before = set(forged.tensors)
        change(chance, forged)
        if set(forged.tensors) != before:
            sums = None
        done.append(change.__name__)
    if chance.random() < 0.04:
        forged.has_sums = not forged.has_sums
        done.append("sums_gone")
    return forged, sums, done


def spoil(chance: random.Random, content: bytes) -> bytes:
    """Bytes of a file with some of them changed, lost or added, without regard for what they mean."""
    place = chance.randrange(len(content))
    return chance.choice((
        lambda: content[:place], lambda: content + bytes(chance.randrange(1, 99)), lambda: content[place:],
        lambda: content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1:],
        lambda: content[:place] + content[place + chance.randrange(1, 200):],
        lambda: chance.getrandbits(64).to_bytes(8, "little") + content[8:],
        lambda: content[:place] + chance.randbytes(16) + content[place + 16:],
    ))()


# The manifest --------------------------------------------------------------------------------------------------------


def set_a_key(chance: random.Random, forged: Forged) -> None:
    if isinstance(forged.manifest, dict):
        key = chance.choice([*forged.manifest, "passes", "given", "kept", "id", "format", "created", "order", "extra"])
        forged.manifest[key] = copy.deepcopy(chance.choice(ODD))


def change_anywhere(chance: random.Random, forged: Forged) -> None:
    """A value somewhere inside becomes an odd one, goes, or comes twice."""
    inside = forged.manifest
    for _ in range(chance.randrange(1, 6)):
        if not isinstance(inside, (dict, list)) or not inside:
            return
        key = chance.choice(list(inside)) if isinstance(inside, dict) else chance.randrange(len(inside))
        if not isinstance(inside[key], (dict, list)) or not inside[key] or chance.random() < 0.3:
            break
        inside = inside[key]
    else:
        return
    way = chance.random()
    if way < 0.6:
        inside[key] = copy.deepcopy(chance.choice(ODD))
    elif way < 0.8:
        del inside[key]
    elif isinstance(inside, list):
        inside.insert(chance.randrange(len(inside) + 1), copy.deepcopy(inside[key]))
    else:
        inside[chance.choice(PARTS)] = inside[key]


def another_manifest(chance: random.Random, forged: Forged) -> None:
    if chance.random() < 0.3:
        forged.manifest = chance.choice([*ODD, "{" * 5000, json.dumps(forged.manifest)[:-1], "[" * 10_000])


def change_calls(chance: random.Random, forged: Forged) -> None:
    try:
        calls = forged.manifest["passes"][chance.choice(list(forged.manifest["passes"]))]
        kinds = [numbers for kinds in forged.manifest.get("given", {}).values() for numbers in kinds.values()]
        way = chance.randrange(6)
        if way == 0:
            sigma = chance.choice((0, 1e-9, 1e5, -1, 10.0 ** chance.uniform(-4, 4), "1"))
            calls[chance.randrange(len(calls))][0] = sigma
        elif way == 1:
            calls[chance.randrange(len(calls))][1] = chance.choice((0, 1, 7, 10**6, -1, 0.5))
        elif way == 2:
            chance.shuffle(calls)
        elif way == 3:
            more = chance.choice((1, 3, 500, 1900, 4000, 60_000))
            calls += [[10.0 ** chance.uniform(-2, 1), number] for number in range(more)]
            for numbers in kinds if chance.random() < 0.7 else ():
                numbers += [chance.choice((-1, 0, 1))] * more
        elif way == 4:
            del calls[chance.randrange(len(calls)):]
        else:
            calls[:] = [calls[0]] * len(calls)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError):  # spoilt already
        pass


def rename_a_pass(chance: random.Random, forged: Forged) -> None:
    old, new = "base", chance.choice(("hires", "x", "", "base ", "a/b", "\ud800"))
    forged.tensors = {name.replace(f"{old}/", f"{new}/", 1) if name.startswith(f"{old}/") else name: raw
                      for name, raw in forged.tensors.items()}
    if isinstance(forged.manifest, dict):
        for table in ("passes", "given"):
            if isinstance(forged.manifest.get(table), dict) and old in forged.manifest[table]:
                forged.manifest[table][new] = forged.manifest[table].pop(old)


# Tensors -------------------------------------------------------------------------------------------------------------


def _one(chance: random.Random, forged: Forged) -> str:
    """A tensor's name; of each part of names as often, however many there are."""
    if not forged.tensors:
        forged.tensors["x"] = Raw.zeros("F32", 1)
    parts: dict[str, list[str]] = {}
    for name in forged.tensors:
        words = name.split("/")
        parts.setdefault(words[-1] if len(words) != 4 else words[-2], []).append(name)
    return chance.choice(parts[chance.choice(sorted(parts))])


def spell_otherwise(chance: random.Random, forged: Forged) -> None:
    name = _one(chance, forged)
    words = name.split("/")
    place = chance.randrange(len(words))
    words[place] = chance.choice(SPELLINGS)(words[place]) if chance.random() < 0.6 else chance.choice(PARTS)
    raw = forged.tensors[name] if chance.random() < 0.3 else forged.tensors.pop(name)
    forged.tensors["/".join(words)] = copy.copy(raw)


def drop_one(chance: random.Random, forged: Forged) -> None:
    del forged.tensors[_one(chance, forged)]


def drop_many(chance: random.Random, forged: Forged) -> None:
    part = chance.choice(_one(chance, forged).split("/"))
    forged.tensors = {name: raw for name, raw in forged.tensors.items() if part not in name.split("/")}


def swap_two(chance: random.Random, forged: Forged) -> None:
    one, other = _one(chance, forged), _one(chance, forged)
    forged.tensors[one], forged.tensors[other] = forged.tensors[other], forged.tensors[one]


def another_type(chance: random.Random, forged: Forged) -> None:
    """The same bytes taken for other numbers; the last side grows or shrinks with their size, or there are too few."""
    raw = forged.tensors[_one(chance, forged)]
    dtype = chance.choice([*SIZES, "F4", "f16"])
    if raw.shape and type(raw.shape[-1]) is int and dtype in SIZES and chance.random() < 0.8:
        bytes_in_row = raw.shape[-1] * SIZES.get(raw.dtype, 1)
        raw.shape = [*raw.shape[:-1], bytes_in_row // SIZES[dtype]]
    raw.dtype = dtype


def another_shape(chance: random.Random, forged: Forged) -> None:
    """As many numbers, or not, arranged otherwise."""
    raw = forged.tensors[_one(chance, forged)]
    count = math.prod(raw.shape) if all(isinstance(side, int) for side in raw.shape) else 1
    side = chance.choice([side for side in (1, 2, 3, 4, 5, 7, 8, 16, 64) if count % side == 0] or [1])
    raw.shape = chance.choice((
        [count], [1, count], [count, 1], [1, *raw.shape], [*raw.shape, 1], raw.shape[::-1], [side, count // side],
        [side, 1, count // side], [], [0], [*raw.shape[:-1], 0], [*raw.shape, 0], [-1], [2**40], [2**31, 2**31],
        [True, count],
        [float(count)], ["1"], None, [1] * 60 + [count], [1] * 70,
    ))


def another_tensor(chance: random.Random, forged: Forged) -> None:
    """Zeros or noise of a random shape; often one that could be."""
    name = _one(chance, forged)
    dtype = chance.choice([forged.tensors[name].dtype, *SIZES])
    if dtype not in SIZES:
        return
    sides = chance.choice((0, 1, 2, 2, 2, 3, 4))
    shape = [chance.choice((0, 1, 2, 3, 4, 5, 8, 16, 32, 63, 64, 77, 100)) for _ in range(sides)]
    count = SIZES[dtype] * math.prod(shape)
    if count < 10**6:
        forged.tensors[name] = Raw(dtype, shape, chance.randbytes(count) if chance.random() < 0.5 else bytes(count))


def fewer_rows(chance: random.Random, forged: Forged) -> None:
    """One tensor, or all parts of a feature, with another number of tokens or channels."""
    start = _one(chance, forged).rpartition("/")[0]
    names = [name for name in forged.tensors if name.startswith(start)]
    side, keep = chance.choice((0, -1)), chance.randrange(1, 9)
    for name in names if chance.random() < 0.6 else names[:1]:
        raw = forged.tensors[name]
        if not raw.shape or raw.dtype not in SIZES or not raw.fits or 0 in raw.shape:
            continue
        size, last = SIZES[raw.dtype], raw.shape[-1]
        if side == 0 and len(raw.shape) > 1 and not name.endswith(".scale"):
            raw.shape = [min(keep, raw.shape[0]), *raw.shape[1:]]
            raw.data = raw.data[:size * math.prod(raw.shape)]
        elif len(raw.shape) == 2:
            rows = [raw.data[at:at + size * last] for at in range(0, len(raw.data), size * last)]
            raw.shape = [raw.shape[0], min(keep, last)]
            raw.data = b"".join(row[:size * raw.shape[-1]] for row in rows)


def all_narrower(chance: random.Random, forged: Forged) -> None:
    """Every feature of a site, of whatever call, with channels too few: nothing in the file tells."""
    keep = chance.choice((1, 2, 7, 8, 15, 16, 31, 63))
    for name, raw in forged.tensors.items():
        is_feature = name.count("/") == 4 and not name.endswith(".scale")
        told = isinstance(raw.shape, list) and all(isinstance(number, int) for number in raw.shape)  # not spoilt yet
        if is_feature and told and len(raw.shape) == 2 and raw.dtype in SIZES and raw.fits:
            size, last = SIZES[raw.dtype], raw.shape[-1]
            rows = [raw.data[at:at + size * last] for at in range(0, len(raw.data), max(1, size * last))]
            raw.shape = [raw.shape[0], min(keep, last)]
            raw.data = b"".join(row[:size * raw.shape[-1]] for row in rows)


def flip_bits(chance: random.Random, forged: Forged) -> None:
    raw = forged.tensors[_one(chance, forged)]
    for _ in range(chance.choice((1, 1, 3, 40))):
        if raw.data:
            place = chance.randrange(len(raw.data))
            raw.data = raw.data[:place] + bytes([raw.data[place] ^ 1 << chance.randrange(8)]) + raw.data[place + 1:]


def extreme_numbers(chance: random.Random, forged: Forged) -> None:
    """Some or all of a tensor's numbers are the largest, infinite, not a number, or tiny."""
    raw = forged.tensors[_one(chance, forged)]
    patterns = {"F16": ["ff7b", "007c", "007e", "0100", "ffff", "00fc"],
                "BF16": ["7f7f", "807f", "c07f", "0100", "807f", "fe4a"],
                "F32": ["ffff7f7f", "0000807f", "0000c07f", "01000000", "00247449", "0000c8ff", "ffff7fff"],
                "F64": [struct.pack("<d", number).hex() for number in (1e300, -1e6, float("inf"), float("nan"),
                1e-300)],
                "F8_E4M3": ["7e", "7f", "ff"]}.get(raw.dtype, ["ff" * SIZES.get(raw.dtype, 1),
                "80" * SIZES.get(raw.dtype, 1)])
    number = bytes.fromhex(chance.choice(patterns))
    count = len(raw.data) // len(number)
    if not count:
        return
    if chance.random() < 0.4:
        raw.data = number * count + raw.data[count * len(number):]
    else:
        at = chance.randrange(count) * len(number)
        raw.data = raw.data[:at] + number + raw.data[at + len(number):]


CHANGES = [set_a_key, change_anywhere, change_anywhere, another_manifest, change_calls, change_calls, rename_a_pass,
           spell_otherwise, spell_otherwise, drop_one, drop_many, swap_two, another_type, another_shape, another_shape,
           another_tensor, another_tensor, fewer_rows, all_narrower, flip_bits, flip_bits, extreme_numbers,
           extreme_numbers]
