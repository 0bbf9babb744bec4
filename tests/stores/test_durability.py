"""Whatever happens to a process, a disk or a file: earlier references stay, and no half one is ever taken for whole."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_refdrop.references.codec import Representation, encode
from lib_refdrop.stores import DiskStore, partial, safetensors
from lib_refdrop.words import ReferenceProblem, StoreProblem

from .saving import is_whole, save, tensors_of
from .test_stores import fill, make_manifest

ROOT = Path(__file__).resolve().parents[2]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")


class Saver:
    """The process of saving.py."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "tests.stores.saving", str(folder)], cwd=ROOT, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env={**os.environ, "OMP_NUM_THREADS": "1"})

    def __call__(self, *command) -> str:
        print(*command, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def saver(tmp_path_factory):
    saver = Saver(tmp_path_factory.mktemp("latents"))
    saver.folder = Path(saver.process.args[-1])
    saver("wait")
    yield saver
    saver.process.stdin.close()
    saver.process.wait()


@pytest.fixture
def folder(saver):
    """The saver's folder, empty."""
    for path in saver.folder.iterdir():
        path.unlink()
    return saver.folder


def left_over(folder):
    return list(folder.glob(".saving-*"))


@needs_fork
def test_killed_at_any_point_of_a_save(saver, folder):
    store, chance, interrupted = DiskStore(folder), random.Random(4), 0
    for number in range(2):
        save(store, number, "earlier")
    kept = {name: (folder / f"{name}.safetensors").read_bytes() for name in store.names()}
    for number in range(50):
        process = int(saver("save", 1000 * (number + 1), 900))
        if number % 2:  # not before it is at work, however busy the machine is
            until = time.monotonic() + 10
            while not left_over(folder) and time.monotonic() < until:
                time.sleep(0.0002)
            time.sleep(chance.uniform(0, 0.004))
        else:
            time.sleep(chance.uniform(0, 0.03))
        os.kill(process, signal.SIGKILL)
        saver("wait")
        interrupted += bool(left_over(folder))
        for name in store.names():
            with store.using(name) as reference:
                assert is_whole(reference), name
            if name.startswith("more"):
                store.delete(name)
    assert {name: (folder / f"{name}.safetensors").read_bytes() for name in kept} == kept
    assert interrupted > 5  # or nothing was tested
    save(store, 7, "afterwards")
    assert not left_over(folder) and store.newest() == "afterwards"


@needs_fork
def test_two_processes_save_and_one_reads_under_the_same_names(saver, folder):
    saver("save", 0, 40)
    saver("save", 100, 40)
    store, seen, until = DiskStore(folder), 0, time.monotonic() + 30
    while len(store.names()) < 41 and time.monotonic() < until:
        try:
            with store.using("hero") as reference:
                assert is_whole(reference)
            seen += 1
        except ReferenceProblem as problem:
            assert "There is no reference 'hero'" in str(problem)
    saver("wait")
    assert seen
    references = {name: store.load(name) for name in store.names()}
    assert all(is_whole(reference) for reference in references.values())
    assert references.pop("hero").manifest["seed"] in (38, 138)
    assert all(reference.manifest["name"] == name for name, reference in references.items())
    seeds = sorted(reference.manifest["seed"] for reference in references.values())
    assert seeds == [*range(1, 40, 2), *range(101, 140, 2)]


@needs_fork
def test_what_is_cleaned_up_is_locked_until_it_is_gone(tmp_path, monkeypatch):
    """Or another process, whose file is so new that it is not locked yet, would take the lock and lose its file."""
    made = partial.PartialFile(tmp_path)
    made.file.close()  # as a killed process leaves it
    others, unlink = [], Path.unlink

    def deleting(path, *args):
        with open(path, "r+b") as another:
            try:
                fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)
                others.append("could lock it")
            except BlockingIOError:
                others.append("waits")
        unlink(path, *args)

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(Path, "unlink", deleting)
    partial.clean(tmp_path)
    assert others == ["waits"] and not made.path.exists()


