"""Evaluate an encoder: every score beside chance, the same net with random weights, and its interval."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from unreel.core.errors import UsageError, unknown_name
from unreel.core.files import check_folder
from unreel.core.keys import Key
from unreel.core.settings import validate
from unreel.data.manifest import Source
from unreel.data.sampling import ClipPlan
from unreel.media import Decoder
from unreel.metrics.classification import confusion_matrix
from unreel.nn.encoder import Encoder
from unreel.protocols import PROFILES, PROTOCOLS
from unreel.protocols.features import (
    ArrayClips,
    Embeddings,
    Precision,
    ProgressLike,
    default_plan,
    embed_all,
    merge_faults,
)
from unreel.protocols.pooling import Pooling, PoolingLike
from unreel.protocols.profile import Profile, TrainedOn
from unreel.protocols.protocol import FeatureProtocol
from unreel.protocols.store import FeatureStore, encoder_digest
from unreel.stats.intervals import Interval, PairedDifference, Statistic, bootstrap_ci, exact_proportion_ci
from unreel.stats.intervals import paired_bootstrap as paired
from unreel.tasks.baselines import FrameStatistics, random_init
from unreel.tasks.classification import LabelTask
from unreel.tasks.finetune import FineTune, paper_cvrl, paper_tcgl
from unreel.tasks.gallery import GalleryTask
from unreel.tasks.scores import Confusion, Neighbour, QueryNeighbours, Report, Score, check_report, merge_notes
from unreel.tasks.sgd_probe import SGDProbe
from unreel.tasks.task import Metric, Outcomes, Parts, Task
from unreel.tasks.trained import Resources, TrainedProtocol, TrainedResult, run_trained
from unreel.train.health import collapsed

BASELINES = ("random-init", "frame-statistics")
# What needs a training loop joins its profile here, where training may be imported. CVRL's encoders were trained on 16
# frames of 224 px and are tested on 30 views of 32 frames, the defaults of ``ClipPlan`` (cvrl.md §5, §6.1).
_TRAINED: dict[str, Profile] = {
    "paper-cvrl": Profile({"linear": SGDProbe()}, clips=ClipPlan(), trained=TrainedOn(num_frames=16, size_px=224)),
}
# Protocols that train on the videos themselves, by profile; a profile that is not named takes those of ``standard``.
_TRAINING: dict[str, dict[str, TrainedProtocol]] = {
    "standard": {"finetune": FineTune()},
    "paper-tcgl": {"finetune": paper_tcgl()},
    "paper-cvrl": {"finetune": paper_cvrl()},
}
AnyProtocol: TypeAlias = FeatureProtocol | TrainedProtocol
_GALLERY_QUERIES = 12
_GALLERY_NEIGHBOURS = 5


def profiles() -> dict[str, Profile]:
    """Every profile by name."""
    return {**PROFILES, **_TRAINED}


def _profile(name: str) -> Profile:
    known = profiles()
    if name not in known:
        raise unknown_name("profile", name, known)
    return known[name]


def resolve_protocols(
    protocol: str | AnyProtocol | Sequence[str | AnyProtocol] | None,
    profile: str = "standard",
    *,
    settings: Mapping[str, Mapping[str, object]] | None = None,
) -> list[AnyProtocol]:
    """Protocols by name, or as they are; ``None`` is the profile's first.

    A name is looked up in the profile, and where the profile has none of that name among all (``PROTOCOLS``).
    ``settings``: protocol → arguments of its constructor that replace what it has.
    Raises: UsageError for an unknown name or argument, with the nearest ones, and for two protocols of one name.
    """
    chosen = _profile(profile)
    known: dict[str, AnyProtocol] = {**PROTOCOLS, **_TRAINING["standard"], **chosen.protocols}
    known |= _TRAINING.get(profile, {})
    if protocol is None:
        protocol = chosen.first
    asked = [protocol] if isinstance(protocol, str) or not isinstance(protocol, Sequence) else list(protocol)
    if not asked:
        raise UsageError("protocol: name at least one")
    found: list[AnyProtocol] = []
    for item in asked:
        if isinstance(item, str):
            if item not in known:
                raise unknown_name("protocol", item, known)
            found.append(known[item])
        else:
            found.append(item)
    names = [p.name for p in found]
    if len(set(names)) != len(names):
        raise UsageError(f"protocols: two are called {max(names, key=names.count)!r}; give each its own name")
    for name, values in (settings or {}).items():
        if name not in names:
            raise UsageError(f"settings for {name!r}, which is not among the protocols asked for: {', '.join(names)}")
        place = names.index(name)
        own: Any = found[place]
        found[place] = replace(own, **validate(type(own), values, where=name))
    return found


def evaluate(
    encoder: Encoder,
    data: Source | ArrayClips | Task,
    *,
    protocol: str | AnyProtocol | Sequence[str | AnyProtocol] | None = None,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    gallery: Source | ArrayClips | None = None,
    label: str | None = None,
    group: str | None = None,
    baselines: Sequence[str] = ("random-init",),
    external: Encoder | Mapping[str, Encoder] | None = None,
    profile: str = "standard",
    clips: ClipPlan | None = None,
    pooling: PoolingLike = None,
    store: FeatureStore | str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    precision: Precision = "float32",
    decoder: Decoder | None = None,
    workers: int | None = None,
    seed: int = 0,
    level: float = 0.95,
    num_resamples: int = 2000,
    progress: ProgressLike = True,
    out: str | os.PathLike[str] | None = None,
    work: str | os.PathLike[str] | None = None,
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
        baselines: ``random-init`` (the same architecture, fresh weights from ``seed``), ``frame-statistics``.
        external: other frozen encoders to stand beside, one or several by name; each sees as many clips
            and crops, cut as it was trained, or as the profile has it for what it was trained on.
        profile: a named set of protocols with their clips and pooling (``Profile``).
        clips: the test clips; ``None``: the profile's, in ``standard`` as the encoder was trained.
        pooling: how maps become vectors (``Pooling`` or its name); ``None``: the profile's, in ``standard`` as the
            encoder does it. The frame statistics are what they are.
        store, device, batch_size, precision, decoder, workers, progress: as ``embed``.
        seed: of the control's weights, the split (where the data has none), selection and resampling.
        level: of intervals. num_resamples: of bootstraps.
        out: also write the report there (a .json file; a run, see ``Report.keep``; a folder gets ``scores.json``).
        work: where protocols that train keep checkpoints and metrics, so that the same call goes on where one was
            interrupted; ``None`` keeps nothing.
    Raises: UsageError for unknown names; DataError where the data cannot be used (``LabelTask``); WriteError, before
        any work, where ``out`` cannot be written.
    """
    setting = _profile(profile)
    if protocol is None and gallery is not None:
        protocol = "retrieval"
    protocols = resolve_protocols(protocol, profile, settings=settings)
    frozen = [p for p in protocols if not isinstance(p, TrainedProtocol)]
    pooled = setting.pooling if pooling is None else Pooling.of(pooling)
    for name in baselines:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)
    if out is not None:
        check_report(out)
    if work is not None and len(frozen) < len(protocols):
        check_folder(work)
    task = _as_task(data, gallery, label, group, seed)
    plan = clips if clips is not None else setting.plan(encoder.input_spec)
    changes = "" if clips is not None else setting.changes(encoder.input_spec)
    profile_notes = _profile_notes(profile, setting, protocols, protocol, changes)
    nets: dict[str, Encoder] = {"encoder": encoder}
    if "random-init" in baselines:
        nets["random-init"] = random_init(encoder, seed=seed)
    if "frame-statistics" in baselines:
        nets["frame-statistics"] = FrameStatistics(encoder.input_spec)
    others = {"external": external} if isinstance(external, Encoder) else dict(external or {})
    for name in others:
        if name in nets:
            raise UsageError(f"external: {name!r} is the name of a control; use another")

    options: dict[str, Any] = {
        "store": store,
        "device": device,
        "batch_size": batch_size,
        "precision": precision,
        "workers": workers,
        "progress": progress,
    }
    plans = dict.fromkeys(nets, plan)
    for name, net in others.items():
        plans[name] = (
            setting.plan(net.input_spec)
            if clips is None and setting.clips is not None
            else replace(default_plan(net.input_spec, num_clips=plan.num_clips), num_crops=plan.num_crops)
        )
    embeddings: dict[str, Embeddings] = {}
    if frozen:
        source = task.clips(plan, decoder=decoder)
        each = [None if name == "frame-statistics" else pooled for name in nets]
        embeddings = dict(zip(nets, embed_all(list(nets.values()), source, pooling=each, **options), strict=True))
        for name, net in others.items():
            own_clips = task.clips(plans[name], decoder=decoder)
            embeddings[name] = embed_all([net], own_clips, pooling=pooled, **options)[0]
        embeddings = _common(embeddings)
    faults = merge_faults(embeddings.values())

    outcomes: dict[str, dict[str, Outcomes]] = {name: {} for name in plans}
    parts: Parts | None = None
    notes: list[str] = []
    for name, found in embeddings.items():
        parts = task.parts(found)
        if collapsed(found.vectors):
            notes.append(f"all embeddings of {name} are equal, or nearly so: it has collapsed")
        outcomes[name] = {
            p.name: task.score(
                p.fit(parts.train, validation=parts.validation, seed=seed).predict(parts.test.unlabelled),
                parts.test.truth,
            )
            for p in frozen
        }
    trained: TrainedResult | None = None
    for p in protocols:
        if isinstance(p, TrainedProtocol):
            learning = {n: (net, plans[n]) for n, net in {**nets, **others}.items() if n != "frame-statistics"}
            resources = Resources(
                device, precision, workers or 0, decoder, bool(progress), None if work is None else Path(work)
            )
            trained = run_trained(
                p, learning, task, seed=seed, resources=resources, embedding={**options, "store": None}
            )
            for name, o in trained.outcomes.items():
                outcomes[name][p.name] = o
            faults = tuple(dict.fromkeys((*faults, *trained.faults)))
            if "random-init" in learning:
                notes.append(f"{p.name}: random-init is the same net trained from scratch on the labels (supervised)")
    resampling = _Resampling(level, num_resamples, seed)
    scores: list[Score] = []
    sizes, classes = _sizes(parts, trained)
    for p in protocols:
        of_all = {name: o[p.name] for name, o in outcomes.items() if p.name in o}
        scores += _scores(task, of_all, sizes["n_train"], resampling)
    main = outcomes["encoder"]
    report = Report(
        scores=tuple(scores),
        about=_about(task, protocols, profile, pooled),
        task={
            "name": task.name,
            "noun": embeddings["encoder"].noun
            if embeddings
            else str(getattr(getattr(task, "data", 0), "noun", "source")),
            "classes": classes,
            **sizes,
            "n_unreadable": len(faults),
        },
        encoder={
            "architecture": encoder.architecture or type(encoder).__name__,
            "digest": encoder_digest(encoder),
            "num_features": int(embeddings["encoder"].vectors.shape[1]) if embeddings else encoder.num_features,
            "clips": {k: v for k, v in asdict(plan).items() if v is not None},
            "pooling": pooled.name,
        },
        notes=merge_notes(
            task.notes,
            profile_notes,
            notes,
            *(_named_notes(name, o) for name, part in outcomes.items() for o in part.values()),
        ),
        faults=tuple({"path": f.path, "cause": f.cause, "message": f.message} for f in faults),
        neighbours=_gallery(main, embeddings["encoder"], seed) if embeddings else (),
        confusions=tuple(_confusion(name, o) for name, o in main.items() if o.predictions.kind == "classes"),
        profile=profile,
        seed=seed,
        level=level,
    )
    if out is not None:
        report.to_json(out)
    return report


