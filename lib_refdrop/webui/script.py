"""RefDrop's always-on script, on any host's base class: panel out, settings in, a run for each generation."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from ..settings import SCRIPT_NAME
from ..techniques.sampling_pass import told
from ..words import RefDropError, first_line, no_memory
from .forecast import INPUTS
from .host import Host, WebUI
from .messages import complain, set_up_log, stop, stopped_cell
from .options import add_options
from .panel import Panel, build, connect
from .run import run_of, start
from .sentence import picture
from .shelf import Shelf
from .xyz import add_axes

logger = logging.getLogger("RefDrop")


@cache
def _program() -> tuple[Host, Shelf]:
    """One process is one web UI: what is kept in memory outlives a reload of its scripts."""
    host = WebUI()
    return host, Shelf(host)


def web_ui_script() -> type:
    """The script's class inside a web UI, with its callbacks registered: hosts forget them when they load scripts
    anew."""
    return script_class(*_program())


def script_class(host: Host, shelf: Shelf) -> type:
    """The script's class on this host's base class; registers what it asks the host to call."""
    set_up_log()
    host.on_before_ui(lambda: add_axes(host, shelf))
    host.on_ui_settings(lambda: add_options(host))
    tabs: dict[str, tuple[Panel, Any]] = {}  # of the page that is being built, with what tells of their generations

    class RefDropScript(host.Script):  # type: ignore[name-defined]  # each host has its own
        """Keeps no state of a generation: that is on the processing object, for detailers run others inside one."""

        def __init__(self) -> None:
            super().__init__()
            self._inputs: dict[str, Any] = {}  # the host's components that the size of a reference depends on

        def title(self):
            return SCRIPT_NAME

        def show(self, is_img2img):
            return host.AlwaysVisible

        def ui(self, is_img2img):
            self._panel = build(host, shelf, "img2img" if is_img2img else "txt2img")
            self.infotext_fields = self._panel.infotext_fields
            return self._panel.controls

        def after_component(self, component, **kwargs):
            tab = "img2img" if self.is_img2img else "txt2img"
            elem_id = kwargs.get("elem_id") or ""
            place, _, name = elem_id.partition("_")
            if place == tab and name in INPUTS:
                self._inputs[INPUTS[name]] = component
            if elem_id == f"generation_info_{tab}":  # written once after every generation
                self._panel.listen_to(component)
                tabs[tab] = self._panel, component
                if tab == "img2img" and len(tabs) > 1:  # hosts build it after txt2img
                    connect(tabs, host)
            if elem_id == f"html_log_{tab}":  # the last component of a tab
                self._panel.forecast_from(self._inputs)

        def before_process(self, p, *args):
            self._guarded(p, lambda: start(p, args, host, shelf))

        def process(self, p, *args):
            self._of(p, lambda run: run.check())
            if stopped_cell(p):
                p.n_iter = 0  # nothing is drawn; an interrupt would end the whole plot

        def process_batch(self, p, *args, **kwargs):
            self._of(p, lambda run: run.begin_batch(kwargs.get("batch_number", 0)))

        def process_before_every_sampling(self, p, *args, **kwargs):
            self._of(p, lambda run: run.begin_pass())

        def postprocess_batch(self, p, *args, **kwargs):
            self._of(p, lambda run: run.end_batch())

        def postprocess(self, p, processed, *args):
            self._of(p, lambda run: run.finish())
            if stopped_cell(p):
                processed.images[:] = [picture(str(p.refdrop_stopped), p.width, p.height)]

        def _of(self, p, event) -> None:
            run = run_of(p)
            if run is not None:
                self._guarded(p, lambda: event(run))

        def _guarded(self, p, event) -> None:
            """A fault of ours never leaves a hook unsaid: hosts log it and go on with a picture that nobody asked
            for."""
            try:
                event()
            except Exception as error:
                if no_memory(error):
                    problem = told(error)
                else:
                    logger.exception("A fault inside RefDrop")
                    problem = RefDropError(f"RefDrop failed ({type(error).__name__}: {first_line(error)}), so the "
                                           "generation was stopped; please report it with the lines in the log.")
                stop(p, problem, host)
                complain(p, problem, shelf)

    return RefDropScript
