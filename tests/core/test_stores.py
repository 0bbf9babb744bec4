"""References survive: one file, whole or not at all, never over another, and every damage has its sentence."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lib_refdrop.errors import ReferenceProblem, StoreProblem
from lib_refdrop.recorder import Recorder
from lib_refdrop.reference import Call, PassRecord
from lib_refdrop.sites import Lineage, Site, SiteShape
from lib_refdrop.stores import DiskStore, MemoryStore

SITE = Site("output", 3, 0)
LINEAGE = Lineage({SITE: SiteShape(2, 8)})


def make_reference(tokens=16, value=1.0):
    recorder = Recorder(LINEAGE, {"prompt": "a pirate", "seed": 7})
    recorder.begin_pass("base")
    for call, sigma in enumerate((10.0, 1.0)):
        for branch in ("cond", "uncond"):
            recorder.keep(recorder.call(sigma, 0), SITE, branch, torch.full((tokens, 8), value + call), torch.rand(tokens, 8))
    return recorder.reference("hero")


@pytest.fixture(params=["RAM", "Disk"])
def store(request, tmp_path):
    return MemoryStore() if request.param == "RAM" else DiskStore(tmp_path / "latents")


def test_what_is_saved_comes_back(store):
    assert store.names() == [] and store.newest() is None
    made = make_reference()
    saved = store.save(made, "hero")
    loaded = store.load("hero")
    assert saved.name == "hero" == store.newest() and loaded.manifest["prompt"] == "a pirate"
    assert loaded.passes == made.passes
    assert all(torch.equal(loaded.features[name], made.features[name]) for name in made.features)


def test_saving_never_destroys_unless_asked(store):
    names = [store.save(make_reference(value=n), "hero").name for n in range(3)]
    assert names == ["hero", "hero-2", "hero-3"] == store.names()
    assert store.save(make_reference(value=9), "hero", replace=True).name == "hero"
    assert len(store.names()) == 3
    assert store.load("hero").features["base/0000/output.3.0/cond/k"][0, 0] == 9
    assert store.load("hero-2").features["base/0000/output.3.0/cond/k"][0, 0] == 1


def test_missing_and_deleted_ones_are_told_apart_by_what_is_there(store):
    with pytest.raises(ReferenceProblem, match="no reference 'ghost'.*save one first"):
        store.load("ghost")
    store.save(make_reference(), "hero")
    with pytest.raises(ReferenceProblem, match="there are: hero"):
        store.load("ghost")
    store.delete("hero")
    with pytest.raises(ReferenceProblem, match="no reference 'hero'"):
        store.delete("hero")


def test_one_file_that_the_public_library_reads(tmp_path):
    saved = DiskStore(tmp_path).save(make_reference(), "hero")
    assert saved.files == 1 and [path.name for path in tmp_path.iterdir()] == ["hero.safetensors"]
    with safe_open(saved.path, framework="pt") as file:
        manifest = json.loads(file.metadata()["refdrop"])
        assert len(file.keys()) == 8
    assert manifest["name"] == "hero" and manifest["lineage"] == LINEAGE.signature and manifest["format"] == 1


def test_a_crash_while_saving_leaves_what_was_there(tmp_path):
    store = DiskStore(tmp_path)
    store.save(make_reference(value=1), "hero")
    program = ("import os, signal, sys; import lib_refdrop.stores.disk as disk\n"
               "write = disk.write_reference\n"
               "def die(path, reference):\n"
               "    write(path, reference); os.truncate(path, 100); os.kill(os.getpid(), signal.SIGKILL)\n"
               "disk.write_reference = die\n"
               "from tests.core.test_stores import make_reference\n"
               f"disk.DiskStore({str(tmp_path)!r}).save(make_reference(value=5), 'hero', replace=True)")
    root = Path(__file__).resolve().parents[2]
    if not hasattr(os, "link") or sys.platform == "win32":
        pytest.skip("needs SIGKILL")
    assert subprocess.run([sys.executable, "-c", program], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}).returncode < 0
    assert store.names() == ["hero"]
    assert store.load("hero").features["base/0000/output.3.0/cond/k"][0, 0] == 1


def test_truncated_at_any_length(tmp_path):
    saved = DiskStore(tmp_path).save(make_reference(tokens=4), "hero")
    whole = saved.path.read_bytes()
    for length in range(0, len(whole), 61):
        saved.path.write_bytes(whole[:length])
        with pytest.raises(ReferenceProblem, match="damaged or not a reference"):
            DiskStore(tmp_path).load("hero")


def test_files_that_are_no_references(tmp_path):
    store = DiskStore(tmp_path)
    (tmp_path / "note.safetensors").write_text("this is not a safetensors file, only its name says so")
    save_file({"weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "odd.safetensors", metadata={"refdrop": "{]"})
    newer = {"format": 99, "lineage": "x", "passes": {}}
    save_file({"weight": torch.zeros(2)}, tmp_path / "newer.safetensors", metadata={"refdrop": json.dumps(newer)})
    for name, sentence in {"note": "damaged or not", "lora": "not a RefDrop reference", "odd": "manifest is unreadable",
                           "newer": "newer RefDrop"}.items():
        with pytest.raises(ReferenceProblem, match=sentence):
            store.load(name)


def test_names_cannot_leave_the_folder(tmp_path):
    for name in ("../hero", "a/b", "..", ""):
        with pytest.raises(ReferenceProblem, match="not the name"):
            DiskStore(tmp_path / "latents").load(name)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "latents").write_text("a file where the folder should be")
    with pytest.raises(StoreProblem, match="a file stands where the folder should be"):
        DiskStore(tmp_path / "latents").save(make_reference(), "hero")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
def test_a_read_only_folder():
    with pytest.raises(StoreProblem, match="could not be saved"):
        DiskStore(Path("/proc/self/task")).save(make_reference(), "hero")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_disk_that_fills_up_in_mid_write(tmp_path):
    store = DiskStore(tmp_path)
    store.save(make_reference(), "earlier")
    program = ("import resource, signal\n"
               "from lib_refdrop.stores import DiskStore; from lib_refdrop.errors import StoreProblem\n"
               "from tests.core.test_stores import make_reference\n"
               "reference = make_reference(tokens=4096)\n"
               "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))\n"
               f"try: DiskStore({str(tmp_path)!r}).save(reference, 'big')\n"
               "except StoreProblem as problem: print(problem)")
    root = Path(__file__).resolve().parents[2]
    ran = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": str(root)})
    assert "the disk is full" in ran.stdout, ran
    assert [path.name for path in tmp_path.iterdir()] == ["earlier.safetensors"]
    store.load("earlier")


def test_writers_at_the_same_time_all_get_a_name(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        saved = list(pool.map(lambda n: DiskStore(tmp_path).save(make_reference(value=n), "hero").name, range(12)))
    assert len(set(saved)) == 12 == len(DiskStore(tmp_path).names())
    values = {DiskStore(tmp_path).load(name).features["base/0000/output.3.0/cond/k"][0, 0].item() for name in saved}
    assert values == set(range(12))


def test_the_nearest_recorded_noise_level_serves():
    record = PassRecord((Call(10.0), Call(1.0), Call(0.1)), {"cond": frozenset({0, 1, 2})})
    assert [record.nearest(sigma, 0, "cond") for sigma in (80, 9, 3.3, 3.1, 0.2, 0.001)] == [0, 0, 0, 1, 2, 2]
    visits = PassRecord((Call(10.0), Call(1.0, 0), Call(1.0, 1)), {"cond": frozenset({0, 1, 2})})
    assert [visits.nearest(1.0, visit, "cond") for visit in (0, 1, 5)] == [1, 2, 2]
