"""View operations per second on one core: decoded frames to augmented float clips, ours against what people use.

Every variant gets the same uint8 frames and the same mix: random resized crop, flip 0.5, colour jitter 0.8 (strength
0.8/0.8/0.8/0.2), grey 0.2, blur 0.5 with 23 taps at 224; one draw per clip. ``unreel`` variants, the loop and
torchvision share their draws; kornia draws its own with the same probabilities. Variants take turns within each round
and are timed by the processor's clock, so that what else the machine does disturbs all alike; ratios are medians of
per-round ratios. Peers that are not installed are left out:

    pip install -r benchmarks/requirements-views.txt
    python benchmarks/views.py --out views.json

Variants: ``unreel`` (crop per clip as in a worker, the rest batched, eager), ``unreel compiled``, ``loop`` (one frame
and one operation at a time in plain torch: where-based HSV, depthwise blur), ``torchvision`` (v2 functional on the
uint8 clip, one parameter set per clip), ``kornia`` (VideoSequential, same_on_frame). Torchvision's contrast and
saturation are others than ours (per-frame grey mean, blend), kornia's likewise: the work is alike, the pixels are not.
``device part`` leaves the crop out: uint8 clips of the view's size to float.
"""

from __future__ import annotations

import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from common import arguments, ratio, save, take_turns
from torch import Tensor
from torch.nn import functional

from unreel.core.keys import Key
from unreel.data.batch import Batch, Sample, View, ViewParams, collate
from unreel.data.contracts import FrameSize
from unreel.views.geometry import default_blur_radius
from unreel.views.operations import JITTER_OPERATIONS
from unreel.views.plan import ViewPlan
from unreel.views.presets import view_plan

LUMA = (0.2989, 0.587, 0.114)


def plan_of(size: int, *, compiled: bool = False) -> ViewPlan:
    return view_plan("paper", size=size, num_views=1, blur_p=0.5, compiled=compiled)


def make(videos: list[Tensor], plan: ViewPlan, params: list[ViewParams]) -> Batch:
    samples = []
    for i, (video, drawn) in enumerate(zip(videos, params, strict=True)):
        view = View(plan.crop(0, video, drawn), torch.zeros(len(video)), drawn)
        samples.append(Sample((view,), {}, i, i, i))
    return collate(samples)


# --- one frame, one operation at a time ---------------------------------------------------------------------------


def loop_hsv(frame: Tensor, scale: float | None, shift: float | None) -> Tensor:
    red, green, blue = frame
    high, low = frame.amax(0), frame.amin(0)
    chroma = high - low
    divisor = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    hue = torch.where(high == red, (green - blue) / divisor, (red - green) / divisor + 4)
    hue = torch.where((high == green) & (high != red), (blue - red) / divisor + 2, hue) / 6 % 1
    saturation = torch.where(high > 0, chroma / torch.where(high > 0, high, torch.ones_like(high)), chroma)
    if scale is not None:
        saturation = (saturation * scale).clamp(0, 1)
    if shift is not None:
        hue = (hue + shift) % 1
    channels = []
    for n in (5, 3, 1):
        k = (n + hue * 6) % 6
        channels.append(high - high * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels)


def loop_blur(frame: Tensor, sigma: float, radius: int) -> Tensor:
    offsets = torch.arange(-radius, radius + 1, dtype=frame.dtype)
    taps = torch.exp(-0.5 * (offsets / sigma) ** 2)
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    out = functional.conv2d(frame[None], taps, padding=(0, radius), groups=3)
    return functional.conv2d(out, taps.transpose(2, 3), padding=(radius, 0), groups=3)[0]