def _as_task(
    data: Source | ArrayClips | Task,
    gallery: Source | ArrayClips | None,
    label: str | None,
    group: str | None,
    seed: int,
) -> Task:
    if isinstance(data, Task):
        if label is not None or group is not None or gallery is not None:
            raise UsageError("label, group and gallery are the task's own: leave them out")
        return data
    if gallery is not None:
        return GalleryTask(data, gallery, label=label, group=group)
    return LabelTask(data, label=label, group=group, seed=seed)


def _about(task: Task, protocols: Sequence[AnyProtocol], profile: str, pooling: Pooling) -> dict[str, str]:
    """What tells this evaluation from others of the same encoder."""
    own: Mapping[str, str] = getattr(task, "about", {})
    names = ", ".join(p.name for p in protocols)
    return {
        "task": type(task).__name__,
        "label": task.name,
        **own,
        "protocols": names,
        "profile": profile,
        "pooling": pooling.name,
    }


def _sizes(parts: Parts | None, trained: TrainedResult | None) -> tuple[dict[str, int], list[str]]:
    """Sizes of the parts and the classes: as far as could be read where features were made, else as listed."""
    if parts is not None:
        n_val = 0 if parts.validation is None else len(parts.validation)
        sizes = {"n_train": len(parts.train), "n_val": n_val, "n_test": len(parts.test)}
        return sizes, sorted({str(v) for v in [*parts.train.labels, *parts.test.labels]})
    assert trained is not None
    n_test = trained.outcomes["encoder"].n
    return {"n_train": trained.num_train, "n_val": trained.num_validation, "n_test": n_test}, trained.classes


