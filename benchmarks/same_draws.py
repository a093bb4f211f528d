"""Does a commit still make the same draws? Ten steps of every small recipe, and more, digit for digit.

A change of structure must not move a draw: the same seeds give the same weights, losses and scores, bit for bit. This
script makes a small world, trains every small recipe for ten steps on it (for videos and for images), trains views
with objects and the papers' recipes at a small size, and embeds, searches and evaluates with some of them. It writes
down every loss and score as Python writes floats, and a digest of every tensor that a run leaves.

    python benchmarks/same_draws.py --out before.json                         # on the commit before
    python benchmarks/same_draws.py --compare before.json                     # on the commit after
    python benchmarks/same_draws.py --checkout ../before --out before.json    # one script for both commits
    python benchmarks/same_draws.py --only moco pace --compare before.json    # a part of it

``--demo`` adds the demo's eighteen numbers. A comparison prints what differs and what is missing, and then ends with
exit code 1. What is new is counted, and is no difference. Both must be taken on one machine with the same libraries
and environment; otherwise the comparison is refused with exit code 2. Two to three minutes on a quiet core.

Everything is done by the command line, in this process. Settings go by their names alone (``--size 32``), so that they
are found in whichever section a commit keeps them; see ``SECTIONS`` and ``RENAMED`` where that does not suffice.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

# Tried in this order where a commit does not take a setting by its name alone, as when two sections have the name.
SECTIONS = ("train", "method", "clips", "views", "objects", "head", "data", "encoder", "optimizer")
# Settings that have another name in another commit: the name used here, then the others, tried in this order.
RENAMED: dict[str, tuple[str, ...]] = {
    "clip_frames": ("clip_frames", "frames"),
    "object_crop": ("object_crop", "crop"),
    "object_pick": ("object_pick", "pick"),
    "bg_mixup": ("bg_mixup", "mixup"),
    "bg_stage": ("bg_stage", "stage"),
    "bg_views": ("bg_views", "mixed_views"),
    "bg_threshold": ("bg_threshold", "threshold"),
    "bg_probability": ("bg_probability", "probability"),
}

TEN: dict[str, object] = {
    "steps": 10,
    "warmup_steps": 2,
    "batch_size": 8,
    "log_every": 1,
    "workers": 0,
    "device": "cpu",
    "seed": 3,
}
_SHORT: dict[str, object] = {"steps": 4, "warmup_steps": 0, "precision": "float32"}
_VIDEOS: dict[str, object] = {**_SHORT, "size": 32, "clip_frames": 4}
_SNIPPETS: dict[str, object] = {
    **_VIDEOS,
    "resize": "[36,48]",
    "interval": 4,
    "validation": 4,
    "steps": 2,
    "batch_size": 4,
}
_IMAGES: dict[str, object] = {**_SHORT, "encoder": "resnet_18", "width": 8, "size": 48}
# What only a switch or a paper's recipe does: by name, the data, the recipe, and settings over it.
MORE: dict[str, tuple[str, str, dict[str, object]]] = {
    "objects of the data, cut out": ("videos", "moco_small", {"object_crop": "gt", "object_pick": "per_view"}),
    "objects of the data, mixed": ("videos", "byol_small", {"bg_mixup": "gt", "bg_stage": "before", "bg_views": "all"}),
    "objects found, cut out and mixed": (
        "videos",
        "simclr_small",
        {"object_crop": "cam", "bg_mixup": "cam", "bg_threshold": 0.5, "bg_probability": 1},
    ),
    "paper of cvrl": (
        "videos",
        "cvrl_k400",
        {**_VIDEOS, "encoder": "r3d_tiny", "hidden_dim": 32, "bn_momentum": 0.1},
    ),
    "paper of tcgl": ("videos", "tcgl_ucf101", {**_SNIPPETS, "clip_frames": 8, "hidden": 32}),
    "paper of vcop": ("videos", "vcop_ucf101", _SNIPPETS),
    "object-aware moco": ("images", "moco_in9", {**_IMAGES, "queue_size": 32}),
    "object-aware byol": ("images", "byol_in9", {**_IMAGES, "hidden_dim": 32}),
    "paper of pirl": ("images", "pirl_imagenet", {**_IMAGES, "jigsaw_size": 60, "patch_px": 16}),
    "paper of swav": (
        "images",
        "swav_imagenet",
        {**_IMAGES, "small_size": 32, "hidden_dim": 32, "num_prototypes": 16, "freeze_steps": 2, "queue_size": 16}
        | {"queue_epoch": 0},
    ),
}
PROTOCOLS = ("linear", "knn", "retrieval", "svm", "finetune")


class FailedError(Exception):
    """A command that did not end well, with what it said."""


class Measured:
    """What was found so far: numbers by name, and per run the digests of its tensors, without their names."""

    def __init__(self) -> None:
        self.numbers: dict[str, str] = {}
        self.tensors: dict[str, list[str]] = {}
        self.failed: list[str] = []

    def floats(self, name: str, values: Mapping[str, Any]) -> None:
        """Numbers as Python writes them, which tells any two floats apart."""
        self.numbers |= {f"{name}: {key}": repr(value) for key, value in values.items()}


# --- commands ---------------------------------------------------------------------------------------------------


def call(*arguments: object) -> tuple[int, str, str]:
    """A command in this process: its exit code, stdout and stderr."""
    from unreel.cli.main import main

    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), errors.getvalue()


def unreel(*arguments: object) -> dict[str, Any]:
    """A command's JSON. Raises FailedError where it did not end well."""
    code, out, errors = call(*arguments, "--json", "--quiet")
    if code:
        raise FailedError(f"unreel {' '.join(map(str, arguments))}: exit code {code}\n{out}{errors}")
    found: dict[str, Any] = json.loads(out)
    return found


