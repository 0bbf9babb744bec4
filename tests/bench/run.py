"""Measures what references cost: bytes, files, time and memory, beside the first extension's way of keeping them.

    python tests/bench/run.py [--quick] [--device cuda] [--out FILE] [--sdxl-time]

Models have random weights and the true shapes: the demo model's, SD1.5's and SDXL's. Every time is held against plain
generations right before and after it, in the same process; the median of these ratios is shown. Plain and guided
generations are of one seed, references of another, c = 0.3, from the disk (as the system caches it).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "examples")]  # this folder's own modules are found as tests.bench's

import environment

PARTS = ("sizes", "demo", "sd15", "sdxl", "memory")
QUICK_PARTS = ("sizes", "sd15")
QUICK_VARIANTS = {"save", "use_exact", "use_balanced", "use_small", "save_original", "use_original"}
SIZES_STEPS = 20
QUICK_MOST = 10**9  # bytes of the largest reference that --quick writes


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true",
                        help="under two minutes: SD1.5 only, one step at CFG 1, once; sizes above a gigabyte are "
                             "estimated")
    parser.add_argument("--device", default="cpu", help="where the UNets run (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the results there as JSON")
    parser.add_argument("--sdxl-time", action="store_true",
                        help="measure SDXL's time and memory with the whole UNet (6 GB, and many minutes on a CPU)")
    parser.add_argument("--rounds", type=int, help="how often everything is timed")
    parser.add_argument("--steps", type=int, help="of the SD1.5 and SDXL generations that are timed")
    parser.add_argument("--parts", type=lambda text: text.split(","), metavar="PART,PART,...",
                        help=f"only these of {', '.join(PARTS)}")
    parser.add_argument("--variants", type=lambda text: set(text.split(",")), metavar="NAME,NAME,...",
                        help="time only these, e.g. save,use_balanced")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts or ()) - set(PARTS):
        parser.error(f"there is no part {min(unknown)}")
    if options.parts is None:
        options.parts = [part for part in (QUICK_PARTS if options.quick else PARTS) if part != "sdxl"
                         or options.sdxl_time]
    if options.quick and options.variants is None:
        options.variants = QUICK_VARIANTS
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve each other on a busy machine
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of a package that is of no use here
    environment.enter()
    from demo.setup import Ticker
    start = time.monotonic()
    with Ticker() as ticker, tempfile.TemporaryDirectory(prefix="refdrop-bench-") as folder:
        results = measure(options, Path(folder), _told(ticker.show))
    results["total_seconds"] = round(time.monotonic() - start, 1)
    from tests.bench.report import table
    print(table(results))
    print(f"\nMeasured in {results['total_seconds']:.0f} s.")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(options: argparse.Namespace, folder: Path, tell) -> dict:
    """All parts that were asked for, each quantity by the model's name."""
    from tests.bench import memory, models, report, sizes, speed

    if unknown := (options.variants or set()) - set(report.NAMES):
        sys.exit(f"There is no variant {min(unknown)}; there is: {', '.join(report.NAMES)}.")
    results: dict = {"made": report.machine(options.device), "quick": options.quick}

    def note(key: str, found: dict) -> None:
        for quantity, value in found.items():
            results.setdefault(quantity, {})[key] = value

    if "sizes" in options.parts:
        model = models.sdxl(SIZES_STEPS)
        key = f"{model.key}_{SIZES_STEPS}"
        found = sizes.measure(model, folder, QUICK_MOST if options.quick else None, _prefixed(tell, key))
        note(key, {**found, "estimate": sizes.estimates(model)})
    rounds = options.rounds or (1 if options.quick else 5)  # many short ones: a disturbance then spoils few of them
    timed = {
        "demo": lambda: models.demo(8 if options.quick else 20),
        "sd15": lambda: models.sd15(options.steps or 1, models.ONE if options.quick else models.BOTH),
        "sdxl": lambda: models.sdxl(options.steps or 2),
    }
    for part in (part for part in timed if part in options.parts):
        model = timed[part]()
        with tempfile.TemporaryDirectory(dir=folder) as place:
            times = 2 * rounds + 1 if part == "demo" else rounds  # the shortest is the most easily disturbed
            note(model.key, speed.measure(model, options.device, times, Path(place), _prefixed(tell, model.key),
                                          options.variants, between=3 if options.quick else 1))
    if "memory" in options.parts:
        tell("memory")
        found = memory.in_a_process(folder / "memory", whole=options.sdxl_time)
        if found:
            note("sdxl_512x768", {"peak_mb": found})
    return results


def _prefixed(tell, key: str):
    return lambda text: tell(f"{key}: {text}")


def _told(show):
    """``show``, in full on a terminal; where every text stays, once a round."""
    last = [""]

    def tell(text: str) -> None:
        text = text if sys.stdout.isatty() else text.split(", ", maxsplit=1)[0]
        if text != last[0]:
            last[0] = text
            show(text)

    return tell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
