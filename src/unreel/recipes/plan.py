"""What a prepared run would do and cost."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from unreel.core.devices import choose_device
from unreel.core.distributed import world_size
from unreel.core.progress import format_seconds
from unreel.core.settings import Settings
from unreel.core.words import counted, plural
from unreel.data.contracts import min_frames
from unreel.methods import Method
from unreel.nn import count_parameters
from unreel.recipes.build import SHORTENED, Prepared
from unreel.train.estimate import estimate_step
from unreel.views.geometry import as_size
from unreel.views.plan import ViewPlan


@dataclass(frozen=True)
class Plan:
    """What a run would do and cost. ``hours`` is the training alone: decoding runs beside it, in the workers."""

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
    hours: float
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
                f"time      about {format_seconds(self.hours * 3600)} ({self.seconds_per_step:.2g} s a step; decoding "
                "runs beside it)",
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


def plan(prepared: Prepared) -> Plan:
    """What training ``prepared`` would cost on this machine; times a few clips."""
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
    seconds = cost.seconds * train["accumulate"]
    per_epoch = max(1, len(prepared.manifest) // train["batch_size"])
    noun = prepared.manifest.noun
    shown = f"of {spec.num_frames} frames (every {spec.stride_frames})" if spec.num_frames > 1 else "of 1 frame"
    seen = counted(views, "view" if noun == "image" and spec.num_frames == 1 else "clip")
    clips = f"{seen}{'' if noun == 'image' and spec.num_frames == 1 else ' ' + shown}, {spec.size_px}² pixels"
    return Plan(
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
        hours=steps * seconds / 3600,
        settings=settings,
        unit=plural(noun),
        notes=prepared.told,
    )


def _whole_views(method: Method) -> int:
    """How many views of the encoder's size have as many pixels as this method's, of which some may be smaller."""
    views, size = method.views, method.encoder.input_spec.size_px
    if not isinstance(views, ViewPlan):
        return views.num_views
    sizes = [[getattr(op, "size", None) for op in pipeline] for pipeline in views.pipelines]
    edges = [as_size(next((s for s in reversed(found) if s is not None), size)) for found in sizes]
    return max(1, round(sum(height * width for height, width in edges) / size**2))