def loop(clip: Tensor, params: ViewParams) -> Tensor:
    """(T, h, w, C) uint8 to (C, T, h, w) float; the contrast pivot is the clip's, as in the default."""
    frames = [f.permute(2, 0, 1).float() / 255 for f in clip]
    values = {k: v[0] for k, v in params.values.items()}
    if values["flip.apply"]:
        frames = [f.flip(-1) for f in frames]
    if values["jitter.apply"]:
        for i in values["jitter.order"].tolist():
            knob = JITTER_OPERATIONS[i]
            factor = float(values[f"jitter.{knob}"])
            if knob == "brightness":
                frames = [(f * factor).clamp(0, 1) for f in frames]
            elif knob == "contrast":
                center = torch.stack([f.mean((1, 2)) for f in frames]).mean(0)[:, None, None]
                frames = [(center + factor * (f - center)).clamp(0, 1) for f in frames]
            elif knob == "saturation":
                frames = [loop_hsv(f, factor, None) for f in frames]
            else:
                frames = [loop_hsv(f, None, factor) for f in frames]
    if values["gray.apply"]:
        frames = [sum(w * c for w, c in zip(LUMA, f, strict=True)).expand(3, -1, -1) for f in frames]  # type: ignore[union-attr]
    if values["blur.apply"]:
        radius = default_blur_radius(*frames[0].shape[-2:])
        frames = [loop_blur(f, float(values["blur.sigma"]), radius) for f in frames]
    return torch.stack(frames, 1)


# --- peers --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def torchvision_functional() -> Any | None:
    """torchvision.transforms.v2.functional; its Python part alone where its library was built for another torch."""
    schemas = torch.library.Library("torchvision", "FRAGMENT")
    keep.append(schemas)
    for _ in range(50):
        try:
            return import_module("torchvision.transforms.v2.functional")
        except ImportError:
            return None
        except RuntimeError as error:  # its operators have no library: none of those used here is one of them
            missing = re.search(r"torchvision::(\w+) does not exist", str(error))
            if missing is None:
                print(f"torchvision is left out: {error}")
                return None
            schemas.define(f"{missing[1]}(Tensor x) -> Tensor")
            for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
    return None


keep: list[object] = []


def torchvision_clip(peer: Any, clip: Tensor, params: ViewParams, size: int, *, crop: bool) -> Tensor:
    """(T, H, W, C) uint8 to (T, C, h, w) float, one parameter set for the clip."""
    x = clip.permute(0, 3, 1, 2)
    values = {k: v[0] for k, v in params.values.items()}
    if crop:
        x1, y1, x2, y2 = (int(v) for v in values["crop.box"])
        x = peer.resized_crop(x, y1, x1, y2 - y1, x2 - x1, [size, size], antialias=True)
    if values["flip.apply"]:
        x = peer.horizontal_flip(x)
    if values["jitter.apply"]:
        for i in values["jitter.order"].tolist():
            knob = JITTER_OPERATIONS[i]
            x = getattr(peer, f"adjust_{knob}")(x, float(values[f"jitter.{knob}"]))
    if values["gray.apply"]:
        x = peer.rgb_to_grayscale(x, num_output_channels=3)
    if values["blur.apply"]:
        taps = 2 * default_blur_radius(size, size) + 1
        x = peer.gaussian_blur(x, [taps, taps], [float(values["blur.sigma"])] * 2)
    return x.float() / 255


def kornia_pipeline(size: int, *, crop: bool) -> Callable[[Tensor], Tensor] | None:
    """(B, T, C, H, W) float in [0, 1] to the view."""
    try:
        import kornia.augmentation as peer
    except ImportError:
        return None
    taps = 2 * default_blur_radius(size, size) + 1
    steps: list[Any] = [
        peer.RandomHorizontalFlip(p=0.5),
        peer.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        peer.RandomGrayscale(p=0.2),
        peer.RandomGaussianBlur((taps, taps), (0.1, 2.0), p=0.5),
    ]
    if crop:
        steps.insert(0, peer.RandomResizedCrop((size, size), scale=(0.3, 1.0), ratio=(0.5, 2.0)))
    pipeline = peer.VideoSequential(*steps, data_format="BTCHW", same_on_frame=True)
    result: Callable[[Tensor], Tensor] = pipeline
    return result


# --- the measurement ----------------------------------------------------------------------------------------------


