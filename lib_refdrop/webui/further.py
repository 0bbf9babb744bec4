"""Rows of the panel for further references: a name and a strength each, kept as the text of one setting."""

from __future__ import annotations

import html
from dataclasses import replace
from typing import Any

import gradio as gr

from ..guides import MOST, Guide, read, warning, written
from ..settings import Control
from ..words import SettingsError
from .events import by_people, each_time, text_changes

ROWS = 3  # of MOST - 1: who has more writes them as text


class Further:
    """``text`` is the setting; what is chosen in the rows is written into it, what is pasted there is shown in them.

    Rows answer only to people, the text not where the rows say the same: no change runs in a circle.
    """

    def __init__(self, default: str, control: Control, tab: str) -> None:
        with gr.Accordion(control.label, open=False, elem_id=f"refdrop_{tab}_further"):
            self.names, self.strengths = [], []
            for number in range(1, ROWS + 1):
                with gr.Row():
                    self.names.append(gr.Dropdown(label=f"Reference {number + 1}", choices=[], value="", scale=2,
                                                  allow_custom_value=True, elem_id=f"refdrop_{tab}_further_{number}"))
                    self.strengths.append(gr.Slider(
                        label=f"RFG coefficient of reference {number + 1}", minimum=-1.0, maximum=1.0, step=0.05,
                        value=0.3, scale=3, elem_id=f"refdrop_{tab}_further_{number}_rfg"))
            self.text = gr.Textbox(value=default, label=f"As text, up to {MOST - 1}", info=control.help,
                                   elem_id=f"refdrop_{tab}_references")
            self.sum = gr.HTML("", elem_id=f"refdrop_{tab}_sum")

    def connect(self, rfg: Any) -> None:
        """``rfg`` is the strength of the first reference, for the sum."""
        rows = [*self.names, *self.strengths]
        for row in rows:  # of people alone: rows that the text fills would answer it one by one, half filled
            by_people(row)(_into_text, inputs=[self.text, *rows], outputs=[self.text], show_progress="hidden")
        for event in text_changes(self.text):
            event(_into_rows, inputs=[self.text, *rows], outputs=rows, show_progress="hidden", **each_time(event))
        for event in (*text_changes(self.text), rfg.change):
            event(_sum, inputs=[rfg, self.text], outputs=[self.sum], show_progress="hidden", **each_time(event))


def _into_text(text: str, *rows: Any) -> Any:
    """The text with the rows' names and strengths; what it says more, of them or of others, stays."""
    try:
        before = read(text, Guide())
    except SettingsError:  # half typed
        before = []
    names = [str(name or "").strip() for name in rows[:ROWS]]
    shown = [(name, float(rfg)) for name, rfg in zip(names, rows[ROWS:]) if name]
    if shown == _shown(before):
        return gr.update()
    known = {guide.name: guide for guide in before}
    guides = [replace(known.get(name, Guide(name)), rfg=rfg) for name, rfg in shown]
    return written([*guides, *before[ROWS:]], Guide())


def _into_rows(text: str, *rows: Any) -> list[Any]:
    try:
        found = read(text, Guide())
    except SettingsError:  # half typed; a generation says what is wrong
        return [gr.update()] * 2 * ROWS
    names = [str(name or "").strip() for name in rows[:ROWS]]
    if [(name, float(rfg)) for name, rfg in zip(names, rows[ROWS:]) if name] == _shown(found):
        return [gr.update()] * 2 * ROWS
    shown = _shown(found) + [("", 0.3)] * ROWS
    return [gr.update(value=name) for name, _ in shown[:ROWS]] + [gr.update(value=rfg) for _, rfg in shown[:ROWS]]


def _shown(guides: list[Guide]) -> list[tuple[str, float]]:
    return [(guide.name, guide.rfg) for guide in guides[:ROWS]]


def _sum(rfg: float, text: str) -> str:
    """The strengths together, and a warning where they are too much."""
    try:
        guides = read(text, Guide())
    except SettingsError as problem:
        return f"<p>{html.escape(str(problem))}</p>"
    if not guides:
        return ""
    guides = [Guide("first", float(rfg or 0)), *guides]
    return f"<p>{html.escape(warning(guides) or f'Together {sum(guide.rfg for guide in guides):g}.')}</p>"
