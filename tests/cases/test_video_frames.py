"""Videos whose packets are not their pictures: what a user sees of joined, cut, raw and many-tracked files."""

from __future__ import annotations

import shlex
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.contracts.decoder_suite import numbered_frames

from unreel.cli.main import main
from unreel.core.errors import DataError
from unreel.data.dataset import ClipDataset
from unreel.data.index import index_command
from unreel.data.loader import ClipLoader
from unreel.data.manifest import Manifest
from unreel.data.sampling import PairSampler
from unreel.media import MediaError, PyAVDecoder, probe, read_clip, write_video
from unreel.views.presets import view_plan


def _numbers(pixels: NDArray[np.uint8]) -> list[int]:
    """The number drawn as eight blocks, most significant first, in the top half of the shared pictures."""
    height, width = pixels.shape[1:3]
    row = pixels[:, height // 8 : height // 4].mean(axis=(1, 3))
    blocks = row.reshape(len(pixels), 8, width // 8)[:, :, 3:-3].mean(axis=2) > 127
    return [int(v) for v in blocks @ (1 << np.arange(7, -1, -1))]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("two_recordings_in_one_stream/h264_reset.ts", [*range(25), *range(100, 125)]),
        ("raw_streams/raw_nob.h264", [*range(25)]),
        ("more_packets_than_pictures/mid.mkv", [*range(20, 60)]),
        ("more_packets_than_pictures/og_seg.ts", [*range(20, 60)]),
        ("second_track_is_default/two.mov", [*range(100, 125)]),
    ],
)
def test_shared_cases(shared_cases: Path, name: str, numbers: list[int]) -> None:
    path = shared_cases / name
    frames = read_clip(path)
    assert _numbers(frames.pixels) == numbers
    assert np.all(np.diff(frames.times_s) > 0)
    np.testing.assert_allclose(np.diff(frames.times_s), 0.04, atol=1e-3)
    one_by_one = [read_clip(path, indices=[i]).pixels[0] for i in range(len(numbers))]
    np.testing.assert_array_equal(one_by_one, frames.pixels)


def test_index_and_training_agree_on_shared_cases(shared_cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the index calls readable is read, to the last frame."""
    assert main(["data", "index", str(shared_cases / "more_packets_than_pictures")]) == 0
    assert "unreadable" not in capsys.readouterr().out
    for path in (shared_cases / "more_packets_than_pictures").glob("*.*"):
        assert len(read_clip(path).pixels) == probe(path).num_frames


def test_sound_with_a_cover_picture_is_no_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as output:
        sound = output.add_stream("aac", rate=8000, layout="mono")
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        output.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        output.mux(cover.encode(None))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        output.mux(sound.encode(samples))
        output.mux(sound.encode(None))
    with pytest.raises(MediaError, match=r"no video stream \(streams found: audio, a cover picture\)"):
        PyAVDecoder().probe(path)
    main(["data", "index", str(path.parent)])
    captured = capsys.readouterr()
    assert "a cover picture" in captured.out + captured.err


@pytest.fixture
def damaged_folder(tmp_path: Path) -> Path:
    """A good video, and one with a group that is torn: its packets are listed, and give no picture."""
    folder = tmp_path / "clips of two"
    folder.mkdir()
    good = write_video(folder / "good.mkv", numbered_frames(24), 24, gop=6, options={"bf": "0"})
    content = bytearray(good.read_bytes())
    with av.open(str(good)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    for packet in packets[13:18]:
        at = content.find(packet)
        content[at + 5 : at + len(packet)] = bytes(len(packet) - 5)  # a length, the kind of unit, then nothing
    (folder / "torn.mkv").write_bytes(content)
    return folder


def test_index_finds_damage_in_the_middle(damaged_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What training calls unreadable is listed: by --decode, not by a look at the packets alone."""
    with pytest.raises(MediaError, match="cannot be decoded"):
        read_clip(damaged_folder / "torn.mkv")
    assert main(["data", "index", str(damaged_folder)]) == 0
    assert "torn.mkv" not in capsys.readouterr().out
    assert main(["data", "index", str(damaged_folder), "--decode"]) == 0
    out = capsys.readouterr().out
    assert "torn.mkv" in out
    assert "cannot be decoded" in out
    assert "good.mkv" not in out


def test_a_run_that_stops_names_the_command(damaged_folder: Path) -> None:
    manifest = Manifest.open(damaged_folder)
    command = shlex.split(index_command(manifest))
    assert command[:3] == ["unreel", "data", "index"]
    assert main(command[1:]) == 0
    dataset = ClipDataset(manifest, PairSampler(24, 1), view_plan("none", size=16))
    loader = ClipLoader(dataset, 2, max_fault_share=0.01)
    with pytest.raises(DataError) as caught:
        for _ in loader.iterate(0, 60):
            pass
    assert index_command(manifest) in str(caught.value)
