"""Every stream of a row keeps the promises of ``RowReader``: its times are those asked for, in any order, repeats
allowed; what lies outside is a typed error; a worker reads the same; it pickles."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.contracts.decoder_suite import numbered_frames, read_numbers
from tests.contracts.test_decoder import write_image
from tests.media.sounds import KINDS, click, tone, write_sound
from unreel.core.errors import UsageError
from unreel.data.contracts import Request
from unreel.data.dataset import ClipDataset, ClipSound
from unreel.data.loader import ClipLoader, iterate_rows
from unreel.data.manifest import Manifest, Row
from unreel.data.rows import AlignedSource, RowReader, Stretch
from unreel.data.sampling import PairSampler
from unreel.media import AudioDecoder, MediaError, NoStreamError, TooShortError, write_video
from unreel.views.presets import view_plan

pytestmark = pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
FPS, RATE_HZ, FIRST, COUNT = 25, 8_000, 12, 30  # the rows' span: frames 12 to 41, of 60
START_S = FIRST / FPS


class Case(NamedTuple):
    """A stream of a row: how it is asked for by item, what it must hold, and how near its times come."""

    reader: RowReader
    stream: str
    count: int
    step_s: float
    number: Callable[[torch.Tensor], list[float]]  # what tells the items of a stretch apart
    wanted: Callable[[NDArray[np.int64]], list[float]]
    loose: float = 0.0

    def ask(self, items: NDArray[np.int64]) -> Request:
        return Request(times_s=items * self.step_s, stream=self.stream)


def _firsts(data: torch.Tensor) -> list[float]:
    return data.reshape(len(data), -1)[:, 0].tolist()


STREAMS = ("video", "audio", "masks", "soft", "boxes", "gaze", "depth", "flow")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A span of a video with sound, whose aligned arrays hold the frame's number."""
    root = tmp_path_factory.mktemp("streams")
    sound = tone(2.4, 32_000) * 0.3 + click(2.4, 1.0, 32_000, level=0.7)
    write_sound(root / "v.mp4", sound, KINDS["aac in mp4"], frames=60, fps=FPS)
    level = np.arange(60, dtype=np.float32)
    np.save(root / "plane.npy", np.broadcast_to(level[:, None, None], (60, 32, 64)))
    np.save(root / "flow.npy", np.broadcast_to(level[:, None, None, None], (60, 32, 64, 2)))
    np.save(root / "boxes.npy", np.broadcast_to(level[:, None, None], (60, 1, 4)))
    np.save(root / "points.npy", np.broadcast_to(level[:, None, None], (60, 1, 2)))
    files = {"masks": "plane.npy", "soft": "plane.npy", "depth": "plane.npy"}
    files |= {"flow": "flow.npy", "boxes": "boxes.npy", "gaze": "points.npy"}
    return Manifest(str(root), (Row("v.mp4", start_s=START_S, end_s=START_S + COUNT / FPS, files=files),))


def reader_of(rows: Manifest) -> RowReader:
    kinds: dict[str, Any] = {"masks": "mask", "soft": "soft_mask", "gaze": "points"}
    aligned = [AlignedSource(name, kinds.get(name, name)) for name in STREAMS[2:]]
    return RowReader(rows, aligned=aligned, sound=AudioDecoder(RATE_HZ))


@pytest.fixture(scope="module", params=STREAMS)
def case(request: pytest.FixtureRequest, rows: Manifest) -> Case:
    reader, name = reader_of(rows), request.param
    if name == "audio":
        every = reader.sound.read(rows.absolute(0), times_s=np.arange(20_000) / RATE_HZ - 1e-9).samples
        first = round(START_S * RATE_HZ)
        return Case(
            reader,
            name,
            COUNT * RATE_HZ // FPS,
            1 / RATE_HZ,
            _firsts,
            lambda n: every[first + n].tolist(),
            0.5 / RATE_HZ,
        )
    number = (lambda data: [float(n) for n in read_numbers(data.numpy())]) if name == "video" else _firsts
    return Case(reader, name, COUNT, 1 / FPS, number, lambda n: (FIRST + n).astype(float).tolist())


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(data=st.data())
def test_any_order_and_repeats_at_the_times_asked_for(case: Case, data: st.DataObject) -> None:
    items = np.array(data.draw(st.lists(st.integers(0, case.count - 1), min_size=1, max_size=9)), dtype=np.int64)
    (found,) = case.reader.read(0, [case.ask(items)])
    assert len(found.times_s) == len(items)
    np.testing.assert_allclose(found.times_s, START_S + items * case.step_s, atol=case.loose + 1e-6)
    assert case.number(found.data) == case.wanted(items)


def test_several_requests_come_back_in_their_order(case: Case) -> None:
    asked = [np.array([5, 2]), np.array([7]), np.array([2, 5]), np.array([5, 2])]
    requests = [case.ask(items) for items in asked]
    found = case.reader.read(0, [requests[0], Request(np.array([3])), *requests[1:]])
    assert [case.number(f.data) for f in (found[0], *found[2:])] == [case.wanted(items) for items in asked]
    assert read_numbers(found[1].data.numpy()) == [FIRST + 3]


