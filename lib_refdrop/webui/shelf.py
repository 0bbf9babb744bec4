"""What outlives a generation: the stores of this program and the last thing that was said."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from modules import shared

from ..errors import ReferenceProblem, StoreProblem
from ..reference import Reference
from ..stores import DiskStore, MemoryStore, Saved, Store

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "latents"


class Shelf:
    """References by the name of their store, "RAM" or "Disk", and the line of status."""

    def __init__(self) -> None:
        self._memory = MemoryStore()
        self.message = ""

    @property
    def folder(self) -> Path:
        """Where references are kept on disk: ``--refdrop-dir``, or ``latents`` in the extension."""
        chosen = getattr(shared.cmd_opts, "refdrop_dir", None)
        return Path(chosen) if chosen else DEFAULT_FOLDER

    def store(self, name: str) -> Store:
        return self._memory if name == "RAM" else DiskStore(self.folder)

    def load(self, store: str, name: str) -> Reference:
        """The reference of that name, or the newest where the name is empty. Raises :class:`ReferenceProblem`."""
        shelf = self.store(store)
        name = name.strip() or shelf.newest()
        if name is None:
            raise ReferenceProblem(f"There is no reference {_place(store)} yet; make one with mode Save first.")
        return shelf.load(name)

    def save(self, store: str, reference: Reference, name: str, replace: bool) -> Saved:
        """Keeps a reference. Raises :class:`StoreProblem`, also where ``--refdrop-memory`` would be exceeded."""
        limit = getattr(shared.cmd_opts, "refdrop_memory", None)
        if store == "RAM" and limit:
            others = [each for each in self._memory.names() if not (replace and each == name)]
            held = sum(self._memory.load(each).nbytes for each in others)
            if held + reference.nbytes > limit * 1e9:
                raise StoreProblem(f"Reference {name!r} needs {_size(reference.nbytes)}, and {_size(held)} of the "
                                   f"{limit:g} GB that --refdrop-memory allows are in use; keep it on Disk.")
        return self.store(store).save(reference, name, replace)

    def describe(self, saved: Saved) -> str:
        """One sentence about what a save left behind."""
        if saved.path is None:
            return f"Saved reference {saved.name!r} in memory: {_size(saved.bytes)}."
        return f"Saved reference {saved.name!r}: {saved.files} file, {_size(saved.bytes)}, {saved.path}."

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


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
