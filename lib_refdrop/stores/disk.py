"""References kept in a folder, one ``.safetensors`` file each."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ..words import ReferenceProblem, StoreProblem
from ..references.reference import Reference
from .file_format import read_reference
from .file_store import FileStore
from .file_writer import FileWriter
from .interface import missing
from .partial import sync_folder

SUFFIX = ".safetensors"


class DiskStore(FileStore):
    """A folder of references. Several processes may use it: files appear whole, by rename, and never half."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def names(self) -> list[str]:
        found = []
        for path in self.folder.glob("*" + SUFFIX):
            try:
                status = path.stat()
            except OSError:  # deleted by somebody else since the listing
                continue
            if stat.S_ISREG(status.st_mode):
                found.append((status.st_mtime_ns, path.name[: -len(SUFFIX)]))
        return [name for _, name in sorted(found)]

    def load(self, name: str) -> Reference:
        path = self._path(name)
        try:
            if path.is_file():  # opening something else, a pipe for example, might never end
                return read_reference(path, name)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ReferenceProblem(f"Reference {name!r} cannot be read: {error.strerror}; check {path}.") from error
        raise missing(name, self.names(), f"in {self.folder}")

    def writer(self, name: str, replace: bool = False, expected: int = 0) -> FileWriter:
        self._path(name)
        return FileWriter(self.folder, name, replace, expected, lambda free: os.path.lexists(self._path(free)),
                          self._publish, self._problem)

    def delete(self, name: str) -> None:
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise missing(name, self.names(), f"in {self.folder}") from None
        except OSError as error:
            raise StoreProblem(f"Reference {name!r} could not be deleted: {reason(error)}.") from error

    def _publish(self, partial: Path, name: str, replace: bool) -> Path:
        """Gives a finished file its name: in one step, and over nobody else's file unless asked to."""
        path = self._path(name)
        if replace or not _linked(partial, path):
            os.replace(partial, path)
        sync_folder(self.folder)
        return path

    def _path(self, name: str) -> Path:
        return self.folder / (checked_name(name) + SUFFIX)

    def _problem(self, name: str, error: OSError) -> StoreProblem:
        return not_saved(name, str(self.folder), error)


def checked_name(name: str) -> str:
    """A name that stays in its folder. Raises :class:`ReferenceProblem`."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:  # half a character
        length = 0
    if not 0 < length <= 200 or name in (".", "..") or any(letter in '/\\:' or ord(letter) < 32 for letter in name):
        raise ReferenceProblem(f"{name[:130]!r} is not the name of a reference.")
    return name


def not_saved(name: str, place: str, error: OSError) -> StoreProblem:
    """The sentence for a save that the system refused."""
    return StoreProblem(f"Reference {name!r} could not be saved in {place}: {reason(error)}; nothing that was saved "
                        "before is lost.")


def reason(error: OSError) -> str:
    """Why the system refused, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "the disk is full, free some space or choose another folder (--refdrop-dir)"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "the folder cannot be written to, change its permissions or choose another (--refdrop-dir)"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a file stands where the folder should be, move it or choose another folder (--refdrop-dir)"
    return " ".join((error.strerror or str(error)).split())[:300]


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
