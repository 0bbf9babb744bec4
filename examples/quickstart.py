"""Shows RefDrop at work on the bundled model: one reference guides other pictures towards it, or away from it.

    python examples/quickstart.py [--out DIR] [--quick] [--seed N]
    python examples/quickstart.py --ui

Makes its environment in .venv first. Writes DIR/grid.png, DIR/report.json and the reference's file; --ui opens the
playground in a browser instead.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import environment

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "examples" / "demo-model"
PAIRS, QUICK_PAIRS = 18, 6
COLUMNS = 6  # of the grid


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("refdrop-demo"), help="folder (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_PAIRS} pairs instead of {PAIRS}: under a minute")
    parser.add_argument("--ui", action="store_true", help="open the playground instead")
    parser.add_argument("--seed", type=int, default=1, help="prompts and seeds follow from it (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    environment.enter()
    from demo.setup import Problem, prepare
    try:
        prepare(ROOT, MODEL, options.out)
        if options.ui:
            from demo.ui import open_playground
            return open_playground(MODEL, options.out / "references")
        return show(options)
    except Problem as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def show(options: argparse.Namespace) -> int:
    start = time.monotonic()
    from demo.client import LocalClient, Recipe
    from demo.experiment import Experiment, files_without, off_identical
    from demo.figures import grid
    from demo.pairs import make_pairs
    from demo.reader import Reader
    from demo.report import CONSISTENT, DIVERSE, Judge, kept, promises, table, write
    from demo.setup import Ticker, problems_are_sentences

    pairs = make_pairs(options.seed, QUICK_PAIRS, kinds=3) if options.quick else make_pairs(options.seed, PAIRS)
    recipe = Recipe(steps=12) if options.quick else Recipe()
    with problems_are_sentences():
        print("Loading the bundled model ...", flush=True)
        reader, references = Reader.load(MODEL), options.out / "references"
        orders = [pair.target for pair in pairs[:2]]
        without = files_without(LocalClient(MODEL, references, extension=False), orders, recipe)
        client = LocalClient(MODEL, references)
        with Ticker() as ticker:
            results = Experiment(client, recipe, "quickstart", ticker.show).run(pairs, [CONSISTENT, DIVERSE])
        off = off_identical(client, orders, recipe, without)
    report = Judge(results, reader).report(off)
    rows = {"reference": results.references, "plain": results.plain,
            f"consistent\nc = {CONSISTENT:+g}": results.guided[CONSISTENT],
            f"diverse\nc = {DIVERSE:+g}": results.guided[DIVERSE]}
    captions = {"reference": [pair.reference.prompt for pair in pairs], "plain": [pair.target.prompt for pair in pairs]}
    picture = grid({name: images[:COLUMNS] for name, images in rows.items()}, captions)
    picture.save(options.out / "grid.png")
    report |= {"seed": options.seed, "recipe": vars(recipe), "total_seconds": round(time.monotonic() - start, 1)}
    write(report, options.out / "report.json")
    print("\n" + table(report) + "\n\n" + kept(report) + "\n" + promises(report))
    print(f"\nLook at {options.out / 'grid.png'}; the figures are in {options.out / 'report.json'}, the last\n"
          f"reference in {client.file_of('quickstart')}. Try it yourself: python examples/quickstart.py --ui")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
