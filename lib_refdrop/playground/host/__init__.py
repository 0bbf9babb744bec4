"""Makes the playground's ``modules`` package importable, in this process only.

Web UIs have a package of that name, which scripts import; so has the playground, and the script cannot tell.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_FOLDER = Path(__file__).parent


def enter() -> None:
    """Puts the folder that holds ``modules`` on ``sys.path``, once. Raises RuntimeError inside a web UI's process."""
    loaded = sys.modules.get("modules")
    if loaded is None:
        found = importlib.util.find_spec("modules")
        if found is None:
            sys.path.append(str(_FOLDER))
            return
        origin = found.origin
    else:
        origin = getattr(loaded, "__file__", None)
    if origin is None or Path(origin).parent.parent != _FOLDER:
        raise RuntimeError("The playground is a program of its own and cannot run inside a web UI; start it with python -m "
                           "lib_refdrop.playground.")
