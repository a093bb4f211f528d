"""Worker processes that turn tasks into batches, in order, and a watch over the file each has in hand.

A batch leaves a worker as one block of shared memory, sent as a file descriptor, with the structure pickled beside
it: nothing to clean up when a worker is killed, and one mapping per batch however many tensors it holds.
"""

from __future__ import annotations

import io
import mmap
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from unreel.core.errors import DataError, UnreelError, UsageError

Task = TypeVar("Task")
Result = TypeVar("Result")

_ALIGN_BYTES = 64  # a cache line, and enough for every dtype
_POLL_S = 1.0
# A worker that is killed for memory leaves this exit code (SIGKILL).
_KILLED = -9
_PARENT_CHECK_S = 5.0


class WorkerStalledError(UnreelError):
    """Workers have had the same file in hand for longer than the time limit; ``rows`` says which."""

    def __init__(self, rows: Sequence[int], seconds: float) -> None:
        self.rows = tuple(rows)
        super().__init__(f"no answer for {seconds:g} s while reading rows {', '.join(map(str, rows))}")


class WorkerDiedError(UnreelError):
    """A worker process ended on its own; ``row`` is what it had in hand, or None."""

    def __init__(self, row: int | None, exit_code: int | None) -> None:
        self.row = row
        self.exit_code = exit_code
        if exit_code is not None and exit_code < 0:
            try:
                how = f"was ended by {signal.Signals(-exit_code).name}"
            except ValueError:
                how = f"was ended by signal {-exit_code}"
        else:
            how = f"ended with code {exit_code}"
        super().__init__(f"a loader worker {how}" + (f" while reading row {row}" if row is not None else ""))


WorkerTrouble: TypeAlias = WorkerStalledError | WorkerDiedError

# ------------------------------------------------------------------------------------------------------- transport


class _Packer(pickle.Pickler):
    """Pickles a structure; its tensors are left out, and get a place in one block of bytes."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.size = 0
        self.tensors: list[tuple[int, Tensor]] = []
        self._places: dict[int, tuple[int, tuple[int, ...], torch.dtype]] = {}

    def persistent_id(self, obj: object) -> tuple[int, tuple[int, ...], torch.dtype] | None:
        if not isinstance(obj, Tensor):
            return None
        place = self._places.get(id(obj))
        if place is None:
            place = (self.size, tuple(obj.shape), obj.dtype)
            self._places[id(obj)] = place
            self.tensors.append((self.size, obj))  # also keeps the object, and with it its id, alive
            self.size += -(-obj.nbytes // _ALIGN_BYTES) * _ALIGN_BYTES
        return place


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, block: Tensor) -> None:
        super().__init__(file)
        self._block = block

    def persistent_load(self, pid: Any) -> Tensor:
        offset, shape, dtype = pid
        return _slot(self._block, offset, shape, dtype)


def _slot(block: Tensor, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    count = 1
    for side in shape:
        count *= side
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    return block[offset : offset + count * dtype.itemsize].view(dtype).view(shape)


def _shared_file(size: int) -> int:
    """A descriptor of ``size`` bytes of memory that vanish with their last user."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("unreel-batch", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _send(connection: Connection, index: int, result: object, receiver: int) -> None:
    file = io.BytesIO()
    packer = _Packer(file)
    packer.dump(result)
    connection.send_bytes(pickle.dumps((index, packer.size, file.getvalue())))
    if packer.size == 0:
        return
    descriptor = _shared_file(packer.size)
    try:
        block = torch.frombuffer(mmap.mmap(descriptor, packer.size), dtype=torch.uint8)
        for offset, tensor in packer.tensors:
            if tensor.numel():
                _slot(block, offset, tuple(tensor.shape), tensor.dtype).copy_(tensor)
        reduction.send_handle(connection, descriptor, receiver)
    finally:
        os.close(descriptor)


