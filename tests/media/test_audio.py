"""Sound comes out at its presentation time: whatever the container's clock, the codec's delay and the track's start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.media.sounds import KINDS, TONE_HZ, click, tone, write_sound
from unreel.core.errors import UsageError
from unreel.media import (
    AudioDecoder,
    MissingFileError,
    NoStreamError,
    TooShortError,
    UnreadableError,
    has_encoder,
    probe,
    write_video,
)
from unreel.media import audio as audio_module

AAC, WAV = KINDS["aac in mp4"], KINDS["wav"]


def span(decoder: AudioDecoder, start_s: float, stop_s: float) -> np.ndarray:
    return np.arange(round(start_s * decoder.rate_hz), round(stop_s * decoder.rate_hz)) / decoder.rate_hz


def peak_s(decoder: AudioDecoder, path: Path, start_s: float, stop_s: float) -> float:
    """When the loudest sample of a stretch is shown, between samples by the parabola through its neighbours."""
    found = decoder.read(path, times_s=span(decoder, start_s, stop_s))
    level = np.abs(found.samples)
    at = int(level.argmax())
    left, top, right = np.log(np.maximum(level[at - 1 : at + 2], 1e-6))
    assert level[at] > 0.4
    return float(found.times_s[at] + 0.5 * (left - right) / (left - 2 * top + right) / decoder.rate_hz)


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
@pytest.mark.parametrize("name", KINDS)
def test_a_click_comes_out_at_its_time(name: str, rate_hz: int, tmp_path: Path) -> None:
    kind = KINDS[name]
    if not has_encoder(kind.codec):
        pytest.skip(f"this PyAV has no {kind.codec} encoder")
    path = write_sound(tmp_path / f"a{kind.suffix}", click(2, 0.7, kind.rate_hz), kind)
    decoder = AudioDecoder(rate_hz)
    assert peak_s(decoder, path, 0.5, 1.0) == pytest.approx(0.7, abs=1 / rate_hz)
    assert decoder.probe(path).start_s == 0.0
    assert decoder.probe(path).rate_hz == kind.rate_hz
    assert decoder.probe(path).duration_s == pytest.approx(2.0, abs=0.06)


@pytest.mark.parametrize("name", ["aac in mp4", "aac of 44.1 kHz in mp4", "aac in mkv", "opus in mkv", "pcm in mkv"])
def test_a_track_may_begin_later_than_its_video(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    if not has_encoder(kind.codec):
        pytest.skip(f"this PyAV has no {kind.codec} encoder")
    path = write_sound(tmp_path / f"a{kind.suffix}", click(2, 0.7, kind.rate_hz), kind, start_s=0.25, frames=60)
    decoder = AudioDecoder(16_000)
    assert probe(path).start_s == pytest.approx(0.0, abs=1e-3)
    assert peak_s(decoder, path, 0.5, 1.2) == pytest.approx(0.95, abs=1 / 16_000 + kind.tick_s)
    before = decoder.read(path, times_s=span(decoder, 0.16, 0.24))  # the hole before the track is silent …
    assert np.abs(before.samples).max() < 1e-3
    with pytest.raises(TooShortError, match=r"0\.1\d* s of the sound from 0 to 1 s are not there; the track begin"):
        decoder.read(path, times_s=span(decoder, 0.0, 1.0))  # … up to a length


def test_a_video_may_begin_later_than_zero(tmp_path: Path) -> None:
    """One clock: what is heard with a frame has that frame's time."""
    path = write_sound(tmp_path / "a.mp4", click(3, 1.7, 32_000), AAC, frames=50, first_frame_s=1.0)
    assert probe(path).start_s == pytest.approx(1.0)
    assert peak_s(AudioDecoder(), path, 1.5, 2.0) == pytest.approx(1.7, abs=1 / 16_000)


