"""``python -m lib_refdrop.playground``: serves the page and the API."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from pathlib import Path

from ..stores import open_store
from ..words import RefDropError
from . import DEFAULT_MODEL, ModelProblem, Playground
from .scripts import load_file
from .server import serve

_PRELOAD = Path(__file__).resolve().parents[2] / "preload.py"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lib_refdrop.playground", description="RefDrop's panel and API over diffusers, without a web UI."
    )
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL,
                        help="a diffusers folder, or a single-file SD 1.5, SD 2 or SDXL .safetensors checkpoint")
    parser.add_argument(
        "--model-config", type=Path, help="a diffusers folder with tokenizer and shapes for a single file"
    )
    load_file(_PRELOAD).preload(parser)  # the extension's own options, as in a web UI
    parser.add_argument("--lora-dir", type=Path, help="a folder of .safetensors for <lora:name:0.8> in prompts")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: the best there is)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=7870)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks its own server whether it is up
    if problem := _address_problem(options.host, options.port):
        print(problem, file=sys.stderr)
        return 1
    try:
        if options.refdrop_dir:
            open_store(options.refdrop_dir)  # a URL may need what is not installed
        if options.lora_dir and not options.lora_dir.is_dir():
            raise ModelProblem(f"There is no folder {options.lora_dir}; give --lora-dir one that holds LoRAs.")
        playground = Playground(options.model, options.refdrop_dir, options.device, options.model_config,
                                lora_dir=options.lora_dir, refdrop_memory=options.refdrop_memory)
    except (ModelProblem, RefDropError) as problem:
        print(problem, file=sys.stderr)
        return 1
    serve(playground, options.host, options.port)
    return 0


def _address_problem(host: str, port: int) -> str | None:
    """Why nothing can listen there, known before a model is loaded; None where it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except (OSError, OverflowError) as error:
        return f"Nothing can listen at {host}:{port} ({error}); choose another with --port or --host."
    return None


if __name__ == "__main__":
    sys.exit(main())
