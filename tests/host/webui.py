"""A web UI that is already installed: started, asked through its API, stopped."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

EXTENSION = Path(__file__).resolve().parents[2]
REFERENCE = {"prompt": "a pirate arms up on grass", "seed": 11}
TARGET = {"prompt": "a nurse waving on snow", "seed": 22}
SIZE = int(os.environ.get("REFDROP_SIZE", 128))  # pixels of most pictures, a multiple of 64
_BASE = {"negative_prompt": "blurry", "steps": 3, "width": SIZE, "height": SIZE, "cfg_scale": 6,
         "sampler_name": "Euler", "scheduler": "Automatic", "save_images": False}
# Hosts restore an overridden setting only where their file has it, so what a test overrides stands here.
_SETTINGS = {"live_previews_enable": False, "samples_save": False, "grid_save": False, "return_grid": False,
             "batch_cond_uncond": True, "token_merging_ratio": 0.0, "hypertile_enable_unet": False,
             "hypertile_max_tile_unet": 256, "pad_cond_uncond": False, "skip_early_cond": 0.0,
             "VERSION_UID": "PY313",  # Neo waits for somebody to press Enter where its file is without
             "s_min_uncond_all": False, "refdrop_remember": False, "refdrop_remember_count": 20}


class Refused(Exception):
    """The web UI answered with an error."""


@dataclass
class Made:
    """The pictures of one request, ``[H, W, 3]`` each, their parameters and what the answer says about them."""

    pixels: list[np.ndarray]
    parameters: list[str]
    info: dict[str, Any]

    @property
    def hashes(self) -> list[str]:
        return [hashlib.sha256(picture.tobytes()).hexdigest() for picture in self.pixels]

    @property
    def problem(self) -> str | None:
        return self.info["extra_generation_params"].get("RefDrop problem")


def difference(one: Made, other: Made) -> float:
    """The mean difference of the first pictures, in grey levels."""
    return float(np.abs(one.pixels[0].astype(int) - other.pixels[0]).mean())


def largest(one: np.ndarray, other: np.ndarray) -> int:
    """The largest difference anywhere in two pictures, in grey levels."""
    return int(np.abs(one.astype(int) - other).max())


class WebUI:
    """The installation named by ``REFDROP_WEBUI``, run on the checkpoint ``REFDROP_CKPT``.

    ``REFDROP_PYTHON`` is its interpreter (default: its own ``venv``), ``REFDROP_ARGS`` are further arguments, such as
    ``--use-cpu all --no-half`` or ``--always-cpu``; ``REFDROP_SIZE`` makes smaller pictures.
    """

    def __init__(self, references: Path, log: Path) -> None:
        self.folder = Path(os.environ["REFDROP_WEBUI"]).resolve()
        self.references, self._log, self._process = references, log, None
        self._settings = log.with_name("settings.json")
        self._link = self.folder / "extensions" / "sd-refdrop-under-test"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"

    def start(self, extension: bool = True, timeout: float = 900.0) -> None:
        self._link.unlink(missing_ok=True)
        more = os.environ.get("REFDROP_ARGS", "").split()
        if extension:
            self._link.symlink_to(EXTENSION, target_is_directory=True)
            more += ["--refdrop-dir", str(self.references)]
        python = os.environ.get("REFDROP_PYTHON") or self.folder / "venv" / "bin" / "python"
        self._settings.write_text(json.dumps(_SETTINGS))  # its own: the installation's settings stay as they are
        command = [str(python), "launch.py", "--api", "--port", str(self._port), "--ckpt", os.environ["REFDROP_CKPT"],
                   "--skip-prepare-environment", "--no-download-sd-model", "--ui-settings-file", str(self._settings),
                   "--ui-config-file", str(self._settings.with_name("ui.json")), *more]
        with open(self._log, "ab") as log:
            began = log.tell()
            self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            if b"Startup time" not in self._log.read_bytes()[began:]:  # asked while it adds its routes, a host breaks
                time.sleep(1)
                continue
            try:
                self.get("/sdapi/v1/script-info")
                self.draw([False] if extension else None, steps=1, width=64, height=64)  # loads the model
                return
            except (OSError, Refused):  # hosts answer before they are ready
                time.sleep(1)
        self.stop()
        raise RuntimeError(f"the web UI did not start; see {self._log}")

    def stop(self) -> None:
        self._link.unlink(missing_ok=True)
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._process = None

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def draw(self, refdrop: dict[str, Any] | list | None = None, **payload: Any) -> Made:
        """One request; ``refdrop`` are the extension's settings by name, or a list of arguments."""
        body = {**_BASE, **payload}
        if "enable_hr" in body:
            body["hr_upscaler"] = self._upscaler(body["hr_upscaler"])
        if "enable_hr" in body and (self.folder / "modules_forge").is_dir():
            body.setdefault("hr_additional_modules", ["Use same choices"])
            body.setdefault("hr_cfg", body["cfg_scale"])
        if refdrop is not None:
            args = refdrop if isinstance(refdrop, list) else [{"enabled": True, **refdrop}]
            body["alwayson_scripts"] = {**body.get("alwayson_scripts", {}), "RefDrop": {"args": args}}
        answer = self.post("/sdapi/v1/img2img" if "init_images" in body else "/sdapi/v1/txt2img", body)
        images = [Image.open(io.BytesIO(base64.b64decode(image.split(",", 1)[-1]))) for image in answer["images"]]
        return Made([np.asarray(image.convert("RGB")) for image in images],
                    [image.info.get("parameters", "") for image in images], json.loads(answer["info"]))

    def save(self, name: str, settings: dict[str, Any] | None = None, **payload: Any) -> Made:
        """Everything of it is kept, so that the picture's own seed gives it again."""
        given = {"mode": "Save", "reference": name, "keep": "Exact", "replace": True, **(settings or {})}
        return self.draw(given, **{**REFERENCE, **payload})

    def use(self, name: str, c: float = 0.3, settings: dict[str, Any] | None = None, **payload: Any) -> Made:
        return self.draw({"mode": "Use", "reference": name, "rfg": c, **(settings or {})}, **{**TARGET, **payload})

    def _upscaler(self, wanted: str) -> str:
        """The one that is wanted, or one that this web UI has: Neo has none that works on latents, and perhaps only
        "None"."""
        paths = ("/sdapi/v1/latent-upscale-modes", "/sdapi/v1/upscalers")
        names = [each["name"] for path in paths for each in self.get(path)]
        return wanted if wanted in names else next((name for name in names if name != "None"), "None")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as reply:
            return json.load(reply)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=3600) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise Refused(f"{error.code}: {error.read().decode('utf-8', 'replace')[:800]}") from error
