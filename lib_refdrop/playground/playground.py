"""The playground in one process: a model, the always-on scripts, and web UIs' API as plain calls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from .. import __version__
from ..webui.script import script_class
from ..webui.shelf import Shelf
from ..words import RefDropError, SettingsError, StoreProblem, no_memory
from . import models
from . import payload as fields
from .errors import ApiError, shown
from .fields import check_text
from .generation import Processed, process_images
from .host import PlaygroundHost
from .networks import Networks
from .passes import BadPicture
from .pasting import paste, paste_script_args
from .pictures import UPSCALERS, decode, encode_png
from .processing import Img2Img, Processing, Txt2Img
from .sampling import catalogue
from .sampling.levels import SCHEDULES
from .scripts import Script, ScriptRunner
from .vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_MODEL = ROOT / "examples" / "demo-model"
PROGRAM = f"RefDrop playground {__version__}"
TABS = ("txt2img", "img2img")


class Playground:
    """A model with RefDrop's script. ``refdrop_dir`` is where references are kept: a folder or a URL.

    With ``extension`` False the script is never loaded: the host as it is without RefDrop, to compare with.
    ``lora_dir`` is a folder of LoRAs for ``<lora:name:0.8>``; ``refdrop_memory`` how many GB RefDrop may fill.

    Raises :class:`~lib_refdrop.playground.models.ModelProblem` when the model cannot be loaded.
    """

    def __init__(
        self,
        model: Path | str | None = None,
        refdrop_dir: Path | str | None = None,
        device: str | None = None,
        model_config: Path | str | None = None,
        extension: bool = True,
        lora_dir: Path | str | None = None,
        refdrop_memory: float | None = None,
    ) -> None:
        self.model = models.load(Path(model or DEFAULT_MODEL), device, Path(model_config) if model_config else None)
        self.refdrop_dir = refdrop_dir if refdrop_dir is None or "://" in str(refdrop_dir) else Path(refdrop_dir)
        self.refdrop_memory = refdrop_memory
        self.host, self.networks = PlaygroundHost(), Networks(Path(lora_dir) if lora_dir else None)
        self.vocabulary = Vocabulary.of(self.model.path)
        self.enter()
        self.shelf = Shelf(self.host)
        scripts = [script_class(self.host, self.shelf)] if extension else []
        self.runners = {tab: ScriptRunner(scripts, is_img2img=tab == "img2img") for tab in TABS}
        self.host.ui_settings()
        for runner in self.runners.values():
            with gr.Blocks():  # controls exist only in a page; their values are the defaults of the scripts' arguments
                runner.setup_ui()

    def enter(self) -> None:
        """Tells the host what it may have been told otherwise since."""
        self.host.cmd_opts.refdrop_dir, self.host.cmd_opts.refdrop_memory = self.refdrop_dir, self.refdrop_memory
        self.host.sd_model = self.model.pipeline
        self.host.opts.data["sd_model_checkpoint"] = self.model.title

    @property
    def native_size(self) -> int:
        """Width and height the model was made for, in pixels."""
        size, pipeline = self.model.pipeline.unet.config.sample_size, self.model.pipeline
        return (size if isinstance(size, int) else size[0] if size else 64) * pipeline.vae_scale_factor

    def txt2img(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Exactly what ``POST /sdapi/v1/txt2img`` answers. Raises :class:`ApiError`."""
        return self._answer(payload, "txt2img")

    def img2img(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Exactly what ``POST /sdapi/v1/img2img`` answers. Raises :class:`ApiError`."""
        return self._answer(payload, "img2img")

    def _answer(self, payload: Mapping[str, Any], tab: str) -> dict[str, Any]:
        made = self.generate(payload, tab=tab)
        sent = [encode_png(image, text) for image, text in zip(made.images, made.infotexts)]
        wanted = payload.get("send_images") is not False
        return {"images": sent if wanted else [], "parameters": _repeated(payload, made.p), "info": made.js()}

    def generate(self, payload: Mapping[str, Any], script_args: list | None = None,
                 on_step: Callable[[float], None] | None = None, tab: str = "txt2img") -> Processed:
        """Makes the pictures of a payload; ``tab`` is "txt2img" or "img2img".

        ``script_args``, where given, are the values of all controls of :meth:`ScriptRunner.setup_ui`. Raises
        :class:`ApiError` for a payload, setting or reference that stops the run.
        """
        runner = self.runners[tab]
        values, pasted = self._values(payload, tab)
        args = self._script_args(payload, runner, pasted) if script_args is None else [0, *script_args]
        with self.host.one_at_a_time:
            self.enter()
            self.host.state.begin(f"scripts_{tab}")
            p = (Txt2Img if tab == "txt2img" else Img2Img)(
                host=self.host,
                sd_model=self.model.pipeline,
                scripts=runner,
                script_args=args,
                networks=self.networks,
                sd_model_name=self.model.name,
                sd_model_hash=self.model.hash,
                version=PROGRAM,
                on_step=on_step,
                **values,
            )
            try:
                with closing(p):
                    made = process_images(p)
            except RefDropError as error:  # found out in the middle of a pass: a damaged file, say
                raise ApiError(_status(error), str(error)) from error
            except BadPicture as error:
                raise ApiError(500, str(error)) from error
            except (MemoryError, RuntimeError) as error:
                if not no_memory(error):
                    raise
                raise ApiError(507, "There is not enough memory for this; choose a smaller size or batch.") from error
            finally:
                self.host.state.end()
        problem = getattr(p, "refdrop_stopped", None)
        if problem is not None:
            raise ApiError(_status(problem), str(problem))
        return made

    def _values(self, payload: Any, tab: str) -> tuple[dict[str, Any], dict[str, str]]:
        """What to make a processing object of, checked, and the parameters of the request's ``infotext``, by name."""
        table, size = fields.TXT2IMG if tab == "txt2img" else fields.IMG2IMG, (self.native_size, self.native_size)
        given = fields.known(payload, table)
        pasted, found = paste(payload.get("infotext"), given, table)
        given = {**found, **given}
        pictures = []
        if tab == "img2img":
            pictures = _pictures(given)
            size = tuple(max(side // 8, 8) * 8 for side in pictures[0].size)
        values = fields.checked(given, table, size)
        values.pop("send_images")
        values["override_settings"] = self._options(values["override_settings"])
        for name in ("prompt", "negative_prompt", "hr_prompt", "hr_negative_prompt"):
            self.networks.check(values.get(name, ""))
        if tab == "img2img":
            if len(pictures) not in (1, values["batch_size"]):
                raise ApiError(422, f"init_images must hold one picture or as many as batch_size, not {len(pictures)}.")
            mask = values.pop("mask")
            values |= {"init_images": pictures, "image_mask": decode(mask, "mask") if mask else None}
        return values, pasted

    def _script_args(self, payload: Mapping[str, Any], runner: ScriptRunner, pasted: Mapping[str, str]) -> list:
        """Every script's defaults, what an infotext says, and what ``alwayson_scripts`` gives in their place."""
        args, asked = paste_script_args(pasted, runner), payload.get("alwayson_scripts") or {}
        if not isinstance(asked, Mapping):
            raise ApiError(422, 'alwayson_scripts must be an object such as {"RefDrop": {"args": [true]}}.')
        for title, entry in asked.items():
            script = runner.script(str(title))
            if script is None:
                raise ApiError(
                    422, f"always on script {_title(title)} not found; there is: {', '.join(self.titles())}."
                )
            given = entry.get("args", []) if isinstance(entry, Mapping) else None
            if not isinstance(given, list):
                raise ApiError(
                    422,
                    f"The args of {_title(title)} must be a list; to name settings put one object into it, "
                    'as in {"args": [{"enabled": true}]}.',
                )
            given = given[: script.args_to - script.args_from]
            args[script.args_from:script.args_from + len(given)] = given
        return args

    def titles(self) -> list[str]:
        return [script.title() for script in self.runners["txt2img"].alwayson_scripts]

    def scripts(self) -> dict[str, list[str]]:
        """``GET /sdapi/v1/scripts``."""
        return {tab: [title.lower() for title in self.titles()] for tab in TABS}

    def script_info(self) -> list[dict[str, Any]]:
        """``GET /sdapi/v1/script-info``: every script's arguments with label, value, range and choices."""
        return [
            {"name": script.name, "is_alwayson": True, "is_img2img": runner.is_img2img,
             "args": self._arguments(runner, script)}
            for runner in self.runners.values()
            for script in runner.alwayson_scripts
        ]

    def samplers(self) -> list[dict[str, Any]]:
        return [{"name": each.name, "aliases": list(each.aliases), "options": {}} for each in catalogue.SAMPLERS]

    def schedulers(self) -> list[dict[str, Any]]:
        return [{"name": name.lower().replace(" ", "_"), "label": name, "aliases": None, "default_rho": -1,
                 "need_inner_model": False} for name in ("Automatic", *SCHEDULES)]

    def upscalers(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4} for name in UPSCALERS
        ]

    def loras(self) -> list[dict[str, Any]]:
        return [{"name": path.stem, "alias": path.stem, "path": str(path), "metadata": {}}
                for path in self.networks.files()]

    def models(self) -> list[dict[str, Any]]:
        return [{"title": self.model.title, "model_name": self.model.name, "hash": self.model.hash, "sha256": None,
                 "filename": str(self.model.path), "config": None}]

    def progress(self) -> dict[str, Any]:
        """``GET /sdapi/v1/progress``: ``progress`` from 0 to 1, ``eta_relative`` in seconds."""
        state, done = self.host.state, self.host.state.progress
        passed = time.time() - state.time_start if state.time_start and state.job_count else 0.0
        return {"progress": done, "eta_relative": passed / done - passed if done else 0.0, "state": state.dict(),
                "current_image": None, "textinfo": state.textinfo}

    def interrupt(self) -> None:
        """Stops the running generation before its next model call; harmless when none runs."""
        self.host.state.interrupt()

    def skip(self) -> None:
        self.host.state.skip()

    def options(self) -> dict[str, Any]:
        return dict(self.host.opts.data)

    def set_options(self, changes: Any) -> None:
        """``POST /sdapi/v1/options``, all or nothing. Raises :class:`ApiError` 422."""
        self.host.opts.data.update(self._options(changes))

    def _options(self, changes: Any) -> dict[str, Any]:
        """Options to set, checked; the model can only be the one that is loaded."""
        checked = self.host.opts.checked(changes)
        wanted = checked.pop("sd_model_checkpoint", self.model.title)
        if wanted not in (self.model.title, self.model.name):
            raise ApiError(422, f"The playground runs {self.model.title}; start it with --model to run another.")
        return checked

    def _arguments(self, runner: ScriptRunner, script: Script) -> list[dict[str, Any]]:
        """What the script's controls show, in the order of its arguments."""
        found = []
        for control in runner.inputs[script.args_from - 1:script.args_to - 1]:
            choices = getattr(control, "choices", None)
            names = [choice[0] if isinstance(choice, tuple) else choice for choice in choices] if choices else None
            found.append({"label": control.label or "", "value": control.value, "choices": names,
                          **{name: getattr(control, name, None) for name in ("minimum", "maximum", "step")}})
        return found


def _pictures(given: dict[str, Any]) -> list:
    """``init_images``, opened. Raises :class:`ApiError` 422."""
    texts = given.get("init_images")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ApiError(422, "init_images must be a list of pictures as base64 text.")
    return [decode(text, "init_images") for text in texts[:64]]


def _repeated(payload: Mapping[str, Any], p: Processing) -> dict[str, Any]:
    """What was asked for, as far as it is known and can be sent back, with defaults filled in, without pictures."""
    found = {name: getattr(p, name) for name in (*fields.TXT2IMG, *fields.IMG2IMG) if hasattr(p, name)}
    found |= {name: payload[name] for name in fields.KNOWN if name in payload}
    for name in ("init_images", "mask"):
        found.pop(name, None)
    return {name: value for name, value in found.items() if _can_be_sent(value)}


def _can_be_sent(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def _title(title: Any) -> str:
    return shown(check_text("alwayson_scripts", str(title)))[1:-1]


def _status(problem: RefDropError) -> int:
    if isinstance(problem, SettingsError):
        return 422
    return 507 if isinstance(problem, StoreProblem) else 400
