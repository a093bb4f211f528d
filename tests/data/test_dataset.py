import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.data.aligned import unapply_to
from unreel.data.batch import Aligned, Sample, ViewParams, collate
from unreel.data.contracts import FrameSize, Request, SamplerDraw, SourceInfo, Ticket
from unreel.data.dataset import ClipDataset, EvaluationDataset, resize_frames
from unreel.data.loader import iterate_evaluation
from unreel.data.manifest import Manifest, Row
from unreel.data.rows import AlignedSource, RowReader, _take, read_array
from unreel.data.sampling import ClipPlan, PairSampler, UniformSampler
from unreel.data.workers import WorkerContext
from unreel.media import Decoder, Frames, TooShortError, UnreadableError, VideoInfo
from unreel.media.write import write_video
from unreel.views import geometry
from unreel.views.presets import view_plan

FPS = 10.0


class MemoryDecoder:
    """Videos that exist by name only: pixel values tell file and frame. "bad…" cannot be read."""

    name = "memory"

    def __init__(self, num_frames: int = 40, start_s: float = 0.0, height: int = 24, width: int = 32) -> None:
        self.info = VideoInfo(width, height, num_frames, num_frames / FPS, FPS, "memory", start_s=start_s)
        self.calls: list[tuple[str, list[int]]] = []

    def probe(self, path: str) -> VideoInfo:
        if "bad" in str(path):
            raise UnreadableError(path, "is made up")
        return self.info

    def frame_times(self, path: str) -> np.ndarray:
        return self.info.start_s + np.arange(self.info.num_frames) / FPS

    def read(self, path: str, *, indices=None, times_s=None) -> Frames:
        assert times_s is None
        self.probe(path)
        if "late" in str(path):
            raise UnreadableError(path, "breaks in the middle")
        self.calls.append((path, list(indices)))
        pixels = np.zeros((len(indices), self.info.height, self.info.width, 3), dtype=np.uint8)
        pixels[..., 0] = np.asarray(indices)[:, None, None]
        pixels[..., 1] = int("".join(c for c in Path(path).stem if c.isdigit()) or 0)
        pixels[..., 2] = np.arange(self.info.width)
        return Frames(pixels, self.frame_times(path)[indices])


class WholeFrames:
    """A view plan that crops nothing and records the number it drew; ``align`` tells which view asked."""

    def __init__(self, num_views: int = 2) -> None:
        self.num_views = num_views

    def draw(self, key, view, size: FrameSize, sidecars) -> ViewParams:
        assert (size.height, size.width) == (24, 32)
        return ViewParams({"draw.number": torch.tensor([key.child(view, "draw").uniform()])})

    def crop(self, view, frames, params):
        return frames

    def align(self, view, data, params):
        return Aligned(data.kind, data.data + view)

    def apply(self, batch):
        return batch


class Fixed:
    """A sampler that asks for the same clips of every source."""

    def __init__(self, *clips: Request) -> None:
        self.clips = clips
        self.num_views = len(clips)
        self.seen: list[SourceInfo] = []

    def draw(self, key: Key, source: SourceInfo) -> SamplerDraw:
        self.seen.append(source)
        return SamplerDraw(self.clips, {"order": torch.tensor(3)})


def indices(*numbers: int) -> Request:
    return Request(np.array(numbers))


def times(*seconds: float) -> Request:
    return Request(times_s=np.array(seconds))


def manifest(*names: str, **columns) -> Manifest:
    return Manifest("/nowhere", tuple(Row(name, **columns) for name in names))


def videos(count: int) -> Manifest:
    return manifest(*(f"video{i}.mp4" for i in range(count)))


def frame_numbers(sample: Sample, view: int) -> list[int]:
    return sample.views[view].data[:, 0, 0, 0].tolist()


# -------------------------------------------------------------------------------------------------- one sample


