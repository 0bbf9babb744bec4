"""RefDrop's always-on script: panel out, settings in, a session round each pass. The work is in lib_refdrop."""

from modules import scripts

from lib_refdrop.settings import SCRIPT_NAME
from lib_refdrop.webui.callbacks import register
from lib_refdrop.webui.forecast import INPUTS
from lib_refdrop.webui.panel import build
from lib_refdrop.webui.run import run_of, start
from lib_refdrop.webui.shelf import shelf

register()


class RefDropScript(scripts.Script):
    """Keeps no state of a generation: that is on the processing object, for detailers run others inside one."""

    def __init__(self):
        super().__init__()
        self._inputs = {}  # the host's components that the size of a reference depends on

    def title(self):
        return SCRIPT_NAME

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        self._panel = build(shelf(), "img2img" if is_img2img else "txt2img")
        self.infotext_fields = self._panel.infotext_fields
        return self._panel.controls

    def after_component(self, component, **kwargs):
        # Hosts write their log line after every generation: the moment to show what RefDrop did. It comes last of all.
        tab = "img2img" if self.is_img2img else "txt2img"
        place, _, name = (kwargs.get("elem_id") or "").partition("_")
        if place == tab and name in INPUTS:
            self._inputs[INPUTS[name]] = component
        if kwargs.get("elem_id") == f"html_log_{tab}":
            self._panel.listen_to(component)
            self._panel.forecast_from(self._inputs)

    def before_process(self, p, *args):
        start(p, args)

    def process(self, p, *args):
        if run := run_of(p):
            run.check()

    def process_batch(self, p, *args, **kwargs):
        if run := run_of(p):
            run.begin_batch(kwargs.get("batch_number", 0))

    def process_before_every_sampling(self, p, *args, **kwargs):
        if run := run_of(p):
            run.begin_pass()

    def postprocess_batch(self, p, *args, **kwargs):
        if run := run_of(p):
            run.end_batch()

    def postprocess(self, p, processed, *args):
        if run := run_of(p):
            run.finish()
