"""The public functions, assembled from the parts. Each can be had without this file; see docs/architecture.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from unreel.core.distributed import rank
from unreel.core.errors import UsageError
from unreel.core.files import check_apart, check_file, replacing, write_arrays
from unreel.data.columns import ANY_COLUMNS, Columns
from unreel.data.manifest import Manifest, Source
from unreel.data.tables import header_of
from unreel.methods import Method, list_methods
from unreel.nn import Encoder, list_encoders
from unreel.nn.export import DetectionSet
from unreel.nn.external import wrap_encoder
from unreel.nn.weights import FILE_NAME, named_encoder, save_encoder
from unreel.protocols.compute import USUAL, Compute, sorted_options
from unreel.protocols.features import Embeddings
from unreel.protocols.features import embed as embed_features
from unreel.protocols.head import Head, is_head
from unreel.protocols.head import load_head as load_head_file
from unreel.protocols.retrieval import Example, Hit
from unreel.protocols.retrieval import search_like as search_features
from unreel.recipes import list_recipes
from unreel.recipes.build import Prepared, prepare
from unreel.recipes.export import Exported, Format
from unreel.recipes.export import check as check_export
from unreel.recipes.export import export as write_export
from unreel.recipes.index import IndexSummary, index
from unreel.recipes.maps import annotate, explain
from unreel.train import run as train_run
from unreel.train.backend import Backend
from unreel.train.options import Keeping, Training
from unreel.train.run import REPORT_FILE, Run, open_encoder

if TYPE_CHECKING:
    from unreel.protocols.protocol import FeatureProtocol
    from unreel.recipes.worth import Study
    from unreel.tasks import Report, Task
    from unreel.tasks.explore import Found
    from unreel.tasks.predict import PredictionTable
    from unreel.tasks.profiles import AnyProtocol
    from unreel.tasks.suggest import Proposal
    from unreel.tasks.worth import WorthIt

__all__ = [
    "Embeddings",
    "Hit",
    "IndexSummary",
    "Run",
    "annotate",
    "cluster",
    "duplicates",
    "embed",
    "evaluate",
    "explain",
    "export",
    "index",
    "list_encoders",
    "list_methods",
    "list_recipes",
    "load_encoder",
    "load_head",
    "outliers",
    "predict",
    "pretrain",
    "run_prepared",
    "save_encoder",
    "search",
    "suggest",
    "worth_it",
    "worth_study",
    "wrap_encoder",
    "write_embeddings",
]

AnyEncoder: TypeAlias = "Encoder | Run | str | os.PathLike[str]"


# --- encoders and embeddings ------------------------------------------------------------------------------------


def load_encoder(path_or_run: str | os.PathLike[str] | Run, *, factory: str | None = None) -> Encoder:
    """The encoder of a file, of a run, or of a name, in evaluation mode; see ``unreel.train.run.open_encoder``.

    Args:
        factory: code that may be run to build what the file holds, as ``package.module:factory``.
    Raises: DataError when there is none, or the run is not complete.
    """
    return open_encoder(path_or_run, factory=factory)


def _encoder(encoder: AnyEncoder) -> Encoder:
    return encoder if isinstance(encoder, Encoder) else open_encoder(encoder)


def embed(encoder: AnyEncoder, data: Source, **options: Any) -> Embeddings:
    """One embedding per video: ``.vectors`` (N, D) float32, ``.ids``, ``.labels``.

    Args:
        encoder: an encoder, a run, the path of either, or the name of an encoder with weights.
        data: a folder, a manifest, or a list of paths.
        options: path, label, group, split, start, end: the columns of a table, see ``Columns``; clips, pooling, window,
            every, device, store and others: see ``unreel.protocols.features.embed``.
    """
    found, rest = _meant(data, options)
    return embed_features(_encoder(encoder), found, **rest)


def _meant(data: Any, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The data by the columns that are meant, and the other options."""
    columns, others = Columns.taken(options)
    return data if columns == ANY_COLUMNS else Manifest.open(data, columns=columns), others