def test_one_decoder_call_for_the_union_of_all_views():
    decoder = MemoryDecoder()
    assert isinstance(decoder, Decoder)
    dataset = ClipDataset(videos(2), Fixed(indices(7, 3, 5), indices(5, 6, 5)), WholeFrames(), decoder=decoder)
    sample = dataset[Ticket(0, 0, 1)]
    assert decoder.calls == [(Path("/nowhere/video1.mp4"), [3, 5, 6, 7])]
    assert frame_numbers(sample, 0) == [7, 3, 5]
    assert frame_numbers(sample, 1) == [5, 6, 5]
    assert sample.views[0].times_s.tolist() == pytest.approx([0.7, 0.3, 0.5])
    assert sample.views[0].data.dtype == torch.uint8
    assert int(sample.targets["order"]) == 3
    assert (sample.row, sample.faults) == (1, ())
    assert sample.sample_id == dataset.manifest.sample_id(1)
    batch = collate([dataset[Ticket(0, 0, i)] for i in (0, 1)])
    assert batch.views[1].data.shape == (2, 3, 24, 32, 3)
    assert batch.group.tolist() == [dataset.manifest.group_id(i) for i in (0, 1)]


def test_a_sample_depends_on_seed_epoch_and_source_only():
    def draws(dataset: ClipDataset, row: int, epoch: int = 0, step: int = 0) -> list[object]:
        sample = dataset[Ticket(epoch, step, row)]
        return [v for i in (0, 1) for v in (frame_numbers(sample, i), sample.views[i].params["draw.number"].item())]

    sampler, decoder = PairSampler(4, 2), MemoryDecoder()
    few = ClipDataset(videos(3), sampler, WholeFrames(), decoder=decoder)
    more = ClipDataset(
        manifest("new.mp4", *(f"video{i}.mp4" for i in range(3))), sampler, WholeFrames(), decoder=decoder
    )
    for row in range(3):  # a row added in front changes no other row's views
        assert draws(few, row) == draws(more, row + 1)
    assert draws(few, 0, step=9) == draws(few, 0)
    assert draws(few, 0, epoch=1) != draws(few, 0)
    assert draws(ClipDataset(videos(3), sampler, WholeFrames(), seed=1, decoder=decoder), 0) != draws(few, 0)
    assert draws(few, 0) != draws(few, 1)
    # Two views of one sample, and time and view draws, have keys of their own.
    assert draws(few, 0)[1] != draws(few, 0)[3]


@pytest.mark.parametrize("start_s", [0.0, 1.4])
def test_spans_restrict_frames(start_s):
    decoder = MemoryDecoder(start_s=start_s)
    rows = (Row("video1.mp4", start_s=1.0, end_s=2.0), Row("video2.mp4", start_s=3.5), Row("video3.mp4", end_s=0.25))
    sampler = Fixed(indices(0, 1), times(0.0, 0.15))
    dataset = ClipDataset(Manifest("/nowhere", rows), sampler, WholeFrames(), decoder=decoder)
    samples = [dataset.sample(i) for i in range(3)]
    assert [frame_numbers(s, 0) for s in samples] == [[10, 11], [35, 36], [0, 1]]
    assert [frame_numbers(s, 1) for s in samples] == [[10, 11], [35, 36], [0, 1]]
    assert [s.num_frames for s in sampler.seen] == [10, 5, 3]
    assert [s.duration_s for s in sampler.seen] == pytest.approx([1.0, 0.5, 0.25])
    assert samples[0].views[0].times_s.tolist() == pytest.approx([start_s + 1.0, start_s + 1.1])
    assert len({s.sample_id for s in samples}) == 3
    late = ClipDataset(
        manifest("video1.mp4", start_s=1.0, end_s=1.05), Fixed(times(0.04)), WholeFrames(1), decoder=decoder
    )
    assert frame_numbers(late.sample(0), 0) == [10]


@pytest.mark.parametrize("request_", [indices(0, 10), indices(-1), times(1.0), times(-0.2), indices()])
def test_requests_outside_the_span_are_too_short(request_):
    dataset = ClipDataset(
        manifest("video1.mp4", start_s=1.0, end_s=2.0), Fixed(request_), WholeFrames(1), decoder=MemoryDecoder()
    )
    with pytest.raises(TooShortError, match="reaches outside its 10 frames"):
        dataset.sample(0)


