"""Worker processes that turn tasks into batches, in order, and a watch over the file each has in hand.

A batch leaves a worker in blocks of shared memory, sent as file descriptors, with the structure pickled beside them:
nothing to clean up when a worker is killed, and few mappings per batch however many tensors it holds.
"""

from __future__ import annotations

import io
import logging
import math
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import reduction
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from unreel.core.checks import Count, Positive, checked
from unreel.core.errors import DataError, UnreelError
from unreel.core.processes import GUARD, refuse_unguarded

Work = TypeVar("Work")
Result = TypeVar("Result")

_ALIGN_BYTES = 64  # a cache line, and enough for every dtype
_OWN_BLOCK_BYTES = 1024 * 1024  # below this, a copy is cheaper than another descriptor
_POLL_S = 1.0
_PARENT_CHECK_S = 5.0
# So many files may hang or crash a worker in one run before it is the storage's or the machine's fault.
_MOST_TROUBLES = 20
# So often workers may be ended from outside in one run before it stops.
_MOST_ENDED = 20
# What a process does to itself: a crash in a decoder. Every other signal comes from outside and says nothing of a file;
# SIGKILL is also what a system short of memory sends.
_OWN_SIGNALS = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP})
# Schedulers, terminals and shells send these to a whole group of processes: the main process decides what follows.
_GROUP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})
_UNGUARDED = f"new processes run your script from its top here: {GUARD}, or run with workers=0"

_log = logging.getLogger("unreel.data")


class WorkerStalledError(UnreelError):
    """Workers have had the same file in hand for longer than the time limit; ``rows`` says which."""

    def __init__(self, rows: Sequence[int], seconds: float) -> None:
        self.rows = tuple(rows)
        super().__init__(f"no answer for {seconds:g} s while reading rows {', '.join(map(str, rows))}")


class WorkerDiedError(UnreelError):
    """A worker process ended; ``row`` is what it had in hand, or None, ``advice`` what may help where that is None."""

    def __init__(self, row: int | None, exit_code: int | None, advice: str = "run with workers=0 to see why") -> None:
        self.row = row
        self.exit_code = exit_code
        self.advice = advice
        if exit_code is not None and exit_code < 0:
            try:
                how = f"was ended by {signal.Signals(-exit_code).name}"
            except ValueError:
                how = f"was ended by signal {-exit_code}"
        else:
            how = f"ended with code {exit_code}"
        super().__init__(f"a loader worker {how}" + (f" while reading row {row}" if row is not None else ""))

    @property
    def from_outside(self) -> bool:
        """Whether something else ended it: no file is to blame."""
        return self.exit_code is None or (self.exit_code < 0 and -self.exit_code not in _OWN_SIGNALS)


WorkerTrouble: TypeAlias = WorkerStalledError | WorkerDiedError

# ------------------------------------------------------------------------------------------------------- transport


class _Block:
    """Shared memory that vanishes with its last user; ``descriptor`` is what another process maps it by."""

    def __init__(self, size: int) -> None:
        if hasattr(os, "memfd_create"):
            self.descriptor = os.memfd_create("unreel-batch", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())
        os.ftruncate(self.descriptor, size)
        self.size = size
        self.data = _map(self.descriptor, size)

    def close(self) -> None:
        """Give up the descriptor; mappings stay."""
        os.close(self.descriptor)


def _map(descriptor: int, size: int) -> Tensor:
    # Opened anew by its number: a mapping that keeps no descriptor, so that kept batches cannot exhaust them.
    return torch.from_file(f"/dev/fd/{descriptor}", shared=True, size=size, dtype=torch.uint8)


