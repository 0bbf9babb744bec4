"""A library that several machines share: the same promises as a folder's, at any place that fsspec reaches."""

import os
import sys
import time
import uuid

import pytest
import torch

from lib_refdrop.stores import DiskStore, SharedStore, open_store
from lib_refdrop.words import ReferenceProblem, SettingsError, StoreProblem

from .saving import is_whole, save
from .test_stores import fill, make_manifest, make_reference

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(params=["memory", "file"])
def machines(request, tmp_path):
    """The same library, seen from two machines."""
    url = f"memory://refdrop-{uuid.uuid4()}/library" if request.param == "memory" else (tmp_path / "library").as_uri()
    return [SharedStore(url, tmp_path / machine) for machine in ("one", "two")]


def files(store):
    """Everything that lies in the library."""
    return sorted(path.rpartition("/")[2] for path in store._files.ls(store._root, detail=False))


def test_what_one_machine_saves_the_other_uses(machines):
    one, two = machines
    assert two.names() == [] and two.newest() is None
    made = make_reference()
    saved = one.save(made, "hero")
    assert saved.name == "hero" == made.name == two.newest() and saved.files == 1
    assert saved.path == f"{one.where}/hero.safetensors" and files(one) == ["hero.safetensors"]
    with two.using("hero") as loaded:
        assert loaded.passes == made.passes and loaded.manifest["prompt"] == "a pirate"
        assert all(torch.equal(loaded.features[name], made.features[name]) for name in made.features)


def test_saving_never_destroys_unless_asked(machines):
    one, two = machines
    assert [save(store, number, "hero") for number, store in enumerate((one, two, one))] == ["hero", "hero-2", "hero-3"]
    assert one.names() == two.names() == ["hero", "hero-2", "hero-3"]
    assert two.load("hero").manifest["seed"] == 0 and two.load("hero-2").manifest["seed"] == 1
    earlier = two.load("hero")
    assert save(one, 9, "hero", replace=True) == "hero" and one.newest() == "hero"
    assert two.load("hero").manifest["seed"] == 9 and is_whole(two.load("hero"))
    assert is_whole(earlier) and earlier.manifest["seed"] == 0


def test_a_name_that_is_taken_while_writing(machines):
    one, two = machines
    writer = one.writer("hero")
    save(two, 5, "hero")
    fill(writer, {"base/0000/output.3.0/cond/h": torch.ones(2, 2)})
    assert writer.commit(make_manifest()).name == "hero-2"
    assert two.load("hero").manifest["seed"] == 5 and files(one) == ["hero-2.safetensors", "hero.safetensors"]


def test_a_name_that_is_taken_while_sending(machines, monkeypatch):
    one, two = machines
    send = one._files.put_file

    def slow(local, remote, **how):
        send(local, remote, **how)
        monkeypatch.undo()
        save(two, 5, "hero")

    monkeypatch.setattr(one._files, "put_file", slow)
    assert save(one, 6, "hero") == "hero-2"
    assert two.load("hero").manifest["seed"] == 5 and two.load("hero-2").manifest["seed"] == 6
    assert files(one) == ["hero-2.safetensors", "hero.safetensors"]


def test_a_file_is_fetched_once(machines, monkeypatch):
    one, two = machines
    save(one, 1, "hero")
    fetched, fetch = [], two._files.get_file
    monkeypatch.setattr(two._files, "get_file", lambda remote, local: (fetched.append(remote), fetch(remote, local)))
    for _ in range(3):
        assert is_whole(two.load("hero"))
    assert len(fetched) == 1
    save(one, 2, "hero", replace=True)
    assert two.load("hero").manifest["seed"] == 2
    assert len(fetched) == 2 and len(list(two._cache.iterdir())) == 1  # and the earlier version is gone


