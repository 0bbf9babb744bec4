"""Whatever a file holds: it guides, or one sentence names it. What nobody can use is found on opening or reading."""

from __future__ import annotations

import json
import os
import random
import struct
from pathlib import Path

import pytest
import torch

from lib_refdrop.model.rows import Kind
from lib_refdrop.model.sites import Site
from lib_refdrop.references.codec import Representation, decode, encode
from lib_refdrop.references.reference import Key
from lib_refdrop.stores import DiskStore, MemoryStore
from lib_refdrop.words import ReferenceProblem, StoreProblem

from ..fuzz.forging import Forged, Raw
from .saving import is_whole, save
from .test_stores import fill, make_manifest, make_reference

FILES = Path(__file__).resolve().parents[1] / "files"
SITE = Site("output", 3, 0)


def quantised(precision, what="hidden"):
    given = {"k": torch.rand(6, 5), "v": torch.rand(6, 5)} if what == "kv" else {"hidden": torch.rand(6, 5)}
    return encode(Representation(what, precision), **given)


@pytest.fixture
def made(tmp_path):
    """A file with K and V, a trajectory, a hidden state in int4 and one with counts; and its forger."""
    reference = make_reference()
    more = {"output.4.0": quantised("int4"), "output.5.0": quantised("int8", "kv"),
            "output.6.0": quantised("int4", "kv"),
            "output.7.0": {"h": torch.rand(6, 5), "w": torch.ones(6, dtype=torch.uint8)}}
    for site, parts in more.items():
        reference.features |= {f"base/0000/{site}/cond/{part}": value for part, value in parts.items()}
    saved = DiskStore(tmp_path).save(reference, "hero")
    return Forged.of(saved.path), saved.path


def sentence_of(path):
    """What is said about a file, by opening it and reading all of it as a generation does."""
    try:
        with DiskStore(path.parent).using(path.stem) as reference:
            for key in reference._parts:
                decode(reference.feature(key), torch.float32, "cpu")
            for kind, calls in reference.seen("base").items():
                for call in calls:
                    reference.inputs("base", call, kind)
        return None
    except ReferenceProblem as problem:
        said = str(problem)
        assert "'hero'" in said and "\n" not in said and len(said) < 500 and said.isprintable()
        return said


def test_a_forged_file_that_says_nothing_new_is_the_same_reference(made):
    forged, path = made
    with DiskStore(path.parent).using("hero") as before:
        passes, tensors = before.passes, {name: before.features[name] for name in before.features}
    forged.write(path)
    after = DiskStore(path.parent).load("hero")
    assert sentence_of(path) is None and after.passes == passes and forged.has_sums
    assert all(torch.equal(after.features[name], tensor) for name, tensor in tensors.items())


# Numbers -------------------------------------------------------------------------------------------------------------


