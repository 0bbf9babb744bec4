"""The panel, made from :meth:`Settings.controls`. Runs on gradio 3.41 (AUTOMATIC1111), 4.40 (Forge) and newer."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from ..guides import MASKS, kept_masks, kept_masks_text
from ..references import names
from ..settings import SCRIPT_NAME, Control, Settings
from ..words import RefDropError
from .events import each_time
from .forecast import NEEDED, TYPED, forecast
from .further import Further
from .host import Host
from .infotext import is_ours, paste_function
from .shelf import Last, Shelf
from .strength_map import SHOWN, strength_map

# Newer gradio leaves what is not visible out of the page, and nothing there can change; older knows no other way to
# hide.
_HIDDEN = "hidden" if int(gr.__version__.split(".")[0]) >= 6 else False
_HELP = "margin: 0; color: var(--block-info-text-color); font-size: var(--block-info-text-size); line-height: 1.6"


@dataclass
class Panel:
    """The panel's parts: ``controls`` in API order, the line of status, the one that says how large a Save gets, and
    what pasted parameters fill."""

    controls: list
    status: Any
    size: Any
    infotext_fields: list[tuple[Any, Callable]]
    _host: Host
    _shelf: Shelf
    _followed: Last | None = None  # the Save that the field has seen

    def listen_to(self, component: Any) -> None:
        """Tells what happened, and lists new references, whenever a component of the host changes."""
        component.change(self._refreshed, inputs=[self._control("store"), self._control("reference")],
                         outputs=[self._control("reference"), self.status], show_progress="hidden",
                         **each_time(component.change))

    def forecast_from(self, inputs: Mapping[str, Any]) -> None:
        """Keeps the line of size right, where the host has all of :data:`~lib_refdrop.webui.forecast.NEEDED`."""
        if not set(NEEDED.values()) <= set(inputs):
            return
        # No pictures: what is saved is as large with them, and older gradio sends them whole with every event.
        names = list(inputs)
        controls = [control for control, (_, _, how) in zip(self.controls, Settings.controls()) if not how.picture]

        def line(*values: Any) -> str:
            left = iter(values)
            settings = [None if how.picture else next(left) for _, _, how in Settings.controls()]
            return _line(forecast(self._host, settings, dict(zip(names, left))))

        deciding = [self._control(name) for name in ("mode", "enabled_hr", "save_percent", "layer_input",
                                                     "layer_middle", "layer_output", "keep", "budget")]
        for component in (*deciding, *(component for name, component in inputs.items() if name not in TYPED)):
            component.change(line, inputs=[*controls, *inputs.values()], outputs=[self.size],
                             show_progress="hidden", **each_time(component.change))

    def _refreshed(self, store: str, name: str | None) -> tuple[Any, str]:
        """The field follows a Save that was given a number because its name was taken: what is used next is what was
        saved last, not what stood there before. Once for a Save: who then asks for the older one means it."""
        listed, saved = self._shelf.names(store), self._shelf.saved
        new, self._followed = saved is not self._followed, saved
        followed = {}
        if new and saved and saved.asked and (saved.store, saved.asked) == (store, names.normalised(name or "")):
            followed["value"] = saved.name
        return gr.update(choices=listed, **followed), _line(self._shelf.message or self._shelf.summary(store))

    def _control(self, name: str) -> Any:
        return self.controls[[each for each, _, _ in Settings.controls()].index(name)]


def connect(made: Mapping[str, tuple[Panel, Any]], host: Host) -> None:
    """Each tab's panel hears of the other tabs' generations as well: they share the references. ``made`` is each tab's
    panel and the component that it listens to.

    Not where a tab is hidden: nothing may wait for, or write to, what is not on the page.
    """
    hidden = {str(label).lower() for label in getattr(host.opts, "hidden_tabs", None) or ()}
    for tab, (panel, _) in made.items():
        for other, (_, component) in made.items():
            if tab != other and not {tab, other} & hidden:
                panel.listen_to(component)


def build(host: Host, shelf: Shelf, tab: str) -> Panel:
    """Makes the panel inside the ``gradio.Blocks`` that is open; element ids begin with ``refdrop_<tab>``."""
    made: dict[str, Any] = {}
    known = Settings.controls()
    with gr.Accordion(SCRIPT_NAME, open=False, elem_id=f"refdrop_{tab}"):
        for name, default, control in known:
            if control.tier == "important" and name != "reference":
                made[name] = _component(name, default, control, tab)
        with gr.Row():
            control = next(control for name, _, control in known if name == "reference")
            # No choices before the page is loaded: gradio 4.40 shows the first one in place of "". And no None: web
            # UIs read what is pasted in the type of this value.
            made["reference"] = gr.Dropdown(label=control.label, info=control.help, choices=[], value="",
                                            allow_custom_value=True, elem_id=f"refdrop_{tab}_reference", scale=4)
            refresh = gr.Button("\U0001f504", elem_id=f"refdrop_{tab}_refresh", elem_classes=["refdrop-tool"], scale=0,
                                min_width=40)
        further = Further(*next((default, control) for name, default, control in known if name == "references"), tab)
        made["references"] = further.text
        with gr.Accordion("A picture as the reference", open=False, elem_id=f"refdrop_{tab}_from_picture"):
            for name, default, control in known:
                if control.tier == "picture":
                    made[name] = _component(name, default, control, tab)
        with gr.Accordion("Masks", open=False, elem_id=f"refdrop_{tab}_masks") as masks, gr.Row():
            for name, default, control in known:
                if control.tier == "masks" and control.picture:
                    with gr.Column():
                        made[name] = _component(name, default, control, tab)
        with masks:
            for name, default, control in known:
                if control.tier == "words" or name == "kept_masks":
                    made[name] = _component(name, default, control, tab)
        with gr.Accordion("Stories and frames", open=False, elem_id=f"refdrop_{tab}_stories"):
            for name, default, control in known:
                if control.tier == "sequence":
                    made[name] = _component(name, default, control, tab)
        with gr.Accordion("More", open=False, elem_id=f"refdrop_{tab}_more"):
            for name, default, control in known:
                if control.tier == "advanced" and name not in made:
                    made[name] = _component(name, default, control, tab)
                if name == "use_until":
                    usual = {each: value for each, value, _ in known if each in SHOWN}
                    drawn = gr.HTML(strength_map(host, *(usual[each] for each in SHOWN)), elem_id=f"refdrop_{tab}_map")
        size = gr.HTML("", elem_id=f"refdrop_{tab}_size")
        status = gr.HTML(_line(shelf.summary(made["store"].value)), elem_id=f"refdrop_{tab}_status")
        # A value that is computed is computed whenever the page is loaded, and its change is what fills the list.
        loaded = gr.Textbox(value=lambda: str(time.time_ns()), visible=_HIDDEN, elem_id=f"refdrop_{tab}_loaded",
                            label="")

    further.connect(made["rfg"])
    for component in (*(made[name] for name in SHOWN), loaded):
        component.change(partial(strength_map, host), inputs=[made[name] for name in SHOWN], outputs=[drawn],
                         show_progress="hidden", **each_time(component.change))

    def list_again(store: str) -> list[Any]:
        listed = shelf.names(store)
        return [_line(shelf.summary(store)), *(gr.update(choices=listed) for _ in (made["reference"], *further.names))]

    for event in (refresh.click, made["store"].change, loaded.change):
        event(list_again, inputs=[made["store"]], outputs=[status, made["reference"], *further.names],
              show_progress="hidden", **each_time(event))
    # A picture is there to be saved, and gone when what was saved is to be used.
    made["picture"].upload(lambda: "Save", outputs=[made["mode"]], show_progress="hidden")
    made["mode"].change(lambda mode: gr.update(value=None) if mode == "Use" else gr.update(), inputs=[made["mode"]],
                        outputs=[made["picture"]], show_progress="hidden", **each_time(made["mode"].change))
    shown = [made[name] for name in MASKS]
    made["kept_masks"].change(lambda text: _shown(text, shelf), inputs=[made["kept_masks"]],
                              outputs=[made["kept_masks"], *shown], show_progress="hidden",
                              **each_time(made["kept_masks"].change))
    # What stands there goes when parameters are pasted: it was for another picture.
    fields = [(made[name], _emptied if control.picture else paste_function(name, default, control))
              for name, default, control in known]
    return Panel([made[name] for name, _, _ in known], status, size, fields, host, shelf)


def _emptied(parameters: Mapping[str, str]) -> Any:
    """What a host calls with pasted parameters of a control for a picture, which they cannot fill."""
    return gr.update(value=None) if is_ours(parameters) else None


def _shown(text: str, shelf: Shelf) -> list[Any]:
    """Masks by number, where they are found, into the controls that show them; the text is then what is not."""
    try:
        numbers = kept_masks(text)
        found = {name: image for name, number in numbers.items() if (image := shelf.masks.find(number)) is not None}
    except RefDropError:  # half typed; a generation says what is wrong
        found = {}
    if not found:
        return [gr.update()] * (1 + len(MASKS))
    left = {name: number for name, number in numbers.items() if name not in found}
    return [kept_masks_text(left), *(gr.update(value=found[name]) if name in found else gr.update() for name in MASKS)]


def _component(name: str, default: Any, control: Control, tab: str) -> Any:
    common = {"label": control.label, "info": control.help, "value": default, "elem_id": f"refdrop_{tab}_{name}"}
    if control.picture:
        gr.HTML(f'<p style="{_HELP}">{html.escape(control.help)}</p>')
        return gr.Image(label=control.label, type="pil", image_mode="RGBA", height=240, elem_id=common["elem_id"])
    if control.choices:
        return gr.Radio(choices=list(control.choices), **common)
    if isinstance(default, bool):
        return _switch(common)
    if isinstance(default, float):
        return gr.Slider(minimum=control.minimum, maximum=control.maximum, step=control.step, **common)
    if control.suggestions:
        return gr.Dropdown(choices=list(control.suggestions), allow_custom_value=True, **common)
    if isinstance(default, int):
        return gr.Number(precision=0, **common)
    return gr.Textbox(**common)


def _switch(common: dict[str, Any]) -> Any:
    """A checkbox with its help beside it: older gradio writes it above the box, as if it belonged to what is there."""
    words = html.escape(common.pop("info"))
    with gr.Row():
        with gr.Column(scale=1, min_width=190):
            made = gr.Checkbox(container=False, **common)
        with gr.Column(scale=3, min_width=240):
            gr.HTML(f'<p style="{_HELP}">{words}</p>')
    return made


def _line(sentence: str) -> str:
    return f"<p>{html.escape(sentence)}</p>"
