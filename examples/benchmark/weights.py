"""The judge of the papers: DreamSim of the subject and of the background, OpenCLIP for prompts. Needs their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from demo.setup import Problem
from PIL import Image

CLIP = ("ViT-g-14", "laion2b_s34b_b88k")
CUTTER = "isnet-general-use"  # of rembg
CLIP_SCALE = 2.5  # of CLIPScore, so that numbers stand beside the published ones
LEAST = 0.01  # of a picture that subject and background take at least, or they were not told apart
Distance = Callable[[Any, Any], float]


@dataclass(frozen=True)
class Seen:
    """One picture: subject and background as DreamSim takes them, and its CLIP features of length one."""

    subject: Any
    background: Any
    features: np.ndarray


class WeightsJudge:
    """Puts noise over the background, or over the subject, and compares what is left.

    ``cut`` gives a picture's subject as a mask (L, 0 to 255); ``prepare`` makes of a picture what ``distance``
    compares; ``image`` and ``text`` give CLIP features of length one, ``[dimensions]``.
    """

    uses = {"subject_distance": f"DreamSim (ensemble), background replaced by noise, cut out by rembg {CUTTER}",
            "background_distance": f"DreamSim (ensemble), subject replaced by noise, cut out by rembg {CUTTER}",
            "prompt_score": f"CLIP-T: {CLIP_SCALE} x cosine, OpenCLIP {' '.join(CLIP)}",
            "copy_rate": "OpenCLIP finds the reference's prompt more like the picture than its own"}

    def __init__(self, cut: Callable[[Image.Image], Image.Image], prepare: Callable[[Image.Image], Any],
                 distance: Distance, image: Callable[[Image.Image], np.ndarray],
                 text: Callable[[str], np.ndarray]) -> None:
        self._cut, self._prepare, self._distance, self._image = cut, prepare, distance, image
        self._text, self._texts, self._looked, self.uncut = text, {}, 0, 0

    def look(self, picture: Image.Image) -> Seen:
        mask = np.asarray(self._cut(picture).convert("L").resize(picture.size))
        noise = np.random.default_rng(self._looked).integers(0, 256, (picture.height, picture.width, 3), np.uint8)
        self._looked += 1  # each picture's noise is its own: one for all would make them alike
        pixels, inside = np.asarray(picture.convert("RGB")), (mask >= 128)[..., None]
        self.uncut += not LEAST <= inside.mean() <= 1 - LEAST
        subject, background = (Image.fromarray(np.where(part, pixels, noise)) for part in (inside, ~inside))
        return Seen(self._prepare(subject), self._prepare(background), self._image(picture))

    def subject_distance(self, one: Seen, other: Seen) -> float:
        return float(self._distance(one.subject, other.subject))

    def background_distance(self, one: Seen, other: Seen) -> float:
        return float(self._distance(one.background, other.background))

    def prompt_score(self, seen: Seen, prompt: str) -> float:
        if prompt not in self._texts:
            self._texts[prompt] = self._text(prompt)
        return CLIP_SCALE * max(float(np.dot(seen.features, self._texts[prompt])), 0.0)

    def copied(self, seen: Seen, prompt: str, reference: Seen, reference_prompt: str) -> bool:
        return self.prompt_score(seen, reference_prompt) > self.prompt_score(seen, prompt)


def load(device: str | None = None) -> WeightsJudge:
    """The judge with its real weights, on a GPU where there is one. Raises :class:`Problem` for what is missing."""
    try:
        import open_clip
        import torch
        from dreamsim import dreamsim
        from rembg import new_session, remove
    except ImportError as error:
        raise Problem(f"--reader weights needs {error.name or error}, which is not installed: python -m pip install -r "
                      "examples/benchmark/requirements.txt, or take --reader demo.") from error
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder = Path(torch.hub.get_dir()) / "dreamsim"  # its own choice is the current folder
    folder.mkdir(parents=True, exist_ok=True)
    perceptual, prepare = dreamsim(pretrained=True, device=device, cache_dir=str(folder))
    clip, _, see = open_clip.create_model_and_transforms(CLIP[0], pretrained=CLIP[1], device=device)
    clip.eval()
    tokens, session = open_clip.get_tokenizer(CLIP[0]), new_session(CUTTER)

    def features(found) -> np.ndarray:
        return found[0].float().cpu().numpy()

    with torch.no_grad():  # once here, so that a model that cannot run is told before pictures are made
        features(clip.encode_text(tokens(["a picture"]).to(device), normalize=True))

    @torch.no_grad()
    def distance(one, other) -> float:
        return float(perceptual(one, other))

    @torch.no_grad()
    def image(picture: Image.Image) -> np.ndarray:
        return features(clip.encode_image(see(picture).unsqueeze(0).to(device), normalize=True))

    @torch.no_grad()
    def text(prompt: str) -> np.ndarray:
        return features(clip.encode_text(tokens([prompt]).to(device), normalize=True))

    return WeightsJudge(lambda picture: remove(picture, session=session, only_mask=True),
                        lambda picture: prepare(picture).to(device), distance, image, text)
