"""Starts the playground and opens it in the browser."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import webbrowser
from pathlib import Path

HOST, FIRST_PORT, PORTS = "127.0.0.1", 7870, 20
_PATIENCE = 180.0  # seconds the model may take to load


def open_playground(model: Path, references: Path) -> int:
    """Serves the playground until Ctrl+C; its exit status."""
    from lib_refdrop.playground.__main__ import main
    port = free_port()
    if _has_screen():
        threading.Thread(target=_open_when_there, args=(port,), daemon=True).start()
    return main(["--model", str(model), "--refdrop-dir", str(references), "--host", HOST, "--port", str(port)])


def free_port() -> int:
    """The first port nothing listens at; the very first where all are taken, for the playground to say so."""
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket() as trial:
            if trial.connect_ex((HOST, port)):
                return port
    return FIRST_PORT


def _has_screen() -> bool:
    """Whether a browser has a window to open in; without one it would be a text browser, in this very terminal."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open_when_there(port: int) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        with socket.socket() as trial:
            if not trial.connect_ex((HOST, port)):
                webbrowser.open(f"http://{HOST}:{port}/")
                return
        time.sleep(0.5)
