"""Files on their way: no listing takes them for references, and those of killed processes are cleaned up."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be deleted anyway
    fcntl = None  # type: ignore[assignment]

PREFIX, SUFFIX = ".saving-", ".partial"
DAY = 24 * 3600


class PartialFile:
    """A new, empty file, open for writing and reading without a buffer, and locked: an unlocked one is an orphan."""

    def __init__(self, folder: Path) -> None:
        self._process = os.getpid()
        while True:
            self.path = folder / f"{PREFIX}{_host()}-{secrets.token_hex(8)}{SUFFIX}"
            self._file = open(self.path, "x+b", buffering=0)
            if fcntl is None:
                return
            with contextlib.suppress(OSError):  # a file system without locks: an orphan is then known by its age
                fcntl.flock(self._file, fcntl.LOCK_EX)
            if self.path.exists():
                return
            self._file.close()  # somebody cleaning up was quicker than our lock

    @property
    def file(self):
        if self._file.closed:
            self._file = open(self.path, "r+b", buffering=0)
        return self._file

    def release(self) -> None:
        """Makes it ready to be renamed: Windows renames no open file. Elsewhere it stays open, for its lock."""
        if os.name == "nt":
            self._file.close()

    def discard(self) -> None:
        """Closes it and deletes what is left under its own name."""
        if self._process != os.getpid():  # a fork of the process that writes
            return
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink()


def clean(folder: Path) -> None:
    """Deletes what killed processes left. The lock is asked first: a file that somebody holds stays, whatever its age,
    and what this computer left unlocked goes at once. Of another computer, whose lock may not be seen here, and where
    there are no locks, what nobody wrote to for a day goes."""
    for path in folder.glob(f"{PREFIX}*{SUFFIX}"):
        # Deleted while the lock is ours: who has just made a file and waits for its lock then sees that it is gone.
        with contextlib.suppress(OSError), _asked(path) as locked:
            orphan = locked is False and path.name.startswith(f"{PREFIX}{_host()}-")
            if orphan or (not locked and time.time() - path.stat().st_mtime > DAY):
                path.unlink()


def sync(file: BinaryIO) -> None:
    """Waits until a file is on the disk; some network and FUSE drives do not know how, and are believed. Raises
    OSError."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def sync_folder(folder: Path) -> None:
    """Waits until a folder's list of names is on the disk, where the system can do that."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _asked(path: Path) -> Iterator[bool | None]:
    """Whether a process holds a file; if none does, we do while the block runs. None where the system, or the file
    system, has no such locks."""
    if fcntl is None:
        yield None
        return
    with open(path, "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked: bool | None = False
        except BlockingIOError:
            locked = True
        except OSError:
            locked = None
        yield locked


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]
