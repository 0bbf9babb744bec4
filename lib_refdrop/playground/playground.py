"""The playground in one process: a model, the always-on scripts, and web UIs' txt2img API as plain calls."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from threading import RLock
from typing import Any

import gradio as gr
import torch
from modules import script_callbacks, sd_models, sd_samplers, shared
from modules.processing import BadPicture, Processed, StableDiffusionProcessingTxt2Img, process_images
from modules.scripts import ScriptRunner, load_script
from PIL import Image, PngImagePlugin

from .. import __version__
from ..words import RefDropError, SettingsError, StoreProblem
from . import payload as fields
from .errors import ApiError

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_MODEL = ROOT / "examples" / "demo-model"
PROGRAM = f"RefDrop playground {__version__}"

_one_at_a_time = RLock()  # the host's state is the process's, so its generations take turns


class Playground:
    """A model with RefDrop's script. ``refdrop_dir`` is where references are kept on disk.

    With ``extension`` False the script is never loaded: the host as it is without RefDrop, to compare with.

    Raises ``modules.sd_models.ModelProblem`` when the model cannot be loaded.
    """

    def __init__(self, model: Path | str | None = None, refdrop_dir: Path | str | None = None, device: str | None = None,
                 model_config: Path | str | None = None, extension: bool = True) -> None:
        self.model = sd_models.load(Path(model or DEFAULT_MODEL), device, Path(model_config) if model_config else None)
        self.refdrop_dir = Path(refdrop_dir) if refdrop_dir else None
        self.runner = ScriptRunner(load_script(ROOT / "scripts" / "refdrop.py") if extension else [])
        script_callbacks.ui_settings_callback()
        with gr.Blocks():  # controls exist only in a page; their values are the defaults of the scripts' arguments
            self.runner.setup_ui()
        self.enter()

    def enter(self) -> None:
        """Makes this playground the one that ``modules.shared`` speaks of."""
        shared.cmd_opts.refdrop_dir, shared.sd_model = self.refdrop_dir, self.model.pipeline
        shared.opts.data["sd_model_checkpoint"] = self.model.title

    @property
    def native_size(self) -> int:
        """Width and height the model was made for, in pixels."""
        size, pipeline = self.model.pipeline.unet.config.sample_size, self.model.pipeline
        return (size if isinstance(size, int) else size[0] if size else 64) * pipeline.vae_scale_factor

    def txt2img(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Exactly what ``POST /sdapi/v1/txt2img`` answers. Raises :class:`ApiError`."""
        made = self.generate(payload)
        sent = [encode_png(image, text) for image, text in zip(made.images, made.infotexts)]
        checked = fields.check(payload, self.native_size)
        parameters = {**checked, **payload}
        return {"images": sent if checked["send_images"] else [], "parameters": parameters, "info": made.js()}

    def generate(self, payload: Mapping[str, Any], script_args: list | None = None,
                 on_step: Callable[[float], None] | None = None) -> Processed:
        """Makes the pictures of a payload.

        ``script_args``, where given, are the values of all controls of :meth:`ScriptRunner.setup_ui`. Raises
        :class:`ApiError` for a payload, setting or reference that stops the run.
        """
        values = fields.check(payload, self.native_size)
        values.pop("send_images")
        args = self._script_args(payload) if script_args is None else [0, *script_args]
        with _one_at_a_time:
            self.enter()
            shared.state.begin("scripts_txt2img")
            p = StableDiffusionProcessingTxt2Img(
                sd_model=self.model.pipeline, scripts=self.runner, script_args=args, sd_model_name=self.model.name,
                sd_model_hash=self.model.hash, scheduler_config=self.model.scheduler_config, version=PROGRAM,
                on_step=on_step, **values)
            try:
                with closing(p):
                    made = process_images(p)
            except RefDropError as error:  # found out in the middle of a pass: a damaged file, say
                raise ApiError(_status(error), str(error)) from error
            except BadPicture as error:
                raise ApiError(500, str(error)) from error
            except (torch.OutOfMemoryError, MemoryError) as error:
                raise ApiError(507, "There is not enough memory for this; choose a smaller size or batch.") from error
            finally:
                shared.state.end()
        problem = getattr(p, "refdrop_stopped", None)
        if problem is not None:
            raise ApiError(_status(problem), str(problem))
        return made

    def _script_args(self, payload: Mapping[str, Any]) -> list:
        """Every script's defaults, with those that ``alwayson_scripts`` gives in their place."""
        args, asked = list(self.runner.default_args), payload.get("alwayson_scripts") or {}
        if not isinstance(asked, Mapping):
            raise ApiError(422, 'alwayson_scripts must be an object such as {"RefDrop": {"args": [true]}}.')
        for title, entry in asked.items():
            script = self.runner.script(str(title))
            if script is None:
                raise ApiError(422, f"always on script {title} not found; there is: {', '.join(self.titles())}.")
            given = entry.get("args", []) if isinstance(entry, Mapping) else None
            if not isinstance(given, list):
                raise ApiError(422, f"The args of {title} must be a list; to name settings put one object into it, as in "
                                    '{"args": [{"enabled": true}]}.')
            given = given[: script.args_to - script.args_from]
            args[script.args_from:script.args_from + len(given)] = given
        return args

    def titles(self) -> list[str]:
        return [script.title() for script in self.runner.alwayson_scripts]

    def scripts(self) -> dict[str, list[str]]:
        """``GET /sdapi/v1/scripts``."""
        return {"txt2img": [title.lower() for title in self.titles()], "img2img": []}

    def script_info(self) -> list[dict[str, Any]]:
        """``GET /sdapi/v1/script-info``: every script's arguments with label, value, range and choices."""
        return [{"name": script.name, "is_alwayson": True, "is_img2img": False, "args": self._arguments(script)}
                for script in self.runner.alwayson_scripts]

    def samplers(self) -> list[dict[str, Any]]:
        return [{"name": each.name, "aliases": list(each.aliases), "options": {}} for each in sd_samplers.SAMPLERS]

    def schedulers(self) -> list[dict[str, Any]]:
        return [{"name": name.lower().replace(" ", "_"), "label": name, "aliases": None, "default_rho": -1,
                 "need_inner_model": False} for name in ("Automatic", *sd_samplers.SCHEDULES)]

    def models(self) -> list[dict[str, Any]]:
        return [{"title": self.model.title, "model_name": self.model.name, "hash": self.model.hash, "sha256": None,
                 "filename": str(self.model.path), "config": None}]

    def progress(self) -> dict[str, Any]:
        """``GET /sdapi/v1/progress``: ``progress`` from 0 to 1, ``eta_relative`` in seconds."""
        state, done = shared.state, shared.state.progress
        passed = time.time() - state.time_start if state.time_start and state.job_count else 0.0
        return {"progress": done, "eta_relative": passed / done - passed if done else 0.0, "state": state.dict(),
                "current_image": None, "textinfo": state.textinfo}

    def interrupt(self) -> None:
        """Stops the running generation after its current step; harmless when none runs."""
        shared.state.interrupt()

    def skip(self) -> None:
        shared.state.skip()

    def options(self) -> dict[str, Any]:
        return dict(shared.opts.data)

    def set_options(self, changes: Any) -> None:
        """``POST /sdapi/v1/options``, all or nothing. Raises :class:`ApiError` 422."""
        if not isinstance(changes, Mapping):
            raise ApiError(422, "Options must be a JSON object.")
        for name, value in changes.items():
            if name not in shared.opts.data:
                raise ApiError(422, f"There is no option named {name!r}; there is: {', '.join(shared.opts.data)}.")
            if type(value) is not type(shared.opts.defaults[name]):
                raise ApiError(422, f"Option {name} must be like {shared.opts.data[name]!r}, not {value!r}.")
            if name == "sd_model_checkpoint" and value not in (self.model.title, self.model.name):
                raise ApiError(422, f"The playground runs {self.model.title}; start it with --model to run another.")
        shared.opts.data.update({name: value for name, value in changes.items() if name != "sd_model_checkpoint"})

    def _arguments(self, script) -> list[dict[str, Any]]:
        """What the script's controls show, in the order of its arguments."""
        with gr.Blocks():
            controls = script.ui(False) or []
        found = []
        for control in controls:
            choices = getattr(control, "choices", None)
            names = [choice[0] if isinstance(choice, tuple) else choice for choice in choices] if choices else None
            found.append({"label": control.label or "", "value": control.value, "choices": names,
                          **{name: getattr(control, name, None) for name in ("minimum", "maximum", "step")}})
        return found


def encode_png(image: Image.Image, parameters: str) -> str:
    """The picture as base64 PNG with its infotext inside."""
    text, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("parameters", parameters)
    image.save(buffer, "PNG", pnginfo=text)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _status(problem: RefDropError) -> int:
    if isinstance(problem, SettingsError):
        return 422
    return 507 if isinstance(problem, StoreProblem) else 400
