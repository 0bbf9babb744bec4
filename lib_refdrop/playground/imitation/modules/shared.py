"""What every part of a web UI shares: the running job, options, command line and the loaded model."""

from typing import Any

from lib_refdrop.playground.host import OptionInfo, PlaygroundHost

host = PlaygroundHost()
state, opts, cmd_opts = host.state, host.opts, host.cmd_opts
sd_model: Any = None
__all__ = ["OptionInfo", "cmd_opts", "opts", "sd_model", "state"]
