"""The panel alone on a page, on the gradio of any web UI: ``REFDROP_GRADIO`` names a Python that has it, this one if
none.

The faults these are there for show on gradio 4.40, the version of Forge and Forge Neo.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from .bare_panel import REFERENCE
from .conftest import listening

pytestmark = [pytest.mark.browser, pytest.mark.slow]
IDLE = 10_000  # milliseconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("library")
    for number in range(3):
        shutil.copy(REFERENCE, made / f"old {number}.safetensors")
    return made


@pytest.fixture(scope="module")
def panel_address(folder):
    program = os.environ.get("REFDROP_GRADIO") or sys.executable
    with listening(lambda port: [program, str(Path(__file__).with_name("bare_panel.py")), str(port), str(folder)],
                   GRADIO_ANALYTICS_ENABLED="False") as url:
        yield url


@pytest.fixture
def panel(browser, panel_address):
    page = browser.new_page(viewport={"width": 1300, "height": 1500})
    page.set_default_timeout(60_000)
    page.asked = asked(page)
    load(page, panel_address)
    yield page
    page.close()


def asked(page: Page) -> list[str]:
    """What the page asks its server to compute, from now on: requests, and in older gradio a socket each."""
    found: list[str] = []
    page.on("request",
            lambda request: found.append(request.url) if "/queue/join" in request.url or "/run/" in request.url
            or "/api/" in request.url else None)
    page.on("websocket", lambda socket: found.append(socket.url))
    return found


def load(page: Page, address: str) -> None:
    page.goto(address)
    for tab in ("txt2img", "img2img"):
        open_tab(page, tab)
        page.locator(f"#refdrop_{tab} .label-wrap, #refdrop_{tab} > button").first.click()
    open_tab(page, "txt2img")


def open_tab(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab).or_(page.locator(".tab-nav button", has_text=tab)).first.click()


def status(page: Page, tab: str = "txt2img"):
    return page.locator(f"#refdrop_{tab}_status").first


def reference(page: Page, tab: str = "txt2img"):
    return page.locator(f"#refdrop_{tab}_reference input").first


def test_an_idle_page_asks_for_nothing_and_can_be_read(panel) -> None:
    expect(status(panel)).to_contain_text("references on disk")
    panel.wait_for_timeout(3000)
    panel.asked.clear()
    panel.wait_for_timeout(IDLE)
    assert panel.asked == []
    faint = ("e => [e, ...e.querySelectorAll('p'), e.querySelector('p').parentElement]"
             ".map(x => +getComputedStyle(x).opacity)")
    assert min(status(panel).evaluate(faint)) == 1


def test_one_generation_is_told_of_once(panel) -> None:
    panel.wait_for_timeout(3000)
    panel.asked.clear()
    panel.locator("#txt2img_generate").click()
    expect(status(panel)).to_contain_text("Saved reference 'hero-2'")
    panel.wait_for_timeout(3000)
    assert len(panel.asked) == 3  # the generation, and the line with the list, in both tabs
    open_tab(panel, "img2img")
    expect(status(panel, "img2img")).to_contain_text("Saved reference 'hero-2'")
    reference(panel, "img2img").click()
    expect(panel.get_by_role("option", name="hero-2").or_(
        panel.locator("#refdrop_img2img_reference li", has_text="hero-2")).first).to_be_visible()


def test_the_list_is_right_when_a_page_is_loaded_in_both_tabs(panel, panel_address, folder) -> None:
    shutil.copy(REFERENCE, folder / "late.safetensors")  # another program's, after this one was started
    load(panel, panel_address)
    count = len(list(folder.glob("*.safetensors")))
    for tab in ("txt2img", "img2img"):
        open_tab(panel, tab)
        expect(status(panel, tab)).to_contain_text(f"{count} references on disk")
        expect(reference(panel, tab)).to_have_value("")  # of the many, none is chosen: the newest will be used
        reference(panel, tab).click()
        expect(panel.get_by_role("option", name="late").or_(
            panel.locator(f"#refdrop_{tab}_reference li", has_text="late")).first).to_be_visible()
        panel.keyboard.press("Escape")


def test_the_field_follows_a_save_that_was_given_a_number(panel) -> None:
    reference(panel).fill("old 0")
    reference(panel).press("Enter")
    panel.wait_for_timeout(500)
    panel.locator("#txt2img_generate").click()
    expect(status(panel)).to_contain_text("Saved reference 'old 0-2'")
    expect(reference(panel)).to_have_value("old 0-2")

    reference(panel).fill("")
    reference(panel).press("Tab")  # Enter would choose the first of the list
    panel.wait_for_timeout(500)
    panel.locator("#txt2img_generate").click()
    expect(status(panel)).to_contain_text("Saved reference 'hero-2'")
    panel.wait_for_timeout(2000)
    expect(reference(panel)).to_have_value("")  # a name was made for it: the next has other words


def test_help_stands_beside_its_box(panel) -> None:
    box = panel.locator("#refdrop_txt2img_enabled input").first.bounding_box()
    words = panel.get_by_text("Off leaves every image exactly").first.bounding_box()
    assert words["x"] > box["x"] + box["width"] and words["y"] < box["y"] + box["height"] < words["y"] + 40


def test_refresh_is_a_small_button_beside_the_name(panel) -> None:
    button, field = (panel.locator(f"#refdrop_txt2img_{name}").first.bounding_box()
                     for name in ("refresh", "reference"))
    assert button["width"] <= 48 and button["height"] <= 48 and button["x"] >= field["x"] + field["width"]
    assert abs(button["y"] + button["height"] / 2 - field["y"] - field["height"] / 2) < field["height"]


def test_further_references_are_chosen_in_rows_or_written(panel) -> None:
    panel.locator("#refdrop_txt2img_further .label-wrap, #refdrop_txt2img_further > button").first.click()
    text = panel.locator("#refdrop_txt2img_references textarea, #refdrop_txt2img_references input").first
    row = panel.locator("#refdrop_txt2img_further_1 input").first
    strength = panel.locator("#refdrop_txt2img_further_1_rfg input[type=number]").first
    together = panel.locator("#refdrop_txt2img_sum").first
    row.fill("old 1")
    row.press("Enter")
    expect(text).to_have_value("old 1: 0.3")
    expect(together).to_contain_text("Together 0.6")
    strength.fill("-0.2")
    strength.press("Tab")
    expect(text).to_have_value("old 1: -0.2")
    text.fill("old 2: 0.9; old 0: -0.1")
    text.press("Tab")
    expect(row).to_have_value("old 2")
    expect(strength).to_have_value("0.9")
    expect(panel.locator("#refdrop_txt2img_further_2 input").first).to_have_value("old 0")
    expect(together).to_contain_text("add up to 1.1")
    panel.wait_for_timeout(2000)
    panel.asked.clear()
    panel.wait_for_timeout(3000)
    assert panel.asked == []  # what one says the other does not say again


def test_the_map_follows_the_expression_and_asks_no_more_than_that(panel) -> None:
    panel.locator("#refdrop_txt2img_more .label-wrap, #refdrop_txt2img_more > button").first.click()
    shown, field = panel.locator("#refdrop_txt2img_map").first, panel.locator("#refdrop_txt2img_layers input").first
    expect(shown.locator("svg")).to_have_attribute("aria-label", re.compile("input.1, .*output.11: 0.3"))
    assert shown.locator("svg").bounding_box()["height"] > 100
    field.fill("middle=0; 0.2-0.8")
    field.press("Enter")
    expect(shown.locator("svg")).to_have_attribute("aria-label", re.compile("middle.0: 0.*0.3 from 20% to 80%|"
                                                                            "0.3 from 20% to 80%.*middle.0: 0"))
    field.fill("midle=0")
    field.press("Enter")
    expect(shown).to_contain_text("'midle=0' in the layers' expression is not understood")
    expect(shown.locator("svg")).to_have_count(0)
    panel.wait_for_timeout(2000)
    panel.asked.clear()
    panel.wait_for_timeout(3000)
    assert panel.asked == []
