"""A long run by hand: ``python -m tests.fuzz --files 5000 --seed 1``, ``python -m tests.fuzz --requests 2000``.

One file in fifty more goes through the playground.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys

import torch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=0, help="so many spoilt reference files")
    parser.add_argument("--requests", type=int, default=0, help="so many malformed requests to the playground")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    faulthandler.enable()
    found = []
    if asked.files:
        from . import files

        found.append(("files", files.run(asked.files, asked.seed)))
    if asked.files >= 50 or asked.requests:
        from . import playground

        if asked.files >= 50:
            found.append(("files in the playground", playground.run_files(asked.files // 50, asked.seed)))
        if asked.requests:
            found.append(("requests", playground.run_requests(asked.requests, asked.seed)))
    for what, findings in found:
        print(f"{what} {findings}")
        for line in findings.bad[:40]:
            print(" ", line)
    return int(any(findings.bad for _, findings in found))


if __name__ == "__main__":
    sys.exit(main())
