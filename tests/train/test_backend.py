from __future__ import annotations

import pytest
import torch
from torch import nn

from unreel.core.devices import choose_device
from unreel.core.errors import UsageError
from unreel.train import backend
from unreel.train.backend import (
    Backend,
    Launch,
    autocast,
    detect_launch,
    distribute,
    start_processes,
)


def test_torchrun_is_detected() -> None:
    environment = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    assert detect_launch(environment) == (3, 8, 1, "10.0.0.1", 29500)
    assert detect_launch({**environment, "WORLD_SIZE": "1", "RANK": "0"}) is None
    assert detect_launch({}) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[03-05,9],cpu1", "gpu03"), ("n1", "n1"), ("n1,n2", "n1"), ("a-b[7,9]", "a-b7")],
)
def test_srun_is_detected_and_a_batch_script_is_not(nodes: str, first: str) -> None:
    job = {"SLURM_JOB_ID": "12345", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": nodes}
    assert detect_launch(job) is None
    step = {**job, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}
    assert detect_launch(step) == (2, 4, 0, first, 32345)
    assert detect_launch({**step, "MASTER_ADDR": "head", "MASTER_PORT": "1234"}) == (2, 4, 0, "head", 1234)
    assert detect_launch({**step, "SLURM_STEP_NUM_TASKS": "1"}) is None


@pytest.mark.parametrize(("visible", "device"), [(1, 0), (4, 3)])
def test_a_process_takes_its_own_device_or_the_only_one_it_sees(
    visible: int, device: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(backend.dist, "init_process_group", lambda *args, **options: None)
    monkeypatch.setattr(backend, "detect_launch", lambda: Launch(3, 4, 3, "localhost", 1234))
    assert start_processes()
    assert taken == [device]


def test_precision_and_device() -> None:
    cpu = choose_device("cpu")
    x = torch.ones(2, 2)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with autocast(cpu, precision):  # type: ignore[arg-type]
            assert (x @ x).dtype == dtype
    with pytest.raises(ValueError, match="precision must be one of"):
        autocast(cpu, "half")  # type: ignore[arg-type]


def test_a_backend_says_what_it_cannot_be() -> None:
    with pytest.raises(UsageError, match="precision must be one of float32, bfloat16"):
        Backend(precision="bf16")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="memory_format must be one of contiguous, channels_last"):
        Backend(memory_format="nhwc")  # type: ignore[arg-type]


def test_one_process_is_not_wrapped() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2))
    assert distribute(net, torch.device("cpu"), synchronise_norm=True, unused=False) is net
    assert type(net[0]) is nn.BatchNorm1d
