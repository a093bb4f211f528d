"""The page in a real browser: by keyboard alone, in both colour schemes, at the width of a phone."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
uvicorn = pytest.importorskip("uvicorn")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs an installed Chromium")]


@pytest.fixture(scope="module")
def address(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from unreel.data.manifest import Manifest
    from unreel.nn import create_encoder
    from unreel.protocols.compute import Compute
    from unreel.serve.app import HOST, create_app
    from unreel.serve.project import Project

    home = tmp_path_factory.mktemp("served")
    manifest = Manifest.open(tiny_world)
    for i in range(12):
        shutil.copy(manifest.absolute(i), home / (f"{i:02d}.mp4" if i else '"><img src=x onerror=alert(1)>.mp4'))
    project = Project(
        create_encoder("r3d_tiny", seed=1).eval(),
        home,
        out=tmp_path_factory.mktemp("labels"),
        compute=Compute(workers=0, progress=False),
    )
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    server: Any = uvicorn.Server(uvicorn.Config(create_app(project), host=HOST, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
    yield f"http://{HOST}:{port}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 400)])
def test_a_folder_is_labelled_trained_and_searched_by_keyboard_alone(
    browser: Any, address: str, scheme: Any, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
    page.goto(address)
    sync_api.expect(page.locator(".clip")).to_have_count(12)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for i in range(6):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("l")
        page.keyboard.type("ab"[i % 2])
        page.keyboard.press("Enter")
        sync_api.expect(page.locator(".clip").nth(i).locator(".tag:not(.guess)")).to_have_text("ab"[i % 2])
    page.keyboard.press("t")
    sync_api.expect(page.locator("#said")).to_contain_text("trained on 6 labels")
    sync_api.expect(page.locator(".tag.guess")).to_have_count(12)
    page.keyboard.press("s")
    sync_api.expect(page.locator("#said")).to_contain_text("most like 1")
    sync_api.expect(page.locator(".clip")).to_have_count(11)
    page.keyboard.press("u")  # the page of the other width begins without labels
    page.goto(address)
    sync_api.expect(page.locator(".tag")).to_have_count(5)
    for i in range(5):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("u")
        sync_api.expect(page.locator(".clip").nth(i).locator(".tag")).to_have_count(0)
    ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    assert ink != paper
    assert wrong == []
    page.close()
