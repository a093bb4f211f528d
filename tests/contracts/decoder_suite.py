"""The conformance suite of decoders: subclass ``DecoderSuite``, give it a ``case``, and every promise is tested.

The videos carry their frame number as a row of black and white blocks, which survives any codec.
"""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from unreel.core.errors import UsageError
from unreel.media import Decoder, MediaError, MissingFileError, TooShortError, VideoInfo

BITS = 8
BLOCK = 8


def numbered_frames(count: int, *, height: int = 32, width: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """(count, height, width, 3) uint8: frame i shows i in binary on top, over a moving texture."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(40, 216, (height // 4, width // 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    frames = np.stack([np.roll(texture, 3 * i, axis=1) for i in range(count)])
    for i in range(count):
        for bit in range(BITS):
            frames[i, :BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (i >> bit & 1)
    return frames


def read_numbers(pixels: NDArray[np.uint8]) -> list[int]:
    """The numbers that ``numbered_frames`` drew."""
    inner = slice(2, BLOCK - 2)
    blocks = pixels[:, inner, : BITS * BLOCK].reshape(len(pixels), BLOCK - 4, BITS, BLOCK, 3)[:, :, :, inner]
    return [int(sum(1 << b for b in range(BITS) if frame[:, b].mean() > 127)) for frame in blocks]


def plain_decode(path: Path) -> dict[int, NDArray[np.uint8]]:
    """Every frame of a video by presentation tick, from the simplest possible loop."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        return {f.pts: f.to_ndarray(format="rgb24") for f in container.decode(stream)}


def plain_frames(path: Path) -> NDArray[np.uint8]:
    """What the decoder puts out for the shown track, in its order, from the simplest possible loop."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        frames = []
        for packet in container.demux(stream):
            with contextlib.suppress(av.error.InvalidDataError):  # a picture that lacks its references
                frames += stream.codec_context.decode(packet) if packet.size else []
        frames += stream.codec_context.decode(None)
        return np.stack([f.to_ndarray(format="rgb24") for f in frames])


class DecoderCase(NamedTuple):
    """A decoder, a file of ``count`` numbered frames it must read, and the times it must give (seconds)."""

    decoder: Decoder
    path: Path
    count: int
    times_s: NDArray[np.float64] | None = None
    exact: bool = True  # compare with ``plain_frames``


class DecoderSuite:
    """Promises of ``unreel.media.decoder.Decoder``. Subclasses define a fixture ``case -> DecoderCase``."""

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls) -> DecoderCase:
        raise NotImplementedError

    def test_is_a_decoder(self, case: DecoderCase) -> None:
        assert isinstance(case.decoder, Decoder)
        assert case.decoder.name

    def test_probe_counts_frames_without_reading_them(self, case: DecoderCase) -> None:
        info = case.decoder.probe(case.path)
        assert isinstance(info, VideoInfo)
        assert info.num_frames == case.count
        times = case.decoder.frame_times(case.path)
        assert times.shape == (case.count,)
        assert times.dtype == np.float64
        assert np.all(np.diff(times) > 0)
        assert info.start_s == pytest.approx(times[0])
        if case.times_s is not None:
            np.testing.assert_allclose(times, case.times_s, atol=1e-3)

    def test_every_frame_is_the_frame_of_its_number(self, case: DecoderCase) -> None:
        frames = case.decoder.read(case.path, indices=np.arange(case.count))
        info = case.decoder.probe(case.path)
        assert frames.pixels.shape == (case.count, info.height, info.width, 3)
        assert frames.pixels.dtype == np.uint8
        assert read_numbers(frames.pixels) == list(range(case.count))
        np.testing.assert_array_equal(frames.times_s, case.decoder.frame_times(case.path))

    def test_same_pixels_as_a_plain_full_decode(self, case: DecoderCase) -> None:
        if not case.exact:
            pytest.skip("there is no plain decode of this kind of file")
        reference = plain_frames(case.path)
        rng = np.random.default_rng(3)
        for size in (1, 2, 5, case.count):
            wanted = rng.choice(case.count, min(size, case.count), replace=False)
            read = case.decoder.read(case.path, indices=wanted)
            np.testing.assert_array_equal(read.pixels, reference[wanted])

    @settings(
        max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
    )
    @given(data=st.data())
    def test_any_order_and_repeats(self, case: DecoderCase, data: st.DataObject) -> None:
        wanted = data.draw(st.lists(st.integers(0, case.count - 1), max_size=12))
        frames = case.decoder.read(case.path, indices=np.array(wanted, dtype=np.int64))
        assert read_numbers(frames.pixels) == wanted
        assert len(frames.times_s) == len(wanted)

    @settings(
        max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
    )
    @given(data=st.data())
    def test_a_time_gives_the_frame_on_screen(self, case: DecoderCase, data: st.DataObject) -> None:
        info = case.decoder.probe(case.path)
        times = case.decoder.frame_times(case.path)
        ends = np.append(times[1:], info.start_s + max(info.duration_s, 1e-3))
        rows = data.draw(st.lists(st.integers(0, case.count - 1), min_size=1, max_size=6))
        share = data.draw(st.lists(st.floats(0, 0.95), min_size=len(rows), max_size=len(rows)))
        asked = np.array([times[i] + s * (ends[i] - times[i]) for i, s in zip(rows, share, strict=True)])
        by_time = case.decoder.read(case.path, times_s=asked)
        by_index = case.decoder.read(case.path, indices=np.array(rows))
        np.testing.assert_array_equal(by_time.pixels, by_index.pixels)
        np.testing.assert_array_equal(by_time.times_s, times[rows])

    def test_outside_is_too_short(self, case: DecoderCase) -> None:
        info = case.decoder.probe(case.path)
        for index in (-1, case.count, case.count + 100):
            with pytest.raises(TooShortError, match=str(index)):
                case.decoder.read(case.path, indices=np.array([0, index]))
        with pytest.raises(TooShortError):
            case.decoder.read(case.path, times_s=np.array([info.start_s - 0.5]))
        if info.fps:  # an image stays on screen
            with pytest.raises(TooShortError):
                case.decoder.read(case.path, times_s=np.array([info.start_s + info.duration_s + 0.01]))
        with pytest.raises(TooShortError):
            case.decoder.read(case.path, times_s=np.array([np.nan]))

    def test_exactly_one_address(self, case: DecoderCase) -> None:
        with pytest.raises(UsageError):
            case.decoder.read(case.path)
        with pytest.raises(UsageError):
            case.decoder.read(case.path, indices=np.array([0]), times_s=np.array([0.0]))

    def test_missing_file(self, case: DecoderCase, tmp_path: Path) -> None:
        absent = tmp_path / f"absent{case.path.suffix}"
        for call in (case.decoder.probe, case.decoder.frame_times):
            with pytest.raises(MissingFileError, match="absent"):
                call(absent)
        with pytest.raises(MissingFileError):
            case.decoder.read(absent, indices=np.array([0]))

    def test_not_a_media_file(self, case: DecoderCase, tmp_path: Path) -> None:
        for name, content in (("text", b"once upon a time\n" * 40), ("empty", b""), ("zeros", bytes(5000))):
            broken = tmp_path / f"{name}{case.path.suffix}"
            broken.write_bytes(content)
            with pytest.raises(MediaError, match=name) as caught:
                case.decoder.read(broken, indices=np.array([0]))
            assert caught.value.path == str(broken)
            copy = pickle.loads(pickle.dumps(caught.value))
            assert (type(copy), str(copy), copy.path) == (type(caught.value), str(caught.value), str(broken))

    def test_pickles(self, case: DecoderCase) -> None:
        copy = pickle.loads(pickle.dumps(case.decoder))
        assert copy == case.decoder
        assert copy.probe(case.path) == case.decoder.probe(case.path)
