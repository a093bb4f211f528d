"""``unreel demo``: the whole path on a built-in world, from files to a proven representation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unreel.core.files import write_whole
from unreel.core.text import table

if TYPE_CHECKING:
    from unreel.tasks import Report

Size = Literal["tiny", "standard", "full"]

PROTOCOLS = ("linear", "knn", "retrieval")
CLASS_SETS = ("motion", "appearance")
SCORES = ("random_init", "first_weights", "pretrained")
DIFFERENCES = ("difference", "learned")  # of the last to the first and to the second
# The world of every size: few backgrounds and hues, and objects of much the same size, speed and swing, so that these
# tell little about which video is seen, and what moves and how tells much; objects large enough to be seen at the
# recipe's 48 pixels, turning slowly, so that no pose stands for a video; a drifting camera in a quarter of the videos.
WORLD: Mapping[str, Any] = {
    "num_backgrounds": 4,
    "num_colors": 2,
    "contrast": 0.4,
    "camera": 0.25,
    "radius_px": (14.0, 16.0),
    "amplitude_px": (9.0, 11.0),
    "period_frames": (10.0, 12.0),
    "drift_turns": 0.5,
}


@dataclass(frozen=True)
class DemoSize:
    """How large a demo is: videos per split, the recipe, and settings over it."""

    num_train: int
    num_test: int
    recipe: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    num_resamples: int = 2000


# An accuracy of one half of 480 test videos is known to ± 4.5 %, enough to see a paired difference of a few percent.
SIZES: dict[str, DemoSize] = {
    "tiny": DemoSize(64, 64, "demo", {"steps": 4, "warmup_steps": 1, "batch_size": 16, "workers": 0}, 200),
    "standard": DemoSize(512, 480, "demo"),
    "full": DemoSize(1024, 480, "demo_full"),
}


def run_demo(
    out: Path, *, size: Size = "standard", seed: int = 0, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Make a world, learn from its videos without labels, and ask what was learned.

    Args:
        out: folder for everything: ``world/``, ``run/`` (with ``report.html``), ``features/``, ``demo.json``. What
            an interrupted demo of the same seed and size left there is used again.
        size: see ``SIZES``.
        seed: seed for the world, the weights and the training; the controls have their own.
        say: told what is going on, a line at a time.
    """
    from unreel import __version__, api
    from unreel.core.progress import Progress
    from unreel.data.synthetic import ActionWorld
    from unreel.report.html import write_report

    chosen = SIZES[size]
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str, what: str) -> Iterator[None]:
        say(f"{name}: {what}")
        begin = time.monotonic()
        yield
        seconds[name] = time.monotonic() - begin
        say(f"{name}: {seconds[name]:.0f} s")

    world = ActionWorld(seed, chosen.num_train, chosen.num_test, **WORLD)
    with stage("world", f"{len(world)} videos of {world.num_frames} frames with sound, as mp4"):
        manifest = out / "world" / "manifest.csv"
        if not _is_written(world, out / "world"):
            workers = 2 if len(world) > 200 else 0  # a process takes longer to start than to make a hundred videos
            with Progress("write", len(world), unit="videos") as bar:
                manifest = world.write(out / "world", workers=workers, progress=bar)
    what = f"recipe {chosen.recipe} on the {world.num_train} training videos, no labels"
    with stage("pretrain", what):
        run = api.pretrain(
            "cvrl", manifest, out=out / "run", recipe=chosen.recipe, train={"seed": seed}, **chosen.overrides
        )
    reports: dict[str, Report] = {}
    with stage("evaluate", f"{', '.join(PROTOCOLS)}; {' and '.join(CLASS_SETS)}; against the same net untrained"):
        for label in CLASS_SETS:
            reports[label] = api.evaluate(
                run,
                manifest,
                protocol=PROTOCOLS,
                label=label,
                store=out / "features",
                seed=seed,
                num_resamples=chosen.num_resamples,
                out=run.path,
            )
    with stage("report", "curves, scores, retrieval gallery, views"):
        page = write_report(run.path)
    rows = [row for label in CLASS_SETS for row in _rows(label, reports[label])]
    data: dict[str, Any] = {
        "version": __version__,
        "size": size,
        "seed": seed,
        "recipe": chosen.recipe,
        "num_train": chosen.num_train,
        "scores": rows,
        "verdicts": {label: list(report.verdicts) for label, report in reports.items()},
        "warnings": [f"{label}: {s.verdict}" for label, r in reports.items() for s in r.scores if s.warns],
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "total_s": round(sum(seconds.values()), 1),
        "report": str(page),
    }
    write_whole(out / "demo.json", json.dumps(data, indent=1) + "\n")
    return data


def _is_written(world: Any, folder: Path) -> bool:
    """Whether the folder holds this very world, whole: the manifest is written after the files."""
    try:
        written = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    settings: dict[str, Any] = json.loads(json.dumps(world.settings()))
    return bool(written == settings) and (folder / "manifest.csv").is_file()


def _rows(label: str, report: Report) -> list[dict[str, Any]]:
    """The primary score of every protocol beside its controls, as plain values; learned: less the first weights."""
    from unreel.tasks.baselines import USUAL_BASELINES

    rows = []
    for protocol in PROTOCOLS:
        mine = report.score(protocol)
        controls = [report.score(protocol, mine.metric, encoder=name) for name in USUAL_BASELINES]
        row = {"classes": label, "protocol": protocol, "metric": mine.metric, "n": mine.n, "chance": mine.chance}
        for name, score in zip(SCORES, (*controls, mine), strict=True):
            bounds = None if score.interval is None else [score.interval.low, score.interval.high]
            row |= {name: score.value, f"{name}_interval": bounds}
        for name, control in zip(DIFFERENCES, USUAL_BASELINES, strict=True):
            paired = mine.differences[control]
            row |= {name: paired.difference, f"{name}_interval": [paired.low, paired.high]}
        rows.append(row)
    return rows


def _percent(row: Mapping[str, Any], name: str) -> str:
    """A value in percent with its interval, where there is one; differences with their sign."""
    sign, bounds = "+" if name in DIFFERENCES else "", row[f"{name}_interval"]
    inner = "" if bounds is None else f" [{100 * bounds[0]:{sign}.1f}, {100 * bounds[1]:{sign}.1f}]"
    return f"{100 * row[name]:{sign}.1f}{inner}"


def as_text(data: Mapping[str, Any]) -> str:
    """What ``run_demo`` found, for people."""
    header = ["classes", "protocol", "n", "chance", "random init", "first weights", "pre-trained"]
    header += ["minus random init", "minus first weights"]
    lines = [
        (
            r["classes"],
            f"{r['protocol']} ({r['metric']})",
            r["n"],
            f"{100 * r['chance']:.1f}",
            *(_percent(r, name) for name in (*SCORES, *DIFFERENCES)),
        )
        for r in data["scores"]
    ]
    spent = ", ".join(f"{name} {seconds:.0f}" for name, seconds in data["seconds"].items())
    return "\n".join(
        [
            table(header, lines),
            "Percent, with 95 % bootstrap intervals; differences are paired over the test videos.",
            *(f"warning: {sentence}" for sentence in data["warnings"]),
            f"seconds: {spent}; {data['total_s']:.0f} in all",
            f"report: {data['report']}",
        ]
    )
