"""Run by the host once at start-up, unless it was told to skip installs. Everything needed ships with the host already;
only where safetensors is missing after all is it installed."""

from __future__ import annotations

import importlib.util

import launch

NEEDED = ("torch", "numpy", "safetensors", "gradio")

if not getattr(launch.args, "skip_install", False):
    if importlib.util.find_spec("safetensors") is None:
        launch.run_pip("install safetensors", "safetensors for RefDrop")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"RefDrop needs {', '.join(missing)}, which web UIs normally have; repair this web UI's installation.")