def test_frames_may_be_asked_for_by_number(case: Case) -> None:
    request = Request(np.array([4, 4, 0]), stream=case.stream)
    if case.stream == "audio":
        with pytest.raises(UsageError, match="by times"):
            case.reader.read(0, [request])
        return
    (found,) = case.reader.read(0, [request])
    assert case.number(found.data) == case.wanted(np.array([4, 4, 0]))


def test_what_lies_outside_the_span_is_too_short(case: Case) -> None:
    """Although the file goes on there: its other parts may be other rows."""
    for outside in (-2, case.count + 1, 10 * case.count):
        with pytest.raises(TooShortError, match=r"v\.mp4"):
            case.reader.read(0, [case.ask(np.array([0, outside]))])
    with pytest.raises(TooShortError):
        case.reader.read(0, [case.ask(np.empty(0, dtype=np.int64))])
    with pytest.raises(UsageError):
        case.reader.read(0, [Request(stream=case.stream)])


def test_missing_files_are_media_errors(case: Case, rows: Manifest, tmp_path: Path) -> None:
    empty = reader_of(Manifest(str(tmp_path), rows.rows))
    with pytest.raises(MediaError):
        empty.read(0, [case.ask(np.array([0]))])


def _read(reader: RowReader, request: Request, row: int, *_: Any) -> Stretch:
    return reader.read(row, [request])[0]


def test_a_worker_and_a_copy_read_the_same(case: Case) -> None:
    request = case.ask(np.array([6, 1, 9]))
    here = _read(case.reader, request, 0)
    (there,) = iterate_rows(partial(_read, case.reader, request), case.reader.manifest, workers=1)
    copy = _read(pickle.loads(pickle.dumps(case.reader)), request, 0)
    for other in (there, copy):
        assert torch.equal(here.data, other.data)
        np.testing.assert_array_equal(here.times_s, other.times_s)


def test_an_unknown_stream_is_refused(rows: Manifest) -> None:
    with pytest.raises(UsageError, match="no stream 'smell'; there are video, audio, masks"):
        reader_of(rows).read(0, [Request(np.array([0]), stream="smell")])


# ---------------------------------------------------------------------------------------------------- whose sound it is


def test_sound_of_its_own_file_begins_with_the_first_frame(tmp_path: Path) -> None:
    """Also where the video's own clock begins later, and whatever sound the video has."""
    write_sound(tmp_path / "v.mp4", tone(3, 32_000) * 0.1, KINDS["aac in mp4"], frames=50, first_frame_s=1.0)
    write_sound(tmp_path / "s.wav", click(2, 0.7, 16_000), KINDS["wav"])
    rows = Manifest(
        str(tmp_path), (Row("v.mp4", files={"audio": "s.wav"}), Row("v.mp4", start_s=0.5, files={"audio": "s.wav"}))
    )
    reader = RowReader(rows, sound=AudioDecoder(16_000))
    heard = Request(times_s=np.arange(8_000) / 16_000 + 0.3, stream="audio")
    (found,) = reader.read(0, [heard])
    assert found.times_s[int(found.data.abs().argmax())] == pytest.approx(0.7, abs=1 / 16_000)
    (found,) = reader.read(1, [heard._replace(times_s=np.arange(8_000) / 16_000)])
    assert int(found.data.abs().argmax()) == 3_200


def test_a_row_may_be_sound_alone(tmp_path: Path) -> None:
    write_sound(tmp_path / "s.wav", click(2, 0.7, 16_000), KINDS["wav"]).rename(tmp_path / "IM0001")
    rows = Manifest(str(tmp_path), (Row("IM0001"), Row("IM0001", start_s=0.5, end_s=1.0)))
    reader = RowReader(rows, sound=AudioDecoder(16_000))
    for row, at in ((0, 0.7), (1, 0.2)):
        (found,) = reader.read(row, [Request(times_s=np.arange(6_400) / 16_000 + at - 0.2, stream="audio")])
        assert int(found.data.abs().argmax()) == 3_200
    with pytest.raises(TooShortError):
        reader.read(1, [Request(times_s=np.array([0.6]), stream="audio")])
    with pytest.raises(NoStreamError):
        reader.read(0, [Request(np.array([0]))])


