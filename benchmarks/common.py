"""What the benchmarks share: options, timed rounds, scores with intervals, tables and pages. It runs nothing itself."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from numpy.typing import NDArray

from unreel.core.errors import UsageError
from unreel.core.files import write_whole
from unreel.data.batch import collate
from unreel.methods import Method
from unreel.recipes.build import Prepared
from unreel.stats import bootstrap_ci, paired_bootstrap
from unreel.tasks.baselines import settle
from unreel.train.feed import place
from unreel.train.run import describe_environment

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "docs" / "results"
COLLECTIONS_ROOT = REPOSITORY.parent / "shared" / "data"
CPU = torch.device("cpu")


# ------------------------------------------------------------------------------------------------------ command lines


def arguments(description: str | None, *, rounds: int = 0, out: bool = True) -> argparse.ArgumentParser:
    """A parser with the script's own words; ``rounds`` of a measurement that takes turns, ``out`` for its JSON."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds)
    if out:
        parser.add_argument("--out", type=Path, help="also write the results here (JSON)")
    return parser


def seeds_of(options: argparse.Namespace, report: Sequence[int]) -> tuple[int, ...]:
    """The seeds asked for: report seeds, or 0 with --develop. Raises UsageError where the two kinds mix."""
    seeds = tuple(options.seeds or ((0,) if options.develop else report))
    if options.develop != all(seed < 10 for seed in seeds):
        raise UsageError("development seeds are 0 to 9 and go with --develop, others are for reports")
    return seeds


def load(path: Path, default: Any = None) -> Any:
    """What a JSON file holds, or ``default`` where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


def save(path: Path | None, found: Any, *, ascii: bool = False) -> None:
    """Write JSON, whole or not at all; nothing without a path."""
    if path is not None:
        write_whole(path, json.dumps(found, indent=1, ensure_ascii=ascii) + "\n")


def environment() -> dict[str, Any]:
    """What of the machine and the packages is worth a line on a page."""
    found = describe_environment()
    return {k: found[k] for k in ("python", "packages", "cores", "threads")}


# ------------------------------------------------------------------------------------------------------------- timing


def take_turns(
    jobs: Mapping[str, Callable[[], object]], rounds: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every job, round by round, so that what else the machine does disturbs all alike.

    Every round begins with another job. One round more is made and not counted: caches, allocations, code paths.
    """
    names, seconds = list(jobs), {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin = clock()
            jobs[name]()
            if number:
                seconds[name].append(clock() - begin)
    return seconds


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of per-round ratios."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


# ------------------------------------------------------------------------------------------------------------- scores


def cell(values: Any, groups: Sequence[str] | None = None, *, value: float | None = None) -> dict[str, Any]:
    """A mean, or a ``value`` whose statistic is given, with its 95 % interval over groups."""
    interval = bootstrap_ci(values, groups=groups)
    return {"value": float(values.mean()) if value is None else value, "low": interval.low, "high": interval.high}


def difference(a: Any, b: Any, groups: Sequence[str] | NDArray[Any] | None = None) -> dict[str, Any]:
    """a − b on the same samples."""
    found = paired_bootstrap(a, b, groups=groups)
    return {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p_value}


def settled(prepared: Prepared, *, epochs: int) -> Method:
    """A method before its first step, its batch statistics settled on its own views of the training part.

    As a run at a learning rate of zero would leave it: what training learned is the difference to this.
    """
    method, dataset = prepared.method.train(), prepared.loader.dataset
    size = prepared.settings["train"]["batch_size"]
    batches = (
        place(method.views, collate([dataset.sample(row, epoch) for row in range(start, start + size)]), CPU)
        for epoch in range(epochs)
        for start in range(0, len(dataset) - size + 1, size)
    )
    settle(method, batches, method)
    return method.eval()


# -------------------------------------------------------------------------------------------------------------- pages


def number(value: float, *, sign: bool = False) -> str:
    return (f"{value:+.3f}" if sign else f"{value:.3f}").replace("-", "−")


def span(entry: Mapping[str, float], key: str) -> str:
    sign = key == "difference"
    low, high = number(entry["low"], sign=sign), number(entry["high"], sign=sign)
    return f"{number(entry[key], sign=sign)} [{low}, {high}]"


def percent(value: float, low: float | None = None, high: float | None = None, sign: str = "") -> str:
    inner = "" if low is None else f" [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
    return f"{100 * value:{sign}.1f}{inner}"


def side(entry: Mapping[str, float], of: float = 0.0) -> int:
    """1 where the whole interval lies above a number, -1 where it lies below, else 0."""
    return (entry["low"] > of) - (entry["high"] < of)


def fill(name: str, script: Mapping[str, Any], **values: Any) -> str:
    """The page benchmarks/pages/NAME.md.jinja, filled in: a script's constants are known by their names.

    What a result lacks reads as nothing.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(REPOSITORY / "benchmarks" / "pages"), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "span": span, "percent": percent, "side": side}
    environment.filters["versions"] = lambda packages: ", ".join(f"{k} {v}" for k, v in packages.items())
    environment.globals |= {k: v for k, v in script.items() if k.isupper()} | {"mean": np.mean, "mean_of": mean_of}
    return environment.get_template(f"{name}.md.jinja").render(values, page=name).rstrip() + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of a page, and an empty line."""
    lines = [header, ["---"] * len(header), *rows]
    return [("|" + "|".join(r) + "|") if r[0] == "---" else "| " + " | ".join(map(str, r)) + " |" for r in lines] + [""]


def mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The means of numbers by name."""
    return {k: float(np.mean([row[k] for row in rows])) for k in rows[0]}
