"""Runs the tests in the repository's own environment, which it makes first.

    python tests/run.py [arguments of pytest]

Without ``-m`` it runs everything but the tests marked ``host`` (they need a real web UI) and ``gpu``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import environment  # noqa: E402


def arguments(given: list[str]) -> list[str]:
    """The arguments for pytest: what was given, and what it leaves open."""
    chosen = any(word == "-m" or (word.startswith("-m") and not word.startswith("--")) for word in given)
    places = [word for word in given if not word.startswith("-") and (ROOT / word.split("::")[0]).exists()]
    return [*([] if chosen else ["-m", "not host and not gpu"]), *given, *([] if places else ["tests"])]


def main() -> int:
    environment.enter("requirements-tests.txt")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other on a busy machine
    return subprocess.call([sys.executable, "-m", "pytest", *arguments(sys.argv[1:])], cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
