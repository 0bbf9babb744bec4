"""What a person does on the page: save a reference, use it, and read what went wrong."""

import pytest
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def fill(page: Page, name: str, value) -> None:
    """Types into a field of the page by its element id."""
    field = page.locator(f"#{name} textarea, #{name} input[type=number], #{name} input:not([type])").first
    field.fill(str(value))
    field.press("Tab")


def open_panel(page: Page) -> None:
    page.locator("#refdrop_txt2img > button").click()
    page.get_by_label("Enabled", exact=True).check()


def generate(page: Page) -> None:
    page.locator("#txt2img_generate").click()


def prepare(page: Page, prompt: str, seed: int) -> None:
    fill(page, "txt2img_prompt", prompt)
    fill(page, "txt2img_seed", seed)
    fill(page, "txt2img_steps", 4)


def test_save_a_reference_and_use_it(page, references):
    prepare(page, "a pirate arms up on grass", 3)
    open_panel(page)
    page.locator("#refdrop_txt2img_mode").get_by_label("Save").check()
    expect(page.locator("#refdrop_txt2img_size")).to_contain_text("A Save of 128×128 in 4 steps keeps about",
                                                                  timeout=60_000)
    fill_name(page, "hero")
    generate(page)
    status = page.locator("#refdrop_txt2img_status")
    expect(status).to_contain_text("Saved reference 'hero'", timeout=60_000)
    expect(page.locator("#txt2img_gallery img").first).to_be_visible()
    assert (references / "hero.safetensors").exists()

    page.locator("#refdrop_txt2img_mode").get_by_label("Use").check()
    prepare(page, "a pirate waving on snow", 4)
    generate(page)
    expect(status).to_contain_text("Guided by 'hero' at 0.3", timeout=60_000)
    expect(page.locator("#infotext_txt2img textarea")).to_have_value(containing("RefDrop reference: hero"))


def test_a_fault_is_one_sentence_where_the_user_looks(page):
    prepare(page, "a wizard arms up on sand", 3)
    open_panel(page)
    page.locator("#refdrop_txt2img_store").get_by_label("RAM").check()
    generate(page)
    for place in ("#refdrop_txt2img_status", "#html_log_txt2img"):
        expect(page.locator(place)).to_contain_text("There is no reference in memory yet", timeout=60_000)


def test_pictures_are_drawn_plain_while_the_panel_is_off(page):
    prepare(page, "a wizard arms up on sand", 3)
    generate(page)
    expect(page.locator("#txt2img_gallery img").first).to_be_visible(timeout=60_000)
    expect(page.locator("#infotext_txt2img textarea")).to_have_value(containing("Seed: 3"))
    assert "RefDrop RFG" not in page.locator("#infotext_txt2img textarea").input_value()


def fill_name(page: Page, name: str) -> None:
    field = page.locator("#refdrop_txt2img_reference input")
    field.fill(name)
    field.press("Enter")


def containing(text: str):
    import re
    return re.compile(".*" + re.escape(text) + ".*", re.DOTALL)
