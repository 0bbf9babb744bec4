"""Asks a host for pictures as any API client does: the same payload, in this process or over HTTP."""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from .pairs import Order

SCRIPT = "RefDrop"


class RequestRefused(Exception):
    """The host did not make the picture; ``str(error)`` is its sentence about why."""


@dataclass(frozen=True)
class Recipe:
    """How every picture of an experiment is sampled."""

    steps: int = 20
    cfg_scale: float = 4.0
    sampler_name: str = "Euler"
    scheduler: str = "Automatic"
    width: int = 128
    height: int = 128

    def payload(self, order: Order, refdrop: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The body of ``POST /sdapi/v1/txt2img``; ``refdrop`` names the extension's settings, None leaves it out."""
        body = {"prompt": order.prompt, "negative_prompt": "", "seed": order.seed, "batch_size": 1, "n_iter": 1,
                **self.__dict__}
        if refdrop is not None:
            body["alwayson_scripts"] = {SCRIPT: {"args": [dict(refdrop)]}}
        return body


@dataclass(frozen=True)
class Answer:
    """One request's pictures: ``files`` as they came (PNG with its infotext), how long it took, what was said."""

    files: list[bytes]
    infotexts: list[str]
    seconds: float

    @property
    def image(self) -> Image.Image:
        """The first picture, RGB."""
        return Image.open(io.BytesIO(self.files[0])).convert("RGB")

    @property
    def guided(self) -> bool:
        """Whether the picture's own parameters say that a reference guided it."""
        return any(f"{SCRIPT} {strength}" in self.infotexts[0] for strength in ("RFG", "weight"))


class Client(Protocol):
    """Where pictures come from."""

    def txt2img(self, payload: dict[str, Any]) -> Answer:
        """Raises :class:`RequestRefused`."""

    def img2img(self, payload: dict[str, Any]) -> Answer:
        """From ``init_images``. Raises :class:`RequestRefused`."""


class LocalClient:
    """The playground, in this process. With ``extension=False`` the RefDrop script is never loaded."""

    def __init__(self, model: Path, references: Path, extension: bool = True) -> None:
        """Raises :class:`RequestRefused` when the model cannot be loaded."""
        from lib_refdrop.playground import ModelProblem, Playground
        self.references = references
        try:
            self._playground = Playground(model=model, refdrop_dir=references, extension=extension)
        except ModelProblem as problem:
            raise RequestRefused(str(problem)) from problem

    def txt2img(self, payload: dict[str, Any]) -> Answer:
        return self._made("txt2img", payload)

    def img2img(self, payload: dict[str, Any]) -> Answer:
        return self._made("img2img", payload)

    def _made(self, tab: str, payload: dict[str, Any]) -> Answer:
        from lib_refdrop.playground import ApiError
        start = time.perf_counter()
        try:
            answer = getattr(self._playground, tab)(payload)
        except ApiError as error:
            raise RequestRefused(str(error)) from error
        return _answer(answer, time.perf_counter() - start)

    @property
    def lineage(self):
        """The lineage of the model's sites."""
        from lib_refdrop.hosts.diffusers import lineage_of
        return lineage_of(self._playground.model.pipeline.unet)

    @property
    def memory(self):
        """The extension's own store "RAM": what is kept there can be used by name."""
        return self._playground.shelf.memory

    def file_of(self, name: str) -> Path:
        """Where a reference of that name is kept."""
        return self.references / f"{name}.safetensors"


class HttpClient:
    """A web UI, or a playground, that listens at ``url``."""

    def __init__(self, url: str, timeout: float = 600.0) -> None:
        self._url, self._timeout = url.rstrip("/"), timeout

    def txt2img(self, payload: dict[str, Any]) -> Answer:
        return self._made("txt2img", payload)

    def img2img(self, payload: dict[str, Any]) -> Answer:
        return self._made("img2img", payload)

    def _made(self, tab: str, payload: dict[str, Any]) -> Answer:
        request = urllib.request.Request(f"{self._url}/sdapi/v1/{tab}", json.dumps(payload).encode(),
                                         {"Content-Type": "application/json"})
        start = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as reply:
                answer = json.load(reply)
        except urllib.error.HTTPError as error:
            raise RequestRefused(_sentence(error)) from error
        except (urllib.error.URLError, TimeoutError, ValueError) as error:
            raise RequestRefused(f"{self._url} does not answer as a web UI's API does ({error}).") from error
        return _answer(answer, time.perf_counter() - start)


def _answer(answer: dict[str, Any], seconds: float) -> Answer:
    info = json.loads(answer["info"])
    if not answer["images"]:  # a web UI answers 200 also where RefDrop stopped it, and says why among the parameters
        problem = info.get("extra_generation_params", {}).get(f"{SCRIPT} problem")
        raise RequestRefused(problem or "The web UI made no picture and did not say why; see its log.")
    return Answer([base64.b64decode(image.split(",", 1)[-1]) for image in answer["images"]], info["infotexts"], seconds)


def _sentence(error: urllib.error.HTTPError) -> str:
    text = error.read().decode("utf-8", "replace")
    try:
        said = json.loads(text)
    except ValueError:
        said = {}
    detail = said.get("errors") or said.get("detail") if isinstance(said, dict) else None
    return f"{error.url} answered {error.code}: {detail or text[:300] or error.reason}"
