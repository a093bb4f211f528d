"""What every command that writes says of a place that cannot be written, on real disks of this machine.

    sudo python benchmarks/full_disks.py          # mounts of its own, gone when it ends; without root less is tried

Places: a full file system, one mounted read-only, a folder marked unchangeable (chattr +i), a folder of somebody else's
(as an ordinary user), a folder in a file's place, a file in a folder's. Each command must exit with 1, say "PLACE
cannot be written: why; what to do", and leave what was there as it was. Exits with 1 when one does not.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import unreel.recipes.build
import unreel.report.html
import unreel.tasks  # noqa: F401
from unreel.cli.main import main as command
from unreel.data.synthetic import ActionWorld
from unreel.nn import create_encoder, save_encoder

SMALL = ["--encoder", "r3d_tiny", "--size", "32", "--clip_frames", "4", "--train.steps", "2"]
FILES = {
    "embed": ["embed", "ENCODER", "DATA", "--out", "PLACE/a.npz"],
    "embed parquet": ["embed", "ENCODER", "DATA", "--out", "PLACE/a.parquet"],
    "evaluate --out": ["evaluate", "ENCODER", "DATA", "--label", "motion", "--out", "PLACE/a.json"],
    "export": ["export", "RESNET", "--format", "torchvision", "--out", "PLACE/a.pth"],
    "data index": ["data", "index", "DATA", "--out", "PLACE/a.csv"],
}
FOLDERS = {
    "pretrain": ["pretrain", "DATA", *SMALL, "--out", "PLACE/a"],
    "explain": ["explain", "ENCODER", "DATA", "--out", "PLACE/a"],
    "demo": ["demo", "--tiny", "--out", "PLACE/a"],
    "data synth": ["data", "synth", "--train", "2", "--test", "1", "--out", "PLACE/a"],
    "data annotate": ["data", "annotate", "motion_energy", "DATA", "--out", "PLACE/a"],
    "evaluate, a run's": ["evaluate", "PLACE/run", "DATA", "--label", "motion"],
    "report": ["report", "PLACE/run"],
}


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


def filled(place: Path) -> None:
    """What is good and must stay: an older result, and a run."""
    (place / "a.npz").write_bytes(b"good")
    save_encoder(create_encoder("r3d_tiny"), place / "run" / "encoder.safetensors")
    (place / "run" / "config.yaml").write_text("method:\n  name: cvrl\n")
    (place / "run" / "report.html").write_text("good")


@contextlib.contextmanager
def mounted(place: Path, *, full: bool) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    try:
        filled(place)
        if full:
            with contextlib.suppress(OSError), open(place / "filler", "wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(4096))
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@contextlib.contextmanager
def unchangeable(place: Path) -> Iterator[None]:
    filled(place)
    folders = [place, place / "run"]
    subprocess.run(["chattr", "+i", *folders], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *folders], check=True)


@contextlib.contextmanager
def somebody_elses(place: Path) -> Iterator[None]:
    filled(place)
    os.chmod(place, 0o755)
    yield


@contextlib.contextmanager
def the_reverse(place: Path) -> Iterator[None]:
    filled(place)
    for words in FILES.values():
        target = place / Path(words[-1]).name
        target.unlink(missing_ok=True)
        target.mkdir()
    (place / "a").write_text("in the way")
    for name in ("scores", "report.html"):
        (place / "run" / name).unlink(missing_ok=True)
    (place / "run" / "scores").write_text("in the way")
    (place / "run" / "report.html").mkdir()
    yield


def run(words: list[str], places: dict[str, Path], user: int | None) -> tuple[int, str, float]:
    """A command in a process of its own; its exit code, the last line of what it says, and seconds."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        text = io.StringIO()
        code = 70
        with contextlib.suppress(BaseException):
            if user is not None:
                home = os.path.join(tempfile.gettempdir(), f"unreel-user-{user}")
                os.environ["UNREEL_CACHE"] = os.environ["HOME"] = home
                os.setuid(user)
            given = [word.replace("PLACE", str(places["PLACE"])) for word in words]
            given = [str(places[word]) if word in places else word for word in given]
            begin = time.monotonic()
            with contextlib.redirect_stderr(text), contextlib.redirect_stdout(io.StringIO()):
                code = command([*given, "--quiet"])
            text.write(f"\n{time.monotonic() - begin:.1f}")
        with os.fdopen(sender, "w") as stream:
            stream.write(text.getvalue())
        os._exit(code)
    os.close(sender)
    with os.fdopen(receiver) as stream:
        said, _, seconds = stream.read().rpartition("\n")
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.strip().rpartition("\n")[2], float(seconds or 0)


def main() -> int:
    root = os.geteuid() == 0
    states: dict[str, tuple[Callable[[Path], contextlib.AbstractContextManager[None]], int | None]] = {
        "the reverse": (the_reverse, None)
    }
    if root:
        states["full"] = (lambda place: mounted(place, full=True), None)
        states["read-only"] = (lambda place: mounted(place, full=False), None)
        states["unchangeable"] = (unchangeable, None)
        states["somebody else's"] = (somebody_elses, 65534)
    else:
        print("full, read-only, unchangeable and somebody else's folders need root: left out")
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.chmod(home, 0o755)
        ActionWorld(3, 4, 2, size_px=32, num_frames=16, audio_rate_hz=0).write(home / "world")
        save_encoder(create_encoder("r3d_tiny"), home / "encoder.safetensors")
        save_encoder(create_encoder("resnet_18"), home / "resnet.safetensors")
        places = {"DATA": home / "world" / "manifest.csv", "ENCODER": home / "encoder.safetensors"}
        places["RESNET"] = home / "resnet.safetensors"
        for state, (make, user) in states.items():
            place = home / "place"
            place.mkdir()
            try:
                with make(place):
                    before = listing(place)
                    for name, words in {**FILES, **FOLDERS}.items():
                        code, said, seconds = run(words, {**places, "PLACE": place}, user)
                        same = listing(place) == before
                        right = code == 1 and " cannot be written: " in said and same
                        wrong += not right
                        told = said.replace(str(place), "PLACE").removeprefix("unreel: ")
                        print(f"{state:16} {name:18} {'ok   ' if right else 'WRONG'} {seconds:4.1f} s  {code}  {told}")
                        if not same:
                            print(f"  changed: {sorted(set(listing(place)) ^ set(before))}")
            except subprocess.CalledProcessError as error:
                print(f"{state:16} cannot be made here: {error}")
            shutil.rmtree(place)
    print(f"{wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
