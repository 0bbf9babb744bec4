"""Always-on scripts."""

from lib_refdrop.playground.scripts import AlwaysVisible, PostprocessImageArgs, Script, basedir

__all__ = ["AlwaysVisible", "PostprocessImageArgs", "Script", "basedir"]