def evaluate(
    encoder: AnyEncoder,
    data: Source | Task,
    *,
    protocol: str | FeatureProtocol | Sequence[str | FeatureProtocol] | None = None,
    against: AnyEncoder | Sequence[AnyEncoder] = (),
    **options: Any,
) -> Report:
    """What an encoder is worth on labelled videos: scores with n, chance, the same net untrained, and intervals.

    Args:
        encoder: an encoder, a run, the path of either, or the name of an encoder with weights.
        data: a labelled manifest, a folder with one sub-folder per class, or a task (``unreel.tasks``).
        protocol: "linear", "knn", "retrieval", "svm", or several; the profile's first ("linear") by default.
        against: other encoders to stand beside, as ``encoder``; the report calls them by their names.
        options: path, label, group, split, start, end: the columns of a table, see ``Columns``; profile, folds,
            gallery, baselines, device, store and others: see ``unreel.tasks.evaluate``.
    """
    from unreel.tasks import evaluate as evaluate_task

    if against:
        others = [against] if isinstance(against, str | os.PathLike | Encoder | Run) else list(against)
        external = options.get("external") or {}
        known = {"external": external} if isinstance(external, Encoder) else external
        options["external"] = {**known, **_by_name(others)}
    columns, rest = Columns.taken(options)
    if columns.of_tables:
        gallery, options = rest.get("gallery"), rest
        if gallery is not None:
            lacking = {*columns.of_tables.values()} - {*header_of(gallery)}
            options["gallery"] = Manifest.open(gallery, columns=columns.without(lacking))
        data = Manifest.open(cast(Source, data), columns=columns)
    return evaluate_task(_encoder(encoder), data, protocol=protocol, **options)


def worth_it(data: Source, **options: Any) -> WorthIt:
    """Is training on these videos worth it? The answer in one sentence, with what it rests on; see ``worth_study``.

    >>> print(unreel.worth_it("videos.csv", label="action", group="patient").sentence)  # doctest: +SKIP
    """
    return worth_study(data, **options).run()


