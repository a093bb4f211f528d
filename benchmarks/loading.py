"""Clips per second and core, from file to cropped uint8 views: 2 clips × 16 frames per video, stride 2, crop to 224.

Every variant reads the same frames and cuts the same boxes; variants take turns within each round, so that what else
the machine does hits all alike. Decoding is timed by the processor's clock (one thread: seconds of one core), which a
busy machine disturbs least. Ratios are medians of per-round ratios. Peers that are not installed are left out:

    pip install -r benchmarks/requirements-loading.txt
    python benchmarks/loading.py --out loading.json

Variants: ``unreel`` (frame table known, as from the second epoch on), ``unreel cold`` (table built anew for every
video), ``torchcodec per clip`` (exact seek mode, one call per clip), ``torchcodec one call`` (both clips), and
``pyav full`` (decode the whole file to RGB, then pick). The second part hands ready batches from workers to the main
process, and compares with ``torch.utils.data.DataLoader``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import arguments, ratio, save
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from unreel.core.keys import Key
from unreel.data.batch import collate
from unreel.data.contracts import Ticket
from unreel.data.dataset import ClipDataset
from unreel.data.loader import ClipLoader
from unreel.data.manifest import Manifest, Row
from unreel.data.sampling import PairSampler
from unreel.media import Frames, VideoInfo, read_clip
from unreel.media.write import write_video
from unreel.views.presets import view_plan

SIZE = 224


class Job(NamedTuple):
    """One video's work: frames of both clips, and the boxes to cut, x1 y1 x2 y2."""

    row: int
    epoch: int
    path: str
    indices: list[np.ndarray]
    boxes: list[list[int]]


def render(folder: Path, gop: int, count: int, seconds: float, width: int, height: int) -> Manifest:
    """Panning textures with a moving square: detail to code, motion to predict."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        generator = Key("benchmark", number).numpy()
        coarse = torch.from_numpy(generator.random((1, 3, 60, 80), dtype=np.float32))
        texture = functional.interpolate(coarse, scale_factor=10, mode="bicubic")[0].permute(1, 2, 0).clamp(0, 1)
        texture = (texture * 230 + torch.from_numpy(generator.random(texture.shape, dtype=np.float32)) * 25).byte()
        frames = []
        for t in range(int(25 * seconds)):
            x, y = int(60 + 50 * np.sin(t / 30)), int(40 + 30 * np.cos(t / 40))
            frame = texture[y : y + height, x : x + width].numpy().copy()
            left = (5 * t) % (width - 40)
            frame[60:100, left : left + 40] = 255 - frame[60:100, left : left + 40]
            frames.append(frame)
        write_video(folder / f"{number}.mp4", frames, 25.0, gop=gop, crf=23, preset="medium")
        rows.append(Row(f"{number}.mp4"))
    return Manifest(str(folder), tuple(rows))


def jobs(dataset: ClipDataset, epoch: int) -> list[Job]:
    """The draws of an epoch, made outside the clock for the peers."""
    found = []
    for row in range(len(dataset)):
        facts = dataset.reader.facts(row)
        key = Key(dataset.seed, epoch, dataset.manifest.sample_id(row))
        starts = PairSampler().starts(key.child("time"), facts.num_frames)
        indices = [(s + 2 * np.arange(16)) % facts.num_frames for s in starts]
        views = dataset.sample(row, epoch).views
        boxes = [[round(v) for v in view.params["geometry.box"][0].tolist()] for view in views]
        found.append(Job(row, epoch, str(dataset.manifest.absolute(row)), indices, boxes))
    return found


def resizer() -> tuple[str, Callable[[Tensor, int], Tensor]]:
    """torchvision's v2 resize where it can be imported, else the torch call that it makes."""
    try:
        from torchvision.transforms.v2 import functional as v2

        return "torchvision v2", lambda clip, size: v2.resize(clip, [size, size], antialias=True)
    except (ImportError, RuntimeError):
        return "torch interpolate", lambda clip, size: functional.interpolate(
            clip, (size, size), mode="bilinear", antialias=True
        )


