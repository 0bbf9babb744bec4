"""What outlives a generation: the stores of this program, the replays, and the last thing that was said."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..stores import FileStore, MemoryBudget, MemoryStore, Saved, Store, machine, open_store
from ..words import RefDropError, ReferenceProblem, said
from .host import Host
from .kept_masks import KeptMasks
from .replays import ReplayMemory

if TYPE_CHECKING:
    from .run import Run

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "latents"


class Last(NamedTuple):
    """The last Save: into which store, the name that was asked for, and the one that it got."""

    store: str
    asked: str
    name: str


class Shelf:
    """References by the name of their store, "RAM" or "Disk", and the line of status. Page and API share one."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.memory = MemoryStore(MemoryBudget(_memory_limit(host)))
        self.replays = ReplayMemory(self.memory.budget)
        self.message = ""
        self.saved: Last | None = None
        self._running: dict[int, Run] = {}
        self._opened: tuple[str | Path, Store] | None = None

    @property
    def place(self) -> str | Path:
        """Where references are kept on disk: ``--refdrop-dir``, a folder or a URL, or ``latents`` in the extension."""
        return getattr(self._host.cmd_opts, "refdrop_dir", None) or DEFAULT_FOLDER

    def store(self, name: str) -> Store:
        """The store of that name; the one on disk is opened once, and knows what it has seen. Raises
        :class:`StoreProblem`."""
        if name == "RAM":
            return self.memory
        place = self.place
        if self._opened is None or self._opened[0] != place:
            self._opened = place, open_store(place)
        return self._opened[1]

    @property
    def masks(self) -> KeptMasks:
        """The masks that pictures were drawn with; of a shared library those that were used on this computer. Raises
        :class:`StoreProblem`."""
        store = self.store("Disk")
        assert isinstance(store, FileStore)
        return KeptMasks(store.beside / "masks")

    def newest(self, store: str) -> str:
        """The name of the reference saved last. Raises :class:`ReferenceProblem` where there is none."""
        name = self.store(store).newest()
        if name is None:
            raise ReferenceProblem(f"There is no reference {_place(store)} yet; make one with mode Save first.")
        return name

    def describe(self, saved: Saved, from_picture: bool = False) -> str:
        """One sentence about what a save left behind."""
        what = f"Saved reference {saved.name!r}{' from a picture' if from_picture else ''}"
        if saved.path is None:
            sentence = f"{what} in memory: {said(saved.bytes)}."
        else:
            sentence = f"{what}: {saved.files} file, {said(saved.bytes)}, {saved.path}."
        return " ".join([sentence, *saved.notes])

    def names(self, store: str) -> list[str]:
        """What a store holds, the newest first: it is the one wanted most. Nothing where it cannot be reached."""
        try:
            return list(reversed(self.store(store).names()))
        except RefDropError:
            return []  # :meth:`summary` says why

    def summary(self, store: str) -> str:
        """How many references a store holds, or why nobody knows."""
        try:
            count = len(self.store(store).names())
        except RefDropError as problem:
            return str(problem)
        return f"{count or 'No'} reference{'' if count == 1 else 's'} {_place(store)}."

    def running(self) -> Run | None:
        """The run that is on in this thread, if any."""
        return self._running.get(threading.get_ident())

    def begin(self, run: Run | None) -> None:
        """The run that is on in this thread from here on."""
        if run is None:
            self._running.pop(threading.get_ident(), None)
        else:
            self._running[threading.get_ident()] = run


def _place(store: str) -> str:
    return "in memory" if store == "RAM" else "on disk"


def _memory_limit(host: Host) -> int:
    """Bytes that may be kept in memory: ``--refdrop-memory``, or a quarter of what this program may have."""
    asked = getattr(host.cmd_opts, "refdrop_memory", None)
    if asked:
        return int(asked * 1e9)
    machines = machine.memory()
    return machines // 4 if machines else 4 * 10**9