def variants(size: int, clips: int, frames: int, *, compiled: bool, crop: bool) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    height, width = round(size * 256 / 224), round(size * 340 / 224)
    coarse = torch.rand(clips, 3, frames, height // 8, width // 8, generator=generator)
    smooth = functional.interpolate(coarse, (frames, height, width), mode="trilinear").permute(0, 2, 3, 4, 1)
    videos = [v.contiguous() for v in (smooth * 255).to(torch.uint8)]
    eager = plan_of(size)
    params = [eager.draw(Key("benchmark", i), 0, FrameSize(height, width, frames), {}) for i in range(clips)]
    ready = make(videos, eager, params)
    cropped = list(ready.views[0].data)

    def ours(plan: ViewPlan) -> Callable[[], object]:
        return lambda: plan.apply(make(videos, plan, params) if crop else ready)

    chosen = {"unreel": ours(eager)}
    if compiled:
        chosen["unreel compiled"] = ours(plan_of(size, compiled=True))

    def run_loop() -> object:
        cut = [eager.crop(0, v, p) for v, p in zip(videos, params, strict=True)] if crop else cropped
        return torch.stack([loop(c, p) for c, p in zip(cut, params, strict=True)])

    chosen["loop"] = run_loop
    peer = torchvision_functional()
    inputs = videos if crop else cropped
    if peer is not None:
        chosen["torchvision"] = lambda: torch.stack(
            [torchvision_clip(peer, c, p, size, crop=crop) for c, p in zip(inputs, params, strict=True)]
        )
    pipeline = kornia_pipeline(size, crop=crop)
    if pipeline is not None:
        batch = torch.stack(inputs)
        chosen["kornia"] = lambda: pipeline(batch.permute(0, 1, 4, 2, 3).float() / 255)
    return chosen


def check(size: int, frames: int) -> float:
    """Greatest difference between ours and the loop: the two must do the same before their times mean anything."""
    generator = torch.Generator().manual_seed(1)
    videos = [torch.randint(0, 256, (frames, size, size, 3), generator=generator, dtype=torch.uint8) for _ in range(16)]
    plan = plan_of(size)
    params = [plan.draw(Key("check", i), 0, FrameSize(size, size, frames), {}) for i in range(16)]
    batch = make(videos, plan, params)
    got = plan.apply(batch).views[0].data
    want = torch.stack([loop(c, p) for c, p in zip(batch.views[0].data, params, strict=True)])
    return float((got - want).abs().max())


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 112, 56], help="view sizes, pixels")
    parser.add_argument("--clips", type=int, default=8, help="clips per batch at 224; four times as many per halving")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--no-compiled", action="store_true", help="leave out the variant that compiles")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    difference = check(32, 4)
    print(f"ours against the loop, greatest difference: {difference:.1e}")
    results: dict[str, object] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "difference_from_loop": difference,
        "frames": args.frames,
        "tables": [],
    }
    for size in args.sizes:
        count = args.clips * max(1, (224 // size) ** 2)
        for crop in (True, False):
            title = "crop and all operations" if crop else "device part"
            chosen = variants(size, count, args.frames, compiled=not args.no_compiled, crop=crop)
            times = take_turns(chosen, args.rounds, clock=time.process_time)
            print(f"\n{size} px, {count} clips × {args.frames} frames, {title}")
            rows = []
            for name, seconds in times.items():
                row = {
                    "variant": name,
                    "clips_per_s": count / statistics.median(seconds),
                    "unreel_is_faster_by": ratio(seconds, times["unreel"]),
                    "best_ratio": min(seconds) / min(times["unreel"]),
                }
                rows.append(row)
                print(
                    f"  {name:16s} {row['clips_per_s']:9.1f} clips/s   {1000 / row['clips_per_s']:8.2f} ms/clip"
                    f"   unreel is {row['unreel_is_faster_by']:6.2f} × as fast (best of each: {row['best_ratio']:.2f})"
                )
            results["tables"].append({"size_px": size, "clips": count, "part": title, "rows": rows})  # type: ignore[attr-defined]
    save(args.out, results)


if __name__ == "__main__":
    main()