def spelled(recipe: str, data: Path, settings: Mapping[str, object]) -> list[str]:
    """Settings as options that this commit takes for this recipe. Raises FailedError where it takes none."""
    options: list[str] = []
    for name, value in settings.items():
        names = RENAMED.get(name, (name,))
        ways = [f"--{n.replace('_', '-')}" for n in names] + [f"--{s}.{n}" for n in names for s in SECTIONS]
        for way in ways:
            if call("pretrain", data, "--recipe", recipe, "--list-settings", *options, way, value)[0] == 0:
                options += [way, str(value)]
                break
        else:
            raise FailedError(f"{recipe} takes none of {', '.join(ways)}: add today's name to RENAMED or SECTIONS")
    return options


def pretrain(data: Path, recipe: str, settings: Mapping[str, object], out: Path, found: Measured, name: str) -> None:
    """Train, and note the losses of every step and the digests of the encoder and of the whole checkpoint."""
    import torch
    from safetensors.torch import load_file

    unreel("pretrain", data, "--recipe", recipe, "--out", out, *spelled(recipe, data, {**TEN, **settings}))
    for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        losses = {key: record[key] for key in ("lr", "loss", "val_loss") if key in record}
        found.floats(f"{name}: step {record['step']:2d}", losses)
    (newest,) = sorted((out / "checkpoints").glob("*.pt"))[-1:]
    found.tensors[f"{name}: encoder"] = digests(load_file(out / "encoder.safetensors"))
    found.tensors[f"{name}: checkpoint"] = digests(torch.load(newest, map_location="cpu", weights_only=True))


