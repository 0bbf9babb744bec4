"""What the playground's page has beside the panel, in a real browser."""

import re

import pytest
from playwright.sync_api import Page, expect

from .test_page import fill, generate, prepare

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_it_offers_prompts_and_says_which_words_the_model_knows(page: Page) -> None:
    expect(page.locator("#txt2img_words")).to_contain_text("pirate, nurse, wizard, king, chef, farmer")
    page.get_by_text("a wizard waving on snow").first.click()
    expect(page.locator("#txt2img_prompt textarea")).to_have_value("a wizard waving on snow")
    fill(page, "txt2img_prompt", "a red wizard")
    fill(page, "txt2img_steps", 1)
    generate(page)
    expect(page.locator("#html_log_txt2img")).to_contain_text("does not know red.", timeout=60_000)


def test_a_second_pass_from_the_page(page: Page) -> None:
    prepare(page, "a king arms up on grass", 3)
    page.locator("#txt2img_hr > button").click()
    page.locator("#txt2img_enable_hr").get_by_role("checkbox").check()
    generate(page)
    parameters = page.locator("#infotext_txt2img textarea")
    expect(parameters).to_have_value(re.compile("Hires upscaler: Latent"), timeout=60_000)


def test_a_picture_from_a_picture(page: Page, tmp_path) -> None:
    from PIL import Image

    picture = tmp_path / "before.png"
    Image.new("RGB", (128, 128), "white").save(picture)
    page.get_by_role("tab", name="From a picture").click()
    page.locator("#img2img_image input[type=file]").set_input_files(picture)
    fill(page, "img2img_prompt", "a king arms up on grass")
    fill(page, "img2img_steps", 2)
    expect(page.locator("#img2img_image img")).to_be_visible()
    page.locator("#img2img_generate").click()
    parameters = page.locator("#infotext_img2img textarea")
    expect(parameters).to_have_value(re.compile("Denoising strength: 0.75"), timeout=60_000)
    expect(page.locator("#img2img_gallery img").first).to_be_visible()


def test_an_idle_page_asks_for_nothing(page: Page) -> None:
    prepare(page, "a king arms up on grass", 3)
    generate(page)
    parameters = page.locator("#infotext_txt2img textarea")
    expect(parameters).to_have_value(re.compile("Seed: 3"), timeout=60_000)
    page.wait_for_timeout(2000)  # what follows a generation
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(5000)
    assert not [url for url in asked if "queue/join" in url or "/run/" in url], asked
