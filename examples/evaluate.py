"""Measures what RefDrop does on the bundled model, over many pairs of a reference and a target.

    python examples/evaluate.py --seed 7 --pairs 32 --coefficients=-0.3,0,0.1,0.2,0.3,0.4,0.5,0.6 --out DIR

Prompts and seeds follow from --seed alone. Writes DIR/report.json, the curve over the coefficients DIR/curve.png and a
sample of the pictures DIR/grid.png. With --url the same requests go to a web UI that has RefDrop and this model.

    python examples/evaluate.py --ablate --steps 8 --seed 7 --pairs 32 --out DIR

keeps each reference in many smaller ways instead and measures what is left of the effect: DIR/ablation.json, and as
DIR/contributions.json the table that budgets are kept by (lib_refdrop/references/contributions.json).

    python examples/evaluate.py --methods --seed 7 --pairs 32 --out DIR

draws every method of examples/demo/methods.py at each of its strengths instead: agreement against adherence and against
copy rate in DIR/methods.png, the figures and the time over plain in DIR/methods.txt and DIR/methods.json.

    python examples/evaluate.py --pictures --seed 7 --pairs 32 --steps 12 --out DIR

lets a drawing that the model never made guide, beside a generated reference of the same description: DIR/pictures.json.

    python examples/evaluate.py --several --seed 7 --pairs 32 --steps 12 --out DIR

lets two references guide at once, like both and like one but unlike the other, beside either alone: DIR/several.json.

    python examples/evaluate.py --sequence --seed 7 --pairs 32 --steps 8 --out DIR

draws the frames of a walk again, and stories, plain and as sequences: flicker and likeness in DIR/sequence.json.

    python examples/evaluate.py --words --seed 7 --pairs 32 --steps 8 --out DIR

holds masks by the figure's word against the figures, and guides within them on either side: DIR/words.json.

    python examples/evaluate.py --masks --seed 7 --pairs 32 --steps 8 --out DIR

guides within a mask of the shirt, and by references of which the figure alone was kept: DIR/masks.json.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import environment

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "examples" / "demo-model"
COEFFICIENTS = (-0.3, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
OWN_SEED_PAIRS = 4  # references that are checked to reproduce themselves
COLUMNS = 8  # of the grid


def coefficients(text: str) -> list[float]:
    """Rising, each once. Raises argparse's error for what is not a number in [-1, 1]."""
    try:
        numbers = sorted({float(part) for part in text.split(",") if part.strip()})
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like -0.3,0,0.3") from None
    if not numbers or not all(math.isfinite(c) and -1 <= c <= 1 for c in numbers):
        raise argparse.ArgumentTypeError(f"coefficients lie between -1 and 1, not {text!r}")
    return [c + 0.0 for c in numbers]  # -0 is 0


def count(text: str) -> int:
    if not text.isdigit() or not 2 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pairs from 2 to 10000")
    return int(text)


