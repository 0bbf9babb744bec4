"""What a reference remembers of the generation that made it, and in what another generation differs that matters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .host import Host

_LONGEST = 60  # bytes of the prompt in a name; file systems take 255, people fewer
# Settings of the host that features depend on: in the manifest's "with", by the word that people know them by.
_SETTINGS = {"CLIP skip": ("CLIP_stop_at_last_layers", 1), "token merging": ("token_merging_ratio", 0),
             "HyperTile": ("hypertile_enable_unet", False)}


def provenance(p: Any, host: Host, image: int = 0) -> dict[str, Any]:
    """Prompt, seed, sampler and so on of an image of the whole job, as plain JSON values."""
    return {
        "prompt": str(_of(p, image, "all_prompts", "prompt")),
        "negative_prompt": str(_of(p, image, "all_negative_prompts", "negative_prompt")),
        "seed": int(_of(p, image, "all_seeds", "seed")), "sampler": str(p.sampler_name),
        "scheduler": str(getattr(p, "scheduler", None) or ""), "steps": int(p.steps), "cfg": float(p.cfg_scale),
        "width": int(p.width), "height": int(p.height), "model": str(getattr(p, "sd_model_name", None) or ""),
        "model_hash": str(getattr(p, "sd_model_hash", None) or ""), "with": _with(p, host),
    }


def differences(manifest: Mapping[str, Any], p: Any, host: Host) -> list[str]:
    """A sentence for each thing that features depend on and that is not as it was when the reference was saved."""
    found = []
    then, now = str(manifest.get("model_hash") or ""), str(getattr(p, "sd_model_hash", None) or "")
    if then and now and then != now:
        found.append(f"The reference was saved with another checkpoint, {manifest.get('model') or then}; the same one "
                     "serves best.")
    before, here = manifest.get("with"), _with(p, host)
    if isinstance(before, Mapping):
        changed = [name for name in here if name in before and before[name] != here[name]]
        if changed:
            listed = "; ".join(f"{name} {_said(before[name])}, now {_said(here[name])}" for name in changed)
            found.append(f"The reference was saved with other settings ({listed}).")
    return found


def networks(data: Any) -> list[str]:
    """Networks (LoRA and kin) that a prompt asks for, by kind, name and strength, in a fixed order."""
    return sorted(f"{kind}:{':'.join(map(str, getattr(each, 'items', None) or [each]))}"
                  for kind, asked in (data or {}).items() for each in asked)


def default_name(prompt: str, seed: int) -> str:
    """A name made of the prompt's words and the seed, fit to be a file's name on every system."""
    words = "-".join("".join(letter if letter.isalnum() else " " for letter in prompt.lower()).split())
    short = words.encode(errors="ignore")[:_LONGEST].decode(errors="ignore").strip("-")
    return f"{short or 'reference'}-{seed}"


def _with(p: Any, host: Host) -> dict[str, Any]:
    overridden = getattr(p, "override_settings", None) or {}
    settings = {word: overridden.get(name, getattr(host.opts, name, usual))
                for word, (name, usual) in _SETTINGS.items()}
    return {**settings, "VAE": str(getattr(p, "sd_vae_name", None) or "the checkpoint's own"),
            "networks": networks(getattr(p, "extra_network_data", None))}


def _said(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))[:100] or "none"
    return {True: "on", False: "off"}.get(value, str(value)[:40]) if isinstance(value, bool) else str(value)[:40]


def _of(p: Any, image: int, many: str, one: str) -> Any:
    values = getattr(p, many, None)
    return values[image] if values and image < len(values) else getattr(p, one)
