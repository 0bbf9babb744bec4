"""How much memory this process may have: the machine's, or less where a container (a control group) says so."""

from __future__ import annotations

import os
from pathlib import Path

_ANY = 2**60  # as cgroup v1 writes "no limit": the largest number of whole pages


def memory(root: Path = Path("/")) -> int | None:
    """Bytes; None where the system does not tell. ``root`` is where ``proc`` and ``sys`` are found."""
    found = list(_of_groups(root))
    try:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows does not say so
        pass
    return min(found, default=None)


def _of_groups(root: Path):
    """The limits of the control groups that the process is in, and of those that these are in: of version 1, whose line
    is ``4:memory:/docker/1a2b``, and of version 2, ``0::/docker/1a2b``. Inside a container its own group may be the
    topmost that it sees."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            top, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in group.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            try:
                limit = int(top.joinpath(*parts[:depth], file).read_text())
            except (OSError, ValueError):  # no such file at the top, "max", or a path of the host's
                continue
            if 0 < limit < _ANY:
                yield limit
