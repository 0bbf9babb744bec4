"""Makes ``.venv`` in the repository's root and runs the calling script inside it. Standard library only.

    import environment
    environment.enter()                             # what the examples need
    environment.enter("requirements-tests.txt")     # and what the tests need

The second time only a hash of the requirements is compared. Set ``REFDROP_ENVIRONMENT=here`` to use the running Python
and what is installed in it instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv"
RUNTIME = "requirements.txt"
CONSTRAINTS = "constraints.txt"
OLDEST, NEWEST = (3, 10), (3, 13)
PIP = "pip>=24.2"  # tells how far a download is, and reads a package's needs without downloading it
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def enter(*extra: str) -> None:
    """Returns inside the environment, with :data:`RUNTIME` and the ``extra`` requirements files installed.

    Called from outside it, makes the environment where needed and runs ``sys.argv`` again with its Python; then this
    process is replaced, or ends with that one's exit status. Ends with one sentence where it cannot be made.
    """
    if os.environ.get("REFDROP_ENVIRONMENT", "").lower() == "here":
        return
    files = [RUNTIME, *extra]
    python = _python_in(FOLDER)
    inside = python.exists() and FOLDER.exists() and os.path.realpath(sys.prefix) == os.path.realpath(FOLDER)
    if missing := [name for name in files if not is_current(name, FOLDER, ROOT)]:
        try:
            _make(files, missing)
        except KeyboardInterrupt:
            sys.exit("Stopped. Give the same command again to go on from here.")
    if not inside:
        _run_again(python)


# Decisions, each on plain values.

def is_supported(version: tuple) -> bool:
    """Whether a Python of this version, ``(3, 11, ...)``, is one the requirements are pinned for."""
    return OLDEST <= tuple(version[:2]) <= NEWEST


def find_python(version: tuple, windows: bool, version_of) -> list[str] | None:
    """The command of a Python that is supported: the running one, or one on PATH; None where there is none.

    ``version_of(command)`` answers ``(major, minor)``, or None for a command that does not run.
    """
    if is_supported(version):
        return [sys.executable]
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        command = ["py", f"-3.{minor}"] if windows else [f"python3.{minor}"]
        found = version_of(command)
        if found and is_supported(found):
            return command
    return None


def wants_cpu_build(brings: set[str] | None, has_gpu: bool) -> bool:
    """Whether PyTorch has to come from the index of builds without CUDA.

    ``brings`` names the packages pip would install for its own choice of PyTorch, None where it cannot tell. CUDA
    packages are gigabytes and of no use without a GPU, so not knowing counts as bringing them.
    """
    if has_gpu:
        return False
    return brings is None or any(re.match(r"(nvidia|cuda|triton)\b", name, re.IGNORECASE) for name in brings)


def pinned(requirements: str, name: str) -> str:
    """The line of a requirements file that pins ``name``, e.g. ``torch==2.13.0``."""
    match = re.search(rf"^{name}==\S+", requirements, re.MULTILINE)
    if not match:
        raise ValueError(f"no line of the requirements pins {name}")
    return match.group()


def fingerprint(name: str, root: Path) -> str:
    """Hash of one requirements file, of the constraints, and of how they are installed."""
    parts = [(root / part).read_bytes() for part in (name, CONSTRAINTS) if (root / part).exists()]
    return hashlib.sha256(b"\0".join([*parts, CPU_INDEX.encode()])).hexdigest()


def is_current(name: str, folder: Path, root: Path) -> bool:
    """Whether ``folder`` holds an environment in which this requirements file, as it is now, was installed."""
    return _python_in(folder).exists() and _stamps(folder).get(name) == fingerprint(name, root)


# What is done.

def _make(files: list[str], missing: list[str]) -> None:
    start = time.monotonic()
    print(f"Preparing the Python environment in {FOLDER.name} (once; a download of a few hundred MB, some minutes).",
          flush=True)
    python = _new_venv()
    log = FOLDER / "install.log"
    log.write_text("", encoding="utf-8")
    _pip(python, log, "pip", [PIP], optional=True)
    if RUNTIME in missing:
        torch = pinned((ROOT / RUNTIME).read_text(encoding="utf-8"), "torch")
        _install_torch(python, log, torch)
    wanted = [word for name in files for word in ("-r", str(ROOT / name))]
    if not _pip(python, log, "the other packages", [*wanted, "-c", str(ROOT / CONSTRAINTS)], optional=True):
        print(f"  Not every version of {CONSTRAINTS} is to be had here; taking others that fit.", flush=True)
        _pip(python, log, "the other packages", wanted)
    stamps = {**_stamps(FOLDER), **{name: fingerprint(name, ROOT) for name in files}}
    _stamp_file(FOLDER).write_text(json.dumps(stamps, indent=1), encoding="utf-8")
    print(f"The environment is ready ({time.monotonic() - start:.0f} s).", flush=True)


def _new_venv() -> Path:
    """The environment's Python; made, or made anew where it is broken or of a version that is not supported."""
    python = _python_in(FOLDER)
    found = _version_of([str(python)]) if python.exists() else None
    if found and is_supported(found):
        return python
    command = find_python(sys.version_info, os.name == "nt", _version_of)
    if command is None:
        sys.exit(f"SD-RefDrop needs Python 3.{OLDEST[1]} to 3.{NEWEST[1]}, this is {sys.version.split()[0]}: install "
                 "one of them from python.org and give the same command again.")
    made = subprocess.run([*command, "-m", "venv", "--clear", str(FOLDER)], capture_output=True, text=True)
    if made.returncode:
        print(made.stdout + made.stderr, file=sys.stderr)
        sys.exit(f"{' '.join(command)} could not make a virtual environment in {FOLDER}; on Debian and Ubuntu install "
                 "the package python3-venv first.")
    return python