def size(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 2048:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 2048")
    return int(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="prompts and seeds follow from it (default: %(default)s)")
    parser.add_argument("--pairs", type=count, default=32, help="of a reference and a target (default: %(default)s)")
    parser.add_argument("--coefficients", type=coefficients, default=list(COEFFICIENTS), metavar="C,C,...",
                        help=f"of the curve (default: {','.join(f'{c:g}' for c in COEFFICIENTS)})")
    parser.add_argument("--out", type=Path, default=Path("refdrop-evaluation"), help="folder (default: %(default)s)")
    parser.add_argument("--url", help="a web UI's address, e.g. http://127.0.0.1:7860, instead of the playground")
    parser.add_argument("--steps", type=size, default=20, help="of every picture (default: %(default)s)")
    parser.add_argument("--size", type=size, default=128, help="of every picture's sides (default: %(default)s)")
    parser.add_argument("--sampler", default="Euler", help="(default: %(default)s)")
    parser.add_argument("--ablate", nargs="?", const="", metavar="NAME,NAME,...",
                        help="measure what smaller references lose, of all ways to keep them or of those named")
    parser.add_argument("--methods", nargs="?", const="", metavar="NAME,NAME,...",
                        help="compare all methods of examples/demo/methods.py, or those named")
    parser.add_argument("--open", action="store_true",
                        help="targets' prompts name the kind alone, so that what leaks of pose and ground shows")
    parser.add_argument("--pictures", action="store_true",
                        help="compare a drawing as the reference with a generated one of the same description")
    parser.add_argument("--several", action="store_true", help="compare two references at once with either alone")
    parser.add_argument("--sequence", action="store_true", help="measure the flicker of frames, and stories")
    parser.add_argument("--masks", action="store_true", help="measure what masks do, in Use and in Save")
    parser.add_argument("--words", action="store_true", help="masks by a word: what they cover, and what they leave")
    options = parser.parse_args(arguments)
    if options.size % 8 or options.size < 64:
        parser.error("--size is a multiple of 8, from 64 on")
    if options.ablate is not None and options.url:
        parser.error("--ablate looks into references, which a web UI at --url does not show")
    if options.ablate is not None and options.methods is not None:
        parser.error("--ablate and --methods are two measurements; ask for one of them")
    if options.ablate is not None and options.open:
        parser.error("--open is of the evaluation and of --methods, not of --ablate")
    others = options.ablate is not None or options.methods is not None or options.open
    own = options.pictures + options.several + options.sequence + options.words + options.masks
    if own > 1 or (own and others):
        parser.error("--pictures, --several, --sequence, --words and --masks are measurements of their own; ask for "
                     "one of them, without --ablate, --methods and --open")
    if options.words and options.url:
        parser.error("--words looks into references, which a web UI at --url does not show")
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    environment.enter()
    from demo.setup import Problem, prepare, problems_are_sentences
    try:
        prepare(ROOT, MODEL, options.out)
        with problems_are_sentences():
            if options.methods is not None:
                return compare(options)
            if options.pictures:
                return drawings(options)
            if options.several:
                return several(options)
            if options.sequence:
                return sequence(options)
            if options.masks:
                return masks(options)
            if options.words:
                return words(options)
            return evaluate(options) if options.ablate is None else ablate(options)
    except Problem as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def drawings(options: argparse.Namespace) -> int:
    from demo import pictures
    from demo.pairs import make_pairs

    return _side_by_side(options, "pictures", pictures.table, lambda client, recipe, reader, show: pictures.compare(
        client, recipe, reader, make_pairs(options.seed, options.pairs), progress=show).report())


def several(options: argparse.Namespace) -> int:
    from demo import several as two

    return _side_by_side(options, "several", two.table, lambda client, recipe, reader, show: two.compare(
        client, recipe, reader, options.seed, options.pairs, show).report())


def sequence(options: argparse.Namespace) -> int:
    from demo import frames

    return _side_by_side(options, "sequence", frames.table, lambda client, recipe, reader, show: frames.compare(
        client, recipe, reader, options.seed, options.pairs, show).report())


def masks(options: argparse.Namespace) -> int:
    from demo import masks as masked

    return _side_by_side(options, "masks", masked.table, lambda client, recipe, reader, show: masked.compare(
        client, recipe, reader, options.seed, options.pairs, show).report())


def words(options: argparse.Namespace) -> int:
    from demo import words as by_word

    return _side_by_side(options, "words", by_word.table, lambda client, recipe, reader, show: by_word.compare(
        client, recipe, reader, options.seed, options.pairs, progress=show).report())


def _side_by_side(options: argparse.Namespace, name: str, table: Callable, measure: Callable) -> int:
    """A measurement of its own: ``measure(client, recipe, reader, progress)`` gives the report, for NAME.json."""
    from demo.client import HttpClient, LocalClient, Recipe
    from demo.reader import Reader
    from demo.report import write
    from demo.setup import Ticker

    recipe = Recipe(options.steps, sampler_name=options.sampler, width=options.size, height=options.size)
    reader = Reader.load(MODEL)
    client = HttpClient(options.url) if options.url else LocalClient(MODEL, options.out / "references")
    with Ticker() as ticker:
        report = measure(client, recipe, reader, ticker.show)
    write({"seed": options.seed, "pairs": options.pairs, "recipe": vars(recipe), **report},
          options.out / f"{name}.json")
    print("\n" + table(report))
    return 0


def evaluate(options: argparse.Namespace) -> int:
    start = time.monotonic()
    from demo.client import HttpClient, LocalClient, Recipe
    from demo.experiment import Experiment, files_without, off_identical
    from demo.pairs import make_pairs
    from demo.reader import Reader
    from demo.report import CONSISTENT, COPYING, DIVERSE, EFFECT, Judge, curve_table, kept, promises, table, write
    from demo.setup import Ticker

    pairs = make_pairs(options.seed, options.pairs, open_prompts=options.open)
    references = options.out / "references"
    recipe = Recipe(options.steps, sampler_name=options.sampler, width=options.size, height=options.size)
    reader, orders, off = Reader.load(MODEL), [pair.target for pair in pairs[:2]], None
    print("Loading the bundled model ..." if not options.url else f"Asking {options.url} ...", flush=True)
    if not options.url:  # a web UI elsewhere cannot be asked without its extension
        without = files_without(LocalClient(MODEL, references, extension=False), orders, recipe)
    client = HttpClient(options.url) if options.url else LocalClient(MODEL, references)
    needed = sorted({*options.coefficients, CONSISTENT, DIVERSE})
    with Ticker() as ticker:
        results = Experiment(client, recipe, "evaluation", ticker.show).run(pairs, needed, OWN_SEED_PAIRS)
    if not options.url:
        off = off_identical(client, orders, recipe, without)
    judge = Judge(results, reader)
    curve = [entry for entry in judge.curve() if entry["c"] in options.coefficients]
    report = {**judge.report(off), "seed": options.seed, "open": options.open, "recipe": vars(recipe),
              "zero_identical": results.zero_identical, "curve": curve,
              "total_seconds": round(time.monotonic() - start, 1)}
    write(report, options.out / "report.json")
    _draw(results, curve, options)
    print("\n" + "\n\n".join((table(report), curve_table(curve, EFFECT), curve_table(curve, COPYING), kept(report))))
    print(promises(report))
    print(f"\n{len(pairs)} pairs in {report['total_seconds']:.0f} s; see report.json, curve.png and grid.png in "
          f"{options.out}.")
    return 0


def ablate(options: argparse.Namespace) -> int:
    start = time.monotonic()
    from demo.ablation import Ablation, judge, table, variants, write_all
    from demo.client import LocalClient, Recipe
    from demo.pairs import make_pairs
    from demo.reader import Reader
    from demo.setup import Problem, Ticker

    reader = Reader.load(MODEL)
    print("Loading the bundled model ...", flush=True)
    client = LocalClient(MODEL, options.out / "references")
    there = variants(client.lineage, (options.size // 8) ** 2)
    named = [name.strip() for name in options.ablate.split(",") if name.strip()]
    if unknown := [name for name in named if name not in there]:
        raise Problem(f"There is no variant named {unknown[0]!r}; there is: {', '.join(there)}.")
    with Ticker() as ticker:
        recipe = Recipe(options.steps, sampler_name=options.sampler, width=options.size, height=options.size)
        made = Ablation(client, recipe, ticker.show).run(
            make_pairs(options.seed, options.pairs), {name: there[name] for name in named or there})
    usual = parse([])
    command = " ".join(["python examples/evaluate.py --ablate", *(
        f"--{name} {getattr(options, name)}" for name in ("steps", "size", "sampler", "seed", "pairs")
        if name in ("seed", "pairs") or getattr(options, name) != getattr(usual, name))])
    report = {"seed": options.seed, "recipe": vars(recipe), **judge(made, reader)}
    write_all(report, command, options.out)
    print("\n" + table(report))
    print(f"\n{options.pairs} pairs in {time.monotonic() - start:.0f} s; see ablation.json and contributions.json in "
          f"{options.out}.")
    return 0


def compare(options: argparse.Namespace) -> int:
    start = time.monotonic()
    from demo.client import HttpClient, LocalClient, Recipe
    from demo.comparison import compare, figure, judge, table
    from demo.methods import check, chosen
    from demo.pairs import make_pairs
    from demo.reader import Reader
    from demo.report import write
    from demo.setup import Ticker

    methods, reader = chosen(options.methods), Reader.load(MODEL)
    if not options.url:  # another RefDrop may have others, and says so itself
        check(methods)
    print("Loading the bundled model ..." if not options.url else f"Asking {options.url} ...", flush=True)
    client = HttpClient(options.url) if options.url else LocalClient(MODEL, options.out / "references")
    recipe = Recipe(options.steps, sampler_name=options.sampler, width=options.size, height=options.size)
    pairs = make_pairs(options.seed, options.pairs, open_prompts=options.open)
    with Ticker() as ticker:
        made = compare(client, recipe, pairs, methods, ticker.show)
    report = {"seed": options.seed, "open": options.open, "recipe": vars(recipe), **judge(made, reader, methods)}
    write(report, options.out / "methods.json")
    (options.out / "methods.txt").write_text(table(report) + "\n", encoding="utf-8")
    figure(report, f"{options.pairs} pairs of seed {options.seed}").save(options.out / "methods.png")
    print("\n" + table(report))
    print(f"\n{options.pairs} pairs in {time.monotonic() - start:.0f} s; see methods.json, methods.txt and methods.png "
          f"in {options.out}.")
    return 0


def _draw(results, curve: list[dict], options: argparse.Namespace) -> None:
    from demo.figures import Line, grid, stacked
    from demo.figures import curve as draw_curve
    from demo.report import COPYING, EFFECT
    title = f"{len(results.pairs)} pairs of seed {options.seed}, 95 % intervals"
    figures = []
    for columns, what in ((EFFECT, title), ({"agreement": "agreement", **COPYING}, "What is alike, what is copied")):
        lines = [Line(name, [entry[key] for entry in curve], [entry["intervals"][key] for entry in curve])
                 for name, key in columns.items() if all(math.isfinite(entry[key]) for entry in curve)]
        figures.append(draw_curve(options.coefficients, lines, what, "RFG coefficient c"))
    stacked(figures).save(options.out / "curve.png")
    rows = {"reference": results.references, "plain": results.plain,
            **{f"c = {c:+g}": results.guided[c] for c in options.coefficients if c}}
    captions = {"reference": [pair.reference.prompt for pair in results.pairs],
                "plain": [pair.target.prompt for pair in results.pairs]}
    grid({name: images[:COLUMNS] for name, images in rows.items()}, captions, cell=128).save(options.out / "grid.png")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