def _profile_notes(
    name: str,
    profile: Profile,
    protocols: Sequence[AnyProtocol],
    asked: str | AnyProtocol | Sequence[str | AnyProtocol] | None,
    changes: str,
) -> list[str]:
    """What a reader of the profile's name would otherwise not expect."""
    named = [asked] if isinstance(asked, str) else list(asked) if isinstance(asked, Sequence) else []
    own = {*profile.protocols, *_TRAINING.get(name, {})}
    strangers = [p.name for p in protocols if p.name in named and p.name not in own]
    notes = [f"{p}: not a part of profile {name}, taken with its usual settings" for p in strangers]
    return [*notes, f"profile {name}: {changes}"] if changes else notes


def _named_notes(name: str, outcomes: Outcomes) -> list[str]:
    who = outcomes.protocol if name == "encoder" else f"{outcomes.protocol} of {name}"
    return [f"{who}: {note}" for note in outcomes.notes]


def _common(embeddings: dict[str, Embeddings]) -> dict[str, Embeddings]:
    """The sources that every encoder could be given: paired comparisons need the same samples."""
    rows = set.intersection(*(set(e.rows.tolist()) for e in embeddings.values()))
    return {name: e if len(e) == len(rows) else e.select(np.isin(e.rows, list(rows))) for name, e in embeddings.items()}