def _install_torch(python: Path, log: Path, torch: str) -> None:
    """PyTorch first and alone, so that nothing else decides which build of it comes."""
    has_gpu = _has_nvidia_gpu()
    if not wants_cpu_build(None if has_gpu else _brings(python, torch), has_gpu):
        _pip(python, log, "PyTorch", [torch, "--no-deps"])
        return
    source = ["--no-deps", "--index-url", CPU_INDEX, "--retries", "2", "--timeout", "20"]
    if not _pip(python, log, "PyTorch for the processor (no NVIDIA GPU here)", [torch, *source], optional=True):
        sys.exit(f"PyTorch without CUDA could not be had from {CPU_INDEX} (what pip said is in {log}), and the one for "
                 "NVIDIA GPUs brings gigabytes that a machine without one has no use for: check the connection and "
                 f"give the same command again, or first install a wheel of {torch} with {python} -m pip install FILE.")


def _brings(python: Path, package: str) -> set[str] | None:
    """Names of the packages that pip would install for this one; None where it cannot tell."""
    report = FOLDER / "report.json"
    asked = subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run",
                            "--report", str(report), package], capture_output=True, text=True)
    if asked.returncode:
        return None
    chosen = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {each["metadata"]["name"] for each in chosen}


def _pip(python: Path, log: Path, what: str, arguments: list[str], optional: bool = False) -> bool:
    """Installs, with one line of progress; everything pip says goes to the log."""
    progress = _Progress(what)
    # Not compiled beforehand: of these packages most modules are never imported, the others are compiled then.
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-compile"]
    if _pip_tells_progress(python):
        command += ["--progress-bar", "raw"]
    with log.open("a", encoding="utf-8") as out:
        print("\n$ pip install", *arguments, file=out, flush=True)
        process = subprocess.Popen(command + arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   encoding="utf-8", errors="replace")
        for line in process.stdout:
            if not line.startswith("Progress "):
                out.write(line)
            progress.show(line.strip())
        failed = process.wait() != 0
    progress.end("not installed" if failed else "done")
    if failed and not optional:
        print(*log.read_text(encoding="utf-8").splitlines()[-8:], sep="\n", file=sys.stderr)
        sys.exit(f"{what} could not be installed (everything pip said is in {log}); check the connection and the free "
                 "space, then give the same command again.")
    return not failed


class _Progress:
    """One line that is written over on a terminal, or a line now and then in a file."""

    def __init__(self, what: str) -> None:
        self.what, self.now, self.start = what, "", time.monotonic()
        self.terminal = sys.stdout.isatty()
        self.wait = 0.1 if self.terminal else 15.0
        self.last = self.start if not self.terminal else 0.0

    def show(self, line: str) -> None:
        if match := re.match(r"Progress (\d+) of (\d+)", line):
            done, whole = (int(number) for number in match.groups())
            percent = f" {100 * done // max(whole, 1)} %"
        else:
            percent = ""
            if line.startswith("Collecting "):
                self.now = "looking for " + line.split()[1]
            elif line.startswith("Installing "):
                self.now = "unpacking"
            elif match := re.match(r"Downloading \S*?([^/\s]+?)-\d\S* \((.+)\)", line):
                self.now = f"downloading {match.group(1)} ({match.group(2)})"
        if time.monotonic() - self.last >= self.wait:
            self.last = time.monotonic()
            self._write(f"  {self.what}: {self.now}{percent} ... {self.last - self.start:.0f} s")

    def end(self, word: str) -> None:
        self._write(f"  {self.what}: {word} ({time.monotonic() - self.start:.0f} s)")
        if self.terminal:
            print(flush=True)

    def _write(self, text: str) -> None:
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            print("\r" + text[:width].ljust(width), end="", flush=True)
        else:
            print(text, flush=True)


def _run_again(python: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "nt":  # there, exec would hand the terminal back at once
        sys.exit(subprocess.call([str(python), *sys.argv]))
    os.execv(str(python), [str(python), *sys.argv])


def _python_in(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _stamp_file(folder: Path) -> Path:
    return folder / "refdrop-installed.json"


def _stamps(folder: Path) -> dict:
    try:
        stamps = json.loads(_stamp_file(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def _version_of(command: list[str]):
    try:
        answer = subprocess.run([*command, "-c", "import sys, venv; print(*sys.version_info[:2])"], capture_output=True,
                                text=True, timeout=60)
        major, minor = answer.stdout.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def _pip_tells_progress(python: Path) -> bool:
    answer = subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True, text=True)
    match = re.match(r"pip (\d+)\.(\d+)", answer.stdout)
    return bool(match) and tuple(int(number) for number in match.groups()) >= (24, 1)


def _has_nvidia_gpu() -> bool:
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
