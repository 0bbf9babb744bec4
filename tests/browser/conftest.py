"""A page of the playground in a real browser. Skipped where no Chromium can be found or fetched."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Error as PlaywrightError

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update",
         "--disable-sync"]


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = _launch(playwright)
        yield browser
        browser.close()


def _launch(playwright) -> Browser:
    """The browser of ``REFDROP_BROWSER``, one on PATH, or playwright's own, which is fetched where it is missing."""
    given = os.environ.get("REFDROP_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if given:
        return playwright.chromium.launch(executable_path=given, args=QUIET)
    fetched = subprocess.run([sys.executable, "-m", "playwright", "install", "--only-shell", "chromium"],
                             capture_output=True, timeout=600)
    try:
        return playwright.chromium.launch(args=QUIET)
    except PlaywrightError:
        pytest.skip("there is no Chromium on PATH and playwright could not fetch one"
                    f" (status {fetched.returncode}); name one in REFDROP_BROWSER")


@pytest.fixture(scope="session")
def references(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("references")


@contextmanager
def listening(command: Callable[[int], list[str]], **environment: str) -> Iterator[str]:
    """The address of a program that is started with ``command(port)``, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(command(port), cwd=ROOT, env={**os.environ, **environment})
    url = f"http://127.0.0.1:{port}/"
    try:
        _await(url, server)
        yield url
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="session")
def address(references):
    """The playground's own command, listening."""
    with listening(lambda port: [sys.executable, "-m", "lib_refdrop.playground", "--port", str(port), "--refdrop-dir",
                                 str(references)], HF_HUB_OFFLINE="1") as url:
        yield url


def _await(url: str, server: subprocess.Popen, patience: float = 180) -> None:
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            if server.poll() is not None:
                raise RuntimeError(f"the playground ended with status {server.returncode}") from None
            time.sleep(0.5)
    raise RuntimeError(f"the playground did not answer at {url} within {patience:.0f} s")


@pytest.fixture
def page(browser, address):
    page = browser.new_page(viewport={"width": 1300, "height": 1500})
    page.set_default_timeout(60_000)
    page.goto(address)
    page.locator("#txt2img_prompt textarea").wait_for()
    yield page
    page.close()