def test_threads_at_the_same_time_all_get_a_name(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        saved = list(pool.map(lambda number: save(DiskStore(tmp_path), number, "hero"), range(12)))
    assert len(set(saved)) == 12 == len(DiskStore(tmp_path).names())
    assert {DiskStore(tmp_path).load(name).manifest["seed"] for name in saved} == set(range(12))


@needs_fork
@pytest.mark.parametrize("limit", [0, 100, 9000, 50_000, 700_000])
def test_a_disk_that_fills_up_in_mid_write(saver, folder, limit):
    store = DiskStore(folder)
    save(store, 1, "earlier")
    said = saver("limit", limit)
    saver("wait")
    assert said == (f"Reference 'big' could not be saved in {folder}: the disk is full, free some space or choose "
                    "another folder (--refdrop-dir); nothing that was saved before is lost.")
    assert [path.name for path in folder.iterdir()] == ["earlier.safetensors"]
    assert is_whole(store.load("earlier"))


def test_a_small_file_system_that_fills_up(tmp_path):
    if not sys.platform.startswith("linux") or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24m", "refdrop-test", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        store = DiskStore(tmp_path)
        save(store, 1, "earlier")
        writer = store.writer("big")  # of unknown size
        with pytest.raises(StoreProblem, match="'big' could not be saved.*the disk is full"):
            for n in range(40):
                writer.add(f"base/given/0/{n}", torch.zeros(2**20, dtype=torch.uint8))
        with pytest.raises(StoreProblem, match="the disk is full"):
            writer.add("base/given/0/more", torch.zeros(1))
        assert [path.name for path in tmp_path.iterdir()] == ["earlier.safetensors"] and is_whole(store.load("earlier"))
        with pytest.raises(StoreProblem, match="the disk is full"):
            store.writer("big", expected=20 * 2**20)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_left_over_files_are_cleaned_up_but_not_those_of_others(tmp_path):
    store = DiskStore(tmp_path)
    running = store.writer("running")
    mine, = left_over(tmp_path)
    orphan = mine.with_name(mine.name.replace(mine.stem[-8:], "00000000"))
    elsewhere, ancient = (tmp_path / f".saving-{host}-0123{partial.SUFFIX}" for host in ("another", "someones"))
    for path in (orphan, elsewhere, ancient):
        path.write_bytes(b"half of a reference")
    os.utime(ancient, (time.time() - 2 * partial.DAY,) * 2)
    save(store, 1, "hero")
    assert set(left_over(tmp_path)) == {mine, elsewhere} | (set() if partial.fcntl else {orphan})
    assert store.names() == ["hero"]
    fill(running, tensors_of(2)).commit(make_manifest(seed=2))
    assert is_whole(store.load("running"))


@pytest.mark.skipif(partial.fcntl is None, reason="needs locks")
@pytest.mark.parametrize("days", [-3, 3, 400])
def test_a_save_that_takes_days_is_nobodys_left_over(tmp_path, days):
    """A computer that slept, or whose clock was set: the lock says that somebody is at work, whatever the time says."""
    writer = DiskStore(tmp_path).writer("hero")
    mine, = left_over(tmp_path)
    os.utime(mine, (time.time() - days * partial.DAY,) * 2)
    program = f"import pathlib; from lib_refdrop.stores import partial; partial.clean(pathlib.Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
    assert mine.exists()
    fill(writer, tensors_of(2)).commit(make_manifest(seed=2))
    assert is_whole(DiskStore(tmp_path).load("hero"))


def test_without_locks_age_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(partial, "fcntl", None)
    for name, days in (("young", 0.5), ("old", 2)):
        path = tmp_path / f"{partial.PREFIX}{partial._host()}-{name}{partial.SUFFIX}"
        path.write_bytes(b"half")
        os.utime(path, (time.time() - days * partial.DAY,) * 2)
    partial.clean(tmp_path)
    assert [path.stem.rpartition("-")[2] for path in left_over(tmp_path)] == ["young"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_drive_that_cannot_be_waited_for(tmp_path, monkeypatch, number):
    """Network and FUSE drives; what else fsync says is a failed save."""
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    assert save(DiskStore(tmp_path), 1, "hero") == "hero" and is_whole(DiskStore(tmp_path).load("hero"))
    number = errno.EIO
    with pytest.raises(StoreProblem, match="'hero' could not be saved"):
        save(DiskStore(tmp_path), 2, "hero", replace=True)
    assert is_whole(DiskStore(tmp_path).load("hero")) and not left_over(tmp_path)


# Damaged files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path):
    """A small reference's file, and a check: as it is now, it reads the same or is refused in one sentence."""
    store = DiskStore(tmp_path)
    tensors = {f"base/000{call}/output.3.0/cond/{part}": torch.rand(4, 8).half() for call in (0, 1) for part in "kv"}
    tensors["base/given/0/y"] = torch.rand(3).double()
    path = fill(store.writer("hero"), tensors).commit(make_manifest()).path
    whole = store.load("hero")
    content = {name: whole.features[name] for name in whole.features}

    def check() -> bool:
        try:
            with store.using("hero") as found:
                assert found.manifest == whole.manifest and found.passes == whole.passes
                assert set(found.features) == set(content)
                assert all(torch.equal(found.features[name], tensor) for name, tensor in content.items())
            return True
        except ReferenceProblem as problem:
            assert "hero" in str(problem) and "\n" not in str(problem) and len(str(problem)) < 500
            return False

    return path, check


def test_every_byte_of_the_header_flipped(damaged):
    path, check = damaged
    chance, length, refused = random.Random(4), 8 + int.from_bytes(path.read_bytes()[:8], "little"), 0
    with open(path, "r+b", buffering=0) as file:
        for place in range(length):
            file.seek(place)
            byte, = file.read(1)
            for other in (byte ^ 0xFF, byte ^ chance.randrange(1, 255)):
                file.seek(place)
                file.write(bytes([other]))
                refused += not check()
            file.seek(place)
            file.write(bytes([byte]))
    assert refused > length and check()


def test_cut_off_anywhere_or_longer_than_it_was(damaged):
    path, check = damaged
    whole, chance = path.read_bytes(), random.Random(4)
    for length in {0, 1, 7, 8, 9, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(300))}:
        path.write_bytes(whole[:length])
        assert not check()
    path.write_bytes(whole + b" ")
    assert not check()


def test_cut_off_while_it_is_in_use(tmp_path):
    store = DiskStore(tmp_path)
    save(store, 1, "hero")
    reference = store.load("hero")
    os.truncate(tmp_path / "hero.safetensors", 100_000)
    with pytest.raises(ReferenceProblem, match="'hero' is damaged.*cut short"):
        is_whole(reference)


def forged(tensors, manifest, length=None, data=b""):
    """A file that says what it likes about itself."""
    metadata = {"refdrop": json.dumps(manifest), "refdrop.check": "0" * 64}
    text = json.dumps({"__metadata__": metadata, **tensors}).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def described(dtype="F16", shape=(4, 4), offsets=(0, 32)):
    return {"base/0000/output.3.0/cond/h": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@pytest.mark.parametrize("content", [
    forged({}, {}, length=2**60),
    forged({}, {}, length=2**63 + 5),
    forged({}, {}, length=2**64 - 8),
    forged(described(shape=(2**40,), offsets=(0, 2**41)), make_manifest()),
    forged(described(shape=(2**62, 2**62), offsets=(0, 2**125)), make_manifest()),
    forged(described(shape=(2**62, 0), offsets=(0, 0)), make_manifest()),
    forged(described(shape=(-4, -4)), make_manifest(), data=bytes(32)),
    forged(described(shape=(True, 16)), make_manifest(), data=bytes(32)),
    forged(described(offsets=(2**50, 2**50 + 32)), make_manifest(), data=bytes(32)),
    forged(described(offsets=(8, 40)), make_manifest(), data=bytes(40)),
    forged(described(dtype="F4096"), make_manifest(), data=bytes(32)),
    forged(described(dtype=["F16"]), make_manifest(), data=bytes(32)),
    forged({"x": 3}, make_manifest(), data=bytes(32)),
    forged({"x": {}}, make_manifest(), data=bytes(32)),
    forged({}, make_manifest(format=1e999)),
    forged({}, make_manifest(passes={"base": [[1.0, 1e999]]})),
    forged({}, make_manifest(passes=[])),
    forged({}, "no object"),
    b"\x08\0\0\0\0\0\0\0[1,2,3] ",
    b"\x04\0\0\0\0\0\0\0null",
    (2**20).to_bytes(8, "little") + b"[" * 2**20,
    (2**20).to_bytes(8, "little") + b'{"a":' + b"[" * (2**20 - 5),
    (10**4).to_bytes(8, "little") + b'{"a":' + b"9" * (10**4 - 5),
])
def test_absurd_files_are_refused_and_nothing_is_allocated_for_them(tmp_path, content):
    (tmp_path / "hero.safetensors").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ReferenceProblem, match="'hero' is damaged or not a reference"):
            DiskStore(tmp_path).load("hero")
        assert tracemalloc.get_traced_memory()[1] < 100_000 + 4 * len(content)
    finally:
        tracemalloc.stop()


def test_a_header_that_fills_a_large_file_is_not_read(tmp_path):
    with open(tmp_path / "hero.safetensors", "wb") as file:
        file.write((2**30).to_bytes(8, "little") + b"{")
        file.truncate(2**30 + 8)
    tracemalloc.start()
    try:
        with pytest.raises(ReferenceProblem, match="its header has 1073741824 bytes"):
            DiskStore(tmp_path).load("hero")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "nowhere.safetensors").symlink_to(tmp_path / "gone")
    store = DiskStore(tmp_path)
    assert store.names() == []
    for name in ("pipe", "folder", "nowhere"):
        with pytest.raises(ReferenceProblem, match=f"no reference '{name}'"):
            store.load(name)
        assert save(store, 1, name) == f"{name}-2"  # and nothing is written over


