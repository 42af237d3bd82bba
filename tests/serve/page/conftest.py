from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.serve.process import Service

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")  # Playwright keeps an event loop running on this thread, which other tests cannot have
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the page's tests take Playwright")
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("there is no browser: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, service: Service, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, open; fails where it writes an error to the console, or asks another host for anything."""
    context = browser.new_context(**getattr(request, "param", {}), accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    ours = (service.url, "blob:")
    page.on("request", lambda each: None if each.url.startswith(ours) else complaints.append(each.url))
    page.goto(service.url)
    page.wait_for_selector("[data-sample]")
    page.complaints = complaints
    yield page
    assert complaints == []
    context.close()
