"""Draws the frames of a video again, each guided by the first one, by the one before, or by both, so that they hold.

    python examples/frames.py IN OUT --prompt "a pirate on grass" --url http://127.0.0.1:7860

Takes the pictures of the folder IN in the order of their names (numbers by their value), asks a web UI that has
RefDrop for each by img2img, and writes it under the same name, as PNG, into OUT. Without --url the bundled model draws
them in this process; --model names another. What is in OUT already stays: a run that was stopped goes on where it was,
and where the web UI was started again meanwhile it goes on from the finished pictures.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import environment

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "examples" / "demo-model"
KINDS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SEQUENCES = ("First", "Previous", "First and previous")
STATE = "frames.json"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("frames", type=Path, metavar="IN", help="folder of the frames")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for what is made of them")
    parser.add_argument("--prompt", default="", help="of every frame")
    parser.add_argument("--negative", default="", metavar="PROMPT", help="of every frame")
    parser.add_argument("--sequence", choices=SEQUENCES, default="First and previous", help="(default: %(default)s)")
    parser.add_argument("--rfg", type=float, default=0.2, help="RFG coefficient (default: %(default)s)")
    parser.add_argument("--denoising", type=float, default=0.5, help="how much is drawn anew (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--cfg", type=float, default=7.0, help="(default: %(default)s)")
    parser.add_argument("--sampler", default="Euler", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of every frame's noise (default: %(default)s)")
    parser.add_argument("--url", help="a web UI's address, e.g. http://127.0.0.1:7860")
    parser.add_argument("--model", type=Path, default=MODEL, help="without --url: a model's file or folder")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    environment.enter()
    from demo.setup import Problem, Ticker, prepare, problems_are_sentences
    try:
        prepare(ROOT, MODEL, options.out)
        with problems_are_sentences(), Ticker() as ticker:
            from demo.client import HttpClient, LocalClient
            if options.url:
                made = draw(HttpClient(options.url), options, ticker.show)
            else:
                made = draw(LocalClient(options.model, options.out / "references"), options, ticker.show)
        print(f"\n{made} frames drawn, all are in {options.out}.")
        return 0
    except Problem as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        return 130


def draw(client: Any, options: argparse.Namespace, progress: Callable[[str], None] = print) -> int:
    """How many frames were drawn. Raises :class:`~demo.setup.Problem`, and what the client does."""
    from demo.setup import Problem
    frames = frames_in(options.frames)
    if not frames:
        raise Problem(f"There are no pictures in {options.frames}; it takes {', '.join(KINDS)}.")
    name, request = _begun(frames[0], options)
    settings = {"enabled": True, "mode": "Use", "rfg": options.rfg, "sequence": options.sequence,
                "sequence_name": name, "on_problem": "Stop"}
    results = [options.out / f"{frame.stem}.png" for frame in frames]
    finished = next((number for number, path in enumerate(results) if not path.is_file()), len(results))
    for number in range(finished, len(frames)):
        progress(f"frame {number + 1} of {len(frames)} ({frames[number].name})")
        answer = client.img2img(_payload(frames[number], request, settings))
        if number and options.rfg and not answer.guided:
            progress("the sequence is no longer in memory; goes on from the finished pictures")
            _bring_back(client, request, name, results[:number])
            answer = client.img2img(_payload(frames[number], request, settings))
            if not answer.guided:
                raise Problem(f"Frame {frames[number].name} was not guided by the ones before; see the web UI's log.")
        _write(answer.files[0], results[number])
    return len(frames) - finished


def frames_in(folder: Path) -> list[Path]:
    """The pictures of a folder; frame-2 is before frame-10. Raises :class:`~demo.setup.Problem` where two have one
    name."""
    from demo.setup import Problem
    if not folder.is_dir():
        raise Problem(f"There is no folder {folder}.")
    found = sorted((path for path in folder.iterdir() if path.suffix.lower() in KINDS and path.is_file()),
                   key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)])
    stems = [path.stem for path in found]
    if twice := [path.name for path in found if stems.count(path.stem) > 1]:
        raise Problem(f"{twice[0]} and {twice[1]} would be one picture in the other folder; give them other names.")
    return found


def _begun(frame: Path, options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The sequence's name and the request of every frame, those of the run that began in this folder."""
    from demo.setup import Problem
    from PIL import Image
    if options.out.resolve() == options.frames.resolve():
        raise Problem("Frames cannot be written over the ones they are made of; choose another folder for them.")
    with Image.open(frame) as image:
        width, height = (max(side // 8, 8) * 8 for side in image.size)
    request = {"prompt": options.prompt, "negative_prompt": options.negative, "seed": options.seed,
               "steps": options.steps, "cfg_scale": options.cfg, "sampler_name": options.sampler, "width": width,
               "height": height, "denoising_strength": options.denoising, "batch_size": 1, "n_iter": 1}
    asked = {**request, "sequence": options.sequence, "rfg": options.rfg}
    path = options.out / STATE
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            name, was = before["name"], before["asked"]
        except (ValueError, KeyError, TypeError):
            raise Problem(f"{path} is no file of this program; choose another folder.") from None
        if was != asked:
            changed = ", ".join(key for key in asked if was.get(key) != asked[key])
            raise Problem(f"What is in {options.out} was asked for otherwise ({changed}); choose another folder, or "
                          "ask as before.")
        return name, request
    name = f"frames {uuid.uuid4().hex[:8]}"
    _write(json.dumps({"name": name, "asked": asked}, indent=1).encode(), path)
    return name, request


def _payload(frame: Path, request: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    from demo.pictures import as_text
    from PIL import Image
    with Image.open(frame) as image:
        text = as_text(image.convert("RGB"))
    return {**request, "init_images": [text], "alwayson_scripts": {"RefDrop": {"args": [settings]}}}


def _bring_back(client: Any, request: dict[str, Any], name: str, results: list[Path]) -> None:
    """What the sequence goes by, from finished pictures: kept as references under the names that it looks for."""
    from demo.pictures import as_text
    from PIL import Image
    for which, path in (("first", results[0]), ("previous", results[-1])):
        with Image.open(path) as image:
            text = as_text(image.convert("RGB"))
        client.img2img(_payload(path, request, {
            "enabled": True, "mode": "Save", "store": "RAM", "reference": f"{name} {which}", "replace": True,
            "picture": text, "on_problem": "Stop"}))


def _write(content: bytes, path: Path) -> None:
    """The whole file or none."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
