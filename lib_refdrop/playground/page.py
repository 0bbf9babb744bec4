"""The playground's page: a tab for each way to begin, RefDrop's panel in both as in a web UI, and the pictures."""

from __future__ import annotations

import html
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from .controls import image_controls, sampling_controls, second_pass_controls
from .errors import ApiError
from .generation import Processed
from .pictures import infotext_chunk, to_base64
from .playground import PROGRAM, Playground

_SHOWN = {"txt2img": "From a prompt", "img2img": "From a picture"}


def new_page(playground: Playground) -> gr.Blocks:
    """The page, ready to be mounted or launched; element ids are those of web UIs (``txt2img_prompt``, …)."""
    playground.host.before_ui()
    pictures = tempfile.TemporaryDirectory(prefix="refdrop-playground-")
    with gr.Blocks(title=PROGRAM, analytics_enabled=False) as page:
        gr.Markdown(f"### {PROGRAM}: {html.escape(playground.model.title)}")
        with gr.Tabs():
            for tab, name in _SHOWN.items():
                with gr.Tab(name, elem_id=f"tab_{tab}"):
                    _Tab(playground, tab, Path(pictures.name)).build()
    page.refdrop_pictures = pictures  # removed together with the page
    return page


class _Tab:
    """One way to begin: its controls, its panel, and what happens at *Generate*."""

    def __init__(self, playground: Playground, tab: str, folder: Path) -> None:
        self._playground, self._tab, self._folder = playground, tab, folder
        self._runner = playground.runners[tab]
        self._made: dict[str, Any] = {}

    def build(self) -> None:
        tab, vocabulary = self._tab, self._playground.vocabulary
        with gr.Row():
            with gr.Column(scale=3):
                self._made["prompt"] = gr.Textbox(label="Prompt", lines=2, elem_id=f"{tab}_prompt")
                self._made["negative_prompt"] = gr.Textbox(
                    label="Negative prompt", lines=1, elem_id=f"{tab}_neg_prompt"
                )
                if vocabulary.words:
                    gr.HTML(_line(vocabulary.sentence), elem_id=f"{tab}_words")
                if vocabulary.examples:
                    gr.Examples(
                        [[each] for each in vocabulary.examples], [self._made["prompt"]], elem_id=f"{tab}_examples"
                    )
            with gr.Column(scale=1):
                start = gr.Button("Generate", variant="primary", elem_id=f"{tab}_generate")
                stop = gr.Button("Interrupt", elem_id=f"{tab}_interrupt")
        with gr.Row():
            with gr.Column():
                if tab == "img2img":
                    self._made |= image_controls()
                self._made |= sampling_controls(tab, self._playground.native_size)
                if tab == "txt2img":
                    self._made |= second_pass_controls()
                for component in self._made.values():
                    self._runner.after_component(component, elem_id=component.elem_id)
                script_inputs = self._runner.setup_ui()
            with gr.Column():
                outputs = self._outputs()
        inputs = [*self._made.values(), *script_inputs]
        for event in (start.click, self._made["prompt"].submit):
            event(self._action(), inputs=inputs, outputs=outputs, show_progress="full", concurrency_limit=1)
        stop.click(self._playground.interrupt, queue=False)

    def _outputs(self) -> list[Any]:
        """Pictures, parameters, ``info`` as web UIs keep it for scripts, and what there is to say."""
        tab = self._tab
        gallery = gr.Gallery(label="Pictures", elem_id=f"{tab}_gallery", columns=2, object_fit="contain", preview=True)
        parameters = gr.Textbox(label="Parameters of the first picture", lines=3, interactive=False,
                                elem_id=f"infotext_{tab}")
        info = gr.Textbox(visible="hidden", label="", elem_id=f"generation_info_{tab}")
        said = gr.HTML(elem_id=f"html_log_{tab}")
        for component in (info, said):
            self._runner.after_component(component, elem_id=component.elem_id)
        return [gallery, parameters, info, said]

    def _action(self) -> Callable[..., tuple]:
        names = list(self._made)

        def generate(*values: Any, progress=gr.Progress()) -> tuple:
            payload = {name: value for name, value in zip(names, values) if value is not None}
            for name in ("init_images", "mask"):
                if name in payload:
                    payload[name] = to_base64(payload[name])
            if "init_images" in payload:
                payload["init_images"] = [payload["init_images"]]
            progress(0.0, desc="Drawing")
            try:
                result = self._playground.generate(payload, list(values[len(names):]),
                                                   lambda done: progress(done, desc="Drawing"), self._tab)
            except ApiError as error:
                return gr.update(), "", _stamped({}), _said([str(error)])
            strange = self._playground.vocabulary.unknown(result.p.prompt, result.p.negative_prompt)
            return (self._written(result), (result.infotexts or [""])[0], _stamped(json.loads(result.js())),
                    _said([*result.comments, *filter(None, [strange])]))

        return generate

    def _written(self, result: Processed) -> list[str]:
        """The pictures as PNG files with their parameters inside, so that what is downloaded from the page has them."""
        paths = []
        for index, (image, text) in enumerate(zip(result.images, result.infotexts)):
            path = self._folder / f"{time.time_ns()}-{result.p.all_seeds[index]}.png"
            image.save(path, pnginfo=infotext_chunk(text))
            paths.append(str(path))
        return paths


def _stamped(info: dict[str, Any]) -> str:
    """Never the same twice, so that a panel that listens hears of every generation, failed ones too."""
    return json.dumps({**info, "at": time.time_ns()})


def _said(sentences: list[str]) -> str:
    return "".join(map(_line, sentences))


def _line(sentence: str) -> str:
    return f"<p>{html.escape(sentence)}</p>"
