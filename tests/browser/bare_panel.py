"""The panel alone on a page, twice, as the tabs of a web UI have it: ``python bare_panel.py PORT FOLDER``.

Needs gradio, torch and safetensors only, so that it runs on the gradio of any web UI: 3.41, 4.40 or newer.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import gradio as gr

from lib_refdrop.webui.panel import Panel, build, connect
from lib_refdrop.webui.shelf import Last, Shelf

HIDDEN = "hidden" if int(gr.__version__.split(".")[0]) >= 6 else False  # as web UIs hide it, in each version's way
# Which web UIs load; newer gradio takes it when a page is launched.
STYLE = {"css": (ROOT / "style.css").read_text("utf-8")}
REFERENCE = ROOT / "tests" / "files" / "format-1-tiny.safetensors"


def page(folder: Path) -> gr.Blocks:
    host = SimpleNamespace(
        state=SimpleNamespace(interrupted=False, skipped=False, textinfo=None), opts=SimpleNamespace(),
        loaded_model=lambda: None,
        cmd_opts=SimpleNamespace(refdrop_dir=str(folder), refdrop_memory=None))
    shelf = Shelf(host)
    with gr.Blocks(analytics_enabled=False, **(STYLE if HIDDEN is False else {})) as blocks:
        made = {}
        for tab in ("txt2img", "img2img"):
            with gr.Tab(tab):
                panel = build(host, shelf, tab)
                made[tab] = panel, _tab(tab, panel, shelf, folder)
        connect(made, host)
    return blocks


def _tab(tab: str, panel: Panel, shelf: Shelf, folder: Path) -> gr.Textbox:
    inputs = {name: gr.Number(value, label=name, elem_id=f"{tab}_{name}")
              for name, value in {"steps": 20, "width": 512, "height": 512, "cfg_scale": 7}.items()}
    inputs["sampler_name"] = gr.Textbox("Euler", label="sampler", elem_id=f"{tab}_sampling")
    start = gr.Button("Generate", elem_id=f"{tab}_generate")
    gr.HTML(elem_id=f"html_log_{tab}")
    done = gr.Textbox(visible=HIDDEN, elem_id=f"generation_info_{tab}")
    panel.listen_to(done)
    panel.forecast_from(inputs)

    def save(asked: str) -> str:
        """A Save of a name that is taken."""
        name = f"{asked or 'hero'}-2"
        shutil.copy(REFERENCE, folder / f"{name}.safetensors")
        shelf.saved, shelf.message = Last("Disk", asked or "", name), f"Saved reference {name!r}."
        return str(time.time_ns())

    reference = [each for each in panel.controls if each.elem_id == f"refdrop_{tab}_reference"]
    start.click(save, inputs=reference, outputs=[done])
    return done


if __name__ == "__main__":
    blocks = page(Path(sys.argv[2]))
    blocks.queue()
    blocks.launch(server_name="127.0.0.1", server_port=int(sys.argv[1]), quiet=True, share=False,
                  **(STYLE if HIDDEN else {}))
