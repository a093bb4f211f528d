"""``unreel embed``, ``unreel evaluate``, ``unreel predict``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from cyclopts import Parameter

from unreel.cli.common import (
    BEST_EMBEDDING,
    NO_OPTIONS,
    USUAL_COLUMNS,
    WHOLE,
    Columns,
    Common,
    Embedding,
    Windows,
)
from unreel.cli.overrides import Overrides, to_sections
from unreel.core.errors import UsageError
from unreel.core.text import listed, table
from unreel.core.words import counted

if TYPE_CHECKING:
    from unreel.nn import Encoder
    from unreel.tasks import Task
    from unreel.tasks.predict import Predicted, PredictionTable

Protocols: TypeAlias = Annotated[
    tuple[Literal["linear", "knn", "retrieval", "svm", "finetune"], ...], Parameter(consume_multiple=True)
]


@Parameter(name="*")
@dataclass(frozen=True)
class Kept:
    """Where an evaluation leaves what it finds."""

    out: Path | None = None
    "Also write the scores to this .json file."
    work: Path | None = None
    "Folder for the checkpoints of fine-tuning, which let it go on after a stop. The default is in the run's folder."


@Parameter(name="*")
@dataclass(frozen=True)
class Compared:
    """What an evaluation tests on, and what it sets beside the encoder."""

    folds: int | None = None
    "Test every sample once, in this many folds of whole groups, instead of one training part and one test part."
    against: Annotated[tuple[str, ...], Parameter(consume_multiple=True, show_default=False)] = ()
    "Other encoders to compare with, such as another run or an encoder file. You may name several."
    frame_statistics: bool = False
    "Also score plain statistics of the pixels. This control needs no network."


@Parameter(name="*")
@dataclass(frozen=True)
class Spanned(Windows):
    """Windows, and what they say together."""

    spans: Path | None = None
    "With --window: also write spans to this file: .csv, .json, .vtt (WebVTT subtitles) or .eaf (ELAN). \
Windows that overlap are averaged, and neighbours with the same label become one span."

    def check(self) -> None:
        """Raise UsageError for what cannot be, before any work."""
        from unreel.core.files import check_file
        from unreel.tasks.spans import check_spans_suffix

        if self.spans is None:
            return
        if self.window is None:
            raise UsageError(f"--spans {self.spans}: give the seconds of a window, too: --window 4")
        check_file(check_spans_suffix(self.spans))


UNCUT = Spanned()
NOWHERE_ELSE = Kept()
USUALLY = Compared()
_SHOWN = 20  # predictions on the terminal


def embed(
    encoder: Path,
    data: Path,
    /,
    *,
    out: Path,
    columns: Columns = USUAL_COLUMNS,
    pooling: str = "encoder",
    windows: Windows = WHOLE,
    embedding: Embedding = BEST_EMBEDDING,
    common: Common = NO_OPTIONS,
) -> int:
    """Write one embedding per video or image, or one for each window of a long video.

    Args:
        encoder: A run's folder, an encoder file (.safetensors), or the name of an encoder with weights, such as
            efficientnet_lite0 or timm:NAME.
        data: A folder of videos or images, or a manifest (CSV or Parquet).
        out: The file to write: .npz or .parquet.
        pooling: How the last feature map becomes one vector. encoder: as the encoder itself does it. gap: the mean.
            max-1x2x2: the largest value in each block of 1 × 2 × 2 cells.
    """
    from unreel import api
    from unreel.core.files import check_file

    api.check_table_suffix(out)
    check_file(out)
    how = {**embedding.options_for(encoder), **asdict(windows), **columns.named()}
    embeddings = api.embed(encoder, data, pooling=pooling, progress=not common.quiet, **how)
    api.write_embeddings(embeddings, out)
    count, width = embeddings.vectors.shape
    unreadable = [{"path": fault.path, "message": fault.message} for fault in embeddings.faults]
    text = [f"wrote {out}: {counted(count, embeddings.noun)} × {counted(width, 'feature')}"]
    text += listed("left out: ", [fault.message for fault in embeddings.faults])
    plain = {"embeddings": str(out), "videos": count, "features": width, "unreadable": unreadable}
    common.print(plain, "\n".join(text))
    return 0


def evaluate(
    encoder: Path,
    data: Path,
    /,
    *,
    protocol: Protocols | None = None,
    task: Literal["label", "background", "shift"] = "label",
    gallery: Path | None = None,
    columns: Columns = USUAL_COLUMNS,
    profile: str = "standard",
    pooling: str | None = None,
    compared: Compared = USUALLY,
    init: Path | None = None,
    seed: int = 0,
    kept: Kept = NOWHERE_ELSE,
    settings: Overrides = (),
    embedding: Embedding = BEST_EMBEDDING,
    common: Common = NO_OPTIONS,
) -> int:
    """Prove what an encoder is worth: scores beside chance and untrained nets, with intervals.

    Two untrained nets of the same kind are scored, too. random-init has fresh weights. first-weights is random-init
    with batch statistics that are measured on the training part. The difference to first-weights is what training
    taught. n is the number of samples that were scored. The first sentence is the answer: what the encoder is worse
    than, what it is better than, or that this is not decided.

    The run's folder also keeps the scores of its encoder, and its report.html shows them. There is one file for each
    data set, label and split. You can change every setting of a protocol: --protocol finetune --finetune.epochs 50.
    You can also change every setting of a task: --task shift --task.shifted imagenet_r.csv --task.hypernyms data.noun.

    Args:
        encoder: A run's folder, an encoder file (.safetensors), or the name of an encoder with weights, such as
            efficientnet_lite0 or timm:NAME. With --init: the name of any encoder.
        data: A labelled manifest, or a folder with one sub-folder per class.
        protocol: What to do with the embeddings. finetune trains all layers. You may name several. The default is the
            profile's first protocol (linear in the standard profile), or retrieval if there is a gallery.
        task: What to test. label: whether the label is found. background: the same when backgrounds are kept, swapped
            and removed. shift: the same on a shifted data set.
        gallery: Look up the test part in this other data set. Labels are matched by name.
        profile: A named set of protocols, with their test clips and pooling: standard, paper-cvrl, paper-tcgl,
            paper-occon.
        pooling: How the last feature map becomes one vector. encoder: as the encoder itself does it. gap: the mean.
            max-1x2x2: the largest value in each block of 1 × 2 × 2 cells. The default is the profile's.
        init: Evaluate weights from elsewhere, or train them further with finetune. Give a run, or a checkpoint (.pth,
            .safetensors) that names the layers as torchvision, timm, MoCo or VISSL do. ENCODER is then a name, such as
            resnet_18 (see: unreel models), and --encoder.SETTING changes a setting of this encoder. Weights of ImageNet
            usually need --encoder.normalization imagenet.
        seed: Seed for the controls' weights, for the split if the data has none, and for the resampling.
    """
    out = kept.out
    if out is not None and out.suffix.lower() != ".json":
        raise UsageError(f"--out {out}: scores are written as .json")
    embedding.check()
    from unreel import api
    from unreel.core.files import WriteError, check_file
    from unreel.nn.weights import named_encoder
    from unreel.tasks.baselines import USUAL_BASELINES
    from unreel.tasks.scores import check_report

    sections = to_sections(settings)
    asked = _task(task, data, sections.pop("task", {}), columns=columns, gallery=gallery, seed=seed)
    if asked is not None:
        columns = USUAL_COLUMNS  # the task has them
    if init is not None or ("encoder" in sections and named_encoder(encoder)):
        net, started = _start(str(encoder), init, sections.pop("encoder", {}), seed)
    else:
        net, started = encoder, ()
    is_run = init is None and (encoder / "config.yaml").is_file()
    if out is not None:
        check_file(out)
    if is_run:
        try:
            check_report(encoder)
        except WriteError as error:
            file = encoder / "encoder.safetensors"
            raise WriteError(f"{error}. A run's scores are kept in its folder; to score without, name {file}") from None
    found = api.evaluate(
        net,
        data if asked is None else asked,
        protocol=protocol,
        gallery=gallery,
        **columns.named(),
        profile=profile,
        pooling=pooling,
        baselines=(*USUAL_BASELINES, *(["frame-statistics"] if compared.frame_statistics else [])),
        folds=compared.folds,
        against=compared.against,
        settings=sections,
        work=kept.work if kept.work is not None or not is_run else encoder / "finetune",
        seed=seed,
        progress=not common.quiet,
        **embedding.options_for(encoder),
    )
    found = replace(found, notes=(*started, *found.notes))
    if out is not None:
        found.to_json(out)
    if is_run:
        from unreel.report.html import write_report

        found.keep(encoder)
        write_report(encoder)
    common.print(found.to_dict(), found.text())
    return 0


def _start(
    name: str, init: Path | None, settings: Mapping[str, object], seed: int
) -> tuple[Encoder | Path, tuple[str, ...]]:
    """A new encoder, with the weights of a file or a run where one is given, and a sentence on what matched."""
    from unreel.core.settings import Layer, Settings
    from unreel.nn.foreign import name_factory
    from unreel.recipes.build import start_encoder
    from unreel.recipes.schema import COMMAND_LINE, settings_schema

    name_factory(name)
    schema = {"encoder": settings_schema(None)["encoder"]}
    asked = {"encoder": {"name": name, **({} if init is None else {"weights": str(init)}), **settings}}
    _, net, started = start_encoder(Settings.resolve(schema, [Layer(COMMAND_LINE, asked)]), seed=seed)
    return net, started


def _task(
    name: str,
    data: Path,
    settings: Mapping[str, object],
    *,
    columns: Columns,
    gallery: Path | None,
    seed: int,
) -> Task | None:
    """The task asked for; None for the label's, which ``evaluate`` makes."""
    if name == "label":
        if settings:
            raise UsageError(f"--task.{next(iter(settings))}: settings of a task go with --task background or shift")
        return None
    from unreel.core.settings import validate
    from unreel.tasks import TASKS

    if gallery is not None:
        raise UsageError(f"--gallery is a task of its own: leave out --task {name}")
    builder = TASKS[name]
    given: dict[str, Any] = validate(builder, settings, "task")
    named = columns.named()
    given |= validate(builder, {name: value for name, value in named.items() if name in ("label", "group")}, "task")
    if "data" in given:
        raise UsageError("--task.data: give the data as the second argument")
    if name == "shift" and "shifted" not in given:
        raise UsageError("--task shift needs the shifted data set: --task.shifted MANIFEST")
    from unreel.data.columns import Columns as Chosen
    from unreel.data.manifest import Manifest

    found = Manifest.open(data, columns=Chosen(**named)) if named else data
    return builder(found, **{"seed": seed, **given})


