"""One playground over the bundled model, and the shortest way to a picture through it."""

from __future__ import annotations

import base64
import io
import json
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from lib_refdrop.playground import DEFAULT_MODEL, ApiError, Playground


class Made(NamedTuple):
    """An answer of the API: pictures ``[height, width, 3]`` uint8, their parameters, and ``info``."""

    pictures: list[np.ndarray]
    parameters: list[str]
    info: dict[str, Any]

    @property
    def comments(self) -> str:
        return " ".join(self.info["comments"])


class Studio:
    """Draws small pictures in few steps unless asked otherwise."""

    def __init__(self, playground: Playground) -> None:
        self.playground = playground

    def draw(self, settings: dict | list | None = None, tab: str = "txt2img", **payload: Any) -> Made:
        request = {"prompt": "a pirate arms up on grass", "seed": 5, "steps": 4, **payload}
        if settings is not None:
            args = [{"enabled": True, **settings}] if isinstance(settings, dict) else settings
            request["alwayson_scripts"] = {"RefDrop": {"args": args}}
        answer = getattr(self.playground, tab)(request)
        images = [Image.open(io.BytesIO(base64.b64decode(image))) for image in answer["images"]]
        return Made([np.asarray(image) for image in images], [image.info["parameters"] for image in images],
                    json.loads(answer["info"]))

    def draw_from(self, picture: np.ndarray, settings: dict | list | None = None, **payload: Any) -> Made:
        """Begins with ``picture`` ``[height, width, 3]``."""
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        return self.draw(settings, "img2img", init_images=[base64.b64encode(buffer.getvalue()).decode()], **payload)

    def refusal(self, settings: dict | list | None = None, **payload: Any) -> ApiError:
        with pytest.raises(ApiError) as caught:
            self.draw(settings, **payload)
        return caught.value

    def save(self, name: str, **payload: Any) -> Made:
        """Everything of it is kept, so that its own seed gives it again."""
        return self.draw({"mode": "Save", "reference": name, "keep": "Exact"}, **payload)


@pytest.fixture(scope="session")
def playground(tmp_path_factory) -> Playground:
    return Playground(DEFAULT_MODEL, refdrop_dir=tmp_path_factory.mktemp("references"))


@pytest.fixture
def studio(playground, tmp_path) -> Studio:
    """With an empty folder for references of its own."""
    playground.refdrop_dir = tmp_path / "references"
    return Studio(playground)
