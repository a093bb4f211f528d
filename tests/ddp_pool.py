"""Two gloo processes for tests of anything that runs on several: started once per session, asked many times."""

from __future__ import annotations

import inspect
import os
import pickle
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WORLD = 2


class ProcessPool:
    """Two gloo processes for the whole session; ``run(f, *args)`` calls the module-level ``f`` in both.

    After one that hung or died the next call has two new ones.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, 0
        self.processes: list[subprocess.Popen[bytes]] = []

    def _start(self) -> None:
        store = self.folder / f"store{self.started}"
        self.started += 1
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if sys.platform == "linux":
            environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
        worker = Path(__file__).with_name("ddp_worker.py")
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(worker), str(rank), str(WORLD), str(store)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
            )
            for rank in range(WORLD)
        ]

    def run(self, function: Callable[..., Any], *arguments: Any, timeout_s: float = 90.0) -> list[Any]:
        """The result of every rank, in order; a rank's exception fails the test with its traceback."""
        if not self.processes:
            self._start()
        job = pickle.dumps((inspect.getsourcefile(function), function.__name__, arguments))
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(struct.pack("<I", len(job)) + job)
            process.stdin.flush()
        deadline = time.monotonic() + timeout_s
        answers = [self._answer(process, deadline) for process in self.processes]
        failures = [str(value) for ok, value in answers if not ok]
        assert not failures, "\n".join(failures)
        return [value for _, value in answers]

    def _answer(self, process: subprocess.Popen[bytes], deadline: float) -> tuple[bool, Any]:
        (size,) = struct.unpack("<I", self._read(process, 4, deadline))
        ok, value = pickle.loads(self._read(process, size, deadline))
        return bool(ok), value

    def _read(self, process: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
        assert process.stdout is not None
        descriptor, data = process.stdout.fileno(), b""
        while len(data) < size:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(descriptor, size - len(data)) if ready else b""
            if not part:
                self.close()
                pytest.fail("a process of the gloo pool " + ("died" if ready else "gave no answer in time"))
            data += part
        return data

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        self.processes = []


@pytest.fixture(scope="session")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPool]:
    """Two gloo processes, started once; mark the test ``ddp``."""
    pool = ProcessPool(tmp_path_factory.mktemp("ddp"))
    yield pool
    pool.close()
