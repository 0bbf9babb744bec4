"""Which reference is the newest: by what was saved last, not by clocks and the times of files."""

import json
import os
import time

import pytest
from safetensors.torch import save_file

from lib_refdrop.stores import DiskStore, MemoryStore
from lib_refdrop.words import StoreProblem

from ..fuzz.forging import Forged
from .saving import save

YEAR = 365 * 24 * 3600


@pytest.fixture
def store(tmp_path):
    store = DiskStore(tmp_path)
    for number, name in enumerate(("first", "second", "third")):
        save(store, number, name)
    return store


def test_the_time_of_a_file_does_not_matter(store):
    for name, years in (("first", 10), ("second", -10), ("third", -20)):
        os.utime(store.folder / f"{name}.safetensors", (time.time() + years * YEAR,) * 2)
    assert store.names() == DiskStore(store.folder).names() == ["first", "second", "third"]
    assert store.newest() == "third"


@pytest.mark.parametrize("years", [-3, 3])
def test_a_clock_that_is_set_back_or_was_wrong(store, monkeypatch, years):
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + years * YEAR * 10**9)
    save(store, 3, "fourth")
    monkeypatch.setattr(time, "time_ns", lambda: now)
    save(DiskStore(store.folder), 4, "fifth")
    assert store.names() == ["first", "second", "third", "fourth", "fifth"] and store.newest() == "fifth"


def test_a_replaced_reference_is_the_newest(store):
    save(store, 9, "first", replace=True)
    assert store.names() == ["second", "third", "first"]


@pytest.mark.parametrize("content", [b"", b"no file of this kind", b"\x08" + bytes(7) + b"[1,2,3] "])
def test_what_cannot_be_loaded_is_passed_over(store, content, caplog):
    (store.folder / "stray.safetensors").write_bytes(content)
    save_file({}, store.folder / "lora.safetensors")
    for name in ("stray", "lora"):
        os.utime(store.folder / f"{name}.safetensors", (time.time() + YEAR,) * 2)
    caplog.set_level("INFO")
    assert store.newest() == "third" and set(store.names()) == {"stray", "lora", "first", "second", "third"}
    assert "'stray' is damaged" in caplog.text
    save(store, 5, "fourth")
    assert store.newest() == "fourth"


def test_nothing_that_can_be_loaded(tmp_path):
    (tmp_path / "stray.safetensors").write_bytes(b"")
    assert DiskStore(tmp_path).newest() is None and MemoryStore().newest() is None


def dated(store, name, **more):
    path = store.folder / f"{name}.safetensors"
    forged = Forged.of(path)
    forged.manifest.pop("order", None)
    forged.manifest |= more
    forged.write(path)


def test_files_of_earlier_versions_are_ordered_by_when_they_were_made(store):
    dated(store, "first", created="2031-05-01T10:00:00+00:00")
    dated(store, "second", created="2029-01-01T10:00:00+02:00")
    dated(store, "third", created="2030-01-01T10:00:00")  # without a time zone
    assert store.names() == ["second", "third", "first"]
    save(store, 4, "fourth")
    assert store.newest() == "fourth"


@pytest.mark.parametrize("order", [-5, 0, 10**30, True, "9", [9], 1.5])
def test_an_order_that_is_none(store, order):
    dated(store, "first", order=order, created="2020-01-01T10:00:00+00:00")
    assert store.names() == ["first", "second", "third"]
    save(store, 4, "fourth")
    assert store.newest() == "fourth"
    assert json.loads(json.dumps(store.load("fourth").manifest))["order"] < 2**62


@pytest.mark.parametrize("order", [2**62 - 1, 2**62 - 2, 2**62, 2**63])
def test_an_order_at_the_end_of_the_numbers_is_not_the_newest_for_ever(store, order):
    dated(store, "first", order=order, created="2020-01-01T10:00:00+00:00")
    for number in (4, 5, 6):
        assert save(store, number, f"later {number}") == store.newest() == DiskStore(store.folder).newest()


@pytest.mark.parametrize("created", ["yesterday", "", "9999-99-99", "0001-01-01T00:00:00+23:59"])
def test_a_date_that_is_none(store, created):
    dated(store, "second", created=created)
    os.utime(store.folder / "second.safetensors", (1, 1))
    assert sorted(store.names()) == ["first", "second", "third"] and store.newest() == "third"


def test_a_file_is_looked_at_once(store, monkeypatch):
    store.names()
    opened = []
    monkeypatch.setattr("lib_refdrop.stores.disk.order_of", lambda path: opened.append(path.name))
    assert store.names() and not opened
    save(DiskStore(store.folder), 7, "second", replace=True)
    opened.clear()
    store.names()
    assert opened == ["second.safetensors"]


def test_a_header_of_any_length_and_order_is_understood(store):
    """The beginning is enough as a rule; where it is not, all of it is read."""
    dated(store, "first", created="2040-01-01T00:00:00+00:00", prompt="knight " * 20_000)
    path = store.folder / "second.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8:8 + length])
    metadata = header.pop("__metadata__")
    text = json.dumps({**header, "__metadata__": metadata}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length:])
    assert store.names() == ["second", "third", "first"] and store.load("second").manifest["seed"] == 1


@pytest.mark.skipif(os.name == "nt", reason="folders are made unreadable in another way there")
def test_a_folder_that_cannot_be_listed_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreProblem, match="cannot be listed: a file stands where the folder should be"):
        DiskStore(tmp_path / "file").names()
    assert DiskStore(tmp_path / "nowhere").names() == []
