"""References kept in a folder, one ``.safetensors`` file each."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from ..errors import ReferenceProblem, StoreProblem
from ..reference import Reference
from .file_format import read_reference, write_reference
from .interface import Saved, free_name, missing

SUFFIX = ".safetensors"
_HEADROOM = 16 * 2**20  # left free on the disk, for the manifest and for the system


class DiskStore:
    """A folder of references. Several processes may use it: files appear whole, by rename, and never half."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def names(self) -> list[str]:
        found = []
        for path in self.folder.glob("*" + SUFFIX):
            try:
                found.append((path.stat().st_mtime_ns, path.name[: -len(SUFFIX)]))
            except FileNotFoundError:  # deleted by somebody else since the listing
                continue
        return [name for _, name in sorted(found)]

    def newest(self) -> str | None:
        return next(reversed(self.names()), None)

    def load(self, name: str) -> Reference:
        path = self._path(name)
        if not path.is_file():
            raise missing(name, self.names(), f"in {self.folder}")
        return read_reference(path, name)

    def save(self, reference: Reference, name: str, replace: bool = False) -> Saved:
        try:
            return self._save(reference, name, replace)
        except OSError as error:
            raise StoreProblem(f"Reference {name!r} could not be saved in {self.folder}: {_reason(error)}; nothing that was "
                               "saved before is lost.") from error

    def delete(self, name: str) -> None:
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            raise missing(name, self.names(), f"in {self.folder}") from None
        except OSError as error:
            raise StoreProblem(f"Reference {name!r} could not be deleted: {_reason(error)}.") from error

    def _save(self, reference: Reference, name: str, replace: bool) -> Saved:
        self.folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.folder).free < reference.nbytes + _HEADROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not replace:
            name = free_name(name, lambda free: self._path(free).exists())
        reference.name = reference.manifest["name"] = name
        handle, partial = tempfile.mkstemp(prefix=".saving-", suffix=".partial", dir=self.folder)
        os.close(handle)
        try:
            write_reference(Path(partial), reference)
            name = self._publish(Path(partial), name, replace)
        finally:
            Path(partial).unlink(missing_ok=True)
        path = self._path(name)
        return Saved(name, path.stat().st_size, 1, path)

    def _publish(self, partial: Path, name: str, replace: bool) -> str:
        """Gives a finished file its name: in one step, and over nobody else's file unless asked to."""
        while not replace:
            try:
                os.link(partial, self._path(name))
                return name
            except FileExistsError:  # another process took the name since we looked
                name = free_name(name, lambda free: self._path(free).exists())
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT):
                    raise
                break  # a file system without hard links: a rename is the best there is
        os.replace(partial, self._path(name))
        return name

    def _path(self, name: str) -> Path:
        if name != Path(name).name or name in ("", ".", ".."):
            raise ReferenceProblem(f"{name!r} is not the name of a reference.")
        return self.folder / (name + SUFFIX)


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "the disk is full, free some space or choose another folder (--refdrop-dir)"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "the folder cannot be written to, change its permissions or choose another (--refdrop-dir)"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a file stands where the folder should be, move it or choose another folder (--refdrop-dir)"
    return error.strerror or str(error)
