"""Figures of a run: each a function of plain values, as SVG that follows the page's colours, or as pixels.

Nothing here touches matplotlib's global state. Figures are small (about 300 points wide), so that on a phone their text
stays as large as the page's; the page places them side by side where there is room.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context, rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import Batch
from unreel.data.sampling import IntervalDistribution
from unreel.tasks.scores import Report, Score

# Stand-ins that become CSS variables in the SVG; matplotlib needs real colours.
INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#050501", "#050502", "#050503", "#050504")
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    PAPER: "--paper",
    **{colour: f"--series-{i + 1}" for i, colour in enumerate(SERIES)},
}
STYLE = rc_params_from_file(Path(__file__).with_name("figures.mplstyle"), use_default_template=False)
_WIDTH_IN, _HEIGHT_IN = 4.2, 2.3
# What the trainer writes about itself; everything else in a record is the method's own.
_TIMING = frozenset({"step", "epoch", "lr", "data_wait", "clips_per_s", "s_per_step", "skipped", "faults"})
_SMOOTH_FROM = 60  # records; below, every point is shown as it is


@dataclass(frozen=True)
class Drawing:
    """A figure with the words a page puts around it; ``text`` says in a sentence what it shows, for listeners."""

    name: str
    title: str
    text: str
    figure: Figure = field(compare=False, repr=False)

    def svg(self) -> str:
        """An inline ``<svg>`` element with the page's colours (CSS variables) and font, without size: it fills its box.

        Ids get the drawing's name as a prefix.
        """
        buffer = io.StringIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
        for colour, variable in _VARIABLES.items():
            svg = svg.replace(colour, f"var({variable})")
        svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", svg)
        prefix = re.sub(r"\W+", "-", self.name)
        svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
        svg = re.sub(r'(xlink:href|href)="#', rf'\1="#{prefix}-', svg)
        svg = svg.replace("url(#", f"url(#{prefix}-")
        opening = svg[: svg.index(">") + 1]
        box = re.search(r'viewBox="[^"]+"', opening)
        label = self.text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        head = (
            f'<svg {box.group(0) if box else ""} role="img" aria-label="{label}" xmlns="http://www.w3.org/2000/svg" '
            'xmlns:xlink="http://www.w3.org/1999/xlink">'
        )
        return head + svg[len(opening) :].strip()


def _axes(*, height_in: float = _HEIGHT_IN) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03))
    return figure, figure.add_subplot()


# -------------------------------------------------------------------------------------------------------------- curves


def curves(records: Sequence[Mapping[str, Any]], *, chance: Mapping[str, float] | None = None) -> list[Drawing]:
    """Training curves from the records of metrics.jsonl: one small figure per quantity.

    The loss and the method's other values come first, then what the online probe measured, the learning rate, and the
    share of time spent waiting for data.

    Args:
        records: as the trainer writes them; quantities may be missing from some of them, or null.
        chance: value of looking at nothing, by quantity; drawn as a dashed line.
    """
    names: dict[str, None] = dict.fromkeys(k for r in records for k in r)
    own = [n for n in names if n not in _TIMING and not n.startswith("probe.")]
    # What was measured on held-out videos stands behind the same quantity in training.
    bare = {n: n.removeprefix("val_") for n in own}
    own.sort(key=lambda n: (bare[n] != "loss", "accuracy" not in n, bare[n], n != bare[n]))
    order = [*own, *(n for n in names if n.startswith("probe.")), *(n for n in ("lr", "data_wait") if n in names)]
    drawings = []
    for name in order:
        points = [(float(r["step"]), float(r[name])) for r in records if r.get(name) is not None]
        if points:
            drawings.append(_curve(name, np.array(points), (chance or {}).get(name)))
    return drawings


def _curve(name: str, points: NDArray[np.float64], chance: float | None) -> Drawing:
    title = {
        "loss": "Loss",
        "lr": "Learning rate",
        "data_wait": "Time spent waiting for data",
        "contrast_accuracy": "Contrast accuracy",
    }.get(name, name.removeprefix("probe.").removeprefix("val_").replace("_", " ").replace(".", " ").capitalize())
    if name.startswith("probe."):
        title += " (online probe)"
    elif name.startswith("val_"):
        title += " (validation)"
    steps, values = points.T
    share = name == "data_wait" or "accuracy" in name
    with rc_context(STYLE):
        figure, axes = _axes()
        smooth = len(values) >= _SMOOTH_FROM and name != "lr"
        axes.plot(steps, values, color=SERIES[0], alpha=0.3 if smooth else 1.0, linewidth=0.8 if smooth else 1.4)
        shown = _smoothed(values) if smooth else values
        if smooth:
            axes.plot(steps, shown, color=SERIES[0])
        axes.plot(steps[-1:], shown[-1:], "o", color=SERIES[0], markersize=3.5, clip_on=False, zorder=5)
        low, high = _limits(values, chance, floor=0.0 if share else None)
        if share:
            high = min(1.0, max(high, 0.05))
        axes.set_ylim(low, high)
        if chance is not None:
            axes.axhline(chance, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
            up = chance < (low + high) / 2
            axes.annotate(
                f"chance {_number(chance, share)}",
                (0.995, chance),
                (0, 3 if up else -3),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                va="bottom" if up else "top",
                color=MUTED,
                fontsize=8,
            )
        if share:
            axes.yaxis.set_major_formatter(_percent)
        elif name == "lr":
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
        axes.set_xlabel("step")
    ends = [f"{_number(v, share)} at step {s:.0f}" for s, v in (points[0], points[-1])]
    text = f"{title} from {ends[0]} to {ends[1]}"
    if chance is not None:
        text += f"; chance is {_number(chance, share)}"
    head = title if name == "lr" else f"{title}: {_number(float(shown[-1]), share)}"
    return Drawing(f"curve-{name}", head, text, figure)


def losses_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Drawing:
    """The losses of several runs by name, over their steps; lines beyond the fourth are dashed.

    Raises: UsageError where no run has one.
    """
    found = {
        name: np.array([(float(r["step"]), float(r["loss"])) for r in records if r.get("loss") is not None])
        for name, records in runs.items()
    }
    found = {name: points for name, points in found.items() if len(points)}
    if not found:
        raise UsageError("no run has a recorded loss")
    with rc_context(STYLE):
        figure, axes = _axes(height_in=_HEIGHT_IN + 0.16 * len(found))
        for i, (name, (steps, values)) in enumerate((name, points.T) for name, points in found.items()):
            shown = _smoothed(values) if len(values) >= _SMOOTH_FROM else values
            dash = "solid" if i < len(SERIES) else (0, (3, 1 + i // len(SERIES)))
            axes.plot(steps, shown, color=SERIES[i % len(SERIES)], linestyle=dash, label=name.replace("$", r"\$"))
            axes.plot(steps[-1:], shown[-1:], "o", color=SERIES[i % len(SERIES)], markersize=3.5)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("step")
        figure.legend(loc="outside lower left", frameon=False, fontsize=8, labelcolor=INK)
    ends = "; ".join(f"{name} ends at {_number(float(points[-1, 1]))}" for name, points in found.items())
    return Drawing("losses", "Loss", ends, figure)


def _smoothed(values: NDArray[np.float64], span: float = 0.05) -> NDArray[np.float64]:
    """Centred mean over about ``span`` of the run (one-sided at the ends), so that the line does not lag behind."""
    half = max(1, round(span * len(values) / 2))
    total = np.concatenate([[0.0], np.cumsum(values)])
    here = np.arange(len(values))
    first, last = np.maximum(here - half, 0), np.minimum(here + half + 1, len(values))
    return np.asarray((total[last] - total[first]) / (last - first))


def _limits(values: NDArray[np.float64], also: float | None, *, floor: float | None) -> tuple[float, float]:
    """Limits that hold the values, but for the top of a spike at the very start, and ``also``."""
    late = values[len(values) // 20 :]
    high = min(float(values.max()), float(late.max()) + 0.5 * float(np.ptp(late)) + 1e-12)
    low = float(values.min())
    if also is not None:
        low, high = min(low, also), max(high, also)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return (floor if floor is not None else low - room), high + room


def _percent(share: float, _place: object) -> str:
    return f"{100 * share:.3g} %"


def _number(value: float, share: bool = False) -> str:
    return f"{100 * value:.1f} %" if share else f"{value:.3g}"


# -------------------------------------------------------------------------------------------------------------- scores


def score_figure(report: Report) -> Drawing:
    """Every encoder's primary score per protocol: a dot with its interval, beside chance.

    Raises: UsageError for a report without scores.
    """
    primary = [s for s in report.scores if s.primary]
    if not primary:
        raise UsageError("the report has no primary score to draw")
    protocols = list(dict.fromkeys(s.protocol for s in primary))
    encoders = list(dict.fromkeys(s.encoder for s in primary))
    rows: list[tuple[float, Score]] = []
    heads: list[tuple[float, str]] = []
    y = 0.0
    for protocol in protocols:
        group = [s for s in primary if s.protocol == protocol]
        heads.append((y, f"{protocol} · {group[0].metric.replace('_', ' ')}"))
        y += 0.9
        for score in group:
            rows.append((y, score))
            y += 1.0
        y += 0.45
    low = min(min(s.chance, s.value, s.interval.low if s.interval else s.value) for s in primary)
    high = max(max(s.chance, s.value, s.interval.high if s.interval else s.value) for s in primary)
    room = 0.06 * (high - low) or 0.05
    left, right = (max(0.0, low - room) if low >= 0 else low - room), high + room
    with rc_context(STYLE):
        figure, axes = _axes(height_in=0.45 + 0.24 * y)
        for at, text in heads:
            axes.annotate(
                text, (0, at), (-82, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                va="center", fontsize=9, fontweight="bold",
            )  # fmt: skip
        for protocol in protocols:
            mine = [(at, s) for at, s in rows if s.protocol == protocol]
            axes.plot(
                [mine[0][1].chance] * 2, [mine[0][0] - 0.5, mine[-1][0] + 0.5], color=MUTED, linewidth=1.0,
                linestyle=(0, (4, 3)),
            )  # fmt: skip
        for at, score in rows:
            asked = score.encoder == "encoder"
            colour = SERIES[0] if asked else MUTED
            if score.interval is not None:
                axes.plot(
                    [score.interval.low, score.interval.high], [at, at], color=colour, linewidth=2.2 if asked else 1.4
                )
            axes.plot(
                [score.value], [at], "o", color=colour, markersize=7 if asked else 5.5,
                markerfacecolor=colour if asked else PAPER, markeredgewidth=1.4,
            )  # fmt: skip
        axes.set_yticks([at for at, _ in rows], [s.encoder for _, s in rows], color=INK)
        axes.set_ylim(y - 0.6, -0.6)
        axes.set_xlim(left, right)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x")
        axes.set_xlabel(f"score, with {report.level:.0%} interval; dashed: chance")
    parts = [f"{s.encoder} {s.protocol} {s.value:.3f} (chance {s.chance:.3f})" for _, s in rows]
    title = f"Scores of {len(encoders)} encoder{'s' if len(encoders) > 1 else ''}"
    return Drawing("scores", title, "; ".join(parts), figure)


# --------------------------------------------------------------------------------------------------- temporal sampling


def interval_figure(distribution: IntervalDistribution, *, num_starts: int = 100, draws: int = 4000) -> Drawing:
    """Histogram of keyed draws of the interval between a pair's clips, over its exact probabilities.

    Args:
        distribution: as the run's settings describe it.
        num_starts: possible first frames of a clip; the axis is a share of them.
        draws: how many; they are the same every time.
    """
    uniform = Key("interval figure").numpy().random(draws)
    drawn = distribution.intervals(uniform, num_starts)
    parts = min(20, num_starts)
    part_of = np.arange(num_starts) * parts // num_starts  # counted in whole frames: no edge falls to rounding
    counts = np.bincount(part_of[drawn], minlength=parts)
    exact = np.bincount(part_of, weights=distribution.pmf(num_starts).numpy(), minlength=parts)
    edges = np.linspace(0, 1, parts + 1)
    with rc_context(STYLE):
        figure, axes = _axes()
        axes.bar(edges[:-1], counts / draws, width=1 / parts, align="edge", color=SERIES[0], alpha=0.35, linewidth=0)
        axes.stairs(exact, edges, color=SERIES[0], linewidth=1.4)
        axes.yaxis.set_major_formatter(_percent)
        axes.xaxis.set_major_formatter(_percent)
        axes.set_xlim(0, 1)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("time between the two clips, share of the possible starts")
    half = float((drawn < num_starts / 2).mean())
    text = f"{100 * half:.0f} % of pairs are less than half of the video apart ({distribution.kind})"
    return Drawing("intervals", f"Time between the two clips: {distribution.kind}", text, figure)


# ------------------------------------------------------------------------------------------------------------- pictures


def contact_sheet(
    views: Batch | Sequence[Tensor], *, max_videos: int = 6, max_frames: int = 4, gap_px: int = 2, split_px: int = 10
) -> NDArray[np.uint8]:
    """Rows are videos; columns are frames of view 1, then of view 2, and so on.

    Args:
        views: a batch whose views have been applied, or one tensor per view: (B, C, T, H, W) float in [0, 1], or
            (B, T, H, W, C) uint8 as a loader hands it over. Sizes may differ between views.
        max_videos, max_frames: at most so many rows, and frames per view, evenly spread.
        gap_px, split_px: white between frames, and between views.

    Returns: (H, W, 3) uint8; grey clips become RGB.

    Raises: UsageError for other shapes.
    """
    tensors = [v.data for v in views.views] if isinstance(views, Batch) else list(views)
    if not tensors:
        raise UsageError("a contact sheet needs at least one view")
    clips = [_as_uint8(t, max_videos, max_frames) for t in tensors]
    rows = min(len(c) for c in clips)
    height = max(c.shape[2] for c in clips)
    columns: list[NDArray[np.uint8]] = []
    for view, clip in enumerate(clips):
        for frame in range(clip.shape[1]):
            before = gap_px if frame else split_px if view else 0
            around = ((0, 0), (0, height + gap_px - clip.shape[2]), (before, 0), (0, 0))
            columns.append(np.pad(clip[:rows, frame], around, constant_values=255))
    sheet = np.concatenate(columns, axis=2)
    return sheet.reshape(-1, sheet.shape[2], 3)[: rows * (height + gap_px) - gap_px]


def _as_uint8(clips: Tensor, max_videos: int, max_frames: int) -> NDArray[np.uint8]:
    """(B, T, H, W, 3) uint8 of either layout, cut to the rows and frames shown."""
    if clips.ndim != 5:
        raise UsageError(f"a view's clips are (B, C, T, H, W) or (B, T, H, W, C), got {tuple(clips.shape)}")
    clips = clips.detach()[:max_videos]
    if clips.dtype != torch.uint8:
        clips = (clips.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1)
    if clips.shape[-1] == 1:
        clips = clips.expand(*clips.shape[:-1], 3)
    if clips.shape[-1] != 3:
        raise UsageError(f"clips must be grey or RGB, got {clips.shape[-1]} channels in {tuple(clips.shape)}")
    frames = np.unique(np.linspace(0, clips.shape[1] - 1, min(max_frames, clips.shape[1])).round().astype(int))
    return np.asarray(clips[:, torch.from_numpy(frames)].cpu().numpy(), dtype=np.uint8)
