"""Always-on scripts: their base class, and how their hooks are called.

Hooks, their order and their arguments are those of AUTOMATIC1111's web UI 1.10.
"""

from __future__ import annotations

import logging
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

AlwaysVisible = object()

HOOKS = ("setup", "before_process", "process", "before_process_batch", "after_extra_networks_activate", "process_batch",
          "before_hr", "process_before_every_sampling", "post_sample", "postprocess_batch", "postprocess_batch_list",
          "postprocess_image", "postprocess_maskoverlay", "postprocess_image_after_composite", "postprocess")


class PostprocessImageArgs:
    """One finished picture on its way out; a script may put another in its place."""

    def __init__(self, image, index: int) -> None:
        self.image, self.index = image, index


class PostSampleArgs:
    """The latents of a batch, before they are decoded."""

    def __init__(self, samples) -> None:
        self.samples = samples


class PostprocessBatchListArgs:
    """The pictures of a batch ``[3, height, width]``, of which a script may leave some out or add others."""

    def __init__(self, images: list) -> None:
        self.images = images


class PostProcessMaskOverlayArgs:
    """What is about to be laid over an inpainted picture."""

    def __init__(self, index: int, mask_for_overlay, overlay_image) -> None:
        self.index, self.mask_for_overlay, self.overlay_image = index, mask_for_overlay, overlay_image


class Script:
    """Base class of scripts. ``args_from`` and ``args_to`` are its share of ``p.script_args``."""

    name: str = ""
    args_from: int = 0
    args_to: int = 0
    filename: str = ""
    alwayson = False
    is_txt2img = True
    is_img2img = False
    infotext_fields: list | None = None
    paste_field_names: list | None = None

    def title(self) -> str:
        raise NotImplementedError

    def show(self, is_img2img: bool):
        return True

    def ui(self, is_img2img: bool) -> list | None:
        return None

    def elem_id(self, item_id: str) -> str:
        tab = "img2img" if self.is_img2img else "txt2img"
        words = self.title().lower().replace(" ", "_")
        title = "".join(letter for letter in words if letter.isalnum() or letter == "_")
        return f"script_{tab}_{title}_{item_id}"

    def setup(self, p, *args) -> None: ...

    def before_process(self, p, *args) -> None: ...

    def process(self, p, *args) -> None: ...

    def before_process_batch(self, p, *args, **kwargs) -> None: ...

    def after_extra_networks_activate(self, p, *args, **kwargs) -> None: ...

    def process_batch(self, p, *args, **kwargs) -> None: ...

    def before_hr(self, p, *args) -> None: ...

    def process_before_every_sampling(self, p, *args, **kwargs) -> None: ...

    def post_sample(self, p, ps: PostSampleArgs, *args) -> None: ...

    def postprocess_batch(self, p, *args, **kwargs) -> None: ...

    def postprocess_batch_list(self, p, pp: PostprocessBatchListArgs, *args, **kwargs) -> None: ...

    def postprocess_image(self, p, pp: PostprocessImageArgs, *args) -> None: ...

    def postprocess_maskoverlay(self, p, ppmo: PostProcessMaskOverlayArgs, *args) -> None: ...

    def postprocess_image_after_composite(self, p, pp: PostprocessImageArgs, *args) -> None: ...

    def postprocess(self, p, processed, *args) -> None: ...

    def before_component(self, component, **kwargs) -> None: ...

    def after_component(self, component, **kwargs) -> None: ...


def load_file(path: Path) -> ModuleType:
    """Runs a Python file and returns it as a module that nobody else finds."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    SourceFileLoader(path.stem, str(path)).exec_module(module)
    return module


class ScriptRunner:
    """The scripts of one tab, and the calls of their hooks. An exception in a hook is logged and the run goes on."""

    def __init__(self, classes: list[type[Script]], is_img2img: bool = False) -> None:
        self.is_img2img = is_img2img
        self.alwayson_scripts: list[Script] = []
        self.inputs: list[Any] = []
        self.default_args: list[Any] = [0]  # web UIs keep the first place for the script chosen from the menu
        for kind in classes:
            script = kind()
            script.is_txt2img, script.is_img2img = not is_img2img, is_img2img
            if script.show(is_img2img) is AlwaysVisible:
                script.alwayson, script.name = True, script.title().lower()
                self.alwayson_scripts.append(script)

    def setup_ui(self) -> list:
        """Makes every script's controls, inside the ``gradio.Blocks`` that is open; returns them in argument order."""
        self.default_args, self.inputs = [0], []
        for script in self.alwayson_scripts:
            controls = script.ui(self.is_img2img) or []
            script.args_from = len(self.default_args)
            self.inputs += controls
            self.default_args += [control.value for control in controls]
            script.args_to = len(self.default_args)
        return self.inputs

    def script(self, title: str) -> Script | None:
        """The always-on script of that title, in any case."""
        return next((script for script in self.alwayson_scripts if script.name == title.lower()), None)

    def after_component(self, component, **kwargs) -> None:
        """Tells every script of a component of the page, so that it can listen to it."""
        for script in self.alwayson_scripts:
            script.after_component(component, **kwargs)

    def call(self, hook: str, p, *leading, **kwargs) -> None:
        """Calls one hook of every script: ``hook(p, *leading, *script's arguments, **kwargs)``."""
        if hook not in HOOKS:
            raise ValueError(f"no hook is named {hook}")
        for script in self.alwayson_scripts:
            args = p.script_args[script.args_from:script.args_to]
            try:
                getattr(script, hook)(p, *leading, *args, **kwargs)
            except Exception:  # as in web UIs: a script's fault must not take the generation with it
                logger.exception("Error running %s of %s", hook, script.title())
