"""What is kept in memory: counted while somebody has it, never taken from who uses it, and within what there is."""

import gc
import threading

import pytest
import torch

from lib_refdrop.stores import MemoryBudget, MemoryStore, machine
from lib_refdrop.words import StoreProblem

from .test_stores import fill, held, make_manifest


class Generation:
    """What holds a writer while a picture is made; like a host's object it is part of a cycle."""

    def __init__(self, writer):
        self.writer, self.me = writer, self


def test_a_generation_that_fails_frees_what_it_reserved():
    """As three cells of an X/Y/Z plot that nobody closes."""
    store = MemoryStore(3000)
    for _ in range(3):
        writer = store.writer("hero", expected=1000)
        writer.add("base/0000/output.3.0/cond/h", torch.zeros(10, 10).half())
        assert store.budget.used == 1000
        del writer
        assert store.budget.used == 0
    for _ in range(5):  # those of a cycle go when room is needed, without waiting for Python to find them
        Generation(store.writer("hero", expected=1000))
    assert held(store.writer("hero", expected=3000), 2000).name == "hero"
    gc.collect()
    assert store.budget.used == 2000


def test_what_was_saved_stays_counted_when_its_writer_is_gone():
    store = MemoryStore()
    writer = store.writer("hero")
    held(writer)
    del writer
    gc.collect()
    assert store.budget.used == 1000 and store.load("hero").sites("base")


def test_a_running_save_keeps_its_reservation():
    store = MemoryStore(1500)
    running = store.writer("hero", expected=1000)
    with pytest.raises(StoreProblem, match="while a generation uses the rest"):
        store.writer("other", expected=1000)
    fill(running, {"base/0000/output.3.0/cond/h": torch.zeros(10, 10).half()}).commit(make_manifest())
    assert store.budget.used == 200


class User:
    pass


def test_what_is_in_use_is_never_evicted_and_still_counted():
    """As a replay that a run guides by, while memory is short."""
    budget, gone, user, other = MemoryBudget(3000), [], User(), User()
    budget.put("replay", 2000, "The replay", lambda: gone.append("replay"), user)
    with pytest.raises(StoreProblem, match="while a generation uses the rest"):
        budget.put("more", 2000, "More", lambda: gone.append("more"))
    assert "replay" in budget and budget.used == 2000 and not gone
    budget.use("replay", other)
    del user
    with pytest.raises(StoreProblem):
        budget.put("more", 2000, "More", lambda: gone.append("more"))
    del other
    assert budget.put("more", 2000, "More", lambda: gone.append("more")) == ["The replay"] and gone == ["replay"]
    budget.use("nothing", User())  # of which there is none


def test_a_user_that_goes_in_the_middle_of_counting_waits_for_no_lock():
    """Python may find it dead anywhere, also inside the budget's own lock."""
    budget, user = MemoryBudget(3000), User()
    budget.put("replay", 2000, "The replay", lambda: None, user)
    with budget._lock:
        del user
        gc.collect()
    finished = threading.Thread(target=lambda: budget.put("more", 3000, "More", lambda: None), daemon=True)
    finished.start()
    finished.join(20)
    assert not finished.is_alive() and "more" in budget and "replay" not in budget


def test_a_replay_in_use_in_a_web_ui(monkeypatch):
    """By the class that counts replays there: found or kept, it stays until its run ends."""
    pytest.importorskip("lib_refdrop.playground")
    from lib_refdrop.webui.replays import ReplayMemory

    memory, run, later = ReplayMemory(MemoryBudget(3000)), User(), User()
    replayed = MemoryStore()
    held(replayed.writer("hero"), 2000)
    features = replayed.load("hero")
    memory.keep(("a",), features, run)
    with pytest.raises(StoreProblem):
        memory.keep(("b",), features, User())
    assert memory.find(("a",), later) is features and memory.budget.used == 2000
    del run
    with pytest.raises(StoreProblem):
        memory.keep(("b",), features, User())
    del later
    memory.keep(("b",), features, User())
    assert memory.find(("a",), User()) is None and memory.find(("b",), User()) is features


# What there is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups, files, limit", [
    ("0::/", {"memory.max": "8589934592\n"}, 8 * 2**30),  # version 2, inside a container
    ("0::/docker/1a2b", {"docker/memory.max": "max\n", "docker/1a2b/memory.max": "1073741824\n"}, 2**30),
    ("0::/a/b", {"a/memory.max": "1073741824\n", "a/b/memory.max": "4294967296\n"}, 2**30),  # the outer one is smaller
    ("4:memory:/docker/1a2b\n1:name=systemd:/x", {"memory/docker/1a2b/memory.limit_in_bytes": "2147483648\n"}, 2**31),
    ("4:memory:/docker/1a2b\n0::/", {"memory/memory.limit_in_bytes": "2147483648\n"}, 2**31),  # a path of the host's
    ("5:cpu,memory:/", {"memory/memory.limit_in_bytes": "1073741824"}, 2**30),
    ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),  # none
    ("0::/", {"memory.max": "max"}, None), ("0::/", {"memory.max": "much"}, None), ("0::/", {}, None), ("", {}, None),
    ("0::/../../x", {"x/memory.max": "1073741824"}, 2**30),
])
def test_what_a_container_may_have(tmp_path, groups, files, limit):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    for file, text in files.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    whole = machine.memory(tmp_path / "nowhere")
    assert machine.memory(tmp_path) == (whole if limit is None else min(limit, whole or limit))


def test_a_system_that_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.delattr("os.sysconf", raising=False)
    assert machine.memory(tmp_path) is None
