"""Command-line options; the host calls this before it reads its own."""

from __future__ import annotations

import argparse
import math


def _gigabytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of gigabytes above 0")
    return number


def preload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--refdrop-dir", metavar="PLACE", default=None,
                        help="where RefDrop keeps references on disk: a folder, or a URL that fsspec knows (default: "
                             "latents in its own folder)")
    parser.add_argument("--refdrop-memory", metavar="GB", type=_gigabytes, default=None,
                        help="how much memory RefDrop may fill with references, replays and remembered pictures "
                             "(default: a quarter of the machine's)")