def _slot(block: Tensor, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    return block[offset : offset + count * dtype.itemsize].view(dtype).view(shape)


@dataclass
class WorkerContext:
    """What a job may use besides its task. This one is for jobs that run in the main process.

    ``quarantine``: paths not to touch, as the manifest writes them, and why.
    """

    quarantine: Mapping[str, str] = field(default_factory=dict)

    def publish(self, row: int) -> None:
        """To be called before a row is read, so that the main process knows what a worker has in hand."""

    def stack(self, parts: list[Tensor]) -> Tensor:
        """``torch.stack``; in a worker, into shared memory, which saves the copy into it."""
        return torch.stack(parts)


IN_PROCESS = WorkerContext()


class _Published(WorkerContext):
    """A worker's context: the row in hand is in ``state``, large stacks are in blocks of their own."""

    def __init__(self, quarantine: Mapping[str, str], state: Any, number: int) -> None:
        super().__init__(quarantine)
        self._state = state
        self._place = 2 * number
        self.blocks: dict[int, _Block] = {}  # by the address of the tensor in it

    def publish(self, row: int) -> None:
        self._state[self._place] = -1
        self._state[self._place + 1] = time.monotonic_ns()
        self._state[self._place] = row

    def stack(self, parts: list[Tensor]) -> Tensor:
        self._state[self._place] = -1  # the files are read: what goes wrong from here on is no fault of theirs
        size = sum(p.nbytes for p in parts)
        if size < _OWN_BLOCK_BYTES:
            return torch.stack(parts)
        block = _Block(size)
        stacked = _slot(block.data, 0, (len(parts), *parts[0].shape), parts[0].dtype)
        self.blocks[stacked.data_ptr()] = block
        return torch.stack(parts, out=stacked)

    def clear(self) -> None:
        """Nothing in hand, no block kept."""
        self._state[self._place] = -1
        for block in self.blocks.values():
            block.close()
        self.blocks = {}


class _Place(NamedTuple):
    """Where a tensor is: which block (0 holds all that have none of their own), and at which byte."""

    block: int
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class _Packer(pickle.Pickler):
    """Pickles a structure without its tensors, and gives each a place in the blocks."""

    def __init__(self, file: io.BytesIO, blocks: dict[int, _Block]) -> None:
        super().__init__(file, protocol=5)
        self.size = 0  # of block 0
        self.loose: list[tuple[_Place, Tensor]] = []
        self._numbers = {address: number for number, address in enumerate(blocks, 1)}
        self._sizes = {address: block.size for address, block in blocks.items()}
        self._places: dict[int, _Place] = {}
        self._kept: list[Tensor] = []  # alive, so that no id is used twice

    def persistent_id(self, obj: object) -> tuple[Any, ...] | None:
        if not isinstance(obj, Tensor):
            return None
        place = self._places.get(id(obj))
        if place is None:
            shape, address = tuple(obj.shape), obj.data_ptr()
            if obj.is_contiguous() and self._sizes.get(address) == obj.nbytes:
                place = _Place(self._numbers[address], 0, shape, obj.dtype)
            else:
                place = _Place(0, self.size, shape, obj.dtype)
                self.loose.append((place, obj))
                self.size += -(-obj.nbytes // _ALIGN_BYTES) * _ALIGN_BYTES
            self._places[id(obj)] = place
            self._kept.append(obj)
        return tuple(place)


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, blocks: Sequence[Tensor]) -> None:
        super().__init__(file)
        self._blocks = blocks

    def persistent_load(self, pid: Any) -> Tensor:
        block, offset, shape, dtype = pid
        return _slot(self._blocks[block], offset, shape, dtype)


def _send(connection: Connection, index: int, result: object, blocks: dict[int, _Block], receiver: int) -> None:
    file = io.BytesIO()
    packer = _Packer(file, blocks)
    packer.dump(result)
    sizes = [packer.size, *(b.size for b in blocks.values())]
    connection.send_bytes(pickle.dumps((index, sizes, file.getvalue())))
    if packer.size:
        rest = _Block(packer.size)
        for place, tensor in packer.loose:
            if tensor.numel():
                _slot(rest.data, *place[1:]).copy_(tensor)
        reduction.send_handle(connection, rest.descriptor, receiver)
        rest.close()
    for block in blocks.values():
        reduction.send_handle(connection, block.descriptor, receiver)


def _receive(connection: Connection, pin_memory: bool) -> tuple[int, Any]:
    index, sizes, structure = pickle.loads(connection.recv_bytes())
    blocks = []
    for size in sizes:
        if not size:
            blocks.append(torch.empty(0, dtype=torch.uint8))
            continue
        descriptor = reduction.recv_handle(connection)
        try:
            block = _map(descriptor, size)
        finally:
            os.close(descriptor)
        blocks.append(block.pin_memory() if pin_memory else block)
    return index, _Unpacker(io.BytesIO(structure), blocks).load()


# --------------------------------------------------------------------------------------------------------- workers


class _Failure(NamedTuple):
    error: BaseException
    text: str


def _failure(error: BaseException) -> _Failure:
    text = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return _Failure(error, text)


def _work(job: Any, context: _Published, connection: Connection, inherited: Sequence[Connection]) -> None:
    for other in inherited:  # a forked copy of the main process's ends would keep them open for ever
        other.close()
    for each in _GROUP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    while True:
        while not connection.poll(_PARENT_CHECK_S):
            if parent is None or not parent.is_alive():
                return
        try:
            index, task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result = job(task, context)
        except Exception as error:
            result = _failure(error)
        context.publish(-1)
        try:
            _send(connection, index, result, context.blocks, os.getppid())
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            context.clear()
        del result


@checked
class WorkerPool(Generic[Work, Result]):
    """Processes that run ``job(task, context)``; ``run`` yields the results in the order of the tasks.

    Args:
        job: called in the workers with a task and a :class:`WorkerContext`. Pickled where processes are not forked.
        workers: ≥ 1, each with one torch thread.
        timeout_s: how long a published row may be in hand.
        prefetch: tasks given to each worker ahead; at most workers × prefetch results exist unread.
        pin_memory: hand results over in page-locked memory.
        start_method: "fork" starts in milliseconds and is the default on Linux; elsewhere a server process forks, since
            system libraries there do not survive a fork.
        quarantine: of the workers' contexts.
    """

    def __init__(
        self,
        job: Callable[[Work, WorkerContext], Result],
        workers: Count,
        *,
        timeout_s: Positive,
        prefetch: Count = 2,
        pin_memory: bool = False,
        start_method: str | None = None,
        quarantine: Mapping[str, str] = IN_PROCESS.quarantine,
    ) -> None:
        refuse_unguarded()
        default = "fork" if sys.platform == "linux" else "forkserver"
        context: Any = multiprocessing.get_context(start_method or default)
        if context.get_start_method() == "forkserver":
            context.set_forkserver_preload(["unreel.data.loader"])
        self.timeout_s = timeout_s
        self.prefetch = prefetch
        self._poll_s = min(_POLL_S, timeout_s / 4)
        self._looked_ns = time.monotonic_ns()
        self._watched = [(0, 0)] * workers  # since when a row is in hand, and for how long that was seen
        self._answered = False
        self.pin_memory = pin_memory
        self._state = context.RawArray("q", [-1, 0] * workers)
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self._queues: list[deque[int]] = [deque() for _ in range(workers)]
        self._forked = context.get_start_method() == "fork"
        # At exit the interpreter asks processes to end by SIGTERM, which workers leave to the main process.
        self._finish = Finalize(self, _kill, args=(self._processes,), exitpriority=1)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)  # until a worker has its own way with them
        try:
            for number in range(workers):
                ours, theirs = context.Pipe(duplex=True)
                self._connections.append(ours)
                inherited = list(self._connections) if self._forked else []
                published = _Published(quarantine, self._state, number)
                process = context.Process(target=_work, args=(job, published, theirs, inherited), daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
        except BaseException:
            self.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def run(self, tasks: Iterable[Work]) -> Iterator[Result]:
        """Results in order. One run at a time.

        Raises: what the job raised; WorkerStalledError, WorkerDiedError.
        """
        remaining = enumerate(tasks)
        results: dict[int, Any] = {}
        sent = yielded = 0
        exhausted = False
        while True:
            self._collect(results, 0.0)
            while not exhausted and sent - yielded < len(self._processes) * self.prefetch:
                number = min(range(len(self._queues)), key=lambda n: len(self._queues[n]))
                numbered = next(remaining, None)
                if numbered is None:
                    exhausted = True
                    break
                try:
                    self._connections[number].send(numbered)
                except (BrokenPipeError, ConnectionResetError):
                    raise self._death(number) from None
                self._queues[number].append(sent)
                sent += 1
            if yielded in results:
                result = results.pop(yielded)
                if isinstance(result, _Failure):
                    if not isinstance(result.error, UnreelError):  # those are written for users: no traceback
                        result.error.add_note(f"in a loader worker:\n{result.text}")
                    raise result.error
                yielded += 1
                yield result
            elif exhausted and yielded == sent:
                return
            else:
                self._collect(results, self._poll_s)

    def _collect(self, results: dict[int, Any], timeout_s: float) -> None:
        """Take what is ready, waiting at most ``timeout_s``; then look for workers that stall or died."""
        busy = [n for n, tasks in enumerate(self._queues) if tasks]
        numbers: dict[object, int] = {self._connections[n]: n for n in busy}
        numbers.update({self._processes[n].sentinel: n for n in busy})
        ready = wait(list(numbers), timeout_s) if numbers else []  # type: ignore[arg-type]
        answers = [item for item in ready if isinstance(item, Connection)]
        for item in answers:
            number = numbers[item]
            try:
                index, result = _receive(item, self.pin_memory)
            except (EOFError, ConnectionResetError):
                raise self._death(number) from None
            self._queues[number].remove(index)
            results[index] = result
            self._answered = True
        if answers:
            return
        if ready:
            raise self._death(numbers[ready[0]])
        if stalled := self._stalled(busy):
            raise WorkerStalledError(stalled, self.timeout_s)

    def _stalled(self, busy: Sequence[int]) -> list[int]:
        """Rows that workers were seen to have in hand for too long.

        Only what this process saw counts: one that was suspended (Ctrl-Z, a scheduler, a closed laptop) wakes up to
        workers that were suspended as well.
        """
        now = time.monotonic_ns()
        seen, self._looked_ns = min(now - self._looked_ns, int(2e9 * self._poll_s)), now
        stalled = []
        for n in busy:
            row, since = int(self._state[2 * n]), int(self._state[2 * n + 1])
            known, waited = self._watched[n]
            waited = waited + seen if known == since else 0
            if row >= 0 and waited > self.timeout_s * 1e9:
                if _is_suspended(self._processes[n].pid):
                    waited = 0
                else:
                    stalled.append(row)
            self._watched[n] = (since, waited)
        return stalled

    def _death(self, number: int) -> WorkerDiedError:
        process = self._processes[number]
        process.join(5)
        row = int(self._state[2 * number])
        unguarded = not self._forked and not self._answered and process.exitcode == 1
        advice = {"advice": _UNGUARDED} if unguarded else {}
        return WorkerDiedError(row if row >= 0 else None, process.exitcode, **advice)

    def close(self) -> None:
        """End the workers at once; they hold nothing worth saving."""
        self._finish()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections, self._queues = [], [], []


def _kill(processes: Sequence[Any]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


def _is_suspended(pid: int) -> bool:
    """Whether a process is stopped by a signal or a debugger, where the system tells (Linux)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def isolate(error: WorkerTrouble, relative: Callable[[int], str]) -> dict[str, str]:
    """Paths to leave alone after a worker hung or crashed, and why. Raises DataError where no file is to blame."""
    if isinstance(error, WorkerStalledError):
        return {relative(row): str(error) for row in error.rows}
    if error.exit_code == -signal.SIGKILL:
        raise DataError(
            f"{error}: usually the machine ran out of memory. Use fewer workers, a smaller batch, a smaller "
            "data.cache_mb, or videos of fewer pixels"
        ) from None
    if error.row is None:
        raise DataError(f"{error} with no file in hand; {error.advice}") from None
    return {relative(error.row): str(error)}


def run_guarded(
    job: Callable[[Work, WorkerContext], Result],
    tasks: Callable[[int], Iterable[Work]],
    relative: Callable[[int], str],
    *,
    workers: int,
    quarantine: dict[str, str],
    most: float = _MOST_TROUBLES,
    **options: Any,
) -> Generator[Result, None, None]:
    """Results of ``tasks(0)`` in order. After a hang or a crash, a new pool goes on with ``tasks(number done)``.

    Args:
        job, options: as ``WorkerPool`` takes them.
        tasks: those that follow the first so many.
        relative: a row's path, as the manifest writes it.
        workers: processes; 0 does all in this one, without a watch over files that hang.
        quarantine: what jobs are not to touch; what hangs or crashes a worker is added. A worker that a signal ended
            from outside is replaced.
        most: so often a worker may hang or crash.
    Raises: DataError when that is too often, or when workers are killed or die without a file in hand.
    """
    if not workers:
        context = WorkerContext(quarantine)
        yield from (job(task, context) for task in tasks(0))
        return
    done = ended = troubles = 0
    while True:
        pool = WorkerPool(job, workers, quarantine=dict(quarantine), **options)
        try:
            for result in pool.run(tasks(done)):
                done += 1
                yield result
            return
        except (WorkerStalledError, WorkerDiedError) as error:
            if isinstance(error, WorkerStalledError) or not error.from_outside or error.exit_code == -signal.SIGKILL:
                found = isolate(error, relative)
                troubles += 1
                if troubles > most:
                    raise DataError(
                        f"workers hung or crashed {troubles} times; look at the storage, then at these files: "
                        f"{', '.join(sorted({*quarantine, *found}))}"
                    ) from None
                quarantine.update(found)
                _log.warning("%s; restarting the workers without %s", error, ", ".join(found))
                continue
            ended += 1
            if ended > _MOST_ENDED:
                raise DataError(f"{error}, {ended} workers so far: see what ends them, or run with workers=0") from None
            _log.warning("%s, from outside; starting the workers anew", error)
        finally:
            pool.close()


def in_background(items: Generator[Result, None, None]) -> Generator[Result, None, None]:
    """The same items, made one ahead by a thread: copies into page-locked memory then cost the caller nothing."""
    try:
        with ThreadPoolExecutor(1, "unreel-loader") as thread:
            ahead = thread.submit(next, items, None)
            while (item := ahead.result()) is not None:
                ahead = thread.submit(next, items, None)
                yield item
    finally:
        items.close()