def test_spans_and_times_of_a_variable_frame_rate_go_by_presentation_time(tmp_path):
    shown = np.array([0.0, 0.1, 0.15, 0.4, 0.9, 1.0, 1.05, 1.6])
    pixels = np.full((8, 24, 32, 3), 20, np.uint8) * np.arange(1, 9, dtype=np.uint8)[:, None, None, None]
    path = write_video(tmp_path / "v.mp4", pixels, 25, times_s=shown)
    rows = Manifest(str(tmp_path), (Row(path.name, start_s=0.1, end_s=1.0), Row(path.name, start_s=0.95)))
    reader = RowReader(rows)
    assert (reader.facts(0).first, reader.facts(0).num_frames) == (1, 4)
    assert (reader.facts(1).first, reader.facts(1).num_frames) == (5, 3)
    # Seconds count from the span's start; each gives the frame that is on screen then.
    (found,) = reader.read(0, [times(0.0, 0.04, 0.05, 0.29, 0.3, 0.79, 0.8)])
    wanted = np.array([1, 1, 2, 2, 3, 3, 4])
    frames, times_s = found
    np.testing.assert_allclose(times_s, shown[wanted], atol=1e-4)
    np.testing.assert_allclose(frames.float().mean((1, 2, 3)), 20.0 * (wanted + 1), atol=4)
    with pytest.raises(TooShortError):
        reader.read(0, [times(0.9)])


def test_empty_spans_and_refusing_samplers_are_too_short():
    dataset = ClipDataset(
        manifest("video1.mp4", start_s=9.0), UniformSampler(), WholeFrames(1), decoder=MemoryDecoder()
    )
    with pytest.raises(TooShortError, match="holds no frame; the file lasts 4 s"):
        dataset.sample(0)

    class Refuses(Fixed):
        def draw(self, key, source):
            raise ValueError("needs 64 frames, has 40")

    dataset = ClipDataset(videos(1), Refuses(indices(0)), WholeFrames(1), decoder=MemoryDecoder())
    with pytest.raises(TooShortError, match=r"video0.mp4: needs 64 frames"):
        dataset.sample(0)


def test_known_facts_are_not_probed_again():
    class NoProbe(MemoryDecoder):
        def probe(self, path):
            raise AssertionError("probed although the manifest knows")

    class Reads(NoProbe):
        def read(self, path, *, indices=None, times_s=None):
            return MemoryDecoder().read(path, indices=indices)

    known = manifest("video1.mp4").with_facts([MemoryDecoder().info])
    sample = ClipDataset(known, Fixed(indices(2)), WholeFrames(1), decoder=Reads()).sample(0)
    assert frame_numbers(sample, 0) == [2]


def test_facts_are_probed_once_per_process_and_not_pickled():
    class Counts(MemoryDecoder):
        probes = 0

        def probe(self, path):
            Counts.probes += 1
            return self.info

    reader = RowReader(videos(1), Counts())
    assert reader.facts(0) is reader.facts(0)
    assert Counts.probes == 1
    other = pickle.loads(pickle.dumps(RowReader(videos(1), None)))
    assert other._known.cache_info().currsize == 0


def test_sizes_that_differ_from_what_probing_told_are_faults():
    class Lies(MemoryDecoder):
        def read(self, path, *, indices=None, times_s=None):
            frames = super().read(path, indices=indices)
            return Frames(frames.pixels[:, :20], frames.times_s)

    with pytest.raises(UnreadableError, match="32x20, but probing found 32x24"):
        ClipDataset(videos(1), Fixed(indices(0)), WholeFrames(1), decoder=Lies()).sample(0)


