"""What outlives a generation: the stores of this program and the last thing that was said."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from modules import shared

from ..stores import MemoryBudget, MemoryStore, Saved, Store, machine, open_store
from ..words import ReferenceProblem, said
from .replays import ReplayMemory

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "latents"


class Shelf:
    """References by the name of their store, "RAM" or "Disk", and the line of status."""

    def __init__(self) -> None:
        self.memory = MemoryStore(MemoryBudget(_memory_limit()))
        self.replays = ReplayMemory(self.memory.budget)
        self.message = ""
        self._opened: tuple[str | Path, Store] | None = None

    @property
    def place(self) -> str | Path:
        """Where references are kept on disk: ``--refdrop-dir``, a folder or a URL, or ``latents`` in the extension."""
        return getattr(shared.cmd_opts, "refdrop_dir", None) or DEFAULT_FOLDER

    def store(self, name: str) -> Store:
        """The store of that name; the one on disk is opened once, and knows what it has seen. Raises
        :class:`StoreProblem`."""
        if name == "RAM":
            return self.memory
        place = self.place
        if self._opened is None or self._opened[0] != place:
            self._opened = place, open_store(place)
        return self._opened[1]

    def newest(self, store: str) -> str:
        """The name of the reference saved last. Raises :class:`ReferenceProblem` where there is none."""
        name = self.store(store).newest()
        if name is None:
            raise ReferenceProblem(f"There is no reference {_place(store)} yet; make one with mode Save first.")
        return name

    def describe(self, saved: Saved) -> str:
        """One sentence about what a save left behind."""
        if saved.path is None:
            sentence = f"Saved reference {saved.name!r} in memory: {said(saved.bytes)}."
        else:
            sentence = f"Saved reference {saved.name!r}: {saved.files} file, {said(saved.bytes)}, {saved.path}."
        return " ".join([sentence, *saved.notes])

    def summary(self, store: str) -> str:
        """How many references a store holds."""
        count = len(self.store(store).names())
        return f"{count or 'No'} reference{'' if count == 1 else 's'} {_place(store)}."


@cache
def shelf() -> Shelf:
    """The one shelf of this program: page and API see the same references."""
    return Shelf()


def _place(store: str) -> str:
    return "in memory" if store == "RAM" else "on disk"


def _memory_limit() -> int:
    """Bytes that may be kept in memory: ``--refdrop-memory``, or a quarter of what this program may have."""
    asked = getattr(shared.cmd_opts, "refdrop_memory", None)
    if asked:
        return int(asked * 1e9)
    machines = machine.memory()
    return machines // 4 if machines else 4 * 10**9
