"""Where and how a step runs: device, precision, processes. Everything else is in the trainer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from unreel.core.checks import checked
from unreel.core.devices import choose_device
from unreel.core.distributed import is_distributed
from unreel.core.errors import UsageError
from unreel.core.memory import keep_freed_memory
from unreel.data.batch import Batch
from unreel.nn.kernels import channels_last, keep_clear
from unreel.nn.norm import synchronise

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
MemoryFormat: TypeAlias = Literal["contiguous", "channels_last"]


class Launch(NamedTuple):
    """What a launcher says of this process; ``address`` is where rank 0 listens."""

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int


def _first_host(nodes: str) -> str:
    """The first name in SLURM's compressed list: "gpu[03-05,9],cpu1" gives "gpu03"."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", nodes)
    if match is None:
        raise UsageError(f"cannot read SLURM's list of nodes {nodes!r}; set MASTER_ADDR")
    return match[1] + (match[2] or "")


def detect_launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Whether torchrun or srun started this process as one of several; None when it stands alone.

    SLURM counts only inside a step of several tasks: a plain ``python`` in a batch script is one process, however many
    tasks the job was granted.
    """
    env = environment
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= env.keys():
        rank, world, local = int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0))
        address, port = env["MASTER_ADDR"], int(env["MASTER_PORT"])
    elif "SLURM_STEP_ID" in env and int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        rank, world, local = int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_LOCALID"])
        nodes = env.get("SLURM_STEP_NODELIST") or env["SLURM_JOB_NODELIST"]
        address = env.get("MASTER_ADDR") or _first_host(nodes)
        # A port of the job's own, so that two jobs on a node do not meet; the range is the usual unprivileged one.
        port = int(env.get("MASTER_PORT") or 20_000 + int(env["SLURM_JOB_ID"]) % 20_000)
    else:
        return None
    return Launch(rank, world, local, address, port) if world > 1 else None


def start_processes() -> bool:
    """Join the process group when a launcher started several processes; True once it stands. Safe to call twice."""
    if is_distributed():
        return True
    launch = detect_launch()
    if launch is None or (dist.is_available() and dist.is_initialized()):
        return False
    if torch.cuda.is_available():
        # Modulo, because a launcher may show each process only its own device, as number 0.
        torch.cuda.set_device(launch.local_rank % max(1, torch.cuda.device_count()))
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        init_method=f"tcp://{launch.address}:{launch.port}" if "RANK" not in os.environ else "env://",
        rank=launch.rank,
        world_size=launch.world_size,
    )
    return True


@checked
def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Mixed precision for the forward pass; weights stay float32. Raises UsageError for an unknown precision."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


@checked
@dataclass(frozen=True)
class Backend:
    """Where and how training computes.

    Args:
        device: None takes CUDA when there is one.
        precision: precision of the forward pass; weights and losses stay float32.
        memory_format: "contiguous" or "channels_last" (5-D and 4-D weights; the fast layout for convolutions).
        synchronise_norm: with several processes, batch norm over the global batch.
        unused_parameters: with several processes, search for parameters that a step does not use (slower).
    Raises: UsageError for an unknown precision or memory format.
    """

    device: str | None = None
    precision: Precision = "float32"
    memory_format: MemoryFormat = "contiguous"
    synchronise_norm: bool = True
    unused_parameters: bool = False

    @cached_property
    def target(self) -> torch.device:
        """The device itself. Raises UsageError when it is not there."""
        return choose_device(self.device)

    @property
    def held(self) -> list[torch.device]:
        """Devices besides the CPU whose generators are used."""
        return [self.target] if self.target.type == "cuda" else []

    def autocast(self) -> AbstractContextManager[object]:
        """For the forward pass."""
        return autocast(self.target, self.precision)

    def lay_out(self, batch: Batch) -> Batch:
        """The batch's clips laid out as the weights are."""
        if self.memory_format == "contiguous":
            return batch
        views = (replace(v, data=v.data.contiguous(memory_format=torch.channels_last_3d)) for v in batch.views)
        return replace(batch, views=tuple(views))

    def prepare(self, method: nn.Module) -> nn.Module:
        """Put a method in place for training; returns the module to call."""
        if self.target.type == "cpu":
            keep_freed_memory()
        keep_clear(method)
        method.to(self.target)
        if self.memory_format == "channels_last":
            channels_last(method)
        return distribute(
            method, self.target, synchronise_norm=self.synchronise_norm, unused=self.unused_parameters
        ).train()


def distribute(method: nn.Module, device: torch.device, *, synchronise_norm: bool, unused: bool) -> nn.Module:
    """The module to call: ``method`` itself in one process, else DDP around it with norms synchronised."""
    if not is_distributed():
        return method
    if synchronise_norm:
        synchronise(method)
    ids = [device.index if device.index is not None else torch.cuda.current_device()] if device.type == "cuda" else None
    return DistributedDataParallel(method, device_ids=ids, find_unused_parameters=unused, gradient_as_bucket_view=True)