def digests(tree: object) -> list[str]:
    """A digest of each tensor's type, shape and values, in order of the digests: a name or a place may change."""
    import torch

    def walk(node: object) -> Iterator[torch.Tensor]:
        if isinstance(node, torch.Tensor):
            yield node
        elif isinstance(node, Mapping):
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list | tuple):
            for value in node:
                yield from walk(value)

    return sorted(
        digest(f"{t.dtype} {tuple(t.shape)}".encode() + t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for t in walk(tree)
    )


def digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


# --- what is asked ----------------------------------------------------------------------------------------------


def make_data(folder: Path) -> dict[str, Path]:
    """Videos of a small world with ground truth, labelled by motion, and the first frames of them as images."""
    import av

    videos, images = folder / "videos", folder / "images"
    size = ("--train", 24, "--test", 16, "--world.num_frames", 48)  # opn and vcp need 41 frames
    unreel("data", "synth", "--out", videos, *size, "--seed", 7, "--truth", "--workers", 0)
    table = videos / "manifest.csv"
    text = table.read_text(encoding="utf-8").replace("label.motion", "label", 1)
    table.write_text(text, encoding="utf-8")
    header, *rows = (line.split(",") for line in text.splitlines())
    for number, row in enumerate(rows[:24]):
        target = images / row[header.index("label")] / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        with av.open(videos / row[header.index("path")]) as container:
            next(container.decode(video=0)).to_image().save(target)
    return {"videos": videos, "images": images}


def questions(data: Mapping[str, Path], folder: Path, found: Measured) -> dict[str, Callable[[], None]]:
    """By name, what is to be measured. What is found is noted under names that begin with it."""
    from unreel.recipes import list_recipes

    runs: dict[str, tuple[str, str, dict[str, object]]] = {
        n: ("videos", n, {}) for n in sorted(list_recipes("*_small"))
    }
    runs |= {n: ("images", n, {}) for n in sorted(list_recipes("*_images"))}
    runs |= MORE

    def place(name: str) -> Path:
        return folder / "runs" / name.replace(" ", "-")

    def train(name: str) -> None:
        kind, recipe, settings = runs[name]
        if "cam" in settings.values():
            annotate(data[kind], trained("moco_small"))
        pretrain(data[kind], recipe, settings, place(name), found, name)

    def trained(name: str) -> Path:
        if not place(name).exists():
            train(name)
        return place(name)

    return {
        **{name: partial(trained, name) for name in runs},
        "use of cvrl_small": lambda: use(data["videos"], trained("cvrl_small"), found, "use of cvrl_small"),
        "demo": lambda: demo(folder / "demo", found),
    }


def annotate(data: Path, encoder: Path) -> None:
    """Boxes and masks of the objects that an encoder finds, into the cache, where the runs after it look for them."""
    for name in ("boxes", "masks"):
        settings = ("--cam.iterations", 2, "--seed", 5, "--workers", 0, "--device", "cpu")
        unreel("data", "annotate", name, data, "--encoder", encoder, *settings)


def use(data: Path, run: Path, found: Measured, name: str) -> None:
    """What a run's encoder tells: embeddings, neighbours, scores with their intervals."""
    import numpy as np

    how = ("--workers", 0, "--device", "cpu")
    unreel("embed", run, data, "--out", run / "embeddings.npz", *how)
    with np.load(run / "embeddings.npz") as arrays:
        pairs = zip(arrays["ids"], arrays["vectors"], strict=True)
        found.floats(f"{name}: embed", {f"{i}": digest(vector.tobytes()) for i, vector in pairs})
    hits = unreel("search", run, data, data / "test" / "00000.mp4", "--top", 10, *how)["results"]
    ranked = {f"rank {hit['rank']:2d}": (Path(hit["path"]).name, hit["similarity"]) for hit in hits}
    found.floats(f"{name}: search", ranked)
    report = unreel("evaluate", run, data, "--label", "label", "--protocol", *PROTOCOLS, "--finetune.epochs", 1, *how)
    for score in report["scores"]:
        values = {**score, **(score["interval"] or {})}
        shown = {key: values[key] for key in ("value", "chance", "low", "high") if key in values}
        found.floats(f"{name}: evaluate {score['encoder']} {score['protocol']} {score['metric']}", shown)


def demo(out: Path, found: Measured) -> None:
    """The demo's eighteen numbers (chance, random and pre-trained weights, six times), intervals and encoder."""
    from safetensors.torch import load_file

    for row in unreel("demo", "--out", out)["scores"]:
        shown = {key: value for key, value in row.items() if isinstance(value, float | list)}
        found.floats(f"demo: {row['classes']} {row['protocol']} {row['metric']}", shown)
    found.tensors["demo: encoder"] = digests(load_file(out / "run" / "encoder.safetensors"))


def machine() -> dict[str, str]:
    """What the bits depend on besides the commit."""
    import av
    import numpy as np
    import sklearn
    import torch

    names = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "OMP_NUM_THREADS")
    processor = [
        line.partition(":")[2].strip()
        for line in (Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else [])
        if line.startswith("model name")
    ]
    return {
        "processor": processor[0] if processor else platform.processor(),
        "system": platform.platform(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (torch, np, av, sklearn)},
        **{name: os.environ.get(name, "") for name in names},
    }


