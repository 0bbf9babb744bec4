"""What a reference remembers of the generation that made it, and in what another generation differs that matters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ..words import shortened
from .host import Host
from .steps import is_from_picture

_LONGEST = 60  # bytes of the prompt in a name; file systems take 255, people fewer
_HIRES = "of the hires pass"


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
        found.append(f"The reference was saved with another checkpoint, "
                     f"{shortened(str(manifest.get('model') or then))}; the same one serves best.")
    before, here = manifest.get("with"), _with(p, host)
    if isinstance(before, Mapping):
        passes = manifest.get("passes") or ()
        changed = [name for name in here if name in before and before[name] != here[name]
                   and (not name.endswith(_HIRES) or "hires" in passes)]
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


def inside_model(p: Any, host: Host, hires: bool = False) -> dict[str, Any]:
    """What acts inside the model in a pass, by the words that people know it by: features depend on it, whatever the
    prompt. By the hosts' own rules of which setting stands for which pass."""
    def setting(name: str, usual: Any) -> Any:
        return _setting(p, host, name, usual)

    merging = getattr(p, "token_merging_ratio", 0) or setting("token_merging_ratio", 0)
    tiles = setting("hypertile_enable_unet", False)
    if is_from_picture(p) and "token_merging_ratio" not in (getattr(p, "override_settings", None) or {}):
        merging = getattr(p, "token_merging_ratio", 0) or setting("token_merging_ratio_img2img", 0) or merging
    if hires:
        merging = getattr(p, "token_merging_ratio_hr", 0) or setting("token_merging_ratio_hr", 0) or merging
        tiles = tiles or setting("hypertile_enable_unet_secondpass", False)
    data = getattr(p, "hr_extra_network_data" if hires else "extra_network_data", None)
    return {"token merging": merging, "HyperTile": bool(tiles),
            "hypernetwork": str(setting("sd_hypernetwork", None) or "None"), "networks": networks(data)}


def _with(p: Any, host: Host) -> dict[str, Any]:
    found = {"CLIP skip": _setting(p, host, "CLIP_stop_at_last_layers", 1), **inside_model(p, host),
             "VAE": str(getattr(p, "sd_vae_name", None) or "the checkpoint's own")}
    if getattr(p, "enable_hr", False):
        found |= {f"{name} {_HIRES}": value for name, value in inside_model(p, host, hires=True).items()}
    modules = _setting(p, host, "forge_additional_modules", None)
    if modules is not None:  # Forge and Neo: the VAE's name above is always None there
        found["VAE / Text Encoder"] = sorted(PurePath(str(module).replace("\\", "/")).name for module in modules)
    return found


def _setting(p: Any, host: Host, name: str, usual: Any) -> Any:
    """A setting of the host as it is for this generation."""
    overridden = getattr(p, "override_settings", None) or {}
    return overridden.get(name, getattr(host.opts, name, usual))


def _said(value: Any) -> str:
    """On one line and short: it may come from a file that anybody wrote."""
    if isinstance(value, list):
        return shortened(", ".join(shortened(str(each), 40) for each in value[:10])) or "none"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else shortened(str(value), 40)


def _of(p: Any, image: int, many: str, one: str) -> Any:
    values = getattr(p, many, None)
    return values[image] if values and image < len(values) else getattr(p, one)
