"""Fine-tuned recognition: all layers trained on labels, then tested once on clips spread over each test video.

docs/methods/evaluation.md, TCGL's fine-tuning and CVRL's fine-tuning. The random-init control, fine-tuned by the same
recipe, is "supervised from scratch".
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np

from unreel.core.checks import Range, checked
from unreel.core.devices import choose_device
from unreel.core.digests import mapping_digest
from unreel.core.errors import UsageError
from unreel.core.files import claimed
from unreel.core.progress import Progress
from unreel.core.words import counted
from unreel.data.dataset import ClipDataset
from unreel.data.loader import ClipLoader
from unreel.data.manifest import Manifest
from unreel.data.sampling import ClipPlan
from unreel.data.validation import ValidationLoader
from unreel.methods.registry import create_method
from unreel.methods.supervised import Cropping, Frozen, Supervised
from unreel.nn.encoder import Encoder
from unreel.protocols.compute import USUAL, Compute
from unreel.protocols.head import with_card
from unreel.protocols.linear import FittedLinear
from unreel.protocols.protocol import class_card, group_cut
from unreel.protocols.samples import FeatureSet
from unreel.protocols.store import encoder_digest
from unreel.tasks.trained import Adapted, Examples
from unreel.train.backend import Backend
from unreel.train.checkpoint import Checkpoints
from unreel.train.monitor import Monitor
from unreel.train.optim import Decay, OptimizerName, build_optimizer
from unreel.train.run import bar_echo
from unreel.train.schedule import Plateau, ScheduleName, make_schedule
from unreel.train.trainer import fit
from unreel.train.validation import Validation

Averaged: TypeAlias = Literal["probabilities", "logits"]

# Decoded frames of a small collection are kept, so that they are decoded once and not every epoch.
_CACHE_MB = 256.0
_LOG_EVERY = 10


@checked
@dataclass(frozen=True)
class FineTune:
    """Train a copy of the encoder with a new linear head; keep the weights that are best on validation videos.

    The defaults are for hundreds of short videos on a CPU. ``paper_tcgl`` and ``paper_cvrl`` are the papers'.
    Training clips have the frames and the stride of the test clips, and the size the encoder was trained on.

    Args:
        optimizer, lr, momentum, weight_decay, decay: see ``build_optimizer``.
        batch_size: videos per step; a training part smaller than it is one batch, at a proportionally lower rate.
        epochs: passes over the training part, one random clip per video each.
        schedule, warmup_epochs: "cosine", "constant", or "plateau" of the validation loss.
        plateau_factor, plateau_patience, min_lr: of "plateau"; patience in epochs.
        crop, flip_p, dropout, label_smoothing, freeze: see ``Supervised``. "place" cuts out of a frame resized as the
            test clips' is, where that is larger than the crop.
        validation_fraction: share of each class to validate on, whole groups, where the data have no validation part.
        select: "val_loss", "val_accuracy", or "last". With "last" and no plateau nothing is selected, and the
            validation part is trained on too.
        average: over a test video's clips: "logits" (TCGL) or "probabilities" (CVRL).
    Raises: UsageError for values out of range.
    """

    optimizer: OptimizerName = "adamw"
    lr: Annotated[float, Range(gt=0)] = 1e-3
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Range(ge=0)] = 0.01
    decay: Decay = "kernels"
    batch_size: Annotated[int, Range(ge=1, unit="videos")] = 16
    epochs: Annotated[float, Range(gt=0, unit="epochs")] = 30
    schedule: ScheduleName = "cosine"
    warmup_epochs: Annotated[float, Range(ge=0, unit="epochs")] = 1
    plateau_factor: Annotated[float, Range(gt=0, lt=1)] = 0.1
    plateau_patience: Annotated[float, Range(ge=0, unit="epochs")] = 50
    min_lr: Annotated[float, Range(ge=0)] = 0.0
    crop: Cropping = "place"
    flip_p: Annotated[float, Range(ge=0, le=1)] = 0.0
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0
    label_smoothing: Annotated[float, Range(ge=0, lt=1)] = 0.0
    freeze: Frozen = "none"
    validation_fraction: Annotated[float, Range(gt=0, lt=1)] = 0.2
    select: Literal["val_loss", "val_accuracy", "last"] = "val_loss"
    average: Averaged = "probabilities"
    name: str = field(default="finetune")

    def __post_init__(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise UsageError(f"finetune: expected warmup_epochs ≤ epochs, got {self.warmup_epochs} and {self.epochs}")
        if self.schedule == "multistep":
            raise UsageError("finetune: the schedule is cosine, constant or plateau")

    @property
    def _selects(self) -> bool:
        return self.select != "last" or self.schedule == "plateau"

    def adapt(
        self,
        encoder: Encoder,
        train: Examples,
        validation: Examples | None,
        *,
        plan: ClipPlan,
        seed: int = 0,
        compute: Compute = USUAL,
    ) -> Adapted:
        """Fine-tune a copy of ``encoder``; see ``TrainedProtocol``."""
        train, validation, notes = self._parts(train, validation, seed)
        classes = tuple(sorted({*train.labels.tolist(), *(() if validation is None else validation.labels.tolist())}))
        size = encoder.input_spec.size_px
        resize = plan.resize_px if plan.resize_px is not None and min(plan.resize_px) > size else None
        method = create_method(
            "supervised",
            copy.deepcopy(encoder),
            seed=seed,
            classes=classes,
            label=train.label,
            clip_frames=plan.num_frames,
            stride=plan.stride,
            crop=self.crop,
            resize=resize,
            flip_p=self.flip_p,
            dropout=self.dropout,
            label_smoothing=self.label_smoothing,
            freeze=self.freeze,
        )
        assert isinstance(method, Supervised)
        options: dict[str, Any] = {"seed": seed, "target_columns": method.target_columns, "decoder": compute.decoder}
        dataset = ClipDataset(train.manifest, method.sampler, method.views, cache_mb=_CACHE_MB, **options)
        batch = min(self.batch_size, len(dataset))
        loader = ClipLoader(dataset, batch, seed=seed, workers=compute.workers or 0, drop_last=False)
        epoch, lr = loader.steps_per_epoch, self.lr * batch / self.batch_size
        total = max(1, round(self.epochs * epoch))
        schedule = make_schedule(
            self.schedule,
            lr,
            total,
            min(total, round(self.warmup_epochs * epoch)),
            plateau_factor=self.plateau_factor,
            plateau_patience=round(self.plateau_patience * epoch),
            min_lr=self.min_lr,
        )
        watch: Validation | None = None
        if validation is not None:
            held = ClipDataset(validation.manifest, method.sampler, method.validation_views or method.views, **options)
            watch = Validation(
                ValidationLoader(held, batch, workers=compute.workers or 0),
                every=epoch,
                select=self.select,
                plateau=schedule if isinstance(schedule, Plateau) else None,
            )
        device = choose_device(compute.device)
        # The quick layout for convolutions on CPUs; the result is the same up to rounding.
        backend = Backend(str(device), compute.precision, "channels_last" if device.type == "cpu" else "contiguous")
        identity = self._identity(encoder, train, validation, plan, seed)
        folder = None if compute.folder is None else compute.folder / f"{self.name}-{mapping_digest(identity)[:16]}"
        owned = nullcontext() if folder is None else claimed(folder)
        with owned, Progress(self.name, total, unit="steps") if compute.progress else nullcontext(None) as bar:
            monitor = Monitor(folder, log_every=_LOG_EVERY, echo=None if bar is None else bar_echo(bar, _LOG_EVERY))
            fit(
                method,
                loader,
                build_optimizer(
                    method,
                    name=self.optimizer,
                    lr=lr,
                    momentum=self.momentum,
                    weight_decay=self.weight_decay,
                    decay=self.decay,
                ),
                total_steps=total,
                schedule=schedule,
                device=backend,
                seed=seed,
                checkpoint=None if folder is None else Checkpoints(folder / "checkpoints", every_steps=epoch, keep=1),
                monitor=monitor,
                validation=watch,
                settings=identity,
            )
        if monitor.faults:
            lost = counted(monitor.faults, "training clip")
            notes = (*notes, f"{lost} could not be read; clips of other files took their place")
        settings = {**asdict(self), "batch_size": batch, "steps": total, "n_train": len(dataset)}
        del settings["name"]
        if watch is not None:
            settings |= {"n_val": len(validation.manifest) if validation is not None else 0}
            settings |= {} if watch.best_step < 0 else {"best_step": watch.best_step, self.select: watch.best_value}
        return Adapted(method.encoder.eval(), self._head(method, train, plan, settings, notes))

    def _parts(
        self, train: Examples, validation: Examples | None, seed: int
    ) -> tuple[Examples, Examples | None, tuple[str, ...]]:
        """What to train on and what to validate on."""
        if not self._selects and validation is not None:
            train, validation = train.joined(validation), None
        train = train.canonical()
        if not self._selects or validation is not None:
            return train, validation, ()
        ids = np.array([str(train.manifest.sample_id(i)) for i in range(len(train.manifest))])
        rows = FeatureSet(np.zeros((len(ids), 1)), train.labels, train.groups, ids)
        mask = group_cut(rows, fraction=self.validation_fraction, seed=seed)
        if mask is None:
            if self.schedule == "plateau":
                raise UsageError(
                    f"{self.name}: no validation part can be cut without emptying a class, and the schedule 'plateau' "
                    "needs one; use cosine or constant"
                )
            return train, None, ("no validation part could be cut without emptying a class: the last weights are kept",)
        return train.select(~mask), train.select(mask), ()

    def _identity(
        self, encoder: Encoder, train: Examples, validation: Examples | None, plan: ClipPlan, seed: int
    ) -> dict[str, object]:
        """What makes one fine-tuning what it is: another folder for any other."""
        return {
            **{k: v for k, v in asdict(self).items() if k != "average"},
            "encoder": encoder_digest(encoder),
            "train": self._data(train.manifest),
            "validation": "" if validation is None else self._data(validation.manifest),
            "label": train.label,
            "plan": plan.digest,
            "seed": seed,
        }

    @staticmethod
    def _data(manifest: Manifest) -> list[str]:
        """The table, and the very files: other files of equal names, sizes and ends have checkpoints of their own."""
        return [manifest.digest, mapping_digest([manifest.identity(i) for i in range(len(manifest))])]

    def _head(
        self, method: Supervised, train: Examples, plan: ClipPlan, settings: dict[str, object], notes: tuple[str, ...]
    ) -> FittedLinear:
        linear = method.head.linear
        card = class_card(self.name, np.array(method.classes), train.labels, settings, notes)
        weight, bias = (p.detach().cpu().double().numpy() for p in (linear.weight, linear.bias))
        return with_card(
            FittedLinear(card, weight, bias, self.average),
            label=train.label,
            clips=plan,
            layer=method.encoder.last_stage,
            pooling="encoder",
            encoder=encoder_digest(method.encoder),
        )


def paper_tcgl() -> FineTune:
    """As in docs/methods/evaluation.md, TCGL's fine-tuning; a tenth is held out, as UCF101 keeps 800 of 9,537."""
    return FineTune(
        optimizer="sgd",
        lr=1e-3,
        momentum=0.9,
        weight_decay=5e-4,
        decay="all",
        batch_size=16,
        epochs=200,
        schedule="plateau",
        warmup_epochs=0,
        plateau_factor=0.1,
        plateau_patience=50,
        min_lr=1e-5,
        crop="place",
        validation_fraction=0.1,
        select="val_loss",
        average="logits",
    )


def paper_cvrl() -> FineTune:
    """As in docs/methods/evaluation.md, CVRL's fine-tuning: nothing is selected; clips are augmented as its probe's."""
    return FineTune(
        optimizer="sgd",
        lr=0.16,
        momentum=0.9,
        weight_decay=0.0,
        batch_size=128,
        epochs=50,
        schedule="cosine",
        warmup_epochs=0,
        crop="box",
        flip_p=0.5,
        select="last",
        average="probabilities",
    )
