"""``unreel doctor``: is this machine ready, and if not, what to do."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unreel.cli.common import NO_OPTIONS, Common
from unreel.core.errors import UsageError

_MIN_FREE_GB = 2.0  # the demo's world, checkpoints and features stay below one
_PYTHON = ((3, 11), (3, 13))
_TORCH = (2, 11)
_REINSTALL = "reinstall PyAV: pip install --force-reinstall av"


@dataclass(frozen=True)
class Check:
    """One finding: ``status`` is ok, warn (works, but) or fail (will not work)."""

    name: str
    status: str
    found: str
    advice: str = ""


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    if not _PYTHON[0] <= sys.version_info[:2]:
        return Check("python", "fail", found, "use Python 3.11, 3.12 or 3.13")
    if sys.version_info[:2] > _PYTHON[1]:
        return Check("python", "warn", found, "newer than any version the tests run on (3.11 to 3.13)")
    return Check("python", "ok", found)


def _torch() -> Check:
    import torch

    numbers = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if numbers < _TORCH:
        return Check("torch", "fail", torch.__version__, "needs 2.11 or newer: pip install 'torch>=2.11'")
    return Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _kernels() -> Check:
    import re

    import torch

    from unreel.nn.kernels import onednn_account

    found, account = torch.backends.cpu.get_cpu_capability(), onednn_account()
    for pattern, what in ((r"oneDNN v([\d.]+)", "oneDNN "), (r"cpu,isa:(.+)", "")):
        if match := re.search(pattern, account):
            found += f", {what}{match[1]}"
    if re.search(r"jit_1x1:avx2,backward_weights", account):
        found += (
            "; oneDNN's gradient of narrow strided 1×1 convolutions writes past its memory here (oneDNN issue 6035); "
            "unreel works round it"
        )
    return Check("kernels", "ok", found)


def _cuda() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Check("cuda", "ok", f"{', '.join(names)}, {memory:.0f} GiB, CUDA {torch.version.cuda}")
    if torch.version.cuda is None and (shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists()):
        return Check("cuda", "warn", "an NVIDIA device, but torch's CPU build", "install torch's CUDA build")
    if torch.version.cuda is not None:
        return Check("cuda", "warn", "torch's CUDA build, but no usable device", "check the driver with nvidia-smi")
    return Check("cuda", "ok", "none; everything runs on the CPU (use small encoders, such as r3d_tiny)")


def _codecs() -> Check:
    import numpy as np

    from unreel.media import probe, read_clip
    from unreel.media.write import write_video

    levels = np.linspace(0, 224, 8).astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (8, 64, 64, 3))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, frames, fps=8)
        info = probe(path)
        clip = read_clip(path, indices=np.arange(8))
    worst = int(np.abs(clip.pixels.astype(int) - frames).max())
    if clip.pixels.shape != frames.shape or worst > 8:
        return Check("codecs", "fail", f"a written {info.codec} clip came back different by {worst} of 255", _REINSTALL)
    return Check("codecs", "ok", f"wrote and read an {info.codec} clip")


def _cores() -> Check:
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        usable = os.cpu_count() or 1
    found = f"{usable} usable"
    if os.environ.get("OMP_NUM_THREADS"):
        found += f", OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
    return Check("cores", "ok", found)


def _memory() -> Check:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return Check("memory", "ok", "unknown")
    if total < 4:
        return Check("memory", "warn", f"{total:.1f} GiB", "use --train.workers 0 and a small batch")
    return Check("memory", "ok", f"{total:.1f} GiB")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / 1e9
    if free < _MIN_FREE_GB:
        return Check("disk", "warn", f"{free:.1f} GB free in {folder}", "free some space or work elsewhere (--out)")
    return Check("disk", "ok", f"{free:.0f} GB free in {folder}")


def _writing(folder: Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check("writing", "ok", f"{folder} can be written")
    except OSError as error:
        return Check("writing", "fail", f"{folder}: {error.strerror}", "choose another folder with --out")


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # a doctor that dies tells nothing: every failure is a finding
        advice = {"codecs": _REINSTALL, "torch": "reinstall torch: pip install --force-reinstall torch"}
        return Check(name, "fail", f"{type(error).__name__}: {error}", advice.get(name, "report this as a fault"))


def doctor(folder: Annotated[Path, Parameter(show_default=False)] = Path(), /, *, common: Common = NO_OPTIONS) -> int:
    """Check this machine: Python, torch, the processor's kernels, CUDA, codecs, disk, cores.

    The exit code is 0 if everything that is needed works, and 1 otherwise.

    Args:
        folder: Where runs will be written. The default is the current folder.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder")
    checks = [
        _guarded("python", _python),
        _guarded("torch", _torch),
        _guarded("kernels", _kernels),
        _guarded("cuda", _cuda),
        _guarded("codecs", _codecs),
        _guarded("cores", _cores),
        _guarded("memory", _memory),
        _guarded("disk", lambda: _disk(folder)),
        _guarded("writing", lambda: _writing(folder)),
    ]
    ready = all(c.status != "fail" for c in checks)
    lines = []
    for c in checks:
        lines.append(f"{c.status:<5} {c.name:<8} {c.found}")
        if c.advice:
            lines.append(f"{'':<14} → {c.advice}")
    lines.append("ready" if ready else "not ready: see the lines that say fail")
    common.print({"ready": ready, "checks": [asdict(c) for c in checks]}, "\n".join(lines))
    return 0 if ready else 1