def test_missing_and_deleted_ones(machines):
    one, two = machines
    with pytest.raises(ReferenceProblem, match="no reference 'ghost'.*save one first"):
        one.load("ghost")
    save(one, 1, "hero")
    with pytest.raises(ReferenceProblem, match="there are: hero"):
        two.load("ghost")
    two.load("hero")
    one.delete("hero")
    with pytest.raises(ReferenceProblem, match="no reference 'hero'"):
        two.load("hero")
    with pytest.raises(ReferenceProblem, match="no reference 'hero'"):
        two.delete("hero")
    with pytest.raises(SettingsError, match="cannot be a reference's name"):
        two.load("../hero")


def test_a_save_that_is_given_up_or_fails_leaves_nothing(machines, monkeypatch):
    one, two = machines
    save(one, 1, "earlier")
    writer = one.writer("hero")
    fill(writer, {"base/0000/output.3.0/cond/h": torch.ones(2, 2)}).abort()

    def fail(local, remote, **how):
        raise RuntimeError("NoSuchBucket:\nthe bucket is gone")

    monkeypatch.setattr(one._files, "put_file", fail)
    with pytest.raises(StoreProblem, match="'hero' could not be saved in .*: NoSuchBucket: the bucket is gone; n"):
        save(one, 2, "hero")
    assert files(two) == ["earlier.safetensors"] and not list(one._cache.glob("*"))


def test_a_place_that_cannot_be_reached(machines, monkeypatch):
    one, _ = machines

    def fail(*_, **__):
        raise PermissionError("Access Denied")

    save(one, 1, "hero")
    for call in ("ls", "info", "exists"):
        monkeypatch.setattr(one._files, call, fail)
    for ask in (one.names, lambda: one.load("hero"), lambda: one.delete("hero"), lambda: one.writer("other")):
        with pytest.raises(StoreProblem, match="Access Denied; check the connection"):
            ask()


def test_a_name_written_otherwise_is_the_same(machines):
    one, two = machines
    save(one, 1, "cafe\u0301")
    assert two.names() == ["caf\u00e9"] and is_whole(two.load(" cafe\u0301.safetensors"))
    one._files.mv(f"{one._root}/caf\u00e9.safetensors", f"{one._root}/cafe\u0301.safetensors")  # by a Mac
    assert two.names() == ["caf\u00e9"] and is_whole(two.load("caf\u00e9"))
    two.delete("caf\u00e9")
    assert one.names() == []


def test_stray_files_are_not_listed(machines):
    one, two = machines
    save(one, 1, "hero")
    for stray in ("a\u200bb.safetensors", "con.safetensors", ".safetensors", "hero.txt"):
        one._files.pipe_file(f"{one._root}/{stray}", b"stray")
    assert two.names() == ["hero"] and two.newest() == "hero"


def test_the_time_of_a_file_does_not_matter_there_either(machines, monkeypatch):
    """It may be another machine's, or a copy's: a place that is a folder tells what somebody set."""
    one, two = machines
    for number, name in enumerate(("first", "second")):
        save(one, number, name)
    ahead = time.time() + 365 * 24 * 3600
    listing = one._files.ls

    def dated(path, detail=True, **more):
        found = listing(path, detail=detail, **more)
        return [{**info, "mtime": ahead, "created": ahead} if info["name"].endswith("first.safetensors") else info
                for info in found] if detail else found

    monkeypatch.setattr(one._files, "ls", dated)
    if two._files is not one._files:
        monkeypatch.setattr(two._files, "ls", dated)
    save(two, 3, "third")
    for store in (one, two):
        assert store.names() == ["first", "second", "third"] and store.newest() == "third"


def test_a_clock_that_was_wrong_does_not_make_an_old_reference_the_newest(machines, monkeypatch):
    one, two = machines
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 365 * 24 * 3600 * 10**9)
    save(one, 1, "ahead")
    monkeypatch.setattr(time, "time_ns", lambda: now)
    save(two, 2, "later")
    assert one.newest() == two.newest() == "later"


def test_what_cannot_be_loaded_is_passed_over_for_the_newest(machines):
    one, two = machines
    save(one, 1, "hero")
    time.sleep(0.02)
    one._files.pipe_file(f"{one._root}/stray.safetensors", b"no reference")
    assert two.names() == ["hero", "stray"] and two.newest() == "hero"


