"""Writes the demo model as a single-file checkpoint for AUTOMATIC1111, with the config it wants beside it.

    python examples/export_ldm.py --out models/Stable-diffusion

Makes its environment in .venv first. Tokenizer and text encoder are read by the web UI from a folder written beside the
checkpoint; nothing is downloaded. Forge and reForge refuse models this small.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import environment

MODEL = Path(__file__).resolve().parent / "demo-model"


def export(model: Path, out: Path, name: str = "refdrop-demo") -> Path:
    """Writes ``name.safetensors``, ``name.yaml`` and the folder ``name-text`` into ``out``; returns the checkpoint."""
    import torch
    from demo.ldm_layout import config, single_file
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import save_file

    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32, safety_checker=None,
                                                       local_files_only=True)
    out.mkdir(parents=True, exist_ok=True)
    text = out / f"{name}-text"
    pipeline.tokenizer.save_pretrained(text)
    pipeline.text_encoder.save_pretrained(text)
    for file in ("vocab.json", "merges.txt"):
        (text / file).write_bytes((model / "tokenizer" / file).read_bytes())
    checkpoint = out / f"{name}.safetensors"
    save_file(single_file(pipeline), checkpoint, metadata={"format": "pt"})
    # JSON is YAML: no further library is needed to write the config.
    (out / f"{name}.yaml").write_text(json.dumps(config(pipeline, str(text.resolve())), indent=2), encoding="utf-8")
    return checkpoint


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="a diffusers folder (default: the bundled model)")
    parser.add_argument("--out", type=Path, required=True, help="the web UI's folder of checkpoints")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    environment.enter()
    try:
        print(f"wrote {export(options.model, options.out)}")
    except OSError as problem:  # what is missing, or where nothing can be written
        print(f"Nothing was exported ({problem}); check --model and --out.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
