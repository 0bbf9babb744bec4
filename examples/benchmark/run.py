"""The field's protocol for consistent subjects, in pictures of any model; see README.md beside this file.

    python examples/benchmark/run.py --reader demo --out DIR
    python examples/benchmark/run.py --reader weights --model FOLDER --out DIR
    python examples/benchmark/run.py --reader weights --url http://127.0.0.1:7860 --out DIR

Writes DIR/benchmark.json and DIR/benchmark.txt, and the pictures to DIR/pictures. The first needs nothing but this
repository; the others need examples/benchmark/requirements.txt and the weights it brings.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "demo-model"
sys.path[0] = str(ROOT / "examples")  # this folder is the package `benchmark` there

import environment


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--reader", choices=("weights", "demo"), default="weights",
                        help="what judges: the papers' models, or the demo model's reader (default: %(default)s)")
    parser.add_argument("--model", type=Path, help="a model's folder in diffusers' layout")
    parser.add_argument("--url", help="a web UI with RefDrop, instead of a model's folder")
    parser.add_argument("--prompts", type=Path, help="a file of prompt sets (default: those beside this file)")
    parser.add_argument("--sets", type=int, metavar="N", help="only the first N of them")
    parser.add_argument("--methods", default="RFG", metavar="NAME,...",
                        help="of examples/demo/methods.py (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="image seeds follow from it (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="(default: 30; the demo model's 20)")
    parser.add_argument("--size", type=int, help="(default: 1024; the demo model's 128)")
    parser.add_argument("--cfg", type=float, help="(default: 5; the demo model's 4)")
    parser.add_argument("--sampler", default="Euler", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("refdrop-benchmark"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    demo = options.reader == "demo"
    if options.model and options.url:
        parser.error("--model and --url are two places that pictures come from; give one of them")
    if not demo and not (options.model or options.url):
        parser.error("say which model draws: --model FOLDER, or --url of a web UI; or take --reader demo")
    if options.sets is not None and options.sets < 1:
        parser.error("--sets is 1 at least")
    for name, usual in (("steps", (30, 20)), ("size", (1024, 128)), ("cfg", (5.0, 4.0))):
        if getattr(options, name) is None:
            setattr(options, name, usual[demo])
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    environment.enter()
    if options.reader == "weights":
        os.environ.setdefault("HF_HUB_OFFLINE", "0")  # weights may have to be fetched
    from demo.setup import Problem, prepare, problems_are_sentences
    try:
        prepare(ROOT, options.model or MODEL, options.out)
        with problems_are_sentences():
            return benchmark(options)
    except Problem as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def benchmark(options: argparse.Namespace) -> int:
    start = time.monotonic()
    from demo.client import HttpClient, LocalClient, Recipe
    from demo.methods import check, chosen
    from demo.report import write
    from demo.setup import Ticker

    from benchmark import protocol, sets, weights
    from benchmark.judging import DemoJudge

    methods = chosen(options.methods)
    if not options.url:
        check(methods)
    demo = options.reader == "demo"
    found = sets.load(options.prompts or (sets.DEMO if demo else sets.PROMPTS), options.sets)
    judge = DemoJudge(MODEL) if demo else weights.load()
    client = HttpClient(options.url) if options.url else LocalClient(options.model or MODEL, options.out / "references")
    recipe = Recipe(options.steps, options.cfg, options.sampler, width=options.size, height=options.size)
    pictures = options.out / "pictures"
    pictures.mkdir(exist_ok=True)
    with Ticker() as ticker:
        measured = protocol.run(client, recipe, found, methods, judge, options.seed, ticker.show,
                                lambda name, picture: picture.save(pictures / sets.file_name(name)))
    report = {"reader": options.reader, "seed": options.seed, "recipe": vars(recipe),
              **protocol.report(measured, methods, judge)}
    write(report, options.out / "benchmark.json")
    table = protocol.table(report)
    (options.out / "benchmark.txt").write_text(table + "\n", encoding="utf-8")
    print("\n" + table)
    print(f"\n{report['sets']} sets, {report['pictures']} pictures in {time.monotonic() - start:.0f} s; see "
          f"benchmark.json, benchmark.txt and pictures in {options.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