def test_sidecars_reach_sampler_and_views():
    class Table:
        def value(self, row):
            return {"energy": row}

    seen = []

    class Views(WholeFrames):
        def draw(self, key, view, size, sidecars):
            seen.append(sidecars)
            return super().draw(key, view, size, sidecars)

    sampler = Fixed(indices(0))
    ClipDataset(videos(2), sampler, Views(1), sidecars={"motion": Table()}, decoder=MemoryDecoder()).sample(1)
    assert seen == [{"motion": {"energy": 1}}]
    assert sampler.seen[0].sidecars == {"motion": {"energy": 1}}


def test_aligned_data_follows_the_frames_and_the_view(tmp_path):
    np.save(tmp_path / "mask.npy", np.arange(40)[:, None, None] * np.ones((1, 24, 32), dtype=np.int64))
    np.save(tmp_path / "still.npy", np.full((1, 24, 32), 7))
    rows = (Row("video1.mp4", start_s=1.0, files={"mask": "mask.npy", "still": "still.npy"}),)
    aligned = (AlignedSource("mask", "mask"), AlignedSource("still", "mask"))
    dataset = ClipDataset(
        Manifest(str(tmp_path), rows), Fixed(indices(2, 0), indices(1)), WholeFrames(), aligned=aligned,
        decoder=MemoryDecoder(),
    )  # fmt: skip
    sample = dataset.sample(0)
    assert sample.views[0].aligned["mask"].data[:, 0, 0].tolist() == [12, 10]
    assert sample.views[1].aligned["mask"].data[:, 0, 0].tolist() == [11 + 1]  # view 1's own geometry
    assert sample.views[0].aligned["still"].data.shape == (1, 24, 32)
    with pytest.raises(DataError, match=r"no file\.depth"):
        ClipDataset(
            Manifest(str(tmp_path), rows), Fixed(indices(0)), WholeFrames(1), aligned=[AlignedSource("depth", "depth")]
        )
    size = FrameSize(24, 32, 2)
    with pytest.raises(TooShortError, match="has 40 rows where frame 40"):
        read_array(tmp_path / "mask.npy", np.array([3, 40]), size)
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(UnreadableError, match="not a readable NumPy file"):
        read_array(tmp_path / "text.npy", np.array([0]), size)


def test_constructor_refuses():
    with pytest.raises(UsageError, match="draws 2 clips and the view plan makes 3 views"):
        ClipDataset(videos(1), PairSampler(), WholeFrames(3))
    with pytest.raises(DataError, match="has no rows"):
        ClipDataset(videos(0), PairSampler(), WholeFrames())
    with pytest.raises(DataError, match="has no rows"):
        EvaluationDataset(videos(0), ClipPlan())


# ------------------------------------------------------------------------------------------------------ faults


def test_faults_refill_the_slot_in_order_and_are_recorded():
    rows = manifest("bad1.mp4", "late2.mp4", "video3.mp4", "video4.mp4")
    dataset = ClipDataset(rows, PairSampler(4, 2), WholeFrames(), decoder=MemoryDecoder())
    seen: list[int] = []
    context = WorkerContext()
    context.publish = seen.append
    sample = dataset.fill(Ticket(2, 17, 0, (1, 2, 3)), context)
    assert sample.row == 2
    assert seen == [0, 1, 2]
    assert [(f.path, f.cause, f.substitute, f.step) for f in sample.faults] == [
        ("bad1.mp4", "UnreadableError", "video3.mp4", 17),
        ("late2.mp4", "UnreadableError", "video3.mp4", 17),
    ]
    assert "breaks in the middle" in sample.faults[1].message
    # The substitute's views are its own views of that epoch.
    expected = dataset.sample(2, epoch=2)
    assert torch.equal(sample.views[0].data, expected.views[0].data)


def test_quarantined_files_are_not_touched():
    decoder = MemoryDecoder()
    dataset = ClipDataset(videos(3), PairSampler(4, 2), WholeFrames(), decoder=decoder)
    context = WorkerContext({"video0.mp4": "hung", "video1.mp4": "hung"})
    sample = dataset.fill(Ticket(0, 0, 0, (1, 2)), context)
    assert sample.row == 2
    assert [f.cause for f in sample.faults] == ["Quarantined", "Quarantined"]
    assert {path for path, _ in decoder.calls} == {Path("/nowhere/video2.mp4")}


