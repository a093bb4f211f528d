"""Draws: rates, ranges, samplers against independent ones, and the stability of keys."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import mean

import pytest
import torch

from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.data.contracts import FrameSize
from unreel.views.operation import DeviceOperation, SourceOperation
from unreel.views.operations import (
    CenterCrop,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    ObjectCrop,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Solarize,
)
from unreel.views.presets import view_plan

DRAWS = 5000
SIZE = FrameSize(256, 340, 4)

DEVICE = (HorizontalFlip(), ColorJitter(), Grayscale(), GaussianBlur(), Solarize())
SOURCE = (RandomResizedCrop(64), Resize(64), CenterCrop(64), RandomCrop(64), ObjectCrop())
BOXES = {"boxes": [[0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 0.3, 0.3]]}


def deviations(hits: int, n: int, p: float) -> float:
    return abs(hits - n * p) / math.sqrt(n * p * (1 - p))


def test_operations_satisfy_their_contracts() -> None:
    assert all(isinstance(op, DeviceOperation) and not isinstance(op, SourceOperation) for op in DEVICE)
    assert all(isinstance(op, SourceOperation) and not isinstance(op, DeviceOperation) for op in SOURCE)
    assert len({op.name for op in DEVICE + SOURCE}) == len(DEVICE + SOURCE)


def test_check_19_rates_and_ranges_over_5000_draws() -> None:
    """Flip 0.5, jitter 0.8, grey 0.2, solarise 0.2 (view 2), blur 1.0 / 0.1, and ranges (docs/methods/cvrl.md)."""
    plan = view_plan("release")
    rates = ({"flip": 0.5, "jitter": 0.8, "gray": 0.2, "blur": 1.0}, {"flip": 0.5, "jitter": 0.8, "gray": 0.2})
    rates[1].update(blur=0.1, solarize=0.2)
    ranges = {f"jitter.{k}": (0.2, 1.8) for k in ("brightness", "contrast", "saturation")}
    ranges.update({"jitter.hue": (-0.2, 0.2), "blur.sigma": (0.1, 2.0)})
    for view, expected in enumerate(rates):
        operations = {op.name: op for op in plan.pipelines[view] if op.name != "crop"}
        assert operations.keys() == expected.keys()
        flags = dict.fromkeys(expected, 0)
        values: dict[str, list[float]] = {name: [] for name in ranges}
        orders: dict[tuple[int, ...], int] = {}
        for i in range(DRAWS):
            for name, op in operations.items():
                drawn = op.draw(Key(5, i, view, name), SIZE, {})
                flags[name] += bool(drawn["apply"].item())
                for parameter, value in drawn.items():
                    if f"{name}.{parameter}" in values:
                        values[f"{name}.{parameter}"].append(value.item())
                if name == "jitter":
                    order = tuple(drawn["order"][0].tolist())
                    orders[order] = orders.get(order, 0) + 1
        for name, p in expected.items():
            if p == 1:
                assert flags[name] == DRAWS
            else:
                assert deviations(flags[name], DRAWS, p) < 4, (view, name, flags[name])
        for name, (low, high) in ranges.items():
            sample = values[name]
            assert low <= min(sample) < low + 0.01 * (high - low)
            assert high - 0.01 * (high - low) < max(sample) <= high
            deviation = (high - low) / math.sqrt(12 * DRAWS)
            assert abs(mean(sample) - (low + high) / 2) < 4 * deviation, name
        assert len(orders) == 24  # every order, all equally likely
        assert sum((n - DRAWS / 24) ** 2 for n in orders.values()) / (DRAWS / 24) < 60  # χ²(23), p ≈ 4e-5


@pytest.mark.parametrize("sampler", ["tf", "torchvision"])
@pytest.mark.parametrize("size", [(240, 320), (320, 240), (100, 400), (61, 47)])
def test_check_21_crops(sampler: str, size: tuple[int, int]) -> None:
    """Check 21: area in [0.3, 1] and aspect in [0.5, 2] up to rounding, inside the frame, output of the size asked."""
    height, width = size
    op = RandomResizedCrop(224, sampler=sampler)  # type: ignore[arg-type]
    frame = FrameSize(height, width, 3)
    full = 0
    for i in range(600):
        params = op.draw(Key(1, i), frame, {})
        ((x1, y1, x2, y2),) = params["box"].tolist()
        w, h = x2 - x1, y2 - y1
        assert (w, h) == (int(w), int(h))
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        if (w, h) == (width, height):
            full += 1
            continue
        # One line of rounding on either side.
        assert (w + 1) * (h + 1) >= 0.3 * width * height
        assert w / (h + 1) <= 2.0
        assert (w + 1) / h >= 0.5
    assert full < 30
    frames = torch.randint(0, 256, (3, height, width, 3), dtype=torch.uint8)
    assert op.crop(frames, op.draw(Key(0), frame, {})).shape == (3, 224, 224, 3)


def reference_tf_crop(draw: random.Random, height: int, width: int) -> tuple[int, int, int, int]:
    """Read independently from docs/methods/cvrl.md, Augmentation: list the heights that fit, then choose one."""
    while True:
        aspect = draw.uniform(0.5, 2.0)
        low, high = round(math.sqrt(0.3 * height * width / aspect)), round(math.sqrt(height * width / aspect))
        heights = [h for h in range(low, min(high, height) + 1) if round(h * aspect) <= width]
        if not heights:
            continue
        h = draw.choice(heights)
        w = round(h * aspect)
        if 0.3 * height * width <= w * h <= height * width:
            return draw.randrange(max(1, width - w)), draw.randrange(max(1, height - h)), w, h


def moments(boxes: Sequence[tuple[float, ...]]) -> list[float]:
    x, y, w, h = zip(*boxes, strict=True)
    area = [a * b for a, b in zip(w, h, strict=True)]
    ratio = [a / b for a, b in zip(w, h, strict=True)]
    return [mean(v) for v in (x, y, w, h, area, ratio, [a * a for a in area], [r * r for r in ratio])]


def test_tf_sampler_has_the_distribution_of_the_specification() -> None:
    draw = random.Random(0)
    want = [reference_tf_crop(draw, 180, 240) for _ in range(DRAWS)]
    op = RandomResizedCrop(64)
    got = []
    for i in range(DRAWS):
        x1, y1, x2, y2 = op.draw(Key(9, i), FrameSize(180, 240, 1), {})["box"][0].tolist()
        got.append((x1, y1, x2 - x1, y2 - y1))
    for a, b, column in zip(
        moments(got), moments(want), ("x", "y", "w", "h", "area", "ratio", "a2", "r2"), strict=True
    ):
        assert a == pytest.approx(b, rel=0.04), column  # four standard errors or more of each
    # Offsets never reach the far end: uniform in [0, W − w).
    assert all(x + w < 240 for x, _, w, _ in got if w < 240)
    # The two samplers differ, or the option would be no option: torchvision's areas are uniform, tf's are not.
    other = RandomResizedCrop(64, sampler="torchvision")
    areas = []
    for i in range(2000):
        x1, y1, x2, y2 = other.draw(Key(9, i), FrameSize(180, 240, 1), {})["box"][0].tolist()
        areas.append((x2 - x1) * (y2 - y1) / (180 * 240))
    assert abs(mean(areas) - moments(got)[4] / (180 * 240)) > 0.01


def test_tf_sampler_draws_every_height_alike() -> None:
    """At aspect 1 the heights run from that of the least area to the frame's, both included, all equally likely."""
    op = RandomResizedCrop(64, (0.3, 1.0), (1.0, 1.0))
    counts: dict[int, int] = {}
    for i in range(2800):
        x1, y1, x2, y2 = (int(v) for v in op.draw(Key(4, i), FrameSize(40, 60, 1), {})["box"][0])
        assert x2 - x1 == y2 - y1
        counts[y2 - y1] = counts.get(y2 - y1, 0) + 1
    assert sorted(counts) == list(range(27, 41))  # √(0.3 · 2400) = 26.8
    assert all(deviations(n, 2800, 1 / 14) < 4 for n in counts.values()), counts