def _receive(connection: Connection, pin_memory: bool) -> tuple[int, Any]:
    index, size, structure = pickle.loads(connection.recv_bytes())
    block = torch.empty(0, dtype=torch.uint8)
    if size:
        descriptor = reduction.recv_handle(connection)
        try:
            block = torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8)
        finally:
            os.close(descriptor)
        if pin_memory:
            block = block.pin_memory()
    return index, _Unpacker(io.BytesIO(structure), block).load()


# --------------------------------------------------------------------------------------------------------- workers


class _Failure(NamedTuple):
    error: bytes
    text: str


def _failure(error: BaseException) -> _Failure:
    text = traceback.format_exc()
    try:
        raw = pickle.dumps(error)
        pickle.loads(raw)
    except Exception:
        raw = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return _Failure(raw, text)


def _raise(failure: _Failure) -> None:
    error = pickle.loads(failure.error)
    if not isinstance(error, UnreelError):  # those are written for users and need no traceback
        error.add_note(f"in a loader worker:\n{failure.text}")
    raise error


def _work(job: Any, connection: Connection, state: Any, number: int, inherited: Sequence[Connection]) -> None:
    for other in inherited:  # a forked copy of the main process's ends would keep them open for ever
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def publish(row: int) -> None:
        state[2 * number] = -1
        state[2 * number + 1] = time.monotonic_ns()
        state[2 * number] = row

    while True:
        while not connection.poll(_PARENT_CHECK_S):
            if parent is None or not parent.is_alive():
                return
        try:
            index, task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result = job(task, publish)
        except Exception as error:
            result = _failure(error)
        finally:
            state[2 * number] = -1
        try:
            _send(connection, index, result, os.getppid())
        except (BrokenPipeError, ConnectionResetError):
            return


