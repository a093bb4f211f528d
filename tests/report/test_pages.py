"""Pages share a style, escape what they are told, and show clips that play."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from jinja2 import ChoiceLoader, DictLoader
from PIL import Image

from tests.contracts.decoder_suite import numbered_frames
from unreel.media import encode_image, write_video
from unreel.report import pages
from unreel.report.pages import Clip, clip_of, render_page


def strip(clip: Clip) -> Image.Image:
    kind, data = clip.picture.split(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_video_is_a_strip_of_frames_in_order_within_its_span(tmp_path: Path) -> None:
    grey = np.repeat(np.arange(0, 240, 6, dtype=np.uint8), 48 * 64 * 3).reshape(40, 48, 64, 3)
    file = write_video(tmp_path / "a.mp4", grey, fps=10)
    for span, low, high in ((None, 0, 240), ((2.0, 3.0), 120, 180)):
        found = clip_of(file, span)
        picture = np.asarray(strip(found).convert("L"), dtype=float)
        assert found.frames == 8
        means = picture.reshape(picture.shape[0], 8, -1).mean((0, 2))
        assert (np.diff(means) > 0).all()
        assert low - 4 <= means[0] <= means[-1] <= high + 4
        assert len(found.picture) < 40_000
    assert found.seconds == 1.0


def test_an_image_is_one_frame_and_a_broken_file_has_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_image(numbered_frames(1)[0]))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    assert clip_of(tmp_path / "a.png", title="cat").frames == 1
    broken = clip_of(tmp_path / "b.mp4")
    assert (broken.picture, broken.name) == ("", "b.mp4")


OWN = """{% extends "page.html.jinja" %}{% from "clips.html.jinja" import clips %}
{% block content %}{{ clips(found) }}{% endblock %}"""


def test_a_page_escapes_what_it_is_told_and_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = pages.templates().loader
    assert usual is not None
    environment = pages.templates().overlay(loader=ChoiceLoader([DictLoader({"own.jinja": OWN}), usual]))
    monkeypatch.setattr(pages, "templates", lambda folder: environment)
    hostile = Clip('"><script>alert(1)</script>.mp4', picture="data:image/webp;base64,", note="'\"><img>")
    page = render_page("own.jinja", title="<b>", found=[hostile])
    assert "<script>" not in page
    assert "<img>" not in page
    assert "&lt;b&gt;" in page
    assert "http" not in page


def test_a_picture_that_several_clips_show_is_in_the_page_once(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = pages.templates().loader
    assert usual is not None
    environment = pages.templates().overlay(loader=ChoiceLoader([DictLoader({"own.jinja": OWN}), usual]))
    monkeypatch.setattr(pages, "templates", lambda folder: environment)
    shown = [
        Clip(name, picture=f"data:image/webp;base64,{data}") for name, data in (("a", "AA"), ("b", "BB"), ("c", "AA"))
    ]
    page = render_page("own.jinja", title="t", found=shown)
    assert (page.count("base64,AA"), page.count("base64,BB")) == (1, 1)
    assert page.count("background-image: var(--picture-0)") == 2