def test_torchvision_sampler_is_log_uniform_in_aspect_and_falls_back_to_the_centre() -> None:
    op = RandomResizedCrop(64, (0.05, 0.2), (0.5, 2.0), sampler="torchvision")
    ratios, areas, ends = [], [], 0
    for i in range(DRAWS):
        x1, y1, x2, y2 = op.draw(Key(2, i), FrameSize(500, 500, 1), {})["box"][0].tolist()
        ratios.append(math.log((x2 - x1) / (y2 - y1)) / math.log(2))
        areas.append((x2 - x1) * (y2 - y1) / 250000)
        ends += x2 == 500
    assert abs(mean(ratios)) < 4 * 2 / math.sqrt(12 * DRAWS)
    assert mean([r * r for r in ratios]) == pytest.approx(1 / 3, rel=0.06)
    assert mean(areas) == pytest.approx(0.125, rel=0.02)
    assert ends > 0
    narrow = RandomResizedCrop(64, (0.9, 1.0), (0.9, 1.1), sampler="torchvision")
    x1, y1, x2, y2 = narrow.draw(Key(2), FrameSize(100, 400, 1), {})["box"][0].tolist()
    assert (x2 - x1, y1, y2) == (110, 0, 100)
    assert x1 == 145


def test_tf_sampler_gives_the_full_frame_when_nothing_fits() -> None:
    op = RandomResizedCrop(64, (0.9, 1.0), (0.5, 0.6))
    assert op.draw(Key(0), FrameSize(100, 400, 1), {})["box"].tolist() == [[0, 0, 400, 100]]