def test_no_reserve_left_is_an_error_that_names_the_files():
    dataset = ClipDataset(manifest("bad1.mp4", "bad2.mp4"), PairSampler(4, 2), WholeFrames(), decoder=MemoryDecoder())
    with pytest.raises(DataError, match=r"(?s)step 5: bad1.mp4 and its 1 reserves .*bad2\.mp4: is made up.*data index"):
        dataset[Ticket(0, 5, 0, (1,))]


def test_bugs_are_not_faults():
    class Broken(WholeFrames):
        def crop(self, view, frames, params):
            raise ValueError("a bug")

    dataset = ClipDataset(videos(2), PairSampler(4, 2), Broken(), decoder=MemoryDecoder())
    with pytest.raises(ValueError, match="a bug"):
        dataset[Ticket(0, 0, 0, (1,))]


# -------------------------------------------------------------------------------------------------- real files


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    ramp = np.arange(48, dtype=np.uint8)[None, :, None]
    for name in ("a", "b"):
        frames = [np.broadcast_to(np.uint8(4 * t) + ramp, (36, 48, 3)) for t in range(30)]
        write_video(root / f"{name}.mp4", frames, 10.0)
    (root / "broken.mp4").write_bytes(b"no video" * 100)
    return root


def test_real_videos_and_views(folder):
    rows = Manifest(str(folder), (Row("a.mp4"), Row("b.mp4", start_s=1.0, end_s=2.0), Row("broken.mp4")))
    dataset = ClipDataset(rows, PairSampler(4, 2), view_plan("release", size=32))
    sample = dataset[Ticket(0, 0, 0)]
    assert [v.data.shape for v in sample.views] == [(4, 32, 32, 3)] * 2
    assert "geometry.box" in sample.views[0].params.values
    batch = dataset.views.apply(collate([sample, dataset[Ticket(0, 0, 2, (1,))]]))
    assert batch.views[0].data.shape == (2, 3, 4, 32, 32)
    assert [f.path for f in batch.faults] == ["broken.mp4"]
    assert float(batch.views[0].times_s[1].min()) >= 1.0
    assert float(batch.views[0].times_s[1].max()) < 2.0


