"""The most memory that guiding takes, over the same generation without, as Linux counts it.

A process of its own measures it (``python -m tests.bench.memory FOLDER``), in which nothing else has left memory that
would be used again unnoticed.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 10**6
STEPS, USED_STEPS = 20, 2
PRESETS = ("Balanced", "Small")


def in_a_process(folder: Path, whole: bool) -> dict | None:
    """What :func:`measure` finds, or None where this system does not tell. References are written into ``folder``."""
    from .models import sdxl
    from .speed import Generations
    from .standin import hollow

    if not Path("/proc/self/clear_refs").exists():
        return None
    model = sdxl(STEPS)
    Generations(model, hollow(model), "cpu", folder).save(*PRESETS, place="references")
    command = [sys.executable, "-m", "tests.bench.memory", str(folder), *["--whole"] * whole]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(folder: Path, whole: bool) -> dict:
    """Megabytes that the peak of Use lies above that of a plain generation, SDXL at 512×768 pixels.

    ``whole`` runs the whole UNet; otherwise only its self-attention layers run, with their true shapes and weights: the
    rest of a UNet has peaks of its own, which can only hide some of what guiding adds. The references are those of 20
    steps; of the guided generation two are run.
    """
    from .models import sdxl
    from .speed import Generations
    from .standin import attention_only

    model = sdxl(USED_STEPS)
    made = Generations(model, model.filled("cpu") if whole else attention_only(model), "cpu", folder)
    made.plain()
    plain = peak(made.plain)
    over = {name: peak(partial(made.use, name)) - plain for name in PRESETS}
    return {**{f"use_{name.lower()}_from_disk_over_plain": round(each / MEGABYTE, 1) for name, each in over.items()},
            "plain": round(plain / MEGABYTE, 1),
            "how": "the whole UNet" if whole else "its self-attention layers alone"}


def peak(run: Callable[[], object]) -> int:
    """The most bytes resident in memory while something runs."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    run()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="with the references")
    parser.add_argument("--whole", action="store_true", help="run the whole UNet")
    options = parser.parse_args()
    print(json.dumps(measure(options.folder, options.whole)))


if __name__ == "__main__":
    main()
