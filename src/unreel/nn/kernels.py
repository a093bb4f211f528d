"""How weights lie in memory, and where oneDNN, torch's library for convolutions on a CPU, is known to be wrong.

Without AVX-512 its weight gradient of a strided 1×1 convolution with 2 to 7 input channels writes past a buffer when
the memory is channels last (uxlfoundation/oneDNN#6035): wrong gradients, a crash or a hang, by the number of threads.
The output and the input's gradient are right; so are other kernels, 8 channels and more, groups, 1-D and 3-D.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from typing import Any

import torch
from torch import Tensor, nn

# Channels in one block of its AVX2 kernels: a whole block is written where there are fewer.
_BLOCK = 8


def _make_contiguous(conv: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """A hook before the forward pass of a strided convolution: the same numbers, laid out plainly."""
    assert isinstance(conv, nn.Conv2d)
    if max(conv.stride) == 1 or not arguments or not isinstance(arguments[0], Tensor):
        return None
    weight = conv.weight
    if weight.stride()[1:] != (1, 1, 1):  # contiguous() leaves it: a 1×1 kernel is contiguous in every layout
        weight.data = weight.data.flatten(1)[:, :, None, None]
    return (arguments[0].contiguous(), *arguments[1:])


def keep_clear(module: nn.Module) -> None:
    """Have the convolutions inside ``module`` that oneDNN may get wrong work on contiguous memory; safe to call twice.

    It costs a copy of a small map, and nothing where there is no such convolution. Weights, names and results stay.
    """
    for conv in module.modules():
        if not isinstance(conv, nn.Conv2d) or conv.groups > 1 or max(conv.kernel_size) > 1:
            continue
        if 1 < conv.in_channels < _BLOCK and _make_contiguous not in conv._forward_pre_hooks.values():
            conv.register_forward_pre_hook(_make_contiguous)


_CHANNELS_LAST = {5: torch.channels_last_3d, 4: torch.channels_last}


def channels_last(module: nn.Module) -> None:
    """Lay 5-D and 4-D weights out with channels last, the fast layout for convolutions, in place."""
    for parameter in module.parameters():
        layout = _CHANNELS_LAST.get(parameter.ndim)
        if layout is not None:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def has_depthwise(module: nn.Module) -> bool:
    """Whether a net has 2-D convolutions of one channel each, which a CPU computes 1.6 times as fast channels last."""
    return any(isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels for m in module.modules())


def is_channels_last(module: nn.Module) -> bool:
    """Whether ``channels_last`` would leave every weight as it lies, and some weight lies that way and no other."""
    found = False
    for parameter in module.parameters():
        layout = _CHANNELS_LAST.get(parameter.ndim)
        if layout is not None and not parameter.is_contiguous(memory_format=layout):
            return False
        found = found or (layout is not None and not parameter.is_contiguous())
    return found


def onednn_account() -> str:
    """What oneDNN says of itself and of its kernels, as it computes one gradient of the kind above, with 8 channels.

    Empty where torch has no oneDNN. The processor's kernels are told only by the first call of a process.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return ""
    sys.stdout.flush()
    with tempfile.TemporaryFile() as caught:
        screen = os.dup(1)
        os.dup2(caught.fileno(), 1)  # it writes there by itself, past Python
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):  # type: ignore[no-untyped-call]
                x = torch.ones(2, _BLOCK, 4, 4).contiguous(memory_format=torch.channels_last)
                weight = torch.ones(_BLOCK, _BLOCK, 1, 1, requires_grad=True)
                with torch.enable_grad():
                    nn.functional.conv2d(x, weight, stride=2).sum().backward()  # type: ignore[no-untyped-call]
            ctypes.CDLL(None).fflush(None)
        finally:
            os.dup2(screen, 1)
            os.close(screen)
        caught.seek(0)
        return caught.read().decode(errors="replace")