class _Resampling:
    """Intervals and differences with one setting."""

    def __init__(self, level: float, num_resamples: int, seed: int) -> None:
        self.level, self.num_resamples, self.seed = level, num_resamples, seed

    def _options(self, groups: NDArray[Any]) -> dict[str, Any]:
        return {"groups": groups, "level": self.level, "num_resamples": self.num_resamples, "seed": self.seed}

    def interval(self, values: NDArray[np.float64] | Statistic, groups: NDArray[Any]) -> tuple[Interval | None, str]:
        num_groups = len(np.unique(groups))
        if num_groups < 2:
            return None, "none: fewer than two groups"
        found = bootstrap_ci(values, **self._options(groups))
        # All right or all wrong: a bootstrap would claim certainty from any n, the exact binomial does not.
        if found.low == found.high and found.low in (0.0, 1.0):
            found = exact_proportion_ci(int(found.low) * num_groups, num_groups, level=self.level)
            return found, f"exact binomial over {num_groups} groups (all outcomes are equal)"
        return found, f"percentile bootstrap over {num_groups} groups, {self.num_resamples} resamples"

    def difference(
        self, a: NDArray[np.float64] | Statistic, b: NDArray[np.float64] | Statistic, groups: NDArray[Any]
    ) -> PairedDifference | None:
        if len(np.unique(groups)) < 2:
            return None
        return paired(a, b, **self._options(groups))


