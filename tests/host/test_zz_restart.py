"""A reference on disk outlives the web UI. Last, for it starts the web UI anew."""

from __future__ import annotations

from .webui import TARGET, Made, WebUI


def test_a_reference_serves_after_a_restart(webui: WebUI, without: dict[str, Made]) -> None:
    before = webui.use("hero")
    webui.stop()
    webui.start()
    assert webui.use("hero").hashes == before.hashes
    assert webui.draw(**TARGET).hashes == without["euler"].hashes
