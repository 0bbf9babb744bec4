"""References in a library that several machines share: any place that fsspec reaches, ``s3://bucket/folder`` say."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from inspect import signature
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..references.names import SUFFIX, is_name, normalised
from ..references.reference import Reference
from ..words import RefDropError, StoreProblem, shortened
from .disk import DiskStore
from .files import FileStore
from .interface import Store
from .partial import DAY, PREFIX, PartialFile, clean, sync
from .partial import SUFFIX as PARTIAL
from .reading import next_order, order_in, read_reference
from .writer import FileWriter

# Object stores show a file only when all of it is there, and can refuse to write over another in the same step.
_WHOLE_AT_ONCE = {"s3", "s3a", "gs", "gcs"}
_VERSION = ("size", "ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified", "updated",
            "created")
_WHEN = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
_TRIES = 3
_BEGINNING = 2**16  # bytes that are fetched at once of a file whose manifest is looked at


class SharedStore(FileStore):
    """A folder at a URL. Files are written here and then sent; what is read is fetched once and kept in ``cache``.

    Files appear whole. Two machines that save under one name in the same moment are told apart by S3 and Google Cloud
    Storage, which refuse to write over a file; elsewhere the last one would win.

    What is the newest is told there by the place's own clock, which nobody else sets and some count in seconds.
    Elsewhere files bring the times of other machines along, so that their manifests tell, as in a folder.
    """

    def __init__(self, url: str, cache: Path | None = None) -> None:
        """``cache`` is a local folder (default: ``~/.cache/sd-refdrop``).

        Raises :class:`StoreProblem` where fsspec, or what it needs for this kind of URL, is not installed.
        """
        self.where = re.sub("//[^/@]*@", "//", url)  # without a password
        fsspec = _fsspec(self.where)
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise StoreProblem(f"The shared library {self.where} cannot be opened: {_line(error)}; install that into "
                               "the Python of the web UI (pip install).") from error
        except Exception as error:  # every kind of place has errors of its own
            raise StoreProblem(f"The shared library {self.where} cannot be opened: {_line(error)}; give a folder, or a "
                               "URL such as s3://bucket/folder.") from error
        self._root = root.rstrip("/")
        kinds = self._files.protocol
        put = getattr(self._files, "_put_file", self._files.put_file)
        self._whole_at_once = (bool(_WHOLE_AT_ONCE.intersection([kinds] if isinstance(kinds, str) else kinds))
                               and "mode" in signature(put).parameters)  # older versions write over whatever is there
        home = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sd-refdrop"
        self._cache = self.beside = home / _short(url)
        self._orders: dict[str, tuple[str, int | None]] = {}  # by path, and as what it was looked at

    def names(self) -> list[str]:
        found = self._listed()
        orders = self._looked_at(found)
        return sorted(found, key=lambda name: (orders[name] or _when(found[name]) * 1e9, _when(found[name]), name))

    def taken(self) -> Callable[[str], bool]:
        return self._listed().__contains__

    def next_order(self) -> int:
        return next_order(self._looked_at(self._listed()).values())

    def publish(self, partial: Path, name: str, replace: bool) -> str:
        remote = self._remote(name)
        way = f"{self._root}/{PREFIX}{secrets.token_hex(8)}{PARTIAL}"
        try:
            if self._whole_at_once:  # and without folders: making one would make the bucket
                self._files.put_file(str(partial), remote, **({} if replace else {"mode": "create"}))
            else:
                self._files.makedirs(self._root, exist_ok=True)
                self._files.put_file(str(partial), way)
                if not replace and self._files.exists(remote):
                    raise FileExistsError(name)
                self._files.mv(way, remote)
        except OSError:
            raise
        except Exception as error:  # every kind of place has errors of its own
            raise OSError(_line(error)) from error
        finally:
            if not self._whole_at_once:
                with contextlib.suppress(Exception):  # moved, or the place cannot be reached: cleaned up another day
                    self._files.rm_file(way)
        return f"{self.where.rstrip('/')}/{name}{SUFFIX}"

    def _writer(self, name: str, replace: bool, expected: int, limit: int | None) -> FileWriter:
        self._clean()
        return FileWriter(self, self._cache, name, replace, expected, limit)

    def _opened(self, name: str) -> Reference | None:
        for spelled in (name, None):
            with self._told(f"Reference {name!r} cannot be fetched from"):
                try:
                    remote = self._remote(name) if spelled else self._listed().get(name, {}).get("name")
                    return read_reference(self._fetched(remote), name) if remote else None
                except FileNotFoundError:
                    pass
        return None

    def _deleted(self, name: str) -> bool:
        info = self._listed().get(name)
        if info is None:
            return False
        with self._told(f"Reference {name!r} could not be deleted from"):
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(info["name"])
        return True

    def _remote(self, name: str) -> str:
        return f"{self._root}/{name}{SUFFIX}"

    def _listed(self) -> dict[str, dict]:
        """The files by name, which is one that a user can ask for."""
        found: dict[str, dict] = {}
        for info in sorted(self._listing(), key=_last):
            name = _last(info)[: -len(SUFFIX)]
            if info["type"] == "file" and _last(info).endswith(SUFFIX) and is_name(name) and (
                    normalised(name) == name or normalised(name) not in found):
                found[normalised(name)] = info
        return found

    def _listing(self) -> list[dict]:
        with self._told("References cannot be listed in"):
            self._files.invalidate_cache()
            try:
                return self._files.ls(self._root, detail=True)
            except FileNotFoundError:
                return []

    def _looked_at(self, found: dict[str, dict]) -> dict[str, int | None]:
        """What each file's manifest says of its place in the order; a file is looked at once, and not at all where the
        place's own clock tells."""
        if self._whole_at_once:
            return dict.fromkeys(found)
        known, orders = self._orders, {}
        for name, info in found.items():
            path, state = info["name"], _state(info)
            if known.get(path, ("", None))[0] != state:
                with contextlib.suppress(Exception):  # every kind of place has errors of its own; its time tells then
                    with self._files.open(path, "rb", block_size=_BEGINNING) as file:
                        known[path] = state, order_in(file, info["size"])
            orders[name] = known.get(path, ("", None))[1]
        return orders

    def _fetched(self, remote: str) -> Path:
        """The local copy of a file as it is now in the library. Raises FileNotFoundError."""
        self._cache.mkdir(parents=True, exist_ok=True)
        for _ in range(_TRIES):
            before = self._version(remote)
            path = self._cache / f"{_short(remote)}-{before}{SUFFIX}"
            if path.exists():
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))  # in use: kept for another week
                return path
            clean(self._cache)
            partial = PartialFile(self._cache)
            try:
                if shutil.disk_usage(self._cache).free < self._files.size(remote):
                    raise OSError(f"there is no room for it in {self._cache}")
                self._files.get_file(remote, str(partial.path))
                if self._version(remote) == before:
                    sync(partial.file)
                    partial.release()
                    os.replace(partial.path, path)
                    self._forget(remote, path)
                    return path
            finally:
                partial.discard()
        raise OSError("it is being replaced all the time, try again")

    def _version(self, remote: str) -> str:
        self._files.invalidate_cache()
        info = self._files.info(remote)
        return _state(info)

    def _forget(self, remote: str, newest: Path) -> None:
        """Deletes local copies of earlier versions, and of files that nobody used for a week."""
        for path in self._cache.glob("*" + SUFFIX):
            with contextlib.suppress(OSError):
                older = path.name.startswith(_short(remote) + "-") and path != newest
                if older or time.time() - path.stat().st_atime > 7 * DAY:
                    path.unlink()

    def _clean(self) -> None:
        """Deletes what other machines began to send more than a day ago and never finished."""
        for info in self._listing():
            if _last(info).startswith(PREFIX) and 0 < _when(info) < time.time() - DAY:
                with contextlib.suppress(Exception):  # somebody else was quicker, or may and we may not
                    self._files.rm_file(info["name"])

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Every kind of place has errors of its own; they become one sentence."""
        try:
            yield
        except RefDropError:
            raise
        except Exception as error:
            raise StoreProblem(f"{what} {self.where}: {_line(error)}; check the connection and the rights "
                               "there.") from error


def open_store(place: str | Path) -> Store:
    """The store in a folder or at a URL. Raises :class:`StoreProblem` where a URL needs what is not installed."""
    kind, found, _ = str(place).partition("://")
    if not found or len(kind) < 2:
        return DiskStore(Path(place))
    if kind == "file":
        return DiskStore(Path(url2pathname(urlsplit(str(place)).path)))
    return SharedStore(str(place))


def _fsspec(url: str) -> ModuleType:
    try:
        import fsspec.core
    except ImportError as error:
        raise StoreProblem(f"The shared library {url} needs the package fsspec; install it into the Python of the web "
                           "UI (pip install fsspec), or give a folder.") from error
    return fsspec


def _state(info: dict) -> str:
    """Another one is another file, as far as a place tells."""
    return _short(str([info.get(key) for key in _VERSION]))


def _when(info: dict) -> float:
    """When a file was written last, in seconds; 0 where the place does not say."""
    value = next((info[key] for key in _WHEN if info.get(key)), 0)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, (int, float)) else 0.0


def _last(info: dict) -> str:
    return info["name"].rstrip("/").rpartition("/")[2]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _line(error: Exception) -> str:
    return shortened(str(error) or type(error).__name__, 200)