def test_per_frame_draws_extend_the_clip_s_draw() -> None:
    """T' = 1 is frame 0 of T' = T, and a longer clip keeps the draws of a shorter one."""
    for op in (RandomResizedCrop, RandomCrop, HorizontalFlip, ColorJitter, Grayscale, GaussianBlur, Solarize):
        key = Key(3, op.__name__)
        one = op().draw(key, SIZE, {})
        many = op(consistent=False).draw(key, SIZE, {})
        more = op(consistent=False).draw(key, SIZE._replace(num_frames=9), {})
        for name, value in one.items():
            assert value.shape[0] == 1
            assert many[name].shape[0] == 4
            assert more[name].shape[0] == 9
            assert torch.equal(many[name][:1], value), (op, name)
            assert torch.equal(more[name][:4], many[name]), (op, name)
            assert value.dtype in (torch.float32, torch.bool, torch.int64)
    flags = torch.stack([HorizontalFlip(consistent=False).draw(Key(i), SIZE, {})["apply"] for i in range(50)])
    assert bool((flags != flags[:, :1]).any(0)[1:].all())
    sigma = GaussianBlur(consistent=False).draw(Key(3), SIZE, {})["sigma"]
    assert len(set(sigma.tolist())) == 4
    varied = RandomResizedCrop(consistent=False).draw(Key(3), SIZE, {})["box"]
    assert len({tuple(b) for b in varied.tolist()}) == 4


def test_a_knob_never_changes_another_knob_s_draw() -> None:
    key = Key(8)
    base = ColorJitter().draw(key, SIZE, {})
    for knob in ("brightness", "contrast", "saturation", "hue"):
        other = ColorJitter(**{knob: 0.0}).draw(key, SIZE, {})  # type: ignore[arg-type]
        for name, value in base.items():
            assert (name == knob) != torch.equal(other[name], value)
    assert len({round(base[k].item(), 6) for k in ("brightness", "contrast", "saturation")}) == 3
    blurs = [GaussianBlur(0.5, (0.0, 1.0)).draw(Key(i), SIZE, {}) for i in range(200)]
    on = [float(b["sigma"][0]) for b in blurs if bool(b["apply"][0])]
    assert min(on) < 0.2
    assert max(on) > 0.8  # how much says nothing of whether
    never = ColorJitter(p=0.0).draw(key, SIZE, {})
    assert all(torch.equal(never[n], v) for n, v in base.items() if n != "apply")


