"""Three things a person waits for, which must stay quick: videos drawn per second, an index known already, a bootstrap.

Each takes turns with the others within a round; medians of processor time on one core.

    python benchmarks/quick.py --out quick.json
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import arguments, save, take_turns

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
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--files", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        todo = jobs(Path(folder), options.files)
        found = take_turns({name: call for name, (_, call) in todo.items()}, options.rounds, clock=time.process_time)
        spent = {name: [t / todo[name][0] for t in times] for name, times in found.items()}
    rows = {name: {"seconds_median": statistics.median(times)} for name, times in spent.items()}
    for name, row in rows.items():
        limit = ASKED.get(name)
        share = "" if limit is None else f", {row['seconds_median'] / limit:.2f} of what is asked for"
        print(f"{name:20s} {1000 * row['seconds_median']:8.3f} ms each{share}")
    save(options.out, {"machine": platform.processor() or platform.machine(), "asked": ASKED, "variants": rows})


if __name__ == "__main__":
    main()
