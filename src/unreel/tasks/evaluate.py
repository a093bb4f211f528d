"""Evaluate an encoder: every score beside chance, the same net untrained, and its interval."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from unreel.core.errors import UsageError
from unreel.core.files import check_folder
from unreel.core.keys import Key
from unreel.core.words import counted
from unreel.data.batch import Fault
from unreel.data.manifest import Source
from unreel.data.sampling import ClipPlan
from unreel.metrics.classification import confusion_matrix
from unreel.nn.encoder import Encoder
from unreel.protocols.clips import ArrayClips, default_plan
from unreel.protocols.compute import Compute, sorted_options
from unreel.protocols.features import Embeddings, embed_all, merge_faults
from unreel.protocols.pooling import Pooling, PoolingLike
from unreel.protocols.store import encoder_digest
from unreel.tasks.baselines import USUAL_BASELINES, controls
from unreel.tasks.classification import LabelTask
from unreel.tasks.explore import leaks
from unreel.tasks.folds import folds_of, pooled
from unreel.tasks.gallery import GalleryTask
from unreel.tasks.profiles import AnyProtocol, get_profile, resolve_protocols
from unreel.tasks.records import Record, Resampling, record_of, scores_of
from unreel.tasks.scores import Confusion, Neighbour, QueryNeighbours, Report, check_report
from unreel.tasks.task import Outcomes, Parts, Task
from unreel.tasks.trained import TrainedProtocol, TrainedResult, run_trained
from unreel.train.health import collapsed

log = logging.getLogger(__name__)
_GALLERY_QUERIES = 12
_GALLERY_NEIGHBOURS = 5


def evaluate(
    encoder: Encoder,
    data: Source | ArrayClips | Task,
    *,
    protocol: str | AnyProtocol | Sequence[str | AnyProtocol] | None = None,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    gallery: Source | ArrayClips | None = None,
    label: str | None = None,
    group: str | None = None,
    folds: int | None = None,
    baselines: Sequence[str] = USUAL_BASELINES,
    external: Encoder | Mapping[str, Encoder] | None = None,
    profile: str = "standard",
    clips: ClipPlan | None = None,
    pooling: PoolingLike = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Report:
    """Scores of an encoder, frozen or trained further: each with n, chance, controls, interval and paired differences.

    Args:
        encoder: what is asked about; left as it was.
        data: a labelled manifest, a folder with one sub-folder per class, clips in memory, or a ``Task``.
        protocol: names ("linear", "knn", "retrieval", "svm", "finetune") with the profile's settings, or protocols;
            ``None``: the profile's first, "linear" in ``standard``, or "retrieval" with a ``gallery``. Frozen features
            serve all but "finetune", which trains every encoder further (``TrainedProtocol``).
        settings: protocol → arguments that replace the profile's: ``{"finetune": {"epochs": 50}}``.
        gallery: another data set, whose train part (all of it where it has none) takes the place of the data's own,
            the data's test part (all of it where it has none) being the queries; see ``GalleryTask``.
        label, group: which columns (see ``LabelTask``); not with a ``Task``.
        folds: instead of a training and a test part, so many folds of whole groups (see ``LabelTask``). Every sample is
            tested once; what is chosen is chosen inside the other folds; scores, intervals and differences are those of
            all samples together. Frozen encoders embed once, "finetune" trains once for every fold. ``first-weights``
            settles on the samples of all folds, labels unseen.
        baselines: ``random-init`` (the same architecture, fresh weights from ``seed``), ``first-weights`` (the same
            fresh weights, their batch statistics settled on the training part), ``frame-statistics``.
        external: other frozen encoders to stand beside, one or several by name; each sees as many clips
            and crops, cut as it was trained, or as the profile has it for what it was trained on.
        profile: a named set of protocols with their clips and pooling (``Profile``).
        clips: the test clips; ``None``: the profile's, in ``standard`` as the encoder was trained.
        pooling: how maps become vectors (``Pooling`` or its name); ``None``: the profile's, in ``standard`` as the
            encoder does it. The frame statistics are what they are.
        seed: seed for the controls' weights, for the split where the data has none, for selection and resampling.
        out: also write the report there (a .json file; a run, see ``Report.keep``; a folder gets ``scores.json``).
        options: device, workers, batch_size, store, precision, decoder, progress, work: see ``Compute``; level and
            num_resamples of the intervals: see ``Resampling``.
    Raises: UsageError for unknown names; DataError where the data cannot be used (``LabelTask``); WriteError, before
        any work, where ``out`` cannot be written.
    """
    compute, resampling = sorted_options(options, Compute, Resampling)
    chosen = get_profile(profile)
    if protocol is None and gallery is not None:
        protocol = "retrieval"
    protocols = resolve_protocols(protocol, profile, settings=settings)
    how = chosen.pooling if pooling is None else Pooling.of(pooling)
    if out is not None:
        check_report(out)
    if compute.folder is not None and any(isinstance(p, TrainedProtocol) for p in protocols):
        check_folder(compute.folder)
    task: Task
    if isinstance(data, Task):
        if any(own is not None for own in (label, group, gallery, folds)):
            raise UsageError("label, group, gallery and folds are the task's own: leave them out")
        task = data
    elif gallery is not None:
        if folds is not None:
            raise UsageError("folds are of one data set: leave out the gallery, or the folds")
        task = GalleryTask(data, gallery, label=label, group=group)
    else:
        task = LabelTask(data, label=label, group=group, seed=seed, folds=folds)
    plan = chosen.plan(encoder.input_spec) if clips is None else clips
    others = {"external": external} if isinstance(external, Encoder) else dict(external or {})
    for name in others:
        if name in ("encoder", *baselines):
            raise UsageError(f"external: {name!r} is the name of a control; use another")
    frozen = not all(isinstance(p, TrainedProtocol) for p in protocols)
    asked_for = [name for name in baselines if frozen or name != "first-weights"]
    beside, notes = controls(encoder, asked_for, task, plan, seed=seed, compute=compute)
    nets = {name: Asked(net, plan, None if name == "frame-statistics" else how) for name, net in beside.items()}
    nets = {"encoder": Asked(encoder, plan, how), **nets}
    for name, net in others.items():
        own = (
            chosen.plan(net.input_spec)
            if clips is None and chosen.clips is not None
            else replace(default_plan(net.input_spec, num_clips=plan.num_clips), num_crops=plan.num_crops)
        )
        nets[name] = Asked(net, own, how)
    answers = ask(task, protocols, nets, seed=seed, compute=compute)
    named = protocol if isinstance(protocol, Sequence) and not isinstance(protocol, str) else [protocol]
    strangers = [name for name in named if isinstance(name, str) and name not in chosen.own]
    told = [f"{name}: not a part of profile {profile}, taken with its usual settings" for name in strangers]
    changes = "" if clips is not None else chosen.changes(encoder.input_spec)
    if changes:
        told.append(f"profile {profile}: {changes}")
    about = {
        "task": type(task).__name__,
        "label": task.name,
        **getattr(task, "about", {}),
        "protocols": ", ".join(p.name for p in protocols),
        "profile": profile,
        "pooling": how.name,
    }
    report = _report(task, answers, resampling, about=about, notes=[*told, *notes])
    if out is not None:
        report.to_json(out)
    return report


@dataclass(frozen=True)
class Asked:
    """A net with its test clips and its pooling; ``None``: its own way of pooling."""

    net: Encoder
    clips: ClipPlan
    pooling: Pooling | None = None


@dataclass(frozen=True)
class Answers:
    """What nets answered: records and outcomes by net and protocol, and what a report says beside."""

    nets: Mapping[str, Asked]
    records: Mapping[str, Mapping[str, Record]]
    embeddings: Mapping[str, Embeddings]
    classes: list[str]
    sizes: Mapping[str, int]
    faults: tuple[Fault, ...]
    notes: list[str]


def ask(
    task: Task, protocols: Sequence[AnyProtocol], nets: Mapping[str, Asked], *, seed: int, compute: Compute
) -> Answers:
    """Put a task to nets, by protocols: embed, fit on the training part, score the test part.

    Each source is decoded once for all nets that are given the same clips. Sources that one net could not be given are
    given to none, since paired differences need the same samples. ``frame-statistics`` and ``first-weights`` are asked
    by protocols for frozen features alone: the one has nothing to train, and a net that is trained settles its batch
    statistics in doing so, so that its control is ``random-init``, trained from scratch by the same recipe.
    """
    learning = [p for p in protocols if isinstance(p, TrainedProtocol)]
    frozen = [p for p in protocols if not isinstance(p, TrainedProtocol)]
    embeddings = _embedded(task, nets, compute) if frozen else {}
    faults = merge_faults(embeddings.values())
    outcomes: dict[str, dict[str, Outcomes]] = {name: {} for name in nets}
    folds, parts = folds_of(task), list[Parts]()
    notes: list[str] = []
    for name, found in embeddings.items():
        parts = [fold.parts(found) for fold in folds]
        if collapsed(found.vectors):
            notes.append(f"all embeddings of {name} are equal, or nearly so: it has collapsed")
        if name == "encoder":
            notes += leaks(found, parts, compute)
        for p in frozen:
            heads = [p.fit(part.train, validation=part.validation, seed=seed) for part in parts]
            outcomes[name][p.name] = pooled(
                [
                    task.score(head.predict(part.test.unlabelled), part.test.truth)
                    for head, part in zip(heads, parts, strict=True)
                ]
            )
    trained: list[TrainedResult] = []
    for recipe in learning:
        left_out = ("frame-statistics", "first-weights")
        learners = {n: (asked.net, asked.clips) for n, asked in nets.items() if n not in left_out}
        if len(folds) > 1:
            each, total = counted(len(learners), "encoder"), len(folds) * len(learners)
            log.info("%s: %d folds × %s = %d trainings, one after the other", recipe.name, len(folds), each, total)
        trained = [run_trained(recipe, learners, fold, seed=seed, compute=compute) for fold in folds]
        for name in learners:
            outcomes[name][recipe.name] = pooled([result.outcomes[name] for result in trained])
        faults = tuple(dict.fromkeys((*faults, *(fault for result in trained for fault in result.faults))))
        if "random-init" in learners:
            notes.append(f"{recipe.name}: random-init is the same net trained from scratch on the labels (supervised)")
    if len(folds) > 1 and embeddings and "first-weights" in nets:
        notes.append("first-weights: batch statistics are those of the samples of all folds, labels unseen")
    sizes, classes = _sizes(parts, trained)
    order = [p.name for p in protocols]
    records: dict[str, dict[str, Record]] = {}
    for name, asked in nets.items():
        about = {
            **getattr(task, "about", {}),
            "task": type(task).__name__,
            "encoder": encoder_digest(asked.net),
            "clips": asked.clips.digest,
            "pooling": (asked.pooling or Pooling()).name,
        }
        records[name] = {
            p: record_of(task, o, about={**about, "protocol": p}, seed=seed, sizes=sizes, faults=faults)
            for p, o in sorted(outcomes[name].items(), key=lambda item: order.index(item[0]))
        }
    return Answers(nets, records, embeddings, classes, sizes, faults, notes)


def _embedded(task: Task, nets: Mapping[str, Asked], compute: Compute) -> dict[str, Embeddings]:
    """Embeddings of the sources that every net could be given."""
    by_plan: dict[str, list[str]] = {}
    for name, net in nets.items():
        by_plan.setdefault(net.clips.digest, []).append(name)
    found: dict[str, Embeddings] = {}
    for names in by_plan.values():
        asked = [nets[name] for name in names]
        source = task.clips(asked[0].clips, decoder=compute.decoder)
        made = embed_all([a.net for a in asked], source, pooling=[a.pooling for a in asked], compute=compute)
        found |= zip(names, made, strict=True)
    common = set.intersection(*(set(e.rows.tolist()) for e in found.values()))
    in_order = {name: found[name] for name in nets}
    return {n: e if len(e) == len(common) else e.select(np.isin(e.rows, [*common])) for n, e in in_order.items()}


def _report(
    task: Task, answers: Answers, resampling: Resampling, *, about: Mapping[str, str], notes: Sequence[str]
) -> Report:
    """The report on the net that is called "encoder", from records."""
    asked, main = answers.nets["encoder"], answers.records["encoder"]
    embeddings = answers.embeddings.get("encoder")
    noun = embeddings.noun if embeddings is not None else getattr(getattr(task, "data", 0), "noun", "source")
    first = next(iter(main.values()))
    said = {name: record.outcomes for name, record in main.items()}
    by_protocol = [{n: r[protocol] for n, r in answers.records.items() if protocol in r} for protocol in main]
    return Report(
        scores=tuple(score for records in by_protocol for score in scores_of(task, records, resampling)),
        about=about,
        task={
            "name": task.name,
            "noun": str(noun),
            "classes": answers.classes,
            **answers.sizes,
            **({"folds": len(folds_of(task))} if len(folds_of(task)) > 1 else {}),
            "n_unreadable": len(first.faults),
        },
        encoder={
            "architecture": asked.net.architecture or type(asked.net).__name__,
            "digest": first.about["encoder"],
            "num_features": asked.net.num_features if embeddings is None else int(embeddings.vectors.shape[1]),
            "clips": {k: v for k, v in asdict(asked.clips).items() if v is not None},
            "pooling": first.about["pooling"],
        },
        notes=tuple(dict.fromkeys([*task.notes, *notes, *answers.notes, *_notes_of_heads(answers.records)])),
        faults=first.faults,
        neighbours=() if embeddings is None else _gallery([*said.values()], embeddings, first.seed),
        confusions=tuple(_confusion(p, o) for p, o in said.items() if o.predictions.kind == "classes"),
        profile=about["profile"],
        seed=first.seed,
        level=resampling.level,
        records={protocol: record.to_json() for protocol, record in main.items()},
    )


def _sizes(parts: Sequence[Parts], trained: Sequence[TrainedResult]) -> tuple[dict[str, int], list[str]]:
    """Sizes of the parts and the classes: as far as could be read where features were made, else as listed.

    Of folds, the smallest training and validation part, and what was tested in all.
    """
    if parts:
        found = [
            {"n_train": len(p.train), "n_val": 0 if p.validation is None else len(p.validation), "n_test": len(p.test)}
            for p in parts
        ]
        classes = {str(v) for p in parts for v in (*p.train.labels, *p.test.labels)}
    else:
        found, classes = [t.sizes for t in trained], {name for t in trained for name in t.classes}
    sizes = {name: min(size[name] for size in found) for name in ("n_train", "n_val")}
    return {**sizes, "n_test": sum(size["n_test"] for size in found)}, sorted(classes)


def _notes_of_heads(records: Mapping[str, Mapping[str, Record]]) -> Iterator[str]:
    for name, part in records.items():
        for protocol, record in part.items():
            who = protocol if name == "encoder" else f"{protocol} of {name}"
            yield from (f"{who}: {note}" for note in record.outcomes.notes)


def _confusion(name: str, outcomes: Outcomes) -> Confusion:
    matrix = confusion_matrix(outcomes.predictions.labels, outcomes.truth.labels)
    return Confusion(name, tuple(map(str, matrix.classes)), tuple(map(tuple, matrix.counts.tolist())))


def _gallery(outcomes: Sequence[Outcomes], embeddings: Embeddings, seed: int) -> tuple[QueryNeighbours, ...]:
    """Some queries with their neighbours: every class once before any class twice, in keyed order."""
    found = next((o for o in outcomes if o.predictions.kind == "neighbours"), None)
    if found is None or found.truth.ids is None:
        return ()
    gallery, neighbours, ids = found.predictions.gallery, found.predictions.neighbours, found.truth.ids
    assert gallery is not None
    assert neighbours is not None
    places = dict(zip(embeddings.ids.tolist(), zip(embeddings.paths, embeddings.spans, strict=True), strict=True))
    key = Key(seed, "gallery")
    order = sorted(range(found.n), key=lambda i: key.child(str(ids[i])).uniform())
    turns: list[tuple[int, int]] = []
    seen: Counter[str] = Counter()
    for i in order:
        label = str(found.truth.labels[i])
        turns.append((seen[label], i))
        seen[label] += 1
    queries = []
    for _, i in sorted(turns, key=lambda turn: turn[0])[:_GALLERY_QUERIES]:
        hits: list[Neighbour] = []
        for row, similarity in zip(neighbours.indices[i], neighbours.similarities[i], strict=True):
            if row >= 0 and len(hits) < _GALLERY_NEIGHBOURS:
                name = str(gallery.ids[row])
                path, span = places.get(name, ("", None))
                hits.append(Neighbour(name, path, str(gallery.labels[row]), float(similarity), span))
        path, span = places.get(str(ids[i]), ("", None))
        queries.append(QueryNeighbours(str(ids[i]), path, str(found.truth.labels[i]), tuple(hits), span))
    return tuple(queries)