def test_center_crop_positions_are_the_three_test_crops() -> None:
    """Check 22's crops: 256 out of 256 × 340 start at x = 0, 42, 84."""
    frame = FrameSize(256, 340, 1)
    starts = [CenterCrop(256, p).draw(Key(0), frame, {})["box"][0, 0].item() for p in (0.0, 0.5, 1.0)]
    assert starts == [0, 42, 84]
    tall = CenterCrop(256, 1.0).draw(Key(0), FrameSize(340, 256, 1), {})["box"].tolist()
    assert tall == [[0, 84, 256, 340]]
    with pytest.raises(DataError, match="cannot cut 256 × 256 out of frames of 200 × 300"):
        CenterCrop(256).draw(Key(0), FrameSize(200, 300, 1), {})


def test_random_crop_reaches_every_place() -> None:
    seen = {tuple(RandomCrop((6, 7)).draw(Key(i), FrameSize(8, 9, 1), {})["box"][0, :2].tolist()) for i in range(400)}
    assert seen == {(float(x), float(y)) for x in range(3) for y in range(3)}


def test_resize_short_side() -> None:
    resize = Resize(short_side_px=64)
    for (h, w), want in {(120, 160): (64, 85), (160, 120): (85, 64), (64, 64): (64, 64), (120, 161): (64, 85)}.items():
        frame = FrameSize(h, w, 2)
        params = resize.draw(Key(0), frame, {})
        assert resize.output_size(params, frame)[:2] == want
        assert resize.crop(torch.zeros(2, h, w, 3, dtype=torch.uint8), params).shape == (2, *want, 3)


def test_object_crop_takes_a_box_of_the_sidecar() -> None:
    frame = FrameSize(100, 200, 2)
    wanted = {(20, 20, 100, 90): 0, (0, 0, 60, 30): 1}
    counts = {0: 0, 1: 0}
    for i in range(200):
        drawn = ObjectCrop().draw(Key(i), frame, BOXES)
        box = tuple(int(v) for v in drawn["box"][0])
        assert wanted[box] == drawn["index"].item()
        counts[wanted[box]] += 1
    assert deviations(counts[0], 200, 0.5) < 4
    assert ObjectCrop(pick="largest").draw(Key(0), frame, BOXES)["index"].item() == 0
    wider = ObjectCrop(pick="largest", margin=0.1).draw(Key(0), frame, BOXES)
    assert wider["box"].tolist() == [[12, 13, 108, 97]]
    for nothing in (None, [], [[0.5, 0.5, 0.5, 0.9]]):
        drawn = ObjectCrop().draw(Key(0), frame, {"boxes": nothing})
        assert (drawn["box"].tolist(), drawn["index"].item()) == ([[0, 0, 200, 100]], -1)
    with pytest.raises(DataError, match="unreel data annotate boxes"):
        ObjectCrop().draw(Key(0), frame, {})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomResizedCrop(area=(0.5, 0.3)), "ascending pair"),
        (lambda: RandomResizedCrop(area=(0.5, 1.3)), "within"),
        (lambda: RandomResizedCrop(0), "at least 1 × 1"),
        (lambda: RandomResizedCrop(sampler="tensorflow"), "sampler must be one of tf, torchvision"),  # type: ignore[arg-type]
        (lambda: RandomResizedCrop(area=(0.01, 0.05)), "always give the full frame"),
        (lambda: HorizontalFlip(p=1.2), "p must be ≤ 1"),
        (lambda: ColorJitter(brightness=-0.1), "brightness must be ≥ 0"),
        (lambda: ColorJitter(contrast_pivot="mean"), "contrast_pivot must be one of"),  # type: ignore[arg-type]
        (lambda: GaussianBlur(sigma=(-1.0, 2.0)), "sigma"),
        (lambda: GaussianBlur(padding="wrap"), "padding must be one of"),  # type: ignore[arg-type]
        (lambda: Resize(), "either size or short_side_px"),
        (lambda: CenterCrop(position=2.0), "position must be ≤ 1"),
        (lambda: ObjectCrop(pick="first"), "pick must be one of"),  # type: ignore[arg-type]
    ],
)
def test_wrong_knobs_are_refused_at_once(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]


def test_parameters_that_do_not_fit_are_refused() -> None:
    clips = torch.rand(2, 3, 4, 8, 8)
    with pytest.raises(UsageError, match=r"flip: parameters apply \(2, 3\) do not fit"):
        HorizontalFlip().apply(clips, {"apply": torch.ones(2, 3, dtype=torch.bool)})
