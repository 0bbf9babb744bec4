"""What a reference remembers of the generation that made it, read from the processing object."""

from __future__ import annotations

from typing import Any

_LONGEST = 60  # bytes of the prompt in a name; file systems take 255, people fewer


def provenance(p: Any, image: int = 0) -> dict[str, Any]:
    """Prompt, seed, sampler and so on of an image of the whole job, as plain JSON values."""
    return {
        "prompt": str(_of(p, image, "all_prompts", "prompt")),
        "negative_prompt": str(_of(p, image, "all_negative_prompts", "negative_prompt")),
        "seed": int(_of(p, image, "all_seeds", "seed")), "sampler": str(p.sampler_name),
        "scheduler": str(getattr(p, "scheduler", None) or ""), "steps": int(p.steps), "cfg": float(p.cfg_scale),
        "width": int(p.width), "height": int(p.height), "model": str(getattr(p, "sd_model_name", None) or ""),
        "model_hash": str(getattr(p, "sd_model_hash", None) or ""),
    }


def default_name(prompt: str, seed: int) -> str:
    """A name made of the prompt's words and the seed, fit to be a file's name on every system."""
    words = "-".join("".join(letter if letter.isalnum() else " " for letter in prompt.lower()).split())
    short = words.encode()[:_LONGEST].decode(errors="ignore").strip("-")
    return f"{short or 'reference'}-{seed}"


def _of(p: Any, image: int, many: str, one: str) -> Any:
    values = getattr(p, many, None)
    return values[image] if values and image < len(values) else getattr(p, one)