@pytest.mark.parametrize(("name", "loose"), [("wav", 1e-4), ("aac in mp4", 0.05), ("opus in mkv", 0.05)])
def test_a_tone_keeps_pitch_level_and_phase(name: str, loose: float, tmp_path: Path) -> None:
    kind = KINDS[name]
    if not has_encoder(kind.codec):
        pytest.skip(f"this PyAV has no {kind.codec} encoder")
    path = write_sound(tmp_path / f"a{kind.suffix}", tone(2, kind.rate_hz), kind)
    for rate_hz in (8_000, 16_000, 44_100):
        found = AudioDecoder(rate_hz).read(path, times_s=np.arange(rate_hz // 4, rate_hz // 2) / rate_hz)
        wanted = 0.5 * np.sin(2 * np.pi * TONE_HZ * found.times_s)
        assert np.abs(found.samples - wanted).max() < loose + 1e-3


def test_channels_are_averaged_and_scaled_alike(tmp_path: Path) -> None:
    left, right = tone(1, 16_000), click(1, 0.5, 16_000)
    both = write_sound(tmp_path / "both.wav", np.stack([left, right], 1), WAV)
    alone = write_sound(tmp_path / "alone.wav", (left + right) / 2, WAV)
    decoder = AudioDecoder()
    times = span(decoder, 0.2, 0.8)
    one, other = decoder.read(both, times_s=times), decoder.read(alone, times_s=times)
    np.testing.assert_allclose(one.samples, other.samples, atol=1e-4)
    np.testing.assert_allclose(one.samples, ((left + right) / 2)[3200:12800], atol=1e-4)
    assert decoder.probe(both).channels == 2
    for suffix, kind in (("u8", KINDS["wav of 8 bits"]), ("f", KINDS["wav of floats"])):
        path = write_sound(tmp_path / f"{suffix}.wav", tone(1, kind.rate_hz), kind)
        own = AudioDecoder(kind.rate_hz)
        found = own.read(path, times_s=span(own, 0, 1)).samples
        np.testing.assert_allclose(found, tone(1, kind.rate_hz), atol=0.012 if suffix == "u8" else 0)


def test_a_sample_does_not_depend_on_what_else_is_read(tmp_path: Path) -> None:
    kind = KINDS["aac of 44.1 kHz in mp4"]
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * 44_100).astype(np.float32)
    path = write_sound(tmp_path / "a.mp4", noise, kind)
    decoder = AudioDecoder(16_000)
    whole = decoder.read(path, times_s=span(decoder, 0, 2))
    for start, stop in ((0, 0.01), (0.3, 0.7), (0.33333, 1.1), (1.99, 2.0)):
        part = decoder.read(path, times_s=span(decoder, start, stop))
        first = round(part.times_s[0] * 16_000)
        np.testing.assert_array_equal(part.samples, whole.samples[first : first + len(part.samples)])
    # Times between two samples, by hand and by float: one sample each, none twice.
    halves = (np.arange(8000) + 0.5) / 16_000
    shifted = decoder.read(path, times_s=halves)
    np.testing.assert_array_equal(shifted.samples, whole.samples[1:8001])
    np.testing.assert_array_equal(decoder.read(path, times_s=halves + 1e-13).samples, shifted.samples)


@pytest.mark.parametrize("name", ["wav", "aac of 44.1 kHz in mp4", "aac in mkv", "opus in mkv"])
def test_far_into_a_file_a_seek_gives_the_same_sound(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = KINDS[name]
    if not has_encoder(kind.codec):
        pytest.skip(f"this PyAV has no {kind.codec} encoder")
    seconds = 14.0
    sound = tone(seconds, kind.rate_hz) * 0.4 + click(seconds, 12.3, kind.rate_hz, level=0.7)
    path = write_sound(tmp_path / f"a{kind.suffix}", sound, kind, start_s=0.0 if kind.suffix == ".wav" else 0.25)
    decoder = AudioDecoder(16_000)
    times = span(decoder, 12.0, 13.0)
    decoded: list[int] = []
    plain = audio_module._mono
    monkeypatch.setattr(audio_module, "_mono", lambda frame: decoded.append(frame.samples) or plain(frame))
    sought = decoder.read(path, times_s=times).samples
    assert sum(decoded) < 4 * kind.rate_hz  # of 14 seconds
    monkeypatch.setattr(audio_module, "_SEEK_WORTH_S", 1e9)
    through = decoder.read(path, times_s=times).samples
    np.testing.assert_allclose(sought, through, atol=2e-3)


def test_several_tracks(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mkv", tone(1, 44_100), KINDS["pcm in mkv"], others=(click(1, 0.5, 44_100),))
    assert AudioDecoder().probe(path).tracks == 2
    assert peak_s(AudioDecoder(track=1), path, 0.3, 0.7) == pytest.approx(0.5, abs=1 / 16_000)
    first, chosen = (AudioDecoder(track=t).read(path, times_s=span(AudioDecoder(), 0.2, 0.4)) for t in (None, 0))
    np.testing.assert_array_equal(first.samples, chosen.samples)
    with pytest.raises(NoStreamError, match="no audio track 2; it has 2, counted from 0"):
        AudioDecoder(track=2).probe(path)


def test_what_is_not_there_is_silence_up_to_a_length(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", tone(1, 16_000), WAV)
    decoder = AudioDecoder(silence_s=0.1)
    found = decoder.read(path, times_s=span(decoder, 0.8, 1.1))
    assert np.abs(found.samples[:3200]).max() > 0.4
    assert not found.samples[3200:].any()
    with pytest.raises(TooShortError, match=r"a\.wav: 0\.0999 s of the sound from 0\.8 to 1\.2 s are not there"):
        decoder.read(path, times_s=span(decoder, 0.8, 1.2))
    with pytest.raises(TooShortError):
        AudioDecoder(silence_s=0).read(path, times_s=span(decoder, 0.8, 1.001))
    assert AudioDecoder(silence_s=0).read(path, times_s=span(decoder, 0.0, 1.0)).samples.shape == (16_000,)
    for outside in (-5.0, 1.2, 50.0):
        with pytest.raises(TooShortError):
            decoder.read(path, times_s=np.array([0.5, outside]))
        with pytest.raises(TooShortError):
            decoder.read(path, times_s=np.array([outside]))
    with pytest.raises(UsageError, match="may span 3600 s"):
        decoder.read(path, times_s=np.array([0.0, 1e6]))


def test_files_without_sound(tmp_path: Path) -> None:
    silent = write_video(tmp_path / "v.mp4", np.zeros((4, 16, 16, 3), np.uint8), 10)
    with pytest.raises(NoStreamError, match=r"v\.mp4: no audio stream \(streams found: video\)"):
        AudioDecoder().read(silent, times_s=np.zeros(1))
    with pytest.raises(MissingFileError):
        AudioDecoder().probe(tmp_path / "none.wav")
    (tmp_path / "x.wav").write_bytes(b"no sound" * 99)
    with pytest.raises(UnreadableError):
        AudioDecoder().probe(tmp_path / "x.wav")
    nan = write_sound(tmp_path / "nan.wav", np.full(900, np.nan, np.float32), KINDS["wav of floats"])
    with pytest.raises(UnreadableError, match="not finite"):
        AudioDecoder().read(nan, times_s=np.zeros(1))


@pytest.mark.parametrize("values", [{"rate_hz": 0}, {"silence_s": -1.0}, {"track": -1}])
def test_values_out_of_range(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        AudioDecoder(**values)  # type: ignore[arg-type]


def test_a_file_that_ends_early(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", tone(4, 16_000), WAV)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    decoder = AudioDecoder()
    np.testing.assert_allclose(decoder.read(path, times_s=span(decoder, 0, 1)).samples, tone(1, 16_000), atol=1e-4)
    with pytest.raises(TooShortError, match=r"s of the sound from 1\.5 to 2\.5 s"):
        decoder.read(path, times_s=span(decoder, 1.5, 2.5))


def test_a_wav_is_known_by_its_content(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", click(1, 0.5, 16_000), WAV)
    for name in ("IM0001", "a.mp4", "a.png", "a.txt"):
        other = path.rename(tmp_path / name)
        assert peak_s(AudioDecoder(), other, 0.3, 0.7) == pytest.approx(0.5, abs=1 / 16_000)
        path = other