def test_a_number_type_that_this_torch_lacks(tmp_path, monkeypatch):
    parts = encode(Representation("hidden", "fp8"), torch.rand(2, 8))
    parts = {f"base/0000/output.3.0/cond/{part}": value for part, value in parts.items()}
    fill(DiskStore(tmp_path).writer("hero"), parts).commit(make_manifest())
    monkeypatch.delitem(safetensors.DTYPES, "F8_E4M3")
    with pytest.raises(ReferenceProblem, match="'hero' holds numbers of type F8_E4M3.*update PyTorch"):
        DiskStore(tmp_path).load("hero")


# The format ----------------------------------------------------------------------------------------------------------


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(sorted(safetensors.DTYPES)))
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    highest = 2 if dtype == "BOOL" else 256
    width = torch.empty((), dtype=safetensors.DTYPES[dtype]).element_size()
    raw = torch.randint(0, highest, (*shape, width), dtype=torch.uint8, generator=generator)
    return raw.view(safetensors.DTYPES[dtype]).view(shape)


LETTERS = st.characters(blacklist_categories=["Cs"], blacklist_characters="/")
# A latent and its timestep are called so, and are no conditioning.
NAMES = st.text(LETTERS, max_size=12).filter(lambda name: name not in ("x", "t")).map("base/given/0/{}".format)


def bits(tensor):
    return str(tensor.dtype), tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=st.dictionaries(NAMES, tensors(), max_size=6), expected=st.sampled_from([0, 10**6]))
def test_any_tensors_come_back_bit_for_bit_and_to_every_reader(tmp_path_factory, content, expected):
    store = DiskStore(tmp_path_factory.getbasetemp() / "any")
    saved = fill(store.writer("any", replace=True, expected=expected), content).commit(make_manifest())
    wanted = {name: bits(tensor) for name, tensor in content.items()}
    with store.using("any") as reference:
        assert {name: bits(reference.features[name]) for name in reference.features} == wanted
    assert {name: bits(tensor) for name, tensor in load_file(saved.path).items()} == wanted
    with safe_open(saved.path, framework="pt") as file:
        metadata = file.metadata()
    save_file(content, store.folder / "public.safetensors", metadata=metadata)
    with store.using("public") as reference:
        assert {name: bits(reference.features[name]) for name in reference.features} == wanted