def worth_study(
    data: Source,
    *,
    label: str | None = None,
    group: str | None = None,
    encoder: str | os.PathLike[str] = "efficientnet_lite0",
    recipe: str | os.PathLike[str] | None = None,
    scratch: str | os.PathLike[str] | None = None,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    minutes: float = 8.0,
    held_out: bool = False,
    protocol: str = "linear",
    out: str | os.PathLike[str] = "worth-it",
    runs: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Study:
    """What ``worth_it`` does: ``.plan()`` says what would be trained and how long it takes, ``.run()`` does it.

    Five rows are tested on the labels, in the same folds of whole groups: ``frozen`` (the encoder as it is),
    ``trained`` (trained further on these videos), ``scratch`` (a small net trained on them from scratch),
    ``first-weights`` (the small net untrained) and ``frame-statistics``. Training sees all videos and no label. Without
    the encoder's package, ``trained`` is the small net, and there is no ``frozen``.

    Args:
        data: a labelled manifest, or a folder with one sub-folder per class.
        label, group: which columns.
        encoder: the name of an encoder with weights, a run's folder, or an encoder's file.
        recipe: how it is trained further; ``scratch``: how the small net is trained. Names or files.
        folds: how many folds. seeds: of training, folds and resampling; several are pooled.
        minutes: the most for each training: a recipe that takes longer is cut short, by the time of its first steps.
        held_out: train once for every fold, without the groups that the fold tests.
        protocol: for frozen features: "linear", "knn", "svm" or "retrieval".
        out: folder for ``worth_it.json``, ``worth_it.html`` and ``runs``. What is there is not done again.
        runs: where runs and features are, if elsewhere: several labels can share them.
        options: path, split, start, end: the columns of a table, see ``Columns``; device, workers, batch_size, store
            and others: see ``Compute``; level and num_resamples.
    Raises: UsageError for a call that cannot be; DataError where the data cannot be used.
    """
    from unreel.recipes.worth import Study
    from unreel.tasks.records import Resampling

    columns, rest = Columns.taken({"label": label, "group": group, **options})
    compute, resampling = sorted_options(rest, Compute, Resampling)
    return Study(
        Manifest.open(data, columns=columns) if columns.of_tables else data,
        run_prepared,
        label=label,
        group=group,
        encoder=encoder,
        recipe=recipe,
        scratch=scratch,
        folds=folds,
        seeds=tuple(seeds),
        minutes=minutes,
        held_out=held_out,
        protocol=protocol,
        out=out,
        runs=runs,
        compute=compute,
        resampling=resampling,
    )


def _by_name(places: Sequence[AnyEncoder]) -> dict[str, Encoder]:
    """Encoders by the names of their folders, files or architectures; numbered where names repeat."""
    found: dict[str, Encoder] = {}
    for place in places:
        if isinstance(place, Encoder):
            name = place.architecture or type(place).__name__
        else:
            path = place.path if isinstance(place, Run) else Path(place)
            name = path.stem if path.suffix == ".safetensors" else path.name
        taken = sum(own == name or own.rpartition(" ")[0] == name for own in found)
        found[f"{name} {taken + 1}" if taken else name] = _encoder(place)
    return found


def search(
    encoder: AnyEncoder,
    data: Source | Embeddings,
    query: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    negatives: Sequence[str | os.PathLike[str]] = (),
    *,
    top: int = 5,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> list[Hit]:
    """The ``top`` videos most like one video or several, and least like others, best first; these are left out.

    Args:
        encoder: an encoder, a run, the path of either, or the name of an encoder with weights.
        data: the videos to search, or their embeddings.
        query: a video file, or several; ``"a.mp4#12-16"`` is its seconds 12 to 16. A path that is not there is looked
            for in the data's folder.
        negatives: files that show what is not wanted.
        top: how many, ≥ 1; fewer come back when there are fewer.
        out: also write a page (.html) with clips that play, or a table (.csv).
        options: path, split, start and others: the columns of a table, see ``Columns``; clips, window, every, device,
            store and others: see ``unreel.protocols.search``.
    """
    from unreel.report import found as pages

    wanted = [query] if isinstance(query, str | os.PathLike) else [*query]
    if out is not None:
        pages.check_found(out)
    found, rest = _meant(data, options)
    hits = search_features(_encoder(encoder), wanted, negatives, found, top, **rest)
    if out is not None:
        examples, others = ([Example.of(text, found) for text in texts] for texts in (wanted, negatives))
        pages.write_search(hits, examples, others, out)
    return hits


def cluster(
    encoder: AnyEncoder,
    data: Source | Embeddings,
    *,
    clusters: int | Literal["auto"] = "auto",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Found:
    """Groups of alike videos or images, the largest first; the most typical file of each group comes first.

    Args:
        encoder: an encoder, a run, the path of either, or the name of an encoder with weights.
        data: a folder, a manifest, a list of paths, or their embeddings.
        clusters: how many; "auto" takes the number with the best silhouette.
        seed: for the first centres.
        out: also write a page (.html) with clips that play, or a table (.csv) of path and cluster.
        options: columns, clips, pooling, window, device, store and others, see ``embed``.
    """
    from unreel.tasks import explore

    return _found(explore.cluster, encoder, data, out, options, clusters=clusters, seed=seed)


def duplicates(
    encoder: AnyEncoder,
    data: Source | Embeddings,
    *,
    above: float | None = None,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Found:
    """Groups of files that show the same pictures, if re-encoded, resized, cropped a little, or trimmed.

    Args:
        encoder: proposes the pairs whose pictures are compared. data, out, options: as ``cluster``.
        above: how alike the pictures must be, in (0, 1]; ``None``: see ``unreel.tasks.explore.ABOVE``.
    """
    from unreel.tasks import explore

    compute = Compute(**{name: options[name] for name in vars(USUAL) if name in options})
    least = explore.ABOVE if above is None else above
    return _found(explore.duplicates, encoder, data, out, options, above=least, compute=compute)


def outliers(
    encoder: AnyEncoder,
    data: Source | Embeddings,
    *,
    top: int = 20,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Found:
    """The files that are unlike all others, the oddest first.

    Args:
        encoder, data, out, options: as ``cluster``. top: how many, ≥ 1.
    """
    from unreel.tasks import explore

    return _found(explore.outliers, encoder, data, out, options, top=top)


def _found(
    look: Callable[..., Found],
    encoder: AnyEncoder,
    data: Source | Embeddings,
    out: str | os.PathLike[str] | None,
    options: Mapping[str, Any],
    **asked: Any,
) -> Found:
    from unreel.report import found as pages

    if out is not None:
        pages.check_found(out)
    table = data if isinstance(data, Embeddings) else embed(encoder, data, **options)
    found = look(table, **asked)
    if out is not None:
        pages.write_found(found, out)
    return found


def load_head(path_or_run: str | os.PathLike[str] | Run) -> Head:
    """The head of a file, or the one in a run's folder ``heads``: ``.predict(features)``, and ``.card``.

    Raises: DataError when there is none, or several.
    """
    return load_head_file(path_or_run.path if isinstance(path_or_run, Run) else path_or_run)


def predict(
    head_or_run: Head | AnyEncoder,
    data: Source,
    *,
    labels: Source | None = None,
    protocol: str | AnyProtocol = "linear",
    settings: Mapping[str, Mapping[str, object]] | None = None,
    label: str | None = None,
    group: str | None = None,
    window: float | None = None,
    every: float | None = None,
    encoder: AnyEncoder | None = None,
    head: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    abstain_below: float | None = None,
    seed: int = 0,
    **options: Any,
) -> PredictionTable:
    """A label for every video or image, with its probability and the seconds that it speaks of.

    With ``labels`` a head is fitted on the labelled files and kept; the encoder stays as it is, unless the protocol
    trains it. Without, a head that was fitted before predicts. ``.card.expected`` is how often it will be right, with a
    prediction interval.

    Args:
        head_or_run: with ``labels`` an encoder, a run, the path of either, or the name of an encoder with weights; else
            a head, its file, or the run (or any folder) that keeps it.
        data: what to predict: a folder, a manifest, or a list of paths.
        labels: a table with the columns path and label. Its paths start at the folder of the data, or at its own.
        protocol: "linear", "knn", "svm", "finetune" (trains the encoder further; it is kept beside the head), or a
            protocol (``unreel.protocols``, ``unreel.tasks``).
        settings: protocol → its settings: ``{"finetune": {"epochs": 10}}``.
        label, group: which columns of the labels: any of them.
        window, every: seconds; one prediction for each window of a video, which begin every so many seconds, instead of
            one for the whole.
        encoder: the head's encoder, if it is no longer where it was.
        head: file (.safetensors) to keep the fitted head in. The default is in the folder ``heads`` of the run; of an
            encoder that is no run, in a folder ``heads`` beside the labels.
        out: also write the table there: .csv, .parquet or .json.
        abstain_below: a label that is less likely than this is marked as abstained. The default is one half: more
            likely wrong than right.
        seed: seed for what is drawn in fitting.
        options: path, split, start, end: the columns of both tables, see ``Columns``; device, workers, batch_size,
            store, precision, decoder, progress: see ``Compute``.

    Raises: UsageError for a call that contradicts itself; DataError for labels that name no file, a single class, or
        a head or an encoder that is not there; WriteError, before any work, where a file cannot be written.
    """
    from unreel.tasks import predict as predictions
    from unreel.tasks.profiles import resolve_protocols

    columns, rest = Columns.taken({"label": label, "group": group, **options})
    (compute,) = sorted_options(rest, Compute)
    if out is not None:
        check_file(predictions.check_predictions_suffix(out))
    if head is not None:
        check_file(head)
    own = {*header_of(data)}
    known = {*header_of(labels)} if labels is not None else own
    asked = {name: value if value in own else None for name, value in (("label", label), ("group", group))}
    manifest = Manifest.open(data, columns=replace(columns, **asked).without(known - own))
    kept: Path | None = None
    if labels is None:
        if head is not None:
            raise UsageError(
                "head names the file for a head that is fitted on labels: give labels too, or leave head out"
            )
        found = head_or_run if isinstance(head_or_run, Head) else None
        fitted = found if found is not None else load_head(_path(head_or_run))
        net = _encoder(encoder if encoder is not None else predictions.encoder_file(fitted))
    elif isinstance(head_or_run, Head) or encoder is not None:
        raise UsageError("labels fit a new head on an encoder: give the encoder or the run first, and no head")
    else:
        labelled, name = predictions.open_labels(labels, manifest, columns=columns.without(own - known))
        net = _encoder(head_or_run)
        (how,) = resolve_protocols(protocol, settings=settings)
        adapted = predictions.fit_head(
            net,
            labelled,
            protocol=how,
            label=name,
            group=group,
            others=predictions.num_others(manifest, labelled),
            seed=seed,
            compute=compute,
        )
        target, where = head, {}
        if not isinstance(head_or_run, Encoder):
            place = _path(head_or_run)
            if head is None:
                target = place if place.is_dir() else predictions.heads_beside(labels)
            file, named = os.path.abspath(place / FILE_NAME if place.is_dir() else place), named_encoder(place)
            where = {"encoder_file": file} if named is None else {"encoder_name": named}
        if target is not None:
            adapted, kept = predictions.keep(adapted, target, source=net, where=where)
        net, fitted = adapted
    threshold = predictions.ABSTAIN_BELOW if abstain_below is None else abstain_below
    table = predictions.predict_table(
        fitted, net, manifest, window=window, every=every, abstain_below=threshold, compute=compute
    )
    if out is not None:
        table.write(out)
    return replace(table, head_file=kept)


def suggest(
    encoder: AnyEncoder,
    data: Source,
    *,
    labels: str | os.PathLike[str] | None = None,
    count: int = 10,
    **options: Any,
) -> list[Proposal]:
    """The files whose labels would teach most, the most telling first: ``.path``, and a guess where there are labels.

    Args:
        encoder: an encoder, a run, the path of either, or the name of an encoder with weights.
        data: a folder, a manifest, or a list of paths.
        labels: a table of the labels so far. count: how many, ≥ 1; near-duplicates are left out.
        options: path, label, start, end: the columns of the labels, see ``Columns``; device, workers, batch_size,
            store, precision, decoder, progress: see ``Compute``.
    """
    from unreel.tasks.suggest import suggest as propose

    columns, rest = Columns.taken(options)
    (compute,) = sorted_options(rest, Compute)
    return propose(_encoder(encoder), data, labels=labels, count=count, columns=columns, compute=compute)


def _path(place: AnyEncoder | Head) -> Path:
    if isinstance(place, Encoder | Head):
        raise UsageError("an encoder alone predicts nothing: give labels=, or a head")
    return place.path if isinstance(place, Run) else Path(place)


def check_table_suffix(path: Path) -> None:
    """Raise UsageError unless embeddings can be written to this file."""
    if path.suffix.lower() not in (".npz", ".parquet"):
        raise UsageError(f"--out {path}: embeddings are written as .npz or .parquet")


def write_embeddings(embeddings: Embeddings, path: str | os.PathLike[str]) -> None:
    """Write vectors, ids, labels and groups; .npz holds arrays of these names, .parquet a row per video."""
    target = Path(path)
    check_table_suffix(target)
    columns = {"id": embeddings.ids, "label": embeddings.labels, "group": embeddings.groups}
    present = {name: values for name, values in columns.items() if values is not None}
    if target.suffix.lower() == ".npz":
        arrays: dict[str, Any] = {f"{name}s": values for name, values in present.items()}
        write_arrays(target, {"vectors": embeddings.vectors, **arrays})
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.vectors.ravel()), embeddings.vectors.shape[1])
    table = pa.table({**{name: values.astype(str) for name, values in present.items()}, "vector": vectors})
    with replacing(target) as partial:
        pq.write_table(table, partial)


def export(
    encoder: AnyEncoder | Head,
    *,
    format: Format,
    out: str | os.PathLike[str],
    settings_for: DetectionSet | None = None,
    batch: int = 16,
) -> Exported:
    """Write an encoder, or a head with its encoder, for other code.

    "onnx" and "torch" write a graph with the preprocessing inside, and run it on ten clips before they keep it: clips
    (videos, views, frames, height, width, 3) uint8 in, embeddings and a head's probabilities out. "hub" writes a folder
    to share: weights, settings, and a model card with what the run's folder says was measured. "torchvision" and
    "detectron2" write the weights of a ResNet-18 or ResNet-50 under their names.

    Args:
        encoder: an encoder, a run, the path of either, or the name of an encoder with weights; a head, or its file.
        format: "onnx" (.onnx), "torch" (.pt2), "hub" (a folder), "torchvision" (.pth, .pt, .safetensors), "detectron2"
            (.pkl).
        out: the file or folder to write.
        settings_for: with "detectron2": also write R-CNN C4's settings for "coco" or "voc", beside it as FILE.yaml.
        batch: the settings' batch size, over all GPUs.
    Raises: UsageError for another format, suffix or architecture, and for a head that is no linear one; DataError where
        a graph gives other numbers than its module; WriteError before any work.
    """
    head = encoder if isinstance(encoder, Head) else None
    check_export(format, out, has_head=head is not None, settings_for=settings_for)
    if isinstance(encoder, str | os.PathLike) and Path(encoder).is_file() and is_head(Path(encoder)):
        head = load_head(encoder)
    source: str | Path | None = None if isinstance(encoder, Encoder | Head) else _path(encoder)
    if head is not None:
        from unreel.tasks.predict import encoder_file

        source = encoder_file(head)
    net = encoder if isinstance(encoder, Encoder) else load_encoder(source) if source is not None else None
    assert net is not None  # whatever is no encoder has a source
    return write_export(net, format=format, out=out, head=head, source=source, settings_for=settings_for, batch=batch)


# --- pre-training -----------------------------------------------------------------------------------------------


def pretrain(
    method: str | Method,
    data: Source,
    *,
    encoder: str | Encoder | None = None,
    out: str | os.PathLike[str],
    recipe: str | os.PathLike[str] | None = None,
    resume: bool = True,
    go_on: bool = False,
    **overrides: Any,
) -> Run:
    """Learn an encoder from videos without labels; the same call goes on with an interrupted run.

    Args:
        method: a name (``unreel.methods.list_methods()``), or a ``Method``.
        data: a folder, a manifest, or a list of paths. Where a manifest has a split called train, only that is used.
        encoder: a name (``unreel.nn.list_encoders()``), or an ``Encoder``, which is then trained in place; the
            recipe's by default.
        out: the run's folder.
        recipe: a built-in recipe or a YAML file; by default the method's small one, which a CPU can train.
        resume: False refuses a folder that holds a run.
        go_on: a folder whose run had other data or settings goes on from its weights, with a new schedule; what the run
            was is kept in its folder, as ``earlier/001``.
        overrides: settings over the recipe's: ``steps=100``, ``temperature=0.2``, ``optimizer={"lr": 0.1}``; and path,
            label, group, split, start, end: the columns of a table, see ``Columns``.

    Raises: UsageError for wrong settings, before any file is opened; DataError for missing files.
    """
    prepared = prepare(method, data, encoder=encoder, recipe=recipe, call=overrides)
    return run_prepared(prepared, out=out, resume=resume, go_on=go_on)


def run_prepared(prepared: Prepared, *, out: str | os.PathLike[str], resume: bool = True, go_on: bool = False) -> Run:
    """Train what ``prepare`` built, and write the report."""
    check_apart(out, prepared.source)
    settings = prepared.settings
    digest = settings["data"]["digest"]  # of the rows chosen, those too short for the method included
    count, noun = len(prepared.manifest), prepared.manifest.noun
    card = {"data": {"source": prepared.source, "videos": count, "noun": noun, "digest": digest}}
    run = train_run.pretrain(
        prepared.method,
        prepared.loader,
        prepared.optimizer,
        out=out,
        training=Training(**settings.arguments("train", Training)),
        device=Backend(**settings.arguments("train", Backend)),
        keeping=Keeping(**settings.arguments("train", Keeping)),
        settings=settings,
        card=card,
        notes=prepared.notes,
        record=prepared.record,
        validate=prepared.validation,
        resume=resume,
        go_on=go_on,
    )
    if run.completed and rank() == 0 and not (run.path / REPORT_FILE).exists():
        from unreel.recipes.page import write_first_page

        write_first_page(prepared, run)
    return run
