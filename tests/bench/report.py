"""The benchmark's results as a table for people."""

from __future__ import annotations

import os
import platform
import sys

import torch

NAMES = {
    "save": "Save, Balanced", "save_exact": "Save, Exact", "save_original": "Save, the original's way",
    "use_exact": "Use, Exact", "use_balanced": "Use, Balanced", "use_small": "Use, Small",
    "use_tiny_first": "Use, Tiny, the first time", "use_tiny": "Use, Tiny, later",
    "use_original": "Use, the original's way",
}


def machine(device: str) -> dict:
    """Where the figures were made."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    return {"command": " ".join(sys.argv), "device": device, "processor": name, "cores": os.cpu_count(),
            "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version(),
            "system": platform.system()}


def table(results: dict) -> str:
    """All that was measured, a paragraph for each model and quantity."""
    parts = [_sizes(key, results) for key in results.get("bytes", {}) if key in results.get("how", {})]
    parts += [_ratios(key, results) for key in results.get("ratio", {})]
    parts += [_memory(key, found) for key, found in results.get("peak_mb", {}).items()]
    return "\n\n".join(parts)


def _sizes(key: str, results: dict) -> str:
    lines = [f"{'A reference of ' + key:34}{'bytes':>15}{'files':>8}  {'estimated before':>16}"]
    for name, count in results["bytes"][key].items():
        expected = results["estimate"][key].get(name)
        deviation = f"{expected / count - 1:+.2%}" if expected and results["how"][key][name] == "written" else ""
        lines.append(f"  {name.capitalize():32}{count:>15,}{results['files'][key][name]:>8,}  {deviation:>16}  "
                     f"{results['how'][key][name]}")
    return "\n".join(lines)


def _ratios(key: str, results: dict) -> str:
    seconds, steps = results["seconds"][key], results["steps"][key]
    head = f"{key}, {steps} {'step' if steps == 1 else 'steps'}" + ", CFG 1" * (results["branches"][key] == 1)
    lines = [f"{head:34}{'over plain':>15}{'range':>16}{'CPU time':>10}{'seconds':>10}{'MB':>10}{'files':>7}",
             f"  {'Plain':32}{1:>15.3f}{'':>16}{1:>10.3f}{seconds['plain']:>10.2f}"]
    for name, ratio in results["ratio"][key].items():
        low, high = results["spread"][key][name]
        kept = _KEPT.get(name)
        size = f"{results['bytes'][key][kept] / 1e6:>10.2f}{results['files'][key][kept]:>7}"
        lines.append(f"  {NAMES[name]:32}{ratio:>15.3f}{f'{low:.3f}-{high:.3f}':>16}"
                     f"{results['cpu_ratio'][key][name]:>10.3f}{seconds[name]:>10.2f}{size}")
    return "\n".join(lines)


# The reference that is saved or used.
_KEPT = {"save": "balanced", "use_tiny_first": "tiny",
         **{name: name.split("_")[1] for name in NAMES if name not in ("save", "use_tiny_first")}}


def _memory(key: str, found: dict) -> str:
    lines = [f"{'Memory at most, ' + key:34}{'MB':>15}  ({found['how']})",
             f"  {'Plain':32}{found['plain']:>15,.0f}"]
    for name in ("balanced", "small"):
        over = found[f"use_{name}_from_disk_over_plain"]
        lines.append(f"  {'Use, ' + name.capitalize() + ', from disk':32}{over:>+15,.0f}")
    return "\n".join(lines)
