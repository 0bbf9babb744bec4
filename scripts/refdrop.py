"""RefDrop's always-on script, as web UIs load it. The work is in lib_refdrop."""

from lib_refdrop.webui.script import web_ui_script

RefDropScript = web_ui_script()