def test_every_bit_that_flips_in_a_tensor_is_found(tmp_path):
    """Any of a sample of bits of every tensor; each read says so, and names file and tensor."""
    path = DiskStore(tmp_path).save(make_reference(), "hero").path
    whole, chance = path.read_bytes(), random.Random(4)
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in sorted(chance.sample(range(start, len(whole)), 150)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        assert "the numbers of base/" in sentence_of(path) and "are not those that were saved" in sentence_of(path)
    path.write_bytes(whole)
    assert sentence_of(path) is None


@pytest.mark.parametrize("name", ["base/0000/output.3.0/cond/k", "base/0000/x/cond", "base/given/0/context"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -3e38])
def test_numbers_that_no_model_has_are_found_even_where_the_checksum_is_right(made, name, number):
    forged, path = made
    shape, size = forged.tensors[name].shape, torch.Size(forged.tensors[name].shape).numel()
    forged.tensors[name] = Raw("F32", shape, struct.pack(f"<{size}f", *[0.5] * (size - 1), number))
    assert sentence_of(forged.write(path)) == (
        f"Reference 'hero' is damaged: it holds numbers that no model has ({name}); delete it and save it again.")


def test_the_four_bytes_of_the_report_in_an_older_file(tmp_path):
    """Format 1 has no checksum of its tensors: the numbers themselves are looked at."""
    forged = Forged.of(FILES / "format-1-exact.safetensors")
    assert not forged.has_sums
    name = next(name for name, raw in forged.tensors.items() if name.endswith("/h"))
    forged.tensors[name].data = forged.tensors[name].data[:-4] + b"\xff\xff\x7f\xff"
    assert "holds numbers that no model has" in sentence_of(forged.write(tmp_path / "hero.safetensors"))


def test_a_scale_that_is_not_finite(made):
    forged, path = made
    scale = forged.tensors["base/0000/output.4.0/cond/h.scale"]
    scale.data = b"\x80\x7f" + scale.data[2:]  # infinity in bfloat16
    assert "output.4.0/cond/h.scale" in sentence_of(forged.write(path))


@pytest.mark.parametrize("kept", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("what", ["hidden", "kv"])
def test_numbers_beyond_fp16_are_the_largest_it_has(kept, what):
    rows = torch.tensor([[1.0, 70_000.0, -2e5], [0.5, -65_504.0, 3.0]]).to(kept)
    given = {"hidden": rows} if what == "hidden" else {"k": rows, "v": rows}
    parts = encode(Representation(what), **given)
    for value in decode(parts, torch.float16, "cpu").values():
        assert value.tolist() == [[1, 65_504, -65_504], [0.5, -65_504, 3]]
    assert decode(parts, torch.float32, "cpu")["h" if what == "hidden" else "k"][0, 1] > 69_000


# What a file says ----------------------------------------------------------------------------------------------------


def tensor(name, raw):
    return lambda forged: forged.tensors.__setitem__(name, raw)


def renamed(old, new):
    return lambda forged: forged.tensors.__setitem__(new, forged.tensors.pop(old))


def says(**more):
    return lambda forged: forged.manifest.update(more)


def both(*changes):
    return lambda forged: [change(forged) for change in changes]


def without(*names):
    return lambda forged: [forged.tensors.pop(name) for name in names]


AT, INT4, KV8, KV4 = (f"base/0000/output.{block}.0/cond/" for block in (3, 4, 5, 6))
COUNTED = "base/0000/output.7.0/cond/"

IMPOSSIBLE = {
    # names in another spelling, which would be found by nobody
    "call 0": renamed(AT + "k", "base/0/output.3.0/cond/k"),
    "call +000": renamed(AT + "k", "base/+000/output.3.0/cond/k"),
    "call ' 000'": renamed(AT + "k", "base/ 000/output.3.0/cond/k"),
    "call 0_00": renamed(AT + "k", "base/0_00/output.3.0/cond/k"),
    "block 03": renamed(AT + "k", "base/0000/output.03.0/cond/k"),
    "index 00": renamed(AT + "k", "base/0000/output.3.00/cond/k"),
    "arabic": renamed(AT + "k", "base/000\u0660/output.3.0/cond/k"),
    "section": renamed(AT + "k", "base/0000/outer.3.0/cond/k"),
    "kind": renamed(AT + "k", "base/0000/output.3.0/cond.0/k"),
    "branch": renamed(AT + "k", "base/0000/output.3.0/both/k"),
    "part": renamed(AT + "k", "base/0000/output.3.0/cond/q"),
    "pass": renamed(AT + "k", "inner/0000/output.3.0/cond/k"),
    "call beyond": renamed(AT + "k", "base/0009/output.3.0/cond/k"),
    "call −1": renamed(AT + "k", "base/-001/output.3.0/cond/k"), "short": renamed(AT + "k", "k"),
    "long": renamed(AT + "k", AT + "k/k/k"), "empty": renamed(AT + "k", ""),
    "half a letter": renamed(AT + "k", AT + "\ud800"), "latent's call": renamed("base/0000/x/cond", "base/0/x/cond"),
    "latent's kind": renamed("base/0000/x/cond", "base/0000/x/cond.x"),
    "latent's part": renamed("base/0000/x/cond", "base/0000/y/cond"),
    "conditioning": renamed("base/given/0/context", "base/given/00/context"),
    "conditioning −1": renamed("base/given/0/context", "base/given/-1/context"),
    "conditioning x": renamed("base/given/0/context", "base/given/0/x"),
    # parts that do not make a feature
    "no V": without(AT + "v"), "no K": without(AT + "k"), "K, V and h": tensor(AT + "h", Raw.zeros("F32", 16, 8)),
    "V longer": tensor(AT + "v", Raw.zeros("F32", 17, 8)), "V wider": tensor(AT + "v", Raw.zeros("F32", 16, 9)),
    "scale alone": tensor(AT + "h.scale", Raw.zeros("BF16", 2, 8)), "counts alone": without(COUNTED + "h"),
    "a scale too many": tensor(AT + "h.scale", Raw.zeros("BF16", 2, 8)),
    # shapes
    "K of ()": tensor(AT + "k", Raw.zeros("F32")), "K of (8,)": tensor(AT + "k", Raw.zeros("F32", 8)),
    "K of (1, 16, 8)": tensor(AT + "k", Raw.zeros("F32", 1, 16, 8)),
    "h of (6, 0)": tensor(COUNTED + "h", Raw.zeros("F32", 6, 0)),
    "h of (0, 5)": tensor(COUNTED + "h", Raw.zeros("F32", 0, 5)),
    "counts of 5": tensor(COUNTED + "w", Raw.zeros("U8", 5)),
    "counts of (6, 1)": tensor(COUNTED + "w", Raw.zeros("U8", 6, 1)),
    "int4 scale of ()": tensor(INT4 + "h.scale", Raw.zeros("BF16")),
    "int4 scale of (2,)": tensor(INT4 + "h.scale", Raw.zeros("BF16", 2)),
    "int4 scale of (2, 50)": tensor(INT4 + "h.scale", Raw.zeros("BF16", 2, 50)),
    "int4 scale of (5, 2)": tensor(INT4 + "h.scale", Raw.zeros("BF16", 5, 2)),
    "int4 scale of (2, 0)": tensor(INT4 + "h.scale", Raw.zeros("BF16", 2, 0)),
    "int8 K's scale by token": tensor(KV8 + "k.scale", Raw.zeros("BF16", 2, 6)),
    "int8 V's scale by channel": tensor(KV8 + "v.scale", Raw.zeros("BF16", 2, 5)),
    "int4 V without K's scale": both(without(KV4 + "k.scale"), tensor(KV4 + "k", Raw.zeros("F32", 6, 5))),
    # types
    "K of whole numbers": tensor(AT + "k", Raw.zeros("I32", 16, 8)),
    "K of truths": tensor(AT + "k", Raw.zeros("BOOL", 16, 8)), "int8 without scale": without(KV8 + "k.scale"),
    "fp16 with scale": tensor(KV8 + "k", Raw.zeros("F16", 6, 5)),
    "int4's scale in int8": tensor(INT4 + "h.scale", Raw.zeros("I8", 2, 5)),
    "counts in fp16": tensor(COUNTED + "w", Raw.zeros("F16", 6)),
    # the trajectory
    "x of ()": tensor("base/0000/x/cond", Raw.zeros("F16")),
    "x of (4,)": tensor("base/0000/x/cond", Raw.zeros("F16", 4)),
    "x of (4, 0, 8)": tensor("base/0000/x/cond", Raw.zeros("F16", 4, 0, 8)),
    "x of whole numbers": tensor("base/0000/x/cond", Raw.zeros("I64", 4, 8, 8)),
    "t of (2,)": tensor("base/0000/t/cond", Raw.zeros("I64", 2)),
    "t of (0,)": tensor("base/0000/t/cond", Raw.zeros("I64", 0)),
    "t of (1, 1)": tensor("base/0000/t/cond", Raw.zeros("I64", 1, 1)), "no t": without("base/0000/t/cond"),
    "no x": without("base/0000/x/cond"), "context of (16,)": tensor("base/given/0/context", Raw.zeros("F16", 16)),
    "context of (1, 7, 16)": tensor("base/given/0/context", Raw.zeros("F16", 1, 7, 16)),
    # the manifest
    "id a list": says(id=["a"]), "id an object": says(id={"a": 1}), "id a number": says(id=3),
    "prompt a list": says(prompt=[1]), "family a number": says(family=7), "lineage a list": says(lineage=["x"]),
    "lineage of lines": says(lineage="a\nb"),
    "lineage of a page": says(lineage="x" * 10_000), "created a number": says(created=5),
    "kept a list": says(kept=[1]), "percent 0": says(kept={"save_percent": 0}),
    "percent −50": says(kept={"save_percent": -50}), "percent NaN": says(kept={"save_percent": float("nan")}),
    "percent 1e9": says(kept={"save_percent": 1e9}), "percent text": says(kept={"save_percent": "much"}),
    "passes a list": says(passes=[[1, 0]]), "passes a text": says(passes="base"),
    "calls a number": says(passes={"base": 2}), "a call a number": says(passes={"base": [1, 2]}),
    "a call of three": says(passes={"base": [[10.0, 0, 0], [1.0, 0, 0]]}),
    "sigma NaN": says(passes={"base": [[float("nan"), 0], [1.0, 0]]}),
    "sigma −1": says(passes={"base": [[-1.0, 0], [1.0, 0]]}),
    "sigma infinite": says(passes={"base": [[float("inf"), 0], [1.0, 0]]}),
    "sigma text": says(passes={"base": [["10", 0], [1, 0]]}),
    "sigma true": says(passes={"base": [[True, 0], [1.0, 0]]}),
    "visit −1": says(passes={"base": [[10.0, -1], [1.0, 0]]}),
    "visit 0.5": says(passes={"base": [[10.0, 0.5], [1.0, 0]]}),
    "visit huge": says(passes={"base": [[10.0, 10**30], [1.0, 0]]}), "given a list": says(given=[]),
    "given of one call": says(given={"base": {"cond": [0], "uncond": [1, 1]}}),
    "given of three": says(given={"base": {"cond": [0, 0, 0], "uncond": [1, 1]}}),
    "given of texts": says(given={"base": {"cond": ["0", "0"], "uncond": [1, 1]}}),
    "given −5": says(given={"base": {"cond": [-5, 0], "uncond": [1, 1]}}),
    "given none": says(given={"base": {"cond": [-1, 0], "uncond": [1, 1]}}),
    "given no kind": says(given={"base": {"uncond": [1, 1]}}),
    "given both": says(given={"base": {"both": [0, 0], "cond": [0, 0], "uncond": [1, 1]}}),
    "given to a pass that is not": says(given={"inner": {"cond": [0, 0]}, "base": {"cond": [0, 0], "uncond": [1, 1]}}),
    "given missing": lambda forged: forged.manifest.pop("given"),
    "manifest a list": lambda forged: setattr(forged, "manifest", [1]),
    "manifest null": lambda forged: setattr(forged, "manifest", None), "format true": says(format=True),
    "format null": says(format=None), "format −1": says(format=-1), "format 0": says(format=0),
    "format a list": says(format=[2]), "format NaN": says(format=float("nan")), "format text": says(format="new"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_what_nobody_could_use_is_refused_when_the_file_is_opened(made, what):
    forged, path = made
    IMPOSSIBLE[what](forged)
    forged.write(path)
    with pytest.raises(ReferenceProblem, match="^Reference 'hero' is damaged or not a reference") as caught:
        DiskStore(path.parent).load("hero")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


@pytest.mark.parametrize("what", ["V longer", "h of (6, 0)", "int4 scale of ()", "context of (16,)", "x of (4,)",
                                  "id a list"])
def test_nor_can_it_be_saved_or_kept_in_memory(tmp_path, what):
    """The same check stands before both: a writer that was told nonsense must not leave a file that nobody can open."""
    for store in (MemoryStore(), DiskStore(tmp_path)):
        made = make_reference()
        for block, parts in ((4, quantised("int4")), (7, {"h": torch.rand(6, 5)})):
            made.features |= {f"base/0000/output.{block}.0/cond/{part}": value for part, value in parts.items()}
        made.features |= {
            "V longer": {AT + "v": torch.rand(17, 8)}, "h of (6, 0)": {COUNTED + "h": torch.zeros(6, 0)},
            "int4 scale of ()": {INT4 + "h.scale": torch.tensor(1.0)},
            "context of (16,)": {"base/given/0/context": torch.rand(16)},
            "x of (4,)": {"base/0000/x/cond": torch.rand(4)}}.get(what, {})
        made.manifest |= {"id": ["a"]} if what == "id a list" else {}
        with pytest.raises(ValueError):
            store.save(made, "hero")
        assert store.names() == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("version", ["1.1", 1.5, "4", 4, "2.0.1", 99, "1e3"])
def test_a_file_of_a_newer_version(made, version):
    forged, path = made
    says(format=version)(forged)
    said = sentence_of(forged.write(path))
    if version == "2.0.1":  # no number at all
        assert "damaged" in said
    else:
        assert said == f"Reference 'hero' was saved by a newer RefDrop (format {version}); update to use it."


@pytest.mark.parametrize("version", ["1", 1, 1.0])
def test_the_format_by_another_spelling(made, version):
    forged, path = made
    forged = Forged.of(FILES / "format-1-tiny.safetensors")
    says(format=version, given="nonsense that format 1 does not know")(forged)
    assert sentence_of(forged.write(path)) is None


def test_checksums_that_are_missing_or_too_many(made):
    forged, path = made
    forged.has_sums = False
    assert "has no checksums of its tensors" in sentence_of(forged.write(path))
    forged.has_sums = True
    for sums in ("", forged.sums() + forged.sums(), "no base64!", forged.sums()[:-4]):
        assert "damaged" in sentence_of(forged.write(path, sums))


# Counts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [4_000, 300_000])
def test_counts_that_no_generation_has_are_refused_at_once(made, count):
    forged, path = made
    says(passes={"base": [[10.0, 0], [1.0, 0]] + [[0.5, n] for n in range(count)]})(forged)
    assert "more passes or model calls than any generation" in sentence_of(forged.write(path))


def test_the_most_calls_there_can_be_are_found_quickly(made):
    """A list of calls was searched for each of them, and for each kind of row."""
    forged, path = made
    says(passes={"base": [[10.0, 0], [1.0, 0]] + [[0.5, n] for n in range(1998)]},
         given={"base": {"cond": [0] * 2000, "uncond": [1] * 2000}})(forged)
    for call in range(2, 2000):
        for branch in ("cond", "uncond"):
            forged.tensors[f"base/{call:04d}/x/{branch}"] = Raw.zeros("F16", 4, 8, 8)
            forged.tensors[f"base/{call:04d}/t/{branch}"] = Raw.zeros("I64")
    with DiskStore(path.parent).using(forged.write(path).stem) as reference:
        looked = []
        reference.features = Counted(reference.features, lambda: looked.append(1))
        for _ in range(50):
            assert reference.seen("base")[Kind("uncond")] == list(range(2000))
        assert len(looked) == 1


class Counted(dict):
    """Tensors by name that tell when all of their names are asked for."""

    def __init__(self, tensors, tell):
        super().__init__((name, None) for name in tensors)
        self._tell = tell

    def __iter__(self):
        self._tell()
        return super().__iter__()


# Words ---------------------------------------------------------------------------------------------------------------


def test_what_a_file_says_of_itself_is_short_and_can_be_shown(made):
    forged, path = made
    says(family="<script>alert(1)</script>\n" + "x" * 10**6, prompt="half a letter: \ud800", model="m\ud800")(forged)
    reference = DiskStore(path.parent).load(forged.write(path).stem)
    assert len(reference.manifest["family"]) <= 100 and "\n" not in reference.manifest["family"]
    assert reference.manifest["prompt"] == "half a letter: ?"
    json.dumps(reference.manifest, ensure_ascii=False).encode()


# The file while it is in use -----------------------------------------------------------------------------------------


def test_a_file_overwritten_in_place_while_in_use_is_noticed(tmp_path):
    store = DiskStore(tmp_path)
    for number, name in ((1, "hero"), (2, "other")):
        save(store, number, name)
    path, other = tmp_path / "hero.safetensors", (tmp_path / "other.safetensors").read_bytes()
    with store.using("hero") as reference:
        assert not reference.changed() and reference.features["base/0000/output.0.0/cond/h"].sum() > 0
        assert not reference.changed()
        status = path.stat()
        with open(path, "r+b") as file:
            file.write(other)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**6))
        assert path.stat().st_size == len(other) and reference.changed()
    assert not reference.changed()  # closed


def test_its_numbers_are_not_taken_for_the_first_ones(tmp_path):
    """Even where size and time stay as they were."""
    store = DiskStore(tmp_path)
    for number, name in ((1, "hero"), (2, "other")):
        save(store, number, name)
    path, other = tmp_path / "hero.safetensors", (tmp_path / "other.safetensors").read_bytes()
    with store.using("hero") as reference:
        with open(path, "r+b") as file:
            file.write(other)
        with pytest.raises(ReferenceProblem, match="'hero' is damaged.*are not those that were saved"):
            is_whole(reference)


def test_a_file_replaced_as_a_whole_is_no_change(tmp_path):
    store = DiskStore(tmp_path)
    save(store, 1, "hero")
    with store.using("hero") as reference:
        save(store, 2, "hero", replace=True)
        assert not reference.changed() and is_whole(reference) and reference.manifest["seed"] == 1
    assert not MemoryStore().save(make_reference(), "a").path and not make_reference().changed()


# What tells references apart -----------------------------------------------------------------------------------------


def test_content_tells_files_apart_and_stays_with_a_file(tmp_path):
    store = DiskStore(tmp_path)
    for number, name in ((1, "hero"), (2, "hero-2")):
        save(store, number, name)
    first, second = store.load("hero").content, store.load("hero-2").content
    assert first != second and store.load("hero").content == first
    (tmp_path / "hero.safetensors").rename(tmp_path / "renamed.safetensors")
    assert store.load("renamed").content == first
    save(store, 2, "hero", replace=True)
    assert store.load("hero").content not in (first, second)


def test_older_files_of_one_name_without_id_are_told_apart_by_their_numbers(tmp_path):
    contents = set()
    for number in range(3):
        forged = Forged.of(FILES / "format-1-tiny.safetensors")
        forged.manifest.pop("id", None)
        name = next(name for name in forged.tensors if name.split("/")[2] == "x")
        forged.tensors[name].data = bytes([number]) + forged.tensors[name].data[1:]
        (tmp_path / str(number)).mkdir()
        store = DiskStore(tmp_path / str(number))
        contents.add(store.load(forged.write(store.folder / "hero.safetensors").stem).content)
        contents.add(store.load("hero").content)
    assert len(contents) == 3


def test_references_in_memory_are_told_apart():
    store = MemoryStore()
    for _ in range(2):
        store.save(make_reference(), "hero")
    assert store.load("hero").content == store.load("hero").content != store.load("hero-2").content


def test_a_number_is_looked_at_once(tmp_path, monkeypatch):
    reference = DiskStore(tmp_path)
    reference.save(make_reference(), "hero")
    loaded, looked = reference.load("hero"), []
    aminmax = torch.aminmax
    monkeypatch.setattr(torch, "aminmax", lambda tensor: (looked.append(1), aminmax(tensor))[1])
    for _ in range(3):
        loaded.feature(Key("base", 0, SITE, Kind("cond")))
    assert len(looked) == 2  # K and V


# A limit -------------------------------------------------------------------------------------------------------------


def test_a_writer_keeps_to_its_limit_and_goes_on(tmp_path):
    """Features of 1,600 bytes into 40 kB: who thins out drops a level and adds again, and the file is never larger."""
    for store in (DiskStore(tmp_path), MemoryStore()):
        writer, added, refused = store.writer("hero", limit=40_000), [], 0
        for call in range(40):
            name = f"base/{call:04d}/output.3.0/cond/h"
            try:
                writer.add(name, torch.full((100, 8), float(call)).half())
            except StoreProblem as problem:
                assert type(problem).__name__ == "LimitReached" and 0 < problem.excess <= 2_000 and writer.left < 2_000
                refused += 1
                writer.drop([added.pop(1)])
                writer.add(name, torch.full((100, 8), float(call)).half())
            added.append(name)
        assert refused > 10
        saved = writer.commit(make_manifest(passes={"base": [[40.0 - n, 0] for n in range(40)]}, given={}))
        assert 30_000 < saved.bytes <= 40_000 and (saved.path is None or saved.path.stat().st_size == saved.bytes)
        reference = store.load("hero")
        assert sorted(reference.features) == sorted(added)
        assert all(reference.features[name][0, 0] == int(name[5:9]) for name in added)


def test_a_manifest_that_does_not_fit_leaves_the_writer_open(tmp_path):
    store = DiskStore(tmp_path)
    writer = store.writer("hero", limit=30_000)
    fill(writer, {f"base/{call:04d}/output.3.0/cond/h": torch.rand(100, 8).half() for call in range(2)})
    with pytest.raises(StoreProblem, match="'hero' does not fit into the 30.0 kB that it may take") as caught:
        writer.commit(make_manifest(given={}, prompt="a knight " * 5000))
    assert caught.value.excess > 10_000
    saved = writer.commit(make_manifest(given={}))
    assert saved.bytes <= 30_000 and len(store.load("hero").features) == 2


def test_without_a_limit_there_is_none():
    assert MemoryStore().writer("hero").left is None