def predict(
    run: Path,
    data: Path,
    /,
    *,
    labels: Path | None = None,
    protocol: Literal["linear", "knn", "svm", "finetune"] = "linear",
    columns: Columns = USUAL_COLUMNS,
    windows: Spanned = UNCUT,
    out: Path | None = None,
    head: Path | None = None,
    encoder: Path | None = None,
    abstain_below: float = 0.5,
    seed: int = 0,
    settings: Overrides = (),
    embedding: Embedding = BEST_EMBEDDING,
    common: Common = NO_OPTIONS,
) -> int:
    """Label every video or image, after learning from a few that are labelled.

    With --labels, the command fits a head (a small classifier) on the labelled files. The encoder stays as it is,
    unless you ask for --protocol finetune. The run's folder keeps the head. Without --labels, the command predicts with
    a head that was kept.

    The first line says how accurate to expect the new labels to be, with an interval. Both come from cross-validation:
    each labelled file is predicted by a head that has not seen its group. The same predictions calibrate the
    probability of each label. You can change every setting of a protocol: --finetune.epochs 10.

    Args:
        run: A run's folder, an encoder file (.safetensors), or the name of an encoder with weights, such as
            efficientnet_lite0 or timm:NAME. Without --labels: a head file, or a run that keeps a head.
        data: What to predict: a folder of videos or images, or a manifest (CSV or Parquet).
        labels: A table (CSV or Parquet) with the columns path and label. Its paths are relative to the folder of
            the data, or to the table's own folder.
        protocol: How the head is fitted: linear (logistic regression), knn (nearest neighbours), svm (linear support
            vector machine), or finetune. finetune also trains the encoder further, and keeps it beside the
            head. It trains six times: once for the head, and five times to learn how accurate to expect it.
        out: Also write the table to this file: .csv, .parquet or .json.
        head: The file (.safetensors) to keep the fitted head in. The default is in the folder heads of the run. If the
            encoder is not a run, the default is in a folder heads beside the labels.
        encoder: The encoder that the head needs, if the file was moved.
        abstain_below: Mark a label as abstained if its probability is below this. The default marks labels that are
            more likely wrong than right.
        seed: Seed that chooses the files for trying settings and for calibrating.
    """
    embedding.check()
    windows.check()
    from unreel import api

    found = api.predict(
        run,
        data,
        labels=labels,
        protocol=protocol,
        settings=to_sections(settings),
        encoder=encoder,
        head=head,
        out=out,
        abstain_below=abstain_below,
        seed=seed,
        progress=not common.quiet,
        window=windows.window,
        every=windows.every,
        **{**columns.named(), **embedding.options_for(run)},
    )
    written = [] if windows.spans is None else found.write_spans(windows.spans)
    common.print({**found.to_plain(), "table": None if out is None else str(out)}, _predicted(found, out, written))
    return 0


