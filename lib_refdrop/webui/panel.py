"""The panel, made from :meth:`Settings.controls`. Runs on gradio 3.41 (AUTOMATIC1111), 4.40 (Forge) and newer."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..settings import SCRIPT_NAME, Control, Settings
from .forecast import INPUTS, forecast
from .infotext import paste_function
from .shelf import Shelf


@dataclass
class Panel:
    """The panel's parts: ``controls`` in API order, the line of status, the one that says how large a Save gets, and
    what pasted parameters fill."""

    controls: list
    status: Any
    size: Any
    infotext_fields: list[tuple[Any, Callable]]
    _shelf: Shelf

    def listen_to(self, component: Any) -> None:
        """Tells what happened, and lists new references, whenever a component of the host changes."""
        component.change(self._refreshed, inputs=[self._control("store")],
                         outputs=[self._control("reference"), self.status], show_progress="hidden")

    def forecast_from(self, inputs: Mapping[str, Any]) -> None:
        """Keeps the line of size right, where the host has all of :data:`~lib_refdrop.webui.forecast.INPUTS`."""
        if not set(INPUTS.values()) <= set(inputs):
            return
        names, count = list(inputs), len(self.controls)

        def line(*values: Any) -> str:
            return _line(forecast(values[:count], dict(zip(names, values[count:]))))

        deciding = [self._control(name) for name in ("mode", "save_percent", "layer_input", "layer_middle", "layer_output",
                                                     "keep", "budget")]
        for component in (*deciding, *inputs.values()):
            component.change(line, inputs=[*self.controls, *inputs.values()], outputs=[self.size], show_progress="hidden")

    def _refreshed(self, store: str) -> tuple[Any, str]:
        return _names(self._shelf, store), _line(self._shelf.message or self._shelf.summary(store))

    def _control(self, name: str) -> Any:
        return self.controls[[each for each, _, _ in Settings.controls()].index(name)]


def build(shelf: Shelf, tab: str) -> Panel:
    """Makes the panel inside the ``gradio.Blocks`` that is open; element ids begin with ``refdrop_<tab>``."""
    made: dict[str, Any] = {}
    known = Settings.controls()
    with gr.Accordion(SCRIPT_NAME, open=False, elem_id=f"refdrop_{tab}"):
        for name, default, control in known:
            if control.tier != "advanced" and name != "reference":
                made[name] = _component(name, default, control, tab)
        with gr.Row():
            default, control = next((default, control) for name, default, control in known if name == "reference")
            made["reference"] = gr.Dropdown(
                label=control.label, info=control.help, choices=_listed(shelf, made["store"].value), value=default,
                allow_custom_value=True, elem_id=f"refdrop_{tab}_reference", scale=4)
            refresh = gr.Button("Refresh", elem_id=f"refdrop_{tab}_refresh", scale=1)
        with gr.Accordion("More", open=False, elem_id=f"refdrop_{tab}_more"):
            for name, default, control in known:
                if control.tier == "advanced":
                    made[name] = _component(name, default, control, tab)
        size = gr.HTML("", elem_id=f"refdrop_{tab}_size")
        status = gr.HTML(_line(shelf.summary(made["store"].value)), elem_id=f"refdrop_{tab}_status")

    def list_again(store: str) -> tuple[Any, str]:
        return _names(shelf, store), _line(shelf.summary(store))

    for event in (refresh.click, made["store"].change):
        event(list_again, inputs=[made["store"]], outputs=[made["reference"], status], show_progress="hidden")
    fields = [(made[name], paste_function(name, default, control)) for name, default, control in known
              if control.infotext or name == "enabled"]
    return Panel([made[name] for name, _, _ in known], status, size, fields, shelf)


def _component(name: str, default: Any, control: Control, tab: str) -> Any:
    common = {"label": control.label, "info": control.help, "value": default, "elem_id": f"refdrop_{tab}_{name}"}
    if control.choices:
        return gr.Radio(choices=list(control.choices), **common)
    if isinstance(default, bool):
        return gr.Checkbox(**common)
    if isinstance(default, float):
        return gr.Slider(minimum=control.minimum, maximum=control.maximum, step=control.step, **common)
    return gr.Textbox(**common)


def _listed(shelf: Shelf, store: str) -> list[str]:
    return list(reversed(shelf.store(store).names()))  # the newest first: it is the one wanted most


def _names(shelf: Shelf, store: str) -> Any:
    return gr.update(choices=_listed(shelf, store))


def _line(sentence: str) -> str:
    return f"<p>{html.escape(sentence)}</p>"
