"""Is a run that was stopped at a random moment and started again the run that was never stopped? Is a file blamed?

    python benchmarks/interrupted_runs.py                    # 20 runs of CVRL with 2 workers under `timeout -s TERM`
    python benchmarks/interrupted_runs.py --runs 40 --signal USR1 --seed 1

Every second run gets the signal in its main process alone (`timeout --foreground`), the others in the whole group of
processes, loader workers included, as schedulers do it. Each is then started again by the same command. Counted: how
many were stopped and where, the files that were blamed (faults, quarantine), and the runs whose final weights differ in
a bit from an uninterrupted run's. Exits with 1 when a file was blamed or a bit differs. Needs `timeout` (coreutils).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from common import arguments as options
from common import save
from safetensors.torch import load_file

from unreel.data.synthetic import ActionWorld
from unreel.train.run import Run

SETTINGS = [
    *("--method", "cvrl", "--encoder", "r3d_tiny", "--size", "32", "--clip_frames", "4"),
    *("--head.hidden-dim", "16", "--train.warmup_epochs", "0", "--train.batch_size", "8", "--train.workers", "2"),
]


def weights(run: Run) -> dict[str, torch.Tensor]:
    """The encoder's, and all that the last checkpoint holds of the method."""
    state = torch.load(run.checkpoints[-1], map_location="cpu", weights_only=True)
    return {**load_file(run.encoder_path), **{f"method.{name}": value for name, value in state["method"].items()}}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def blamed(run: Run) -> list[str]:
    """Files in faults.jsonl or in a checkpoint's quarantine."""
    states = [torch.load(path, map_location="cpu", weights_only=True) for path in run.checkpoints]
    return sorted({fault["path"] for fault in run.faults()} | {path for s in states for path in s["quarantine"]})


def stopped(command: list[str], signal_name: str, seconds: float, *, group: bool) -> None:
    scope = [] if group else ["--foreground"]
    limited = ["timeout", *scope, "-s", signal_name, f"{seconds:.3f}", *command]
    subprocess.run(limited, check=False, capture_output=True, start_new_session=True)


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--signal", default="TERM")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    if shutil.which("timeout") is None:
        print("timeout is not installed (coreutils has it)")
        return 1
    os.environ |= {"OMP_NUM_THREADS": "1"}
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["UNREEL_CACHE"] = str(home / "cache")
        ActionWorld(3, 32, 1, size_px=32, num_frames=16, audio_rate_hz=0).write(home / "world")
        base = [sys.executable, "-m", "unreel.cli", "pretrain", str(home / "world"), *SETTINGS]
        base += ["--train.steps", str(arguments.steps), "--quiet", "--out"]
        begin = time.monotonic()
        subprocess.run([*base, str(home / "whole")], check=True, capture_output=True)
        whole_s = time.monotonic() - begin
        truth = weights(Run(home / "whole"))
        rate = [record["s_per_step"] for record in Run(home / "whole").metrics() if "s_per_step" in record]
        training_s = min(whole_s, 1.5 + arguments.steps * sum(rate) / len(rate))
        print(f"uninterrupted: {whole_s:.1f} s, {training_s:.1f} s of them training and what follows", flush=True)
        counts: Counter[str] = Counter(blamed=0, differing=0)
        for number in range(arguments.runs):
            group = number % 2 == 0
            run = Run(home / f"run-{number}")
            at_s = moments.uniform(0.9 * (whole_s - training_s), 0.9 * whole_s)
            stopped([*base, str(run.path)], arguments.signal, at_s, group=group)
            steps = int(run.checkpoints[-1].stem.removeprefix("step-")) if run.checkpoints else 0
            where = "before the first step" if not steps else "after the end" if run.completed else "in training"
            files = blamed(run)
            subprocess.run([*base, str(run.path)], check=True, capture_output=True)
            files = sorted({*files, *blamed(run)})
            same = equal(truth, weights(run))
            counts[f"stopped {where}"] += 1
            counts["blamed"] += len(files)
            counts["differing"] += not same
            who = "group" if group else "main "
            print(
                f"{number:3d} {who} at {at_s:5.1f} s: step {steps:3d}, blamed {files or 'none'}, bit-equal {same}",
                flush=True,
            )
            shutil.rmtree(run.path)
    print(json.dumps(counts))
    save(arguments.out, {"signal": arguments.signal, "runs": arguments.runs, **counts})
    return int(counts["blamed"] > 0 or counts["differing"] > 0)


if __name__ == "__main__":
    sys.exit(main())