def test_frame_lists_and_images(tmp_path):
    from PIL import Image

    for i in range(5):
        Image.fromarray(np.full((24, 32, 3), 10 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    rows = (Row("", frames=("4.png", "0.png", "2.png")), Row("3.png"))
    dataset = ClipDataset(Manifest(str(tmp_path), rows), Fixed(indices(0, 2, 0)), WholeFrames(1))
    assert frame_numbers(dataset.sample(0), 0) == [40, 20, 40]
    still = ClipDataset(Manifest(str(tmp_path), rows), PairSampler(4, 2), WholeFrames()).sample(1)
    assert frame_numbers(still, 0) == [30] * 4  # an image is a video of one frame, looped
    by_time = ClipDataset(Manifest(str(tmp_path), rows), Fixed(times(0.0, 1.5)), WholeFrames(1)).sample(1)
    assert frame_numbers(by_time, 0) == [30, 30]


# -------------------------------------------------------------------------------------------------- evaluation


def test_the_resize_is_the_views_resize():
    frames = torch.randint(0, 256, (3, 37, 53, 3), dtype=torch.uint8, generator=Key(0).torch())
    for antialias in (True, False):
        ours = resize_frames(frames, 24, 31, antialias=antialias)
        assert torch.equal(ours, geometry.resize(frames, (24, 31), antialias=antialias))
    assert resize_frames(frames, 37, 53) is frames


def test_evaluation_views_against_a_slow_loop():
    decoder = MemoryDecoder(height=20, width=30)
    plan = ClipPlan(num_frames=4, stride=2, num_clips=3, num_crops=3, size_px=16, short_side_px=16)
    dataset = EvaluationDataset(manifest("video7.mp4"), plan, decoder)
    result = dataset[0]
    assert result.fault is None
    assert result.views.shape == (9, 4, 16, 16, 3)
    assert result.times_s.shape == (3, 4)
    resized = (16, 24)
    for clip, start in enumerate((0, 16, 32)):
        wanted = [(start + 2 * i) % 40 for i in range(4)]
        whole = torch.from_numpy(MemoryDecoder(height=20, width=30).read("video7.mp4", indices=wanted).pixels)
        frames = geometry.resize(whole, resized)
        for crop, left in enumerate((0, 4, 8)):
            assert torch.equal(result.views[clip * 3 + crop], frames[:, :, left : left + 16])
        assert result.times_s[clip].tolist() == pytest.approx([w / FPS for w in wanted])
    assert len(decoder.calls) == 1


def test_evaluation_in_pieces_is_the_same(monkeypatch):
    plan = ClipPlan(num_frames=4, stride=1, num_clips=5, num_crops=1, size_px=16, short_side_px=16)
    rows = manifest("video7.mp4", start_s=1.0)
    whole = EvaluationDataset(rows, plan, MemoryDecoder())[0]
    monkeypatch.setattr("unreel.data.dataset._EVALUATION_BYTES", 24 * 32 * 3 * 8)
    decoder = MemoryDecoder()
    pieces = EvaluationDataset(rows, plan, decoder)[0]
    assert len(decoder.calls) == 3
    assert torch.equal(whole.views, pieces.views)
    assert torch.equal(whole.times_s, pieces.times_s)
    assert int(whole.views[..., 0].min()) == 10


def test_evaluation_carries_aligned_data_into_each_view_and_predictions_back(tmp_path):
    """The oracle is the picture: its own levels as a soft mask must stay what the views show, there and back."""
    decoder = MemoryDecoder(height=20, width=30)
    columns = decoder.read("video7.mp4", indices=np.arange(40)).pixels
    np.save(tmp_path / "levels.npy", (columns[..., 2] + columns[..., 0]).astype(np.float32))
    np.save(tmp_path / "boxes.npy", np.tile(np.array([[3.0, 5.0, 9.0, 15.0]]), (40, 1, 1)))
    rows = Manifest(
        str(tmp_path), (Row("video7.mp4", start_s=0.5, files={"levels": "levels.npy", "boxes": "boxes.npy"}),)
    )
    plan = ClipPlan(num_frames=4, stride=2, num_clips=2, num_crops=3, size_px=16, short_side_px=16)
    aligned = (AlignedSource("levels", "soft_mask"), AlignedSource("boxes", "boxes"))
    sample = EvaluationDataset(rows, plan, decoder, aligned=aligned)[0]
    levels, boxes = sample.aligned["levels"].data, sample.aligned["boxes"].data
    assert levels.shape == (6, 4, 16, 16)
    assert boxes.shape == (6, 4, 1, 4)
    shown = sample.views[..., 2].float() + sample.views[..., 0].float()
    torch.testing.assert_close(levels, shown, atol=1.01, rtol=0)
    # Resized by 0.8, and cut at 0, 4 and 8 from the left: the second crop shows the box at x = 0.8 · 3 − 4 < 0.
    torch.testing.assert_close(boxes[0, 0, 0].tolist(), [2.4, 4.0, 7.2, 12.0])
    torch.testing.assert_close(boxes[4, 2, 0].tolist(), [0.0, 4.0, 3.2, 12.0])
    assert torch.isnan(boxes[2]).all()
    for v in range(6):
        left = (0, 5, 10)[v % 3]  # of the crop, in the source's pixels
        back = unapply_to("soft_mask", levels[v], sample.params[v], fill=-1.0)
        assert back.shape == (4, 20, 30)
        inside = back[:, :, left : left + 20]
        assert (back >= 0).sum() == inside.numel()
        numbers = (sample.times_s[v // 3] * FPS).round()
        wanted = numbers[:, None, None] + torch.arange(left + 1, left + 19).float().expand(4, 20, 18)
        torch.testing.assert_close(inside[..., 1:-1], wanted.float(), atol=0.6, rtol=0)
    torch.testing.assert_close(unapply_to("boxes", boxes[0], sample.params[0])[0, 0].tolist(), [3.0, 5.0, 9.0, 15.0])
    again = next(iter(iterate_evaluation(EvaluationDataset(rows, plan, decoder, aligned=aligned), workers=1)))
    assert torch.equal(again.aligned["levels"].data, levels)
    assert torch.equal(again.params[4]["geometry.box"], sample.params[4]["geometry.box"])


def test_evaluation_never_substitutes():
    plan = ClipPlan(num_frames=4, stride=1, num_clips=1, num_crops=1, size_px=16, short_side_px=16)
    dataset = EvaluationDataset(manifest("bad1.mp4", "video2.mp4"), plan, MemoryDecoder())
    broken, fine = dataset[0], dataset[1]
    assert broken.views is None
    assert (broken.fault.path, broken.fault.cause, broken.fault.substitute) == ("bad1.mp4", "UnreadableError", "")
    assert broken.sample_id == dataset.manifest.sample_id(0)
    assert fine.fault is None
    tcgl = ClipPlan(num_frames=64, stride=1, num_clips=1, num_crops=1, size_px=16, short_side_px=16, rule="tcgl")
    short = EvaluationDataset(videos(1), tcgl, MemoryDecoder())[0]
    assert short.fault.cause == "TooShortError"
    assert "needs at least 64 frames" in short.fault.message
    held = dataset.read(1, WorkerContext({"video2.mp4": "hung"}))
    assert held.fault.cause == "Quarantined"


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 4), st.integers(1, 3))
def test_taking_frames_is_indexing(places, first, step):
    frames = torch.arange(30).reshape(10, 3)
    for place in (np.array(places), np.arange(first, 10, step), np.arange(9, first, -step)):
        assert torch.equal(_take(frames, place), frames[torch.from_numpy(place)])
    even = _take(frames, np.arange(first, 10, step))
    assert even.untyped_storage().data_ptr() == frames.untyped_storage().data_ptr()


def test_a_cache_changes_how_often_files_are_read_and_nothing_else():
    spans = Manifest("", (Row("video0.mp4", start_s=0.5, end_s=3.5), Row("video1.mp4"), Row("video2.mp4")))
    one_row_mb = 40 * 24 * 32 * 3 / 1e6

    def epochs(cache_mb: float) -> tuple[list[Sample], MemoryDecoder]:
        decoder = MemoryDecoder()
        data = ClipDataset(spans, PairSampler(8, 2), WholeFrames(2), decoder=decoder, cache_mb=cache_mb)
        return [data.sample(row, epoch) for epoch in range(3) for row in range(3)], decoder

    plain, plain_decoder = epochs(0)
    for cache_mb, reads in ((10.0, 3), (1.8 * one_row_mb, 5)):  # room for all; for the span's 30 frames and one row
        cached, decoder = epochs(cache_mb)
        assert len(decoder.calls) == reads
        for a, b in zip(plain, cached, strict=True):
            for view_a, view_b in zip(a.views, b.views, strict=True):
                assert torch.equal(view_a.data, view_b.data)
                assert torch.equal(view_a.times_s, view_b.times_s)
    assert len(plain_decoder.calls) == 9


def test_a_cached_row_that_breaks_late_still_gives_its_whole_frames():
    class BreaksLate(MemoryDecoder):
        def read(self, path, *, indices=None, times_s=None):
            if max(indices) > 20:
                raise UnreadableError(path, "breaks in the middle")
            return super().read(path, indices=indices)

    data = ClipDataset(videos(1), Fixed(indices(2, 4)), WholeFrames(1), decoder=BreaksLate(), cache_mb=10)
    assert frame_numbers(data.sample(0), 0) == [2, 4]
