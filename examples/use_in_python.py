"""RefDrop in a program of your own, on the bundled model: the same figure in another picture.

    python examples/use_in_python.py [--out DIR]

Records one picture as a reference, then draws another prompt plain and guided by it, and writes the three side by side.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import environment

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("refdrop-demo"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    environment.enter()
    sys.path.insert(0, str(ROOT))
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
    from PIL import Image

    import lib_refdrop as refdrop

    pipe = StableDiffusionPipeline.from_pretrained(ROOT / "examples" / "demo-model", dtype=torch.float32,
                                                   safety_checker=None, local_files_only=True)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)

    def draw(prompt: str, seed: int) -> Image.Image:
        return pipe(prompt, num_inference_steps=20, guidance_scale=4.0, height=128, width=128,
                    generator=torch.Generator().manual_seed(seed)).images[0]

    references = options.out / "references"
    with refdrop.record(pipe, "hero", folder=references, replace=True) as left:
        hero = draw("a pirate arms up on grass", 11)
    plain = draw("a nurse waving on snow", 22)
    with refdrop.use(pipe, "hero", 0.3, folder=references) as done:
        guided = draw("a nurse waving on snow", 22)
    strip = Image.new("RGB", (3 * 128, 128))
    for place, picture in enumerate((hero, plain, guided)):
        strip.paste(picture, (128 * place, 0))
    strip.save(options.out / "use_in_python.png")
    print(f"Saved {left.saved.name!r} ({left.saved.bytes} bytes), guided {done.outcomes[0].acted} of "
          f"{done.outcomes[0].calls} calls; reference, plain and guided are in {options.out / 'use_in_python.png'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
