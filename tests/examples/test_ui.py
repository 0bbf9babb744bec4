"""The playground gets a port of its own, and no browser where there is no screen."""

from __future__ import annotations

import socket

import pytest
from demo import ui


def test_a_port_that_is_taken_is_passed_over(monkeypatch):
    with socket.socket() as other:
        other.bind((ui.HOST, 0))
        other.listen()
        monkeypatch.setattr(ui, "FIRST_PORT", other.getsockname()[1])
        port = ui.free_port()
        assert port > ui.FIRST_PORT
    with socket.socket() as mine:
        mine.bind((ui.HOST, port))


@pytest.mark.parametrize("platform, variables, screen", (
    ("linux", {}, False), ("linux", {"DISPLAY": ":0"}, True), ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
    ("win32", {}, True), ("darwin", {}, True)))
def test_a_browser_needs_a_screen(monkeypatch, platform, variables, screen):
    monkeypatch.setattr(ui.sys, "platform", platform)
    monkeypatch.setattr(ui.os, "environ", variables)
    assert ui._has_screen() is screen
