"""The report in a real browser: points of the map by keyboard, in both colour schemes, at the width of a phone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unreel.media import encode_image
from unreel.nn import create_encoder
from unreel.nn.weights import save_encoder
from unreel.report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs an installed Chromium")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("report")
    for number in range(13):
        noise = np.random.default_rng(number).integers(0, 255, (24, 32, 3)).astype(np.uint8)
        name = f"{number:02d}.png" if number else '"><img src=x onerror=alert(1)>.png'
        (home / "pictures").mkdir(exist_ok=True)
        (home / "pictures" / name).write_bytes(encode_image(noise))
    (home / "run").mkdir()
    (home / "run" / "config.yaml").write_text("method:\n  name: simclr\n")
    save_encoder(create_encoder("r3d_tiny", seed=1), home / "run" / "encoder.safetensors")
    return write_report(home / "run", data=home / "pictures", workers=0, progress=False)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 400)])
def test_points_show_their_pictures_by_keyboard_alone(report: Path, scheme: Any, width: int) -> None:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
        page.goto(report.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sync_api.expect(page.locator(".point")).to_have_count(13)
        sync_api.expect(page.locator(".point .card >> visible=true")).to_have_count(0)
        page.get_by_text("Skip the map").focus()
        page.keyboard.press("Tab")
        card = page.locator(".point:focus .card")
        sync_api.expect(card).to_be_visible()
        box = card.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
        assert ink != paper
        sync_api.expect(page.locator("details[open]")).to_have_count(0)  # settings are folded away
        assert wrong == []
        browser.close()