def test_pictures_have_no_sound(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    for i in range(3):
        write_image(tmp_path / "f" / f"{i}.png", np.zeros((8, 8, 3), np.uint8))
    rows = Manifest(str(tmp_path), (Row("f"), Row("", frames=("f/0.png", "f/1.png")), Row("f/0.png")))
    for row in range(3):
        with pytest.raises(NoStreamError):
            RowReader(rows).read(row, [Request(times_s=np.zeros(1), stream="audio")])


# ------------------------------------------------------------------------------------------- a clip's sound, in batches


CLIP_S = 15 / FPS  # eight frames at stride two


def clips_with_sound(folder: str, *, seconds: float = CLIP_S) -> ClipDataset:
    manifest = Manifest.from_folder(folder)
    sound = ClipSound(seconds, AudioDecoder(RATE_HZ))
    return ClipDataset(manifest, PairSampler(8, 2), view_plan("paper", size=16), seed=3, sound=sound)


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six videos whose sound tells the time: a sine that rises by 100 Hz per second, its own for each video."""
    folder = tmp_path_factory.mktemp("talking")
    t = np.arange(2 * 32_000) / 32_000
    for i in range(6):
        sweep = (0.5 * np.sin(2 * np.pi * ((200 + 50 * i) * t + 50 * t**2))).astype(np.float32)
        write_sound(folder / f"{i}.mp4", sweep, KINDS["aac in mp4"], frames=50, fps=FPS, start_s=0.04 * (i % 2))
    write_video(folder / "silent.mp4", numbered_frames(50), FPS)
    return str(folder)


def digest(batches: Any) -> list[Any]:
    return [
        (b.row.tolist(), [(v.stream, v.data.numpy().tobytes(), v.times_s.numpy().tobytes()) for v in b.views])
        for b in batches
    ]


def loader_of(folder: str, **options: Any) -> ClipLoader:
    return ClipLoader(clips_with_sound(folder), 2, seed=1, max_fault_share=1, **options)


def test_sound_travels_beside_its_clip(talking: str) -> None:
    data = clips_with_sound(talking)
    (batch,) = loader_of(talking).iterate(0, 1)
    assert [v.stream for v in batch.views] == ["video", "video", "audio", "audio"]
    applied = data.views.apply(batch)
    assert [tuple(v.data.shape) for v in applied.views] == [(2, 3, 8, 16, 16)] * 2 + [(2, round(CLIP_S * RATE_HZ))] * 2
    for clip, heard in zip(applied.views[:2], applied.views[2:], strict=True):
        for b, row in enumerate(batch.row.tolist()):
            # The window begins with the clip's first frame, since it is as long as the clip.
            assert float(heard.times_s[b, 0]) == pytest.approx(float(clip.times_s[b].min()), abs=1 / RATE_HZ)
            i = int(Path(data.manifest.relative(row)).stem)
            t = heard.times_s[b].numpy() - 0.04 * (i % 2)
            wanted = 0.5 * np.sin(2 * np.pi * ((200 + 50 * i) * t + 50 * t**2))
            inside = (t > 0.03) & (t < 1.97)
            assert np.abs(heard.data[b].numpy() - wanted)[inside].max() < 0.06


def test_a_longer_window_stays_within_the_row(talking: str) -> None:
    data = clips_with_sound(talking, seconds=1.5)
    for row in range(6):
        sample = data.sample(row, 0)
        for clip, heard in zip(sample.views[:2], sample.views[2:], strict=True):
            assert -1e-4 <= float(heard.times_s[0]) <= float(clip.times_s.min()) + 1e-4
            assert float(clip.times_s.max()) <= float(heard.times_s[-1]) <= 2.0
    with pytest.raises(TooShortError):
        clips_with_sound(talking, seconds=2.5).sample(0, 0)
    with pytest.raises(UsageError, match="seconds must be > 0"):
        ClipSound(0.0)


def test_any_worker_count_and_resume_give_the_same_sound(talking: str) -> None:
    through = digest(loader_of(talking).iterate(0, 6))
    assert digest(loader_of(talking, workers=2).iterate(0, 6)) == through
    assert digest(loader_of(talking, workers=1).iterate(4, 6)) == through[4:]
    assert len({views[2][1] for _, views in through}) == 6


def test_a_video_without_sound_is_a_fault_that_is_refilled(talking: str) -> None:
    batches = list(loader_of(talking).iterate(0, 6))
    assert all(f.substitute != "silent.mp4" for b in batches for f in b.faults)
    assert {f.path for b in batches for f in b.faults} == {"silent.mp4"}


def batches_of_this_rank(folder: str) -> list[Any]:
    import torch.distributed as dist

    loader = loader_of(folder, rank=dist.get_rank(), world_size=dist.get_world_size(), workers=dist.get_rank())
    return digest(loader.iterate(0, 4))


@pytest.mark.ddp
def test_two_processes_hear_what_one_does(ddp: Any, talking: str) -> None:
    ranks = ddp.run(batches_of_this_rank, talking)
    for step, (rows, views) in enumerate(digest(loader_of(talking).iterate(0, 4))):
        parts = [rank[step] for rank in ranks]
        assert rows == [r for part in parts for r in part[0]]
        for number, (stream, data, times) in enumerate(views):
            assert (stream, data, times) == (
                parts[0][1][number][0],
                b"".join(part[1][number][1] for part in parts),
                b"".join(part[1][number][2] for part in parts),
            )
