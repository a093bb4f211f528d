"""The demo on its report seeds: is what was tuned on development seeds (0 to 9) still there on seeds never seen?

    python benchmarks/demo_seeds.py --size standard --size full       # runs, then writes docs/results/demo.{json,md}
    python benchmarks/demo_seeds.py --render                          # writes the page again from demo.json

A run that is in demo.json already is not made again: report seeds are drawn once. The criterion, fixed before: the
lower bound of the paired 95 % interval (pre-trained − random-init) is above 0 in at least two of three seeds on at
least one protocol, for one of the two class sets in the standard demo and for both in the full one.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, arguments, fill, load, save

from unreel.cli.demo import CLASS_SETS, PROTOCOLS, as_text, run_demo

REPORT_SEEDS = (2001, 2002, 2003)
COMMANDS = {"standard": "unreel demo --seed SEED", "full": "unreel demo --full --seed SEED"}


def decided(runs: Sequence[Mapping[str, Any]], classes: str, protocol: str) -> int:
    """In how many runs the whole interval of the difference lies above zero."""
    rows = [r for run in runs for r in run["scores"] if r["classes"] == classes and r["protocol"] == protocol]
    return sum(r["difference_interval"][0] > 0 for r in rows)


def passed(size: str, runs: Sequence[Mapping[str, Any]]) -> bool:
    """The criterion of the module's text."""
    sets = [any(decided(runs, classes, p) >= 2 for p in PROTOCOLS) for classes in CLASS_SETS]
    return all(sets) if size == "full" else any(sets)


def render(results: Mapping[str, Any]) -> str:
    """The page: every row of every report seed, whatever it shows."""
    return fill("demo", globals(), found=results, passed=passed, counts=_counts)


def _counts(runs: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(f"{c}, {p}: {decided(runs, c, p)} of {len(runs)}" for c in CLASS_SETS for p in PROTOCOLS)


def machine() -> str:
    """Processor cores and versions, without names of hosts."""
    return f"{os.cpu_count()} cores {platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def main() -> None:
    parser = arguments(__doc__, out=False)
    parser.add_argument("--size", action="append", choices=tuple(COMMANDS), default=[])
    parser.add_argument("--seed", action="append", type=int, default=[], help="other seeds, written nowhere in docs/")
    parser.add_argument("--out", type=Path, help="where the runs are kept; by default nowhere")
    parser.add_argument("--render", action="store_true", help="only write the page again")
    options = parser.parse_args()
    store = RESULTS / "demo.json"
    results: dict[str, Any] = load(store, {"runs": {}, "intro": [], "tuning": ""})
    development = bool(options.seed)
    for size in [] if options.render else options.size:
        known = [] if development else results["runs"].setdefault(size, [])
        for seed in options.seed or REPORT_SEEDS:
            if seed in {run["seed"] for run in known}:
                continue
            with tempfile.TemporaryDirectory() as scratch:
                folder = (options.out or Path(scratch)) / f"{size}-{seed}"
                folder.mkdir(parents=True, exist_ok=True)
                data = run_demo(folder, size=size, seed=seed)
            print(f"seed {seed}\n{as_text(data)}", flush=True)
            kept = {k: v for k, v in data.items() if k != "report"}
            known.append({**kept, "machine": machine()})
            if not development:
                save(store, results)
        if development:
            print(f"{size}: {_counts(known)}; criterion {'met' if passed(size, known) else 'not met'}")
    if results["runs"]:
        (RESULTS / "demo.md").write_text(render(results), encoding="utf-8")


if __name__ == "__main__":
    main()
