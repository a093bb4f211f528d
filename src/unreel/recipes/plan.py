"""What a prepared run would do and cost."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path

from unreel.core.devices import choose_device
from unreel.core.digests import mapping_digest
from unreel.core.distributed import world_size
from unreel.core.errors import UnreelError
from unreel.core.files import write_whole
from unreel.core.progress import format_seconds
from unreel.core.settings import Settings
from unreel.core.words import counted, plural
from unreel.data.contracts import min_frames
from unreel.data.index import cache_folder
from unreel.methods import Method
from unreel.nn import count_parameters
from unreel.recipes.build import SHORTENED, Prepared
from unreel.train.backend import Backend
from unreel.train.estimate import estimate_step, read_samples, seconds_per_step, time_training
from unreel.views.geometry import as_size
from unreel.views.plan import ViewPlan

# Above, a few training steps would take minutes: then the encoder alone is timed, on fewer clips.
_TIMED_MACS, _TIMED_SAMPLES = 2e11, 12


@dataclass(frozen=True)
class Plan:
    """What a run would do and cost.

    ``seconds_per_step`` counts reading, in the workers beside the step, and ``read_seconds`` is that of one video.
    ``disk_gib`` is what the run's folder will hold at most, ``disk_free_gib`` what is free where it goes.
    """

    videos: int
    videos_found: int
    videos_too_short: int
    min_frames: int
    method: str
    clips: str
    encoder: str
    encoder_parameters: int
    head_parameters: int
    features: int
    steps: int
    epochs: float
    batch_size: int
    device: str
    precision: str
    workers: int
    memory_gib: float
    seconds_per_step: float
    read_seconds: float
    hours: float
    disk_gib: float
    disk_free_gib: float
    settings: Settings = field(repr=False)
    unit: str = "videos"
    notes: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, object]:
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "settings"}
        return {**plain, "settings": self.settings.to_plain()}

    def text(self) -> str:
        share, short, mib = "", self.videos_too_short, self.memory_gib * 1024
        memory = f"{self.memory_gib:.1f} GiB" if mib >= 1000 else f"{max(mib, 1):.0f} MiB"
        held_out = self.videos_found - self.videos - short
        if self.videos != self.videos_found:
            why = [f"{short} shorter than {counted(self.min_frames, 'frame')}"] if short else []
            why += [f"{held_out if why else 'the rest'} held out"] if held_out else []
            share = f" of {self.videos_found} ({', '.join(why)})"
        return "\n".join(
            [
                f"{self.unit:<10}{self.videos}{share}",
                f"method    {self.method}: {self.clips}",
                f"encoder   {self.encoder}: {self.encoder_parameters:,} parameters, {self.features} features; "
                f"{self.head_parameters:,} more in the head",
                f"steps     {self.steps:,} of {counted(self.batch_size, self.unit.removesuffix('s'))}, "
                f"{counted(self.epochs, 'epoch')}{self._warmup()}",
                f"device    {self.device}, {self.precision}, {counted(self.workers, 'worker')}",
                f"memory    about {memory}",
                f"time      about {format_seconds(self.hours * 3600)}: {self.seconds_per_step:.2g} s a step; a worker "
                f"reads {'an' if self.unit == 'images' else 'a'} {self.unit.removesuffix('s')} in "
                f"{self.read_seconds:.2g} s",
                f"disk      at most {self.disk_gib:.1f} GiB of {self.disk_free_gib:.1f} GiB that are free"
                + ("" if self.disk_gib < self.disk_free_gib else ": TOO LITTLE; choose another place with --out"),
                *(f"note      {note}" for note in self.notes),
                "Nothing was trained or written.",
            ]
        )

    def _warmup(self) -> str:
        """What became of the recipe's warm-up, where the run is too short for it."""
        for unit in ("epochs", "steps"):
            origin = self.settings.origins["train"][f"warmup_{unit}"]
            if origin.startswith(SHORTENED):
                return f"; warm-up of {self.settings['train'][f'warmup_{unit}']:g} {unit} ({origin})"
        return ""


