"""How long a command takes to start: ``--help`` beside a bare interpreter that imports the same CLI library.

Commands and source trees take turns within each round, each in a fresh interpreter; a ratio is the median of per-round
ratios of processor time (user and system), which neighbours on a busy machine change least. Wall-clock medians stand
beside it.

    python benchmarks/startup.py --out startup.json
    python benchmarks/startup.py --source src ../before/src      # two versions, interleaved
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from common import arguments, ratio, save

BARE = ("-c", "import cyclopts")
ROOT = Path(__file__).resolve().parents[1]


class Spent(NamedTuple):
    """Seconds of one start."""

    processor: float
    wall: float


def start(arguments: tuple[str, ...], source: Path) -> Spent:
    """One fresh interpreter, to its end. Raises CalledProcessError when it fails."""
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": ""}
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return Spent(used.ru_utime + used.ru_stime, time.perf_counter() - begin)


def measure(commands: list[str], sources: list[Path], rounds: int) -> dict[str, dict[str, float]]:
    """By "source: command": median seconds, and the median ratio to the bare interpreter of the same round."""
    variants = {
        f"{source}: unreel {command}".rstrip(): (("-m", "unreel.cli", *command.split(), "--help"), source)
        for command in commands
        for source in sources
    }
    spent: dict[str, list[Spent]] = {name: [] for name in ["bare", *variants]}
    for number in range(rounds + 1):
        names = list(spent)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            arguments, source = variants.get(name, (BARE, sources[0]))
            found = start(arguments, source)
            if number:  # the first round writes bytecode and fills the file cache
                spent[name].append(found)
    return {
        name: {
            "processor_s": statistics.median(s.processor for s in times),
            "wall_s": statistics.median(s.wall for s in times),
            "ratio": ratio([s.processor for s in times], [b.processor for b in spent["bare"]]),
        }
        for name, times in spent.items()
    }


def main() -> None:
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--commands", nargs="+", default=["", "pretrain", "doctor"], help="'' is unreel itself")
    parser.add_argument("--source", type=Path, nargs="+", default=[ROOT / "src"], help="folders that hold unreel")
    options = parser.parse_args()
    found = measure(options.commands, options.source, options.rounds)
    for name, row in found.items():
        print(f"{row['ratio']:5.2f} × bare  {row['processor_s']:6.3f} s  {row['wall_s']:6.3f} s wall  {name} --help")
    result = {
        "setting": {"rounds": options.rounds},
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "variants": found,
    }
    save(options.out, result)


if __name__ == "__main__":
    main()
