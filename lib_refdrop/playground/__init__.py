"""A small host over diffusers that runs RefDrop's script as the web UIs do: a page, an API, or plain calls.

``python -m lib_refdrop.playground`` starts it; in a program::

    from lib_refdrop.playground import ApiError, Playground
    answer = Playground("examples/demo-model", refdrop_dir="latents").txt2img({"prompt": "a wizard", "steps": 20})
"""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read by gradio when it is imported
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it warns of a package that only image encoders would need

from .errors import ApiError
from .models import ModelProblem
from .playground import DEFAULT_MODEL, Playground

__all__ = ["DEFAULT_MODEL", "ApiError", "ModelProblem", "Playground"]