def test_a_local_copy_that_another_run_uses_is_no_change(machines):
    one, two = machines
    save(one, 1, "hero")
    with two.using("hero") as first, two.using("hero") as second:
        assert not first.changed() and not second.changed() and is_whole(first)
    copy, = two._cache.glob("*.safetensors")
    os.utime(copy, (time.time() - 8 * 24 * 3600,) * 2)
    save(one, 2, "other")
    is_whole(two.load("hero"))  # in use: kept
    is_whole(two.load("other"))
    assert len(list(two._cache.glob("*.safetensors"))) == 2


def test_a_save_looks_once_for_free_names(machines, monkeypatch):
    one, _ = machines
    for number in range(12):
        save(one, number, "hero")
    asked, ask = [], one._files.ls
    monkeypatch.setattr(one._files, "ls", lambda *args, **how: (asked.append(1), ask(*args, **how))[1])
    assert save(one, 12, "hero") == "hero-13" and len(asked) <= 3


def test_a_file_that_stands_where_the_library_should_be(tmp_path):
    (tmp_path / "library").write_text("in the way")
    store = SharedStore((tmp_path / "library").as_uri(), tmp_path / "cache")
    with pytest.raises(StoreProblem, match="a file stands where the folder should be"):
        save(store, 1, "hero")
    assert store.names() == [] and (tmp_path / "library").read_text() == "in the way"


def test_a_damaged_file_has_the_one_sentence(machines):
    one, two = machines
    save(one, 1, "hero")
    content = one._files.cat_file(f"{one._root}/hero.safetensors")
    one._files.pipe_file(f"{one._root}/hero.safetensors", content[: len(content) // 2])
    with pytest.raises(ReferenceProblem, match="'hero' is damaged or not a reference"):
        two.load("hero")


def test_what_others_never_finished_is_cleaned_up_after_a_day(tmp_path):
    store = SharedStore((tmp_path / "library").as_uri(), tmp_path / "cache")
    save(store, 1, "hero")
    for name, age in (("old", 2 * 24 * 3600), ("new", 60)):
        path = tmp_path / "library" / f".saving-{name}.partial"
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    save(store, 2, "other")
    assert files(store) == [".saving-new.partial", "hero.safetensors", "other.safetensors"]
    assert store.names() == ["hero", "other"]


def test_a_place_that_takes_files_whole_and_refuses_to_write_over_them(machines, monkeypatch):
    """As S3 and Google Cloud Storage do: sent under the name itself, which others may take first."""
    one, two = machines
    monkeypatch.setattr(one, "_whole_at_once", True)
    monkeypatch.setattr(one, "taken", lambda: lambda name: name == "hero" and one.late)
    one.late = False
    save(two, 5, "hero")

    def put(local, remote, mode="overwrite", put=one._files.put_file):
        if mode == "create" and two._files.exists(remote):
            one.late = True
            raise FileExistsError(remote)
        put(local, remote)

    monkeypatch.setattr(one._files, "put_file", put)
    assert save(one, 6, "hero") == "hero-2" and save(one, 7, "hero", replace=True) == "hero"
    assert two.load("hero").manifest["seed"] == 7 and files(two) == ["hero-2.safetensors", "hero.safetensors"]


def test_the_place_decides_the_store(tmp_path):
    assert isinstance(open_store(tmp_path), DiskStore) and open_store(str(tmp_path)).folder == tmp_path
    assert open_store((tmp_path / "a folder").as_uri()).folder == tmp_path / "a folder"
    assert isinstance(open_store("memory://refdrop"), SharedStore)


def test_what_is_not_installed_is_named(monkeypatch):
    with pytest.raises(StoreProblem, match="nonsense://x cannot be opened: Protocol not known: nonsense"):
        open_store("nonsense://x")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StoreProblem, match=r"s3://bucket/refs cannot be opened: Install s3fs.*pip install") as problem:
        open_store("s3://key:secret@bucket/refs")
    assert "secret" not in str(problem.value)
    for name in [name for name in sys.modules if name.split(".")[0] == "fsspec"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(StoreProblem, match="needs the package fsspec"):
        open_store("s3://bucket/refs")
