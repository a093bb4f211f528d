"""Files with a known sound: a quiet tone, and a click at a known time, beside frames or alone."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
from numpy.typing import NDArray

TONE_HZ = 440.0


class Kind(NamedTuple):
    """A container and a codec: its own rate, and what its clock rounds to (s)."""

    suffix: str
    codec: str
    rate_hz: int
    tick_s: float = 0.0
    sample_format: str = "fltp"


KINDS = {
    "wav": Kind(".wav", "pcm_s16le", 16_000, sample_format="s16"),
    "wav of 8 bits": Kind(".wav", "pcm_u8", 22_050, sample_format="u8"),
    "wav of floats": Kind(".wav", "pcm_f32le", 48_000, sample_format="flt"),
    "flac": Kind(".flac", "flac", 44_100, sample_format="s16"),
    "aac in mp4": Kind(".mp4", "aac", 32_000),
    "aac of 44.1 kHz in mp4": Kind(".mp4", "aac", 44_100),
    "aac in mkv": Kind(".mkv", "aac", 44_100, 1e-3),
    "opus in mkv": Kind(".mkv", "libopus", 48_000, 1e-3, "s16"),
    "pcm in mkv": Kind(".mkv", "pcm_s16le", 44_100, 1e-3, "s16"),
}


def click(seconds: float, at_s: float, rate_hz: int, *, level: float = 0.9) -> NDArray[np.float32]:
    """Silence with half a millisecond of noise-free rise and fall, highest at ``at_s``."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return (level * np.exp(-(((t - at_s) / 2e-4) ** 2))).astype(np.float32)


def tone(seconds: float, rate_hz: int, *, hz: float = TONE_HZ) -> NDArray[np.float32]:
    """A sine, from phase 0."""
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def write_sound(
    path: Path,
    samples: NDArray[np.float32],
    kind: Kind,
    *,
    start_s: float = 0.0,
    frames: int = 0,
    fps: int = 25,
    first_frame_s: float = 0.0,
    others: tuple[NDArray[np.float32], ...] = (),
) -> Path:
    """(N,) or (N, channels) samples that begin at ``start_s``, beside numbered frames where asked for.

    ``others``: further tracks of the same kind.
    """
    from tests.contracts.decoder_suite import numbered_frames

    # mp4's edit lists are in whole milliseconds unless told otherwise.
    options = {"movie_timescale": str(kind.rate_hz)} if kind.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as output:
        video: Any = None
        if frames:
            video = output.add_stream("libx264", rate=fps, options={"bf": "0"})
            video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
        tracks = [
            (cast(av.AudioStream, output.add_stream(kind.codec, rate=kind.rate_hz, layout=_layout(track))), track)
            for track in (samples, *others)
        ]
        packets = []
        for number, image in enumerate(numbered_frames(frames) if frames else ()):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number + round(first_frame_s * fps), Fraction(1, fps)
            packets += video.encode(frame)
        packets += video.encode(None) if video else []
        for stream, track in tracks:
            sound = av.AudioFrame.from_ndarray(_stored(track, kind), format=kind.sample_format, layout=_layout(track))
            sound.sample_rate, sound.pts, sound.time_base = (
                kind.rate_hz,
                round(start_s * kind.rate_hz),
                Fraction(1, kind.rate_hz),
            )
            packets += [*stream.encode(sound), *stream.encode(None)]
        for packet in packets:
            output.mux(packet)
    return path


def _layout(samples: NDArray[np.float32]) -> str:
    return "mono" if samples.ndim == 1 else {1: "mono", 2: "stereo"}[samples.shape[1]]


def _stored(samples: NDArray[np.float32], kind: Kind) -> NDArray[Any]:
    columns = samples[:, None] if samples.ndim == 1 else samples
    if kind.sample_format == "fltp":
        return np.ascontiguousarray(columns.T)
    packed = columns.reshape(1, -1)
    if kind.sample_format == "flt":
        return packed
    if kind.sample_format == "u8":
        return np.round(packed * 127 + 128).astype(np.uint8)
    return np.round(packed * 32767).astype(np.int16)