def plan(prepared: Prepared, *, out: str | os.PathLike[str] = ".") -> Plan:
    """What training ``prepared`` into a folder would cost on this machine.

    A few videos are read and a few steps trained, on copies. What it says is remembered, so that the end of the run can
    say how true it was (``predicted_seconds``).
    """
    settings, method, encoder = prepared.settings, prepared.method, prepared.method.encoder
    train = settings["train"]
    device = choose_device(train["device"])
    views = method.sampler.num_views
    cost = estimate_step(
        method,
        prepared.optimizer,
        batch_size=max(1, train["batch_size"] // world_size()),
        num_views=_whole_views(method),
        device=device,
        precision=train["precision"],
    )
    spec = encoder.input_spec
    steps, inside = prepared.total_steps, count_parameters(encoder)
    backend = Backend(**settings.arguments("train", Backend))
    local = max(1, train["batch_size"] // world_size())
    _, read = read_samples(prepared.loader)
    step = cost.seconds
    if cost.macs_per_clip * views * _TIMED_SAMPLES < _TIMED_MACS:
        with suppress(UnreelError):  # a method that cannot do with so few
            step = time_training(method, prepared.optimizer, prepared.loader, backend) or step
    seconds = train["accumulate"] * seconds_per_step(step, read, samples=local, workers=train["workers"], device=device)
    # While a checkpoint is written, one more than are kept; each holds the weights and the optimiser's two moments.
    held = 4 * sum(p.numel() for p in method.parameters()) * 3 * (train["keep_checkpoints"] + 1)
    per_epoch = max(1, len(prepared.manifest) // train["batch_size"])
    noun = prepared.manifest.noun
    shown = f"of {spec.num_frames} frames (every {spec.stride_frames})" if spec.num_frames > 1 else "of 1 frame"
    seen = counted(views, "view" if noun == "image" and spec.num_frames == 1 else "clip")
    clips = f"{seen}{'' if noun == 'image' and spec.num_frames == 1 else ' ' + shown}, {spec.size_px}² pixels"
    found = Plan(
        videos=len(prepared.manifest),
        videos_found=prepared.num_found,
        videos_too_short=prepared.num_short,
        min_frames=min_frames(method.sampler),
        method=str(settings["method"]["name"]) if "method" in settings else type(method).__name__,
        clips=clips,
        encoder=encoder.architecture or type(encoder).__name__,
        encoder_parameters=inside,
        # A teacher is no head: it follows.
        head_parameters=sum(
            p.numel() for n, p in method.named_parameters() if p.requires_grad and not n.startswith("encoder.")
        ),
        features=encoder.num_features,
        steps=steps,
        epochs=round(steps * train["accumulate"] / per_epoch, 2),
        batch_size=train["batch_size"],
        device=str(device),
        precision=train["precision"],
        workers=train["workers"],
        memory_gib=round(cost.memory_bytes / 2**30, 3),
        seconds_per_step=seconds,
        read_seconds=read,
        hours=steps * seconds / 3600,
        disk_gib=held / 2**30,
        disk_free_gib=shutil.disk_usage(_existing(Path(out))).free / 2**30,
        settings=settings,
        unit=plural(noun),
        notes=prepared.told,
    )
    with suppress(OSError):  # a cache that cannot be written is no fault of the plan
        write_whole(_remembered(settings), json.dumps({"seconds": steps * seconds}))
    return found


def predicted_seconds(settings: Settings) -> float | None:
    """What ``plan`` last said of a run with these settings on this machine; None where nobody asked."""
    try:
        return float(json.loads(_remembered(settings).read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError):
        return None


def _remembered(settings: Settings) -> Path:
    return cache_folder() / "plans" / f"{mapping_digest(settings.to_plain())}.json"


def _existing(place: Path) -> Path:
    """The place, or the nearest folder above it that is there."""
    return next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())


def _whole_views(method: Method) -> int:
    """How many views of the encoder's size have as many pixels as this method's, of which some may be smaller."""
    views, size = method.views, method.encoder.input_spec.size_px
    if not isinstance(views, ViewPlan):
        return views.num_views
    sizes = [[getattr(op, "size", None) for op in pipeline] for pipeline in views.pipelines]
    edges = [as_size(next((s for s in reversed(found) if s is not None), size)) for found in sizes]
    return max(1, round(sum(height * width for height, width in edges) / size**2))
