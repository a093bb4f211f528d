"""Fixtures that many tests share: one thread, repeatable examples, the shared data where they are."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.ddp_pool import ddp as ddp
from unreel.core.progress import is_quiet, set_quiet

torch.set_num_threads(1)

# Repeatable: a failure seen once is seen again. No deadline: the first call of an operation may take a second.
settings.register_profile(
    "unreel", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=50
)
settings.load_profile("unreel")


_QUIET, _LEVEL = is_quiet(), logging.getLogger("unreel").level


@pytest.fixture(autouse=True)
def _as_loud_as_before() -> Iterator[None]:
    """``--quiet`` of a command that a test, or a fixture of many tests, calls does not reach the next test."""

    def reset() -> None:
        set_quiet(_QUIET)
        logging.getLogger("unreel").setLevel(_LEVEL)

    reset()
    yield
    reset()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands keep for the user, facts and features, stays out of the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNREEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """The folder of small inputs that once failed; tests that need it are skipped where it is absent."""
    cases = SHARED.parent / "cases"
    if not cases.is_dir():
        pytest.skip("needs ../shared/cases beside the checkout")
    return cases


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A written action world, 16 + 16 videos of 32² pixels and 16 frames: its folder holds manifest.csv."""
    from unreel.data.synthetic import ActionWorld

    folder = tmp_path_factory.mktemp("world")
    ActionWorld(7, 16, 16, size_px=32, num_frames=16, audio_rate_hz=0).write(folder)
    return folder
