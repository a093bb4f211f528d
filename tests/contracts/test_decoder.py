"""Every decoder keeps the promises of the contract, on every kind of file whose frames are hard to address."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.contracts.decoder_suite import DecoderCase, DecoderSuite, numbered_frames
from unreel.media import FrameFolderDecoder, ImageDecoder, PyAVDecoder, has_encoder, write_video

COUNT = 40
FPS = 25.0


class Kind(NamedTuple):
    """How a numbered file is made."""

    suffix: str
    options: dict[str, Any]
    fps: float = FPS


VFR = np.cumsum(np.random.default_rng(5).uniform(0.02, 0.2, COUNT))

B3 = {"bf": "3", "b_strategy": "0"}  # three b-frames in a row, whatever the picture
OPEN = {**B3, "x264-params": "open-gop=1"}
ALTREF = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "5"}

KINDS = {
    "h264": Kind(".mp4", {}),
    "h264 long group": Kind(".mp4", {"gop": 250, "options": {**B3, "b-pyramid": "normal"}}),
    "h264 open groups": Kind(".mp4", {"gop": 10, "options": OPEN}),
    "h264 in mkv": Kind(".mkv", {"options": B3}),
    "h264 transport stream": Kind(".ts", {"options": B3}),
    "h264 open groups in a transport stream": Kind(".ts", {"gop": 10, "options": OPEN}),
    "h264 without times (avi)": Kind(".avi", {"options": B3}),
    "h264 variable rate": Kind(".mp4", {"times_s": VFR}),
    "h264 late start": Kind(".mp4", {"times_s": 7.31 + np.arange(COUNT) / FPS}),
    "ntsc rate": Kind(".mp4", {}, 30000 / 1001),
    "hevc": Kind(".mp4", {"codec": "libx265", "gop": 250, "options": {"bf": "4"}}),
    "mpeg4": Kind(".avi", {"codec": "mpeg4"}),
    "mpeg4 with b-frames in avi": Kind(".avi", {"codec": "mpeg4", "options": {"bf": "2", "qscale": "3"}}),
    "mpeg2": Kind(".mpg", {"codec": "mpeg2video", "options": {"bf": "2", "qscale": "3"}}),
    "vp8": Kind(".webm", {"codec": "libvpx", "options": ALTREF}),
    "vp9": Kind(".webm", {"codec": "libvpx-vp9", "options": ALTREF}),
    "ffv1": Kind(".mkv", {"codec": "ffv1"}),
    "mjpeg": Kind(".avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
    "gif": Kind(".gif", {"codec": "gif", "pixel_format": "rgb8"}),
}


class TestPyAVDecoder(DecoderSuite):
    @pytest.fixture(scope="class", params=list(KINDS), ids=lambda name: name.replace(" ", "-"))
    @classmethod
    def case(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DecoderCase:
        kind = KINDS[request.param]
        codec = kind.options.get("codec", "libx264")
        if not has_encoder(codec):
            pytest.skip(f"this PyAV has no {codec} encoder")
        path = tmp_path_factory.mktemp("decoder") / f"video{kind.suffix}"
        write_video(path, numbered_frames(COUNT), kind.fps, **kind.options)
        times = kind.options.get("times_s")
        if times is None and kind.suffix in (".mp4", ".mkv", ".webm", ".gif"):
            times = np.arange(COUNT) / kind.fps
        return DecoderCase(PyAVDecoder(), path, COUNT, times)

    def test_no_good_file_is_decoded_from_the_start(self, case: DecoderCase, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object) -> None:
            raise AssertionError("the plain pass was needed")

        monkeypatch.setattr("unreel.media.video._read_in_order", refuse)
        for index in range(COUNT):
            case.decoder.read(case.path, indices=np.array([index]))


class TestImageDecoder(DecoderSuite):
    @pytest.fixture(scope="class", params=["png", "jpg", "bmp"])
    @classmethod
    def case(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DecoderCase:
        path = tmp_path_factory.mktemp("image") / f"100%d.{request.param}"
        write_image(path, numbered_frames(1)[0])
        return DecoderCase(ImageDecoder(), path, 1, np.zeros(1), exact=False)


class TestFrameFolderDecoder(DecoderSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, tmp_path_factory: pytest.TempPathFactory) -> DecoderCase:
        folder = tmp_path_factory.mktemp("frames")
        for i, frame in enumerate(numbered_frames(12)):
            write_image(folder / f"frame{i}.png", frame)  # frame10 sorts before frame2 as text
        (folder / "notes.txt").write_text("not a frame")
        return DecoderCase(FrameFolderDecoder(fps=10.0), folder, 12, np.arange(12) / 10, exact=False)

    def test_not_a_media_file(self, case: DecoderCase, tmp_path: Path) -> None:
        pytest.skip("a folder is no file; its images are the image decoder's business")


def write_image(path: Path, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)
