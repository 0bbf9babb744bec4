"""Runs the tests in the repository's own environment, which it makes first.

    python tests/run.py [arguments of pytest]

Without ``-m`` it runs everything but the tests marked ``host`` (they need a real web UI) and ``gpu``. A run of
everything first looks through the code (ruff, and mypy over ``lib_refdrop``), and shares the tests out over two
processes; a run that names tests, by a place or by ``-m`` or ``-k``, does neither.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import environment

CHECKS = {"ruff": ("check", "--quiet", "--output-format", "concise"), "mypy": ("--no-error-summary",)}
PROCESSES = ("-n", "2", "--dist", "worksteal")


def gives(given: list[str], option: str) -> bool:
    """Whether an option of one letter, ``-m`` for example, is among the arguments, alone or with its value."""
    return any(word.startswith(option) and not word.startswith("--") for word in given)


def places(given: list[str]) -> list[str]:
    """The arguments that name files, folders or tests of this repository."""
    return [word for word in given if not word.startswith("-") and (ROOT / word.split("::")[0]).exists()]


def runs_everything(given: list[str]) -> bool:
    return not (places(given) or gives(given, "-m") or gives(given, "-k"))


def arguments(given: list[str]) -> list[str]:
    """The arguments for pytest: what was given, and what it leaves open."""
    shared = PROCESSES if runs_everything(given) and not gives(given, "-n") and has("xdist") else ()
    return [*([] if gives(given, "-m") else ["-m", "not host and not gpu"]), *shared, *given,
            *([] if places(given) else ["tests"])]


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def look_through(name: str, root: Path = ROOT) -> bool:
    """Runs one of :data:`CHECKS` over a folder with this repository's rules; a line says how it went."""
    if not has(name):
        print(f"{name}: not installed here, skipped", flush=True)
        return True
    start = time.monotonic()
    answer = subprocess.run([sys.executable, "-m", name, *CHECKS[name]], cwd=root, capture_output=True, text=True)
    if answer.returncode:
        print(answer.stdout + answer.stderr, end="", flush=True)
    word = "found something, see above" if answer.returncode else "found nothing"
    print(f"{name}: {word} ({time.monotonic() - start:.0f} s)", flush=True)
    return answer.returncode == 0


def main(given: list[str]) -> int:
    environment.enter("requirements-tests.txt")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other on a busy machine
    clean = []
    if runs_everything(given):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes share the cores already
        clean = [look_through(name) for name in CHECKS]
    status = subprocess.call([sys.executable, "-m", "pytest", *arguments(given)], cwd=ROOT)
    return status or int(not all(clean))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