class _Measured:
    """A metric of one encoder's outcomes: its value, chance, and what intervals resample."""

    def __init__(self, metric: Metric, outcomes: Outcomes) -> None:
        self.source: NDArray[np.float64] | Statistic
        if metric.statistic is None:
            self.source = outcomes.values[metric.name]
            self.value, self.chance = outcomes.score(metric.name), float(outcomes.chance[metric.name])
        else:
            made = metric.statistic(outcomes)
            self.source, self.chance = made.statistic, made.chance
            self.value = float(made.statistic(np.arange(outcomes.n)))


def _scores(task: Task, outcomes: Mapping[str, Outcomes], n_train: int, resampling: _Resampling) -> list[Score]:
    """Scores of one protocol for every encoder; those of "encoder" and of external ones carry their controls."""
    scores: list[Score] = []
    main = outcomes["encoder"]
    groups = main.truth.groups if main.truth.groups is not None else np.arange(main.n).astype(str)
    for place, metric in enumerate(task.metrics(main)):
        measured = {name: _Measured(metric, o) for name, o in outcomes.items()}
        for name, mine in measured.items():
            interval, rule = resampling.interval(mine.source, groups)
            references, differences = {}, {}
            for other, theirs in measured.items():
                # Controls are not compared with one another, nor an encoder with what it is the reference of.
                if name in BASELINES or other in (name, "encoder"):
                    continue
                references[other] = theirs.value
                difference = resampling.difference(mine.source, theirs.source, groups)
                if difference is not None:
                    differences[other] = difference
            scores.append(
                Score(
                    encoder=name,
                    protocol=outcomes[name].protocol,
                    metric=metric.name,
                    value=mine.value,
                    n=main.n,
                    n_groups=len(np.unique(groups)),
                    n_train=n_train,
                    chance=mine.chance,
                    interval=interval,
                    interval_rule=rule,
                    chance_rule=outcomes[name].chance_rule,
                    higher_is_better=metric.higher_is_better,
                    primary=place == 0,
                    references=references,
                    differences=differences,
                    settings=dict(outcomes[name].card.settings),
                )
            )
    return scores


def _confusion(name: str, outcomes: Outcomes) -> Confusion:
    matrix = confusion_matrix(outcomes.predictions.labels, outcomes.truth.labels)
    return Confusion(
        name, tuple(str(c) for c in matrix.classes), tuple(tuple(int(v) for v in row) for row in matrix.counts)
    )


def _gallery(outcomes: Mapping[str, Outcomes], embeddings: Embeddings, seed: int) -> tuple[QueryNeighbours, ...]:
    """Some queries with their neighbours: every class once before any class twice, in keyed order."""
    found = next((o for o in outcomes.values() if o.predictions.kind == "neighbours"), None)
    if found is None or found.truth.ids is None:
        return ()
    gallery, neighbours, ids = found.predictions.gallery, found.predictions.neighbours, found.truth.ids
    assert gallery is not None
    assert neighbours is not None
    paths = dict(zip(embeddings.ids.tolist(), embeddings.paths, strict=True))
    key = Key(seed, "gallery")
    order = sorted(range(found.n), key=lambda i: key.child(str(ids[i])).uniform())
    seen: dict[str, int] = {}
    ranked: list[tuple[int, int, int]] = []
    for position, i in enumerate(order):
        label = str(found.truth.labels[i])
        ranked.append((seen.setdefault(label, 0), position, i))
        seen[label] += 1
    queries = []
    for _, _, i in sorted(ranked)[:_GALLERY_QUERIES]:
        hits: list[Neighbour] = []
        for row, similarity in zip(neighbours.indices[i], neighbours.similarities[i], strict=True):
            if row >= 0 and len(hits) < _GALLERY_NEIGHBOURS:
                name = str(gallery.ids[row])
                hits.append(Neighbour(name, paths.get(name, ""), str(gallery.labels[row]), float(similarity)))
        own = str(ids[i])
        queries.append(QueryNeighbours(own, paths.get(own, ""), str(found.truth.labels[i]), tuple(hits)))
    return tuple(queries)