def variants(dataset: ClipDataset) -> dict[str, Callable[[Job], list[Tensor]]]:
    _, resize = resizer()

    def cut(clip: Tensor, box: list[int]) -> Tensor:
        x1, y1, x2, y2 = box
        return resize(clip[:, :, y1:y2, x1:x2], SIZE)

    def unreel(job: Job) -> list[Tensor]:
        return [view.data for view in dataset.sample(job.row, job.epoch).views]

    def unreel_cold(job: Job) -> list[Tensor]:
        os.utime(job.path)  # a changed time makes the frame table unknown
        return unreel(job)

    def pyav_full(job: Job) -> list[Tensor]:
        import av

        with av.open(job.path) as container:
            frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
        whole = torch.from_numpy(frames).permute(0, 3, 1, 2)
        return [cut(whole[torch.from_numpy(i)], b) for i, b in zip(job.indices, job.boxes, strict=True)]

    found = {"unreel": unreel, "unreel cold": unreel_cold, "pyav full": pyav_full}
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        print(f"torchcodec left out: {str(error).splitlines()[0]}")
        return found

    def per_clip(job: Job) -> list[Tensor]:
        clips = []
        for indices, box in zip(job.indices, job.boxes, strict=True):
            decoder = VideoDecoder(job.path, num_ffmpeg_threads=1, seek_mode="exact")
            clips.append(cut(decoder.get_frames_at(indices.tolist()).data, box))
        return clips

    def one_call(job: Job) -> list[Tensor]:
        decoder = VideoDecoder(job.path, num_ffmpeg_threads=1, seek_mode="exact")
        both = decoder.get_frames_at(np.concatenate(job.indices).tolist()).data
        return [cut(both[16 * i : 16 * (i + 1)], box) for i, box in enumerate(job.boxes)]

    return {**found, "torchcodec per clip": per_clip, "torchcodec one call": one_call}


def _check(job: Job, found: dict[str, Callable[[Job], list[Tensor]]]) -> dict[str, float]:
    """Mean difference, in levels, of each variant's views to ``unreel``'s; and our frames against a plain decode."""
    import av

    with av.open(job.path) as container:
        plain = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    union = np.unique(np.concatenate(job.indices))
    assert np.array_equal(read_clip(job.path, indices=union).pixels, plain[union]), "frames are not bit-identical"
    ours = [c.permute(0, 3, 1, 2).int() for c in found["unreel"](job)]
    return {
        name: float(np.mean([(a - b.int()).abs().float().mean() for a, b in zip(ours, run(job), strict=True)]))
        for name, run in found.items()
        if not name.startswith("unreel")
    }


def _summary(times: dict[str, list[float]], clips: int, reference: str) -> dict[str, Any]:
    """Medians and bests per variant, and the median over rounds of reference time / variant time."""
    return {
        name: {
            "clips_per_s_median": clips / statistics.median(rounds),
            "clips_per_s_best": clips / min(rounds),
            f"ratio_to_{reference.replace(' ', '_')}": ratio(times[reference], rounds),
        }
        for name, rounds in times.items()
    }


def decoding(folder: Path, gop: int, args: argparse.Namespace) -> dict[str, Any]:
    manifest = render(folder / f"gop{gop}", gop, args.videos, args.seconds, args.width, args.height)
    dataset = ClipDataset(manifest, PairSampler(), view_plan("crop_only", size=SIZE))
    found = variants(dataset)
    difference = _check(jobs(dataset, 0)[0], found)
    times: dict[str, list[float]] = {name: [] for name in found}
    names = list(found)
    for number in range(args.rounds):
        work = jobs(dataset, number + 1)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = time.process_time()
            for job in work:
                found[name](job)
            times[name].append(time.process_time() - started)
    reference = "torchcodec per clip" if "torchcodec per clip" in found else "pyav full"
    result = _summary(times, 2 * args.videos, reference)
    if "torchcodec one call" in found:
        for name, rounds in times.items():
            result[name]["ratio_to_torchcodec_one_call"] = ratio(times["torchcodec one call"], rounds)
    size = sum(Path(manifest.absolute(i)).stat().st_size for i in range(len(manifest)))
    return {"variants": result, "mean_difference_to_unreel": difference, "megabytes": size / 1e6}