def _predicted(found: PredictionTable, out: Path | None, written: Sequence[Path]) -> str:
    """The first predictions, how many of each label, and what to know of them."""
    spans = any(row.start_s is not None for row in found.rows)
    left = sum(row.abstained for row in found.rows)

    def cells(row: Predicted) -> tuple[object, ...]:
        span = (row.start_s, row.end_s) if spans else ()
        times = ("" if s is None else round(s, 2) for s in span)
        return (
            row.path,
            row.label,
            round(row.probability, 3),
            *times,
            *(["abstained" * row.abstained] if left else []),
        )

    header = ("path", "label", "probability", *(("start_s", "end_s") if spans else ()), *([""] if left else []))
    lines = [str(found.card.expected), ""] if found.card.expected is not None else []
    lines.append(table(header, [cells(row) for row in found.rows[:_SHOWN]]))
    if len(found.rows) > _SHOWN:
        lines.append(f"… and {len(found.rows) - _SHOWN} more" + ("; --out FILE writes them all" if out is None else ""))
    counts = Counter(row.label for row in found.rows).most_common()
    lines.append("in all: " + ", ".join(f"{label} {number}" for label, number in counts))
    if left:
        lines.append(f"abstained: {counted(left, 'label')}, less likely than asked for")
    lines += listed("left out: ", [fault.message for fault in found.faults])
    lines += [f"note: {note}" for note in found.card.notes]
    if found.head_file is not None:
        lines.append(f"wrote {found.head_file}: the head, to predict again without labels")
    lines += [f"wrote {file}: {counted(len(found.spans), 'span')}" for file in written]
    return "\n".join([*lines, *([] if out is None else [f"wrote {out}"])])
