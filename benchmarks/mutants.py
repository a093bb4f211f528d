"""What the ``mutated_*.py`` scripts share: files damaged by a seed, read in another process that may be killed.

A script says how good files are made, how one is damaged, and what its reader makes of it. An outcome that begins with
one of ``FAULTS`` is a fault of unreel: the command then exits with 1, and ``--keep`` copies the files that did it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import multiprocessing
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from common import arguments, save

FAULTS = ("MADE UP", "UNTYPED", "UNNAMED", "WRONG", "CRASH", "HANG")
SECONDS = 60.0  # after which a file hangs; each is read in a fraction of one


class Mutant(NamedTuple):
    """A damaged file: ``group`` is what it was made of, ``way`` how it was damaged."""

    group: str
    way: str
    name: str
    data: bytes


class Kind(NamedTuple):
    """One kind of files: ``make`` writes good ones into a folder, ``mutant`` damages one of them by number and seed,
    ``judge`` names the outcome of reading a damaged one, in at most ``most_mb`` of memory."""

    make: Callable[[Path], list[Path]]
    mutant: Callable[[list[Path], int, int], Mutant]
    judge: Callable[[Path], str]
    most_mb: float = math.inf

    def tried(self, folder: Path, count: int, seed: int, *, first: int = 0, judge: Any = None) -> Iterator[Any]:
        """(number, mutant, its path, outcome) of every file, which is then removed."""
        (folder / "good").mkdir(exist_ok=True)
        good = self.make(folder / "good")
        for number in range(first, first + count):
            made = self.mutant(good, number, seed)
            path = folder / "good" / f"{number}~{made.way}~{made.name}"
            path.write_bytes(made.data)
            yield number, made, path, (judge or self.judge)(path)
            path.unlink()


def _serve(judge: Callable[[Path], str], line: Connection) -> None:
    faulthandler.enable()
    while True:
        path = line.recv()
        try:
            outcome = judge(path)
        except BaseException as error:
            outcome = f"UNTYPED {type(error).__name__}: {error}"
        line.send(outcome)


class Reader:
    """Reads files in another process, which is started again where a file ends it."""

    def __init__(self, judge: Callable[[Path], str]) -> None:
        self._judge, self._context = judge, multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._line, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(self._judge, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, path: Path) -> str:
        """The outcome of a file, by the kind's own words, or CRASH or HANG."""
        self._line.send(path)
        outcome = "CRASH"
        with contextlib.suppress(EOFError, OSError):
            if self._line.poll(SECONDS):
                return str(self._line.recv())
            outcome = "HANG"
        self.close()
        self._start()
        return outcome

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._line.close()


def main(kind: Kind, description: str | None) -> int:
    """Damage and read ``--count`` files, print what became of them, and say with the exit code whether all is well."""
    parser = arguments(description)
    parser.add_argument("--count", type=int, default=1000, help="damaged files")
    parser.add_argument("--first", type=int, default=0, help="number of the first, to repeat one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None, help="folder for the files that found a fault")
    args = parser.parse_args()
    counts: dict[str, dict[str, Counter[str]]] = {"way": {}, "file": {}}
    faults, reader = [], Reader(kind.judge)
    with tempfile.TemporaryDirectory() as folder:
        for number, made, path, outcome in kind.tried(
            Path(folder), args.count, args.seed, first=args.first, judge=reader
        ):
            cause = next((f for f in FAULTS if outcome.startswith(f)), outcome)
            for title, key in (("way", made.way), ("file", made.group)):
                counts[title].setdefault(key, Counter())[cause] += 1
            if cause in FAULTS:
                faults.append({"number": number, "file": made.group, "way": made.way, "outcome": outcome})
                print(f"{outcome}: number {number}, {made.way} of {made.group}", flush=True)
                if args.keep is not None:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / path.name).write_bytes(made.data)
    reader.close()
    outcomes = sorted({o for found in counts["file"].values() for o in found})
    for title, rows in counts.items():
        print("\n" + f"{title:20}" + "".join(f"{o:>19}" for o in outcomes))
        for key, found in rows.items():
            print(f"{key:20}" + "".join(f"{found[o]:19}" for o in outcomes))
    save(args.out, {"count": args.count, "first": args.first, "seed": args.seed, "faults": faults, **counts})
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    print(f"\n{args.count} damaged files, at most {peak:.0f} MB of memory, {len(faults)} faults")
    return 1 if faults or peak > kind.most_mb else 0
