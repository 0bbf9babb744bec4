"""References kept in a folder, one ``.safetensors`` file each."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..references.names import SUFFIX, is_name, normalised
from ..references.reference import Reference
from ..words import ReferenceProblem, StoreProblem, shortened
from .files import FileStore
from .partial import sync_folder
from .reading import next_order, order_of, read_reference
from .writer import FileWriter, reason


class _Found(NamedTuple):
    path: Path
    state: tuple[int, int, int]  # file number, size and time: another one is another file
    written: int  # when, in nanoseconds


class DiskStore(FileStore):
    """A folder of references. Several processes may use it: files appear whole, by rename, and never half.

    They are ordered by what their manifests say; the time of a file tells when it was copied, and clocks are set back.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.where = Path(folder), str(folder)
        self.beside = self.folder
        self._orders: dict[Path, tuple[tuple[int, int, int], int | None]] = {}

    def names(self) -> list[str]:
        found = self._listed()
        orders = self._looked_at(found)
        return sorted(found, key=lambda name: (orders[name] or found[name].written, found[name].written, name))

    def taken(self) -> Callable[[str], bool]:
        listed = self._listed()
        return lambda name: name in listed or os.path.lexists(self._path(name))

    def next_order(self) -> int:
        return next_order(self._looked_at(self._listed()).values())

    def publish(self, partial: Path, name: str, replace: bool) -> Path:
        """Gives a finished file its name: in one step, and over nobody else's file unless asked to."""
        path = (self._real(name) if replace else None) or self._path(name)
        if replace or not _linked(partial, path):
            os.replace(partial, path)
        sync_folder(self.folder)
        return path

    def _writer(self, name: str, replace: bool, expected: int, limit: int | None) -> FileWriter:
        return FileWriter(self, self.folder, name, replace, expected, limit)

    def _opened(self, name: str) -> Reference | None:
        try:
            path = self._real(name)
            return read_reference(path, normalised(path.name)) if path else None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ReferenceProblem(f"Reference {name!r} cannot be read: {shortened(str(error.strerror))}; check "
                                   f"{self.where}.") from error

    def _deleted(self, name: str) -> bool:
        try:
            path = self._real(name)
            if path:
                path.unlink()
            return path is not None
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreProblem(f"Reference {name!r} could not be deleted: {reason(error)}.") from error

    def _path(self, name: str) -> Path:
        return self.folder / (name + SUFFIX)

    def _real(self, name: str) -> Path | None:
        """The file of a name as it is spelled there: its letters may be composed otherwise, or its case be another on a
        disk that makes no difference."""
        listed, path = self._listed(), self._path(name)
        if name in listed:
            return listed[name].path
        if os.path.isfile(path):  # what else is it on such a disk?
            return next((found.path for found in listed.values() if os.path.samefile(found.path, path)), path)
        return None

    def _listed(self) -> dict[str, _Found]:
        """The files by name, which is one that a user can ask for. Raises :class:`StoreProblem`."""
        found: dict[str, _Found] = {}
        try:
            files = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return found
        except OSError as error:
            raise StoreProblem(f"The references in {self.where} cannot be listed: {reason(error)}.") from error
        for file in files:
            spelled = file[: -len(SUFFIX)]
            if not file.endswith(SUFFIX) or not is_name(spelled):
                continue
            name = normalised(spelled)
            if name in found and name != spelled:  # of two that are written alike, the one as we write it
                continue
            try:
                status = os.stat(self.folder / file)
            except OSError:  # deleted by somebody else since the listing
                continue
            if stat.S_ISREG(status.st_mode):  # opening something else, a pipe for example, might never end
                state = status.st_ino, status.st_size, status.st_mtime_ns
                found[name] = _Found(self.folder / file, state, status.st_mtime_ns)
        return found

    def _looked_at(self, found: dict[str, _Found]) -> dict[str, int | None]:
        """What each file's manifest says of its place in the order; a file is looked at once."""
        known, orders = self._orders, {}
        for name, each in found.items():
            if each.path not in known or known[each.path][0] != each.state:
                try:
                    known[each.path] = each.state, order_of(each.path)
                except OSError:
                    known[each.path] = each.state, None
            orders[name] = known[each.path][1]
        self._orders = {each.path: known[each.path] for each in found.values()}
        return orders


def _linked(partial: Path, path: Path) -> bool:
    """Gives a file a second name. False on a file system without hard links, where a rename is the best there is."""
    try:
        os.link(partial, path)
        return True
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENOENT):
            raise
        return False
