"""Three things a person waits for, which must stay quick: videos drawn per second, an index known already, a bootstrap.

Each takes turns with the others within a round; medians of processor time on one core.

    python benchmarks/quick.py --out quick.json
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

import numpy as np

from unreel.core.keys import Key
from unreel.data.index import index
from unreel.data.manifest import Manifest
from unreel.data.synthetic import ActionWorld
from unreel.media import write_video
from unreel.stats import bootstrap_ci

# performance.md: 150 videos drawn a second and core; 100,000 files, known already, in 60 s.
ASKED = {"drawn": 1 / 150, "indexed": 60 / 100_000}


def jobs(folder: Path, files: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """By name: how many units one call does, and the call."""
    world = ActionWorld(0, 64, 0)
    source = write_video(folder / "v" / "0.mp4", np.zeros((3, 16, 16, 3), np.uint8), 25)
    for i in range(1, files):
        os.link(source, folder / "v" / f"{i}.mp4")
    manifest = Manifest.from_folder(folder / "v")
    index(manifest, cache=folder / "c")
    values = (Key("quick").numpy().normal(size=10_000) > 0).astype(float)
    return {
        "drawn": (16, lambda: [world.render(i) for i in range(16)]),
        "indexed": (files, lambda: index(manifest, cache=folder / "c")),
        "bootstrap of 10,000": (1, lambda: bootstrap_ci(values)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        todo = jobs(Path(folder), options.files)
        spent: dict[str, list[float]] = {name: [] for name in todo}
        for number in range(options.rounds + 1):
            for name, (units, call) in todo.items():
                begin = time.process_time()
                call()
                if number:
                    spent[name].append((time.process_time() - begin) / units)
    rows = {name: {"seconds_median": statistics.median(times)} for name, times in spent.items()}
    for name, row in rows.items():
        limit = ASKED.get(name)
        share = "" if limit is None else f", {row['seconds_median'] / limit:.2f} of what is asked for"
        print(f"{name:20s} {1000 * row['seconds_median']:8.3f} ms each{share}")
    if options.out is not None:
        result = {"machine": platform.processor() or platform.machine(), "asked": ASKED, "variants": rows}
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
