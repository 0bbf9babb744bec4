"""Tests on a real web UI: named by ``REFDROP_WEBUI`` and ``REFDROP_CKPT``, see webui.py; skipped without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .webui import TARGET, Made, WebUI

HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "hr_second_pass_steps": 2,
         "denoising_strength": 0.6, "steps": 2}
# Requests whose pictures are first made by the web UI without the extension.
PLAIN = {"euler": {}, "heun": {"sampler_name": "Heun", "steps": 2}, "hires": HIRES,
         "batch": {"batch_size": 2, "steps": 2},
         "sde": {"sampler_name": "DPM++ SDE", "scheduler": "Karras", "steps": 2}}


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.host)


@pytest.fixture(scope="session")
def installation(tmp_path_factory) -> WebUI:
    if not os.environ.get("REFDROP_WEBUI") or not os.environ.get("REFDROP_CKPT"):
        pytest.skip("REFDROP_WEBUI and REFDROP_CKPT name no web UI to test in")
    folder = tmp_path_factory.mktemp("webui")
    return WebUI(folder / "references", folder / "log.txt")


@pytest.fixture(scope="session")
def without(installation: WebUI) -> dict[str, Made]:
    """Pictures by the web UI alone, before the extension was ever there."""
    installation.start(extension=False)
    try:
        return {name: installation.draw(**{**TARGET, **payload}) for name, payload in PLAIN.items()}
    finally:
        installation.stop()


@pytest.fixture(scope="session")
def webui(installation: WebUI, without: dict[str, Made]) -> Iterator[WebUI]:
    """The same web UI with the extension, and a reference named "hero" of one picture."""
    installation.start()
    try:
        installation.save("hero")
        yield installation
    finally:
        installation.stop()


def pytest_runtest_makereport(item, call) -> None:
    if call.when == "call" and call.excinfo and "webui" in item.funcargs:
        item.add_report_section("call", "web UI's log", item.funcargs["webui"].log()[-4000:])
