from __future__ import annotations

import sys

import pytest
import torch

from unreel.core.memory import keep_freed_memory


def test_says_whether_it_could_and_may_be_called_again() -> None:
    assert keep_freed_memory() is keep_freed_memory()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc maps large buffers one by one")
def test_a_large_buffer_is_not_mapped_anew() -> None:
    resource = pytest.importorskip("resource")
    if not keep_freed_memory():
        pytest.skip("the C library is not glibc")
    for _ in range(8):  # 64 MB each, faulted in once or twice
        torch.ones(16 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(16 << 20)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 8 * 16_384 // 2  # mapped anew, every page of each faults