class WorkerPool(Generic[Task, Result]):
    """Processes that run ``job(task, publish)``; ``run`` yields the results in the order of the tasks.

    Args:
        job: called in the workers with a task and a ``publish(row)`` to call before reading a row. Pickled where
            processes are not forked.
        workers: ≥ 1, each with one torch thread.
        timeout_s: how long a published row may be in hand.
        prefetch: tasks given to each worker ahead; at most workers × prefetch results exist unread.
        pin_memory: hand results over in page-locked memory.
        start_method: "fork" starts in milliseconds and is the default on Linux; elsewhere "forkserver".
    """

    def __init__(
        self,
        job: Callable[[Task, Callable[[int], None]], Result],
        workers: int,
        *,
        timeout_s: float,
        prefetch: int = 2,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        if workers < 1 or prefetch < 1:
            raise UsageError(f"a pool needs at least 1 worker and prefetch 1, got {workers} and {prefetch}")
        if not timeout_s > 0:
            raise UsageError(f"the time limit of a worker must be positive, got {timeout_s} s")
        context: Any = multiprocessing.get_context(start_method or default_start_method())
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(["unreel.data.loader"])
        self.timeout_s = timeout_s
        self.prefetch = prefetch
        self.pin_memory = pin_memory
        self._state = context.RawArray("q", [-1, 0] * workers)
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self._queues: list[deque[int]] = [deque() for _ in range(workers)]
        forked = context.get_start_method() == "fork"
        try:
            for number in range(workers):
                ours, theirs = context.Pipe(duplex=True)
                self._connections.append(ours)
                inherited = list(self._connections) if forked else []
                process = context.Process(target=_work, args=(job, theirs, self._state, number, inherited), daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
        except BaseException:
            self.close()
            raise

    def run(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """Results in order. One run at a time.

        Raises: what the job raised; WorkerStalledError, WorkerDiedError.
        """
        remaining = iter(tasks)
        results: dict[int, Any] = {}
        sent = yielded = 0
        exhausted = False
        while True:
            self._collect(results, 0.0)
            while not exhausted and sent - yielded < len(self._processes) * self.prefetch:
                number = min(range(len(self._queues)), key=lambda n: len(self._queues[n]))
                if len(self._queues[number]) >= self.prefetch:
                    break
                try:
                    task = next(remaining)
                except StopIteration:
                    exhausted = True
                    break
                try:
                    self._connections[number].send((sent, task))
                except (BrokenPipeError, ConnectionResetError):
                    raise self._death(number) from None
                self._queues[number].append(sent)
                sent += 1
            if yielded in results:
                result = results.pop(yielded)
                if isinstance(result, _Failure):
                    _raise(result)
                yielded += 1
                yield result
            elif exhausted and yielded == sent:
                return
            else:
                self._collect(results, min(_POLL_S, self.timeout_s / 4))

    def _collect(self, results: dict[int, Any], timeout_s: float) -> None:
        """Take what is ready, waiting at most ``timeout_s``; then look for workers that stall or died."""
        busy = [n for n, tasks in enumerate(self._queues) if tasks]
        numbers: dict[object, int] = {self._connections[n]: n for n in busy}
        numbers.update({self._processes[n].sentinel: n for n in busy})
        ready = wait(list(numbers), timeout_s) if numbers else []  # type: ignore[arg-type]
        for item in ready:
            if not isinstance(item, Connection):
                continue
            number = numbers[item]
            try:
                index, result = _receive(item, self.pin_memory)
            except (EOFError, ConnectionResetError):
                raise self._death(number) from None
            self._queues[number].remove(index)
            results[index] = result
        if ready and any(isinstance(item, Connection) for item in ready):
            return
        if ready:
            raise self._death(numbers[ready[0]])
        now = time.monotonic_ns()
        stalled = [
            int(self._state[2 * n])
            for n in busy
            if self._state[2 * n] >= 0 and now - self._state[2 * n + 1] > self.timeout_s * 1e9
        ]
        if stalled:
            raise WorkerStalledError(stalled, self.timeout_s)

    def _death(self, number: int) -> WorkerDiedError:
        process = self._processes[number]
        process.join(5)
        row = int(self._state[2 * number])
        return WorkerDiedError(row if row >= 0 else None, process.exitcode)

    def close(self) -> None:
        """End the workers at once; they hold nothing worth saving."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections, self._queues = [], [], []


def isolate(error: WorkerTrouble, relative: Callable[[int], str]) -> dict[str, str]:
    """Paths to leave alone after a worker hung or crashed, and why. Raises DataError where no file is to blame."""
    if isinstance(error, WorkerStalledError):
        return {relative(row): str(error) for row in error.rows}
    if error.exit_code == _KILLED:
        raise DataError(
            f"{error}: usually the machine ran out of memory. Use fewer workers, a smaller batch, or a prepared copy "
            "of the videos (`unreel data prepare`)"
        ) from None
    if error.row is None:
        raise DataError(f"{error} with no file in hand; run with workers=0 to see why") from None
    return {relative(error.row): str(error)}


def run_guarded(
    make_pool: Callable[[], WorkerPool[Any, Any]],
    tasks: Callable[[int], Iterable[Any]],
    on_trouble: Callable[[WorkerTrouble], None],
) -> Generator[Any, None, None]:
    """Results of ``tasks(0)`` in order; after a hang or a crash, a new pool goes on with ``tasks(number done)``."""
    done = 0
    while True:
        pool = make_pool()
        try:
            for result in pool.run(tasks(done)):
                done += 1
                yield result
            return
        except (WorkerStalledError, WorkerDiedError) as error:
            on_trouble(error)
        finally:
            pool.close()


def default_start_method() -> str:
    """Fork on Linux; elsewhere a server process to fork from, since system libraries there do not survive a fork."""
    return "fork" if sys.platform == "linux" else "forkserver"


def in_background(items: Generator[Result, None, None]) -> Generator[Result, None, None]:
    """The same items, made one ahead by a thread: copies into page-locked memory then cost the caller nothing."""
    ahead: queue.Queue[tuple[Result | None, BaseException | None]] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(entry: tuple[Result | None, BaseException | None]) -> bool:
        while not stop.is_set():
            try:
                ahead.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def fill() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((None, None))
        except BaseException as error:
            put((None, error))
        finally:
            items.close()

    thread = threading.Thread(target=fill, name="unreel-loader", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ahead.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stop.set()
        thread.join()
