"""The playground's page: what to draw, RefDrop's panel as in a web UI, and the pictures."""

from __future__ import annotations

import html
import tempfile
import time
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import PngImagePlugin

from .errors import ApiError
from .payload import TXT2IMG as FIELDS
from .playground import PROGRAM, Playground
from .sampling import catalogue
from .sampling.levels import SCHEDULES

_ORDER = ("prompt", "negative_prompt", "sampler_name", "scheduler", "steps", "width", "height", "cfg_scale", "seed",
          "batch_size", "n_iter")


def new_page(playground: Playground) -> gr.Blocks:
    """The page, ready to be mounted or launched; element ids are those of web UIs (``txt2img_prompt``, …)."""
    playground.host.before_ui()
    size, made = playground.native_size, {}
    with gr.Blocks(title=PROGRAM, analytics_enabled=False) as page:
        gr.Markdown(f"### {PROGRAM}: {html.escape(playground.model.title)}")
        with gr.Row():
            with gr.Column(scale=3):
                made["prompt"] = gr.Textbox(label="Prompt", lines=2, elem_id="txt2img_prompt")
                made["negative_prompt"] = gr.Textbox(label="Negative prompt", lines=1, elem_id="txt2img_neg_prompt")
            with gr.Column(scale=1):
                start = gr.Button("Generate", variant="primary", elem_id="txt2img_generate")
                stop = gr.Button("Interrupt", elem_id="txt2img_interrupt")
        with gr.Row():
            with gr.Column():
                made |= _sampling_controls(size)
                for component in made.values():
                    playground.runner.after_component(component, elem_id=component.elem_id)
                script_inputs = playground.runner.setup_ui()
            with gr.Column():
                gallery = gr.Gallery(label="Pictures", elem_id="txt2img_gallery", columns=2, object_fit="contain",
                                     preview=True)
                parameters = gr.Textbox(label="Parameters of the first picture", lines=3, interactive=False,
                                        elem_id="infotext_txt2img")
                said = gr.HTML(elem_id="html_log_txt2img")
                done = gr.Textbox(visible="hidden", label="", elem_id="generation_info_txt2img")
                for component in (done, said):
                    playground.runner.after_component(component, elem_id=component.elem_id)

        pictures = tempfile.TemporaryDirectory(prefix="refdrop-playground-")
        page.refdrop_pictures = pictures  # removed together with the page

        def generate(*values: Any, progress=gr.Progress()) -> tuple:
            payload = dict(zip(_ORDER, values))
            progress(0.0, desc="Drawing")
            try:
                result = playground.generate(payload, list(values[len(_ORDER):]), lambda done: progress(done, desc="Drawing"))
            except ApiError as error:
                return gr.update(), "", _said([str(error)]), str(time.time_ns())
            return (_written(result, Path(pictures.name)), (result.infotexts or [""])[0], _said(result.comments),
                    str(time.time_ns()))

        inputs = [*(made[name] for name in _ORDER), *script_inputs]
        outputs = [gallery, parameters, said, done]
        for event in (start.click, made["prompt"].submit):
            event(generate, inputs=inputs, outputs=outputs, show_progress="full", concurrency_limit=1)
        stop.click(playground.interrupt, queue=False)
    return page


def _sampling_controls(size: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    with gr.Row():
        made["sampler_name"] = gr.Dropdown(label="Sampling method", value="Euler", elem_id="txt2img_sampling",
                                           choices=[sampler.name for sampler in catalogue.SAMPLERS])
        made["scheduler"] = gr.Dropdown(label="Schedule type", value="Automatic", elem_id="txt2img_scheduler",
                                        choices=["Automatic", *SCHEDULES])
        made["steps"] = _slider("steps", "Sampling steps", 1)
    with gr.Row():
        made["width"] = _slider("width", "Width", 8, size)
        made["height"] = _slider("height", "Height", 8, size)
    with gr.Row():
        made["cfg_scale"] = _slider("cfg_scale", "CFG scale", 0.5)
        made["batch_size"] = _slider("batch_size", "Batch size", 1)
        made["n_iter"] = _slider("n_iter", "Batch count", 1)
        made["seed"] = gr.Number(label="Seed (−1: random)", value=-1, precision=0, elem_id="txt2img_seed")
    return made


def _slider(name: str, label: str, step: float, value: float | None = None) -> Any:
    field = FIELDS[name]
    return gr.Slider(minimum=field.least, maximum=field.most, step=step, label=label, elem_id=f"txt2img_{name}",
                     value=field.default if value is None else value)


def _written(result, folder: Path) -> list[str]:
    """The pictures as PNG files with their parameters inside, so that what is downloaded from the page has them."""
    paths = []
    for index, (image, text) in enumerate(zip(result.images, result.infotexts)):
        chunk = PngImagePlugin.PngInfo()
        chunk.add_text("parameters", text)
        path = folder / f"{time.time_ns()}-{result.p.all_seeds[index]}.png"
        image.save(path, pnginfo=chunk)
        paths.append(str(path))
    return paths


def _said(sentences: list[str]) -> str:
    return "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
