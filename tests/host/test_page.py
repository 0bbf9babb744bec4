"""The panel in a real web UI's page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from .webui import SIZE, WebUI

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")

_LONG = 600_000  # milliseconds: on a CPU a picture takes a while
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def page(webui: WebUI) -> Iterator[sync_api.Page]:
    program = os.environ.get("REFDROP_BROWSER") or next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("there is no Chromium on PATH; name one in REFDROP_BROWSER")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(webui.url, wait_until="domcontentloaded", timeout=_LONG)
        page.locator("#txt2img_generate").wait_for(timeout=_LONG)
        for name, value in {"steps": 2, "width": SIZE, "height": SIZE, "seed": 11}.items():
            fill(page, f"txt2img_{name}", value)
        page.locator("#refdrop_txt2img .label-wrap").first.click()
        page.locator("#refdrop_txt2img_enabled input").check()
        yield page
        browser.close()


def fill(page: sync_api.Page, name: str, value) -> None:
    field = page.locator(f"#{name} textarea, #{name} input[type=number]").first
    field.fill(str(value))
    field.press("Tab")


def choose(page: sync_api.Page, name: str, value: str) -> None:
    page.locator(f"#refdrop_txt2img_{name} label").filter(has_text=value).locator("input").check()


def name_reference(page: sync_api.Page, value: str) -> None:
    field = page.locator("#refdrop_txt2img_reference input").first
    field.fill(value)
    field.press("Enter")


def says(page: sync_api.Page, sentence: str) -> None:
    """Generates, and waits for a sentence both in the panel and under the pictures."""
    page.locator("#txt2img_generate").click()
    for place in ("#refdrop_txt2img_status", "#html_log_txt2img"):
        sync_api.expect(page.locator(place).first).to_contain_text(sentence, timeout=_LONG)


def test_save_then_use(page, webui: WebUI) -> None:
    fill(page, "txt2img_prompt", "a pirate arms up on grass")
    choose(page, "mode", "Save")
    size = page.locator("#refdrop_txt2img_size").first
    sync_api.expect(size).to_contain_text(f"A Save of {SIZE}×{SIZE} in 2 steps keeps about", timeout=_LONG)
    name_reference(page, "from the page")
    says(page, "Saved reference 'from the page'")
    assert (webui.references / "from the page.safetensors").exists()
    choose(page, "mode", "Use")
    fill(page, "txt2img_prompt", "a nurse waving on snow")
    says(page, "Guided by 'from the page' at 0.3")
    sync_api.expect(page.locator("#html_info_txt2img").first).to_contain_text("RefDrop RFG: 0.3")


def test_what_went_wrong_is_shown(page) -> None:
    name_reference(page, "nobody")
    says(page, "There is no reference 'nobody'")


def test_pasted_parameters_fill_the_panel(page) -> None:
    fill(page, "txt2img_prompt", "a king on sand\nSteps: 2, Sampler: Euler, CFG scale: 6, Seed: 4, Size: 128x128, "
         "RefDrop RFG: 0.45, RefDrop mode: Use, RefDrop input layers: False, RefDrop store: RAM, "
         "RefDrop reference: somebody")
    page.locator("#paste").first.click()
    expect = sync_api.expect
    expect(page.locator("#refdrop_txt2img_rfg input[type=number]")).to_have_value("0.45")
    expect(page.locator("#refdrop_txt2img_reference input").first).to_have_value("somebody")
    expect(page.locator("#refdrop_txt2img_layer_input input")).not_to_be_checked()
    expect(page.locator("#refdrop_txt2img_layer_middle input")).to_be_checked()
    expect(page.locator("#refdrop_txt2img_store label").filter(has_text="RAM").locator("input")).to_be_checked()