class ReadyDecoder:
    """Frames at no cost, so that only the hand-over is measured."""

    name = "ready"
    info = VideoInfo(SIZE, SIZE, 64, 2.56, 25.0, "ready")
    frames = np.zeros((32, SIZE, SIZE, 3), dtype=np.uint8)

    def probe(self, path: Any) -> VideoInfo:
        """Always the same facts."""
        return self.info

    def frame_times(self, path: Any) -> np.ndarray:
        """25 frames per second."""
        return np.arange(64) / 25

    def read(self, path: Any, *, indices: Any = None, times_s: Any = None) -> Frames:
        """Black frames."""
        return Frames(self.frames[: len(indices)], np.asarray(indices) / 25)


class _Steps:
    """Tickets as torch's loader takes them: a list per batch."""

    def __init__(self, loader: ClipLoader, steps: int) -> None:
        self.loader, self.steps = loader, steps

    def __iter__(self) -> Any:
        return iter([self.loader.tickets(step) for step in range(self.steps)])

    def __len__(self) -> int:
        return self.steps


class _Tickets(torch.utils.data.Dataset[Any]):
    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, ticket: Ticket) -> Any:
        return self.dataset[ticket]


def handing_over(args: argparse.Namespace) -> dict[str, Any]:
    rows = Manifest("/nowhere", tuple(Row(f"{i}.mp4") for i in range(64)))
    dataset = ClipDataset(rows, PairSampler(), view_plan("none", size=SIZE), decoder=ReadyDecoder())
    result: dict[str, Any] = {}
    for workers in (1, 2):
        loader = ClipLoader(dataset, 8, workers=workers)

        def ours(loader: ClipLoader = loader) -> Any:
            return loader.iterate(0, args.steps)

        def theirs(loader: ClipLoader = loader, workers: int = workers) -> Any:
            return iter(
                DataLoader(
                    _Tickets(dataset), batch_sampler=_Steps(loader, args.steps), num_workers=workers, collate_fn=collate
                )
            )

        times: dict[str, list[float]] = {"unreel": [], "torch DataLoader": []}
        first: dict[str, list[float]] = {"unreel": [], "torch DataLoader": []}
        for _ in range(args.rounds):
            for name, make in (("unreel", ours), ("torch DataLoader", theirs)):
                opened = time.perf_counter()
                batches = make()
                next(batches)
                started = time.perf_counter()
                first[name].append(started - opened)
                for batch in batches:
                    int(batch.views[0].data[0, 0, 0, 0, 0])
                times[name].append((time.perf_counter() - started) / (args.steps - 1))
        result[f"{workers} workers"] = {
            name: {
                "ms_per_batch_median": 1e3 * statistics.median(times[name]),
                "ms_to_first_batch_median": 1e3 * statistics.median(first[name]),
                "ratio_to_torch": ratio(times["torch DataLoader"], times[name]),
            }
            for name in times
        }
    return {"batch_megabytes": 8 * 2 * 16 * SIZE * SIZE * 3 / 1e6, **result}


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--videos", type=int, default=4, help="videos per group-of-pictures length")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each video")
    parser.add_argument("--width", type=int, default=340)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30, help="batches per round when handing over")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "what": "2 clips x 16 frames at stride 2 per video, one thread, crop and resize to 224",
        "machine": {"processor": platform.processor() or platform.machine(), "cpus": os.cpu_count()},
        "versions": {"torch": torch.__version__, "python": platform.python_version(), "resize": resizer()[0]},
        "settings": {k: v for k, v in vars(args).items() if k != "out"},
        "load_before": os.getloadavg(),
    }
    with tempfile.TemporaryDirectory() as folder:
        for gop in (12, 250):
            report[f"gop {gop}"] = decoding(Path(folder), gop, args)
    report["handing over"] = handing_over(args)
    report["load_after"] = os.getloadavg()
    print(json.dumps(report, indent=1))
    save(args.out, report)


if __name__ == "__main__":
    main()