def differences(before: Mapping[str, Any], now: Measured, asked: Iterable[str]) -> list[str]:
    """A line for each thing of before, among what was asked again, that is not the same now."""
    lines = []
    for name, was in before["numbers"].items():
        if name.partition(": ")[0] in asked and (found := now.numbers.get(name, "missing")) != was:
            lines.append(f"{name}: was {was}, is {found}")
    for name, old in before["tensors"].items():
        if name.partition(": ")[0] in asked and (lost := Counter(old) - Counter(now.tensors.get(name, []))):
            lines.append(f"{name}: {lost.total()} of {len(old)} tensors are not there as they were")
    return lines


def measure(words: Sequence[str] | None, *, with_demo: bool) -> tuple[Measured, list[str]]:
    """What is found, and the names of what was asked; all of it, or what has one of the words in its name."""
    found = Measured()
    with tempfile.TemporaryDirectory(prefix="same-draws-") as name:
        folder = Path(name)
        os.environ["UNREEL_CACHE"] = str(folder / "cache")
        todo = questions(make_data(folder), folder, found)
        asked = [n for n in todo if (with_demo or n != "demo") and (not words or any(word in n for word in words))]
        for question in asked:
            start = time.monotonic()
            try:
                todo[question]()
            except (FailedError, OSError, KeyError) as error:
                found.failed.append(f"{question}: failed: {error}")
            print(f"{question}: {time.monotonic() - start:.0f} s", flush=True)
    return found, asked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write what was found to this .json file")
    parser.add_argument("--compare", type=Path, help="compare with this file, which --out wrote")
    parser.add_argument("--demo", action="store_true", help="also run the demo (some minutes more)")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="measure only what has one of these words in its name"
    )
    parser.add_argument("--checkout", type=Path, default=Path(__file__).parents[1], help="whose src is measured")
    options = parser.parse_args()
    if options.out is None and options.compare is None:
        parser.error("say --out FILE or --compare FILE")
    # Read when torch is imported. Sums depend on it; and on a machine in use, two threads wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    source = (options.checkout / "src").resolve()
    sys.path.insert(0, str(source))
    os.environ["PYTHONPATH"] = str(source)  # for the processes that read the demo's files
    here = machine()
    before = None if options.compare is None else json.loads(options.compare.read_text(encoding="utf-8"))
    if before is not None and before["machine"] != here:
        for key in sorted(here.keys() | before["machine"].keys()):
            if (was := before["machine"].get(key)) != (found_now := here.get(key)):
                print(f"{key}: was {was or 'unset'}, is {found_now or 'unset'}")
        print(f"{options.compare} was not taken like this, so that no digit can be compared: take both alike.")
        return 2

    begin = time.monotonic()
    found, asked = measure(options.only, with_demo=options.demo)
    counts = f"{len(found.numbers)} numbers, {sum(map(len, found.tensors.values()))} tensors"
    print(f"{counts} of {len(asked)} questions, {time.monotonic() - begin:.0f} s")
    lines = list(found.failed)
    if before is not None:
        lines += differences(before, found, asked)
        new = {*found.numbers, *found.tensors} - {*before["numbers"], *before["tensors"]}
        print(f"{len(lines)} differ from {options.compare} ({before['commit']}); {len(new)} are new, and do not count")
    print("\n".join(lines), end="\n" * bool(lines))
    if options.out is not None and not found.failed:
        commit = ["git", "-C", str(options.checkout), "describe", "--always", "--dirty"]
        said = subprocess.run(commit, capture_output=True, text=True, check=False).stdout.strip()
        result = {"commit": said, "machine": here, "numbers": found.numbers, "tensors": found.tensors}
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
