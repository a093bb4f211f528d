"""Frames and sound to a video file, all or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path as FilePath
from typing import cast

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import ArrayLike, NDArray

from unreel.core.errors import UsageError
from unreel.core.files import replacing
from unreel.media.decoder import Path

# The containers by suffix; naming them keeps the temporary file's own suffix out of the choice.
_CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".ts": "mpegts",
    ".mpg": "mpeg",
    ".gif": "gif",
}
_VARIABLE_RATE_TICKS = 90_000  # ticks per second when frame times are given (the MPEG system clock)
_SAMPLE_FORMATS = {"flac": "s16", "pcm_s16le": "s16", "libopus": "s16"}  # every other encoder here takes planar float


def has_encoder(codec: str) -> bool:
    """Whether the installed PyAV carries an encoder of this name."""
    try:
        av.codec.Codec(codec, "w")
    except (ValueError, av.FFmpegError):
        return False
    return True


def write_video(
    path: Path,
    frames: ArrayLike | Iterable[ArrayLike],
    fps: float,
    *,
    audio: ArrayLike | None = None,
    audio_rate_hz: int | None = None,
    codec: str = "libx264",
    crf: int | None = 18,
    gop: int = 12,
    preset: str = "veryfast",
    pixel_format: str = "yuv420p",
    audio_codec: str = "flac",
    times_s: ArrayLike | None = None,
    pad: bool = False,
    options: Mapping[str, str] | None = None,
) -> FilePath:
    """Write a video; the file appears whole or not at all, and equal input gives equal bytes.

    Args:
        path: where to; the suffix names the container (mp4, mov, mkv, webm, avi, ts, mpg, gif).
        frames: (T, H, W, 3) uint8 RGB, or an iterable of (H, W, 3).
        fps: frames per second; ignored but for the header when ``times_s`` is given.
        audio: (N,) or (N, channels) float in [-1, 1], values outside are clipped. Starts with the first frame.
        audio_rate_hz: samples per second; required with ``audio``.
        codec: an FFmpeg encoder; where libx264 is not carried, mpeg4 takes its place.
        crf: constant rate factor for encoders that know one; 18 is visually lossless for x264, None leaves it out.
        gop: most frames between keyframes. 12 keeps a seek cheap.
        preset: x264's and x265's speed.
        pixel_format: yuv420p plays everywhere; yuv444p keeps full colour.
        audio_codec: flac keeps every sample at its time; aac (with about 20 ms per second of sound and a little
            padding) is what the oldest players want.
        times_s: (T,) ascending presentation times, for a variable frame rate.
        pad: repeat the last row or column of odd sizes, which 4:2:0 cannot store; otherwise they are refused.
        options: further options of the encoder.

    Raises: UsageError for a shape, size, rate, suffix or codec that cannot be written.
    """
    target = FilePath(path)
    container_name = _CONTAINERS.get(target.suffix.lower())
    if container_name is None:
        raise UsageError(f"cannot write {target.name!r}: the suffix must be one of {', '.join(_CONTAINERS)}")
    if codec == "libx264" and not has_encoder(codec):
        codec = "mpeg4"
    if not has_encoder(codec):
        raise UsageError(f"the installed PyAV has no encoder {codec!r}; libx264, mpeg4 and ffv1 are usual")
    if not fps > 0:
        raise UsageError(f"fps must be positive, got {fps}")
    if audio is not None and not audio_rate_hz:
        raise UsageError("audio needs audio_rate_hz (samples per second)")

    stream_options = _encoder_options(codec, crf, preset) | dict(options or {})
    times = None if times_s is None else np.asarray(times_s, dtype=np.float64)
    if times is not None and (times.ndim != 1 or np.any(np.diff(times) <= 0)):
        raise UsageError("times_s must be one ascending row of seconds, without repeats")
    images = _checked_frames(frames, pixel_format, pad)
    first = next(images, None)
    if first is None:
        raise UsageError(f"cannot write {target.name!r}: there are no frames")
    height, width = first.shape[:2]

    try:
        with (
            replacing(target) as partial,
            av.open(str(partial), "w", format=container_name, options={"fflags": "+bitexact"}) as output,
        ):
            rate = Fraction(fps).limit_denominator(100_000)
            stream = cast(av.VideoStream, output.add_stream(codec, rate=rate, options=stream_options))
            stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
            context = stream.codec_context
            context.thread_count = 1
            context.gop_size = gop
            context.flags |= av.codec.context.Flags.bitexact
            tick = Fraction(1, _VARIABLE_RATE_TICKS) if times is not None else 1 / rate
            context.time_base = tick
            sound = None if audio is None else _add_audio(output, audio, int(audio_rate_hz or 0), audio_codec)
            convert = VideoReformatter()
            count = 0
            for image in chain([first], images):
                if image.shape != (height, width, 3):
                    raise UsageError(f"frame {count} is {image.shape}, the first one {(height, width, 3)}")
                frame = convert.reformat(
                    av.VideoFrame.from_ndarray(image, format="rgb24"),
                    format=pixel_format,
                    interpolation=Interpolation.AREA,
                    threads=1,
                )
                if times is not None and count >= len(times):
                    raise UsageError(f"times_s has {len(times)} times, there are more frames")
                frame.pts = count if times is None else round(times[count] * _VARIABLE_RATE_TICKS)
                frame.time_base = tick
                output.mux(stream.encode(frame))
                count += 1
            if times is not None and count != len(times):
                raise UsageError(f"times_s has {len(times)} times for {count} frames")
            if sound is not None:
                voice, samples = sound
                output.mux(voice.encode(samples))
                output.mux(voice.encode(None))
            output.mux(stream.encode(None))
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"cannot write {target.name!r} as {codec} ({width}x{height} {pixel_format}): {error}"
        ) from error
    return target


def _encoder_options(codec: str, crf: int | None, preset: str) -> dict[str, str]:
    options: dict[str, str] = {}
    if codec in ("libx264", "libx265"):
        options["preset"] = preset
        if codec == "libx264":
            options["mbtree"] = "0"  # its AVX-512 path gives other bytes from run to run on tiny frames
        if codec == "libx265":
            options["x265-params"] = "log-level=error:pools=none:frame-threads=1"
    if crf is not None and codec in ("libx264", "libx265", "libvpx", "libvpx-vp9", "libsvtav1"):
        options["crf"] = str(crf)
        if codec.startswith("libvpx"):
            options |= {"b": "0" if codec == "libvpx-vp9" else "2M", "deadline": "realtime", "cpu-used": "8"}
    if codec == "mpeg4":
        options["qscale"] = "3"
    return options


def _checked_frames(
    frames: ArrayLike | Iterable[ArrayLike], pixel_format: str, pad: bool
) -> Iterator[NDArray[np.uint8]]:
    """Every frame as contiguous (H, W, 3) uint8 of a size the pixel format can store."""
    subsampled = "420" in pixel_format
    stack = frames if isinstance(frames, Iterable) else np.asarray(frames)
    for number, item in enumerate(stack):
        image = np.asarray(item)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UsageError(f"frame {number} is {image.shape} {image.dtype}; frames must be (T, H, W, 3) uint8 RGB")
        height, width = image.shape[:2]
        if height == 0 or width == 0:
            raise UsageError(f"frame {number} is empty: {image.shape}")
        if subsampled and (height % 2 or width % 2):
            if not pad:
                raise UsageError(
                    f"frames are {width}x{height}, and {pixel_format} needs even sizes; crop them, pass pad=True to "
                    "repeat the last row or column, or pixel_format='yuv444p'"
                )
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        yield np.ascontiguousarray(image)


def _add_audio(
    output: av.container.OutputContainer, audio: ArrayLike, rate_hz: int, codec: str
) -> tuple[av.AudioStream, av.AudioFrame]:
    samples = np.asarray(audio, dtype=np.float32)
    if samples.ndim == 1:
        samples = samples[:, None]
    if samples.ndim != 2 or samples.shape[1] not in (1, 2) or len(samples) == 0:
        raise UsageError(f"audio is {samples.shape}; it must be (N,) or (N, 1) or (N, 2) with N > 0")
    if not has_encoder(codec):
        raise UsageError(f"the installed PyAV has no encoder {codec!r}; flac and aac are usual")
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    options = {"aac": {"aac_coder": "fast"}, "flac": {"compression_level": "0"}}.get(codec, {})
    stream = cast(av.AudioStream, output.add_stream(codec, rate=rate_hz, layout=layout, options=options))
    stream.codec_context.thread_count = 1
    samples = np.clip(np.nan_to_num(samples), -1.0, 1.0)
    if _SAMPLE_FORMATS.get(codec) == "s16":
        packed = np.round(samples * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
    else:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
    frame.sample_rate = rate_hz
    frame.pts = 0
    frame.time_base = Fraction(1, rate_hz)
    return stream, frame
