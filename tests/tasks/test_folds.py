"""Folds: every sample tested once, nothing chosen on what is tested, one score and one interval over all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.tasks.test_evaluate import ALL, Oracle, world
from unreel.core.errors import UsageError
from unreel.data.manifest import Manifest, Row
from unreel.data.sampling import ClipPlan
from unreel.data.splits import group_kfold
from unreel.media.image import encode_image
from unreel.nn import create_encoder, save_encoder
from unreel.protocols import ArrayClips, Compute, LinearProbe, Retrieval
from unreel.protocols.features import embed_all
from unreel.protocols.head import Head
from unreel.protocols.samples import FeatureSet
from unreel.tasks import Job, JobStore, LabelTask, evaluate, run
from unreel.tasks.baselines import training_rows
from unreel.tasks.evaluate import Answers, Asked, ask
from unreel.tasks.records import Record

PLAN = ClipPlan(num_frames=2, stride=1, num_clips=1, num_crops=1, size_px=8, short_side_px=8)
QUIET = Compute(device="cpu", workers=0, progress=False)
NETS = {"encoder": Asked(Oracle(), PLAN), "blind": Asked(Oracle(signal=False), PLAN)}


def asked(task: LabelTask, *protocols: Any) -> Answers:
    return ask(task, protocols, NETS, seed=0, compute=QUIET)


def folds_by_id(clips: ArrayClips, k: int, seed: int = 0) -> dict[str, int]:
    return dict(zip(clips.ids, group_kfold(clips.groups, k, labels=clips.labels, seed=seed), strict=True))


def test_pooled_predictions_are_scikit_learns_of_the_same_splits() -> None:
    clips = world(strength=12)
    found = asked(LabelTask(clips, folds=5), LinearProbe(c=0.3)).records["encoder"]["linear"].outcomes
    vectors = embed_all([Oracle()], clips, compute=QUIET)[0].vectors
    folds = folds_by_id(clips, 5)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, tol=1e-8, max_iter=5000))
    split = PredefinedSplit([folds[name] for name in clips.ids])
    expected = dict(
        zip(clips.ids, cross_val_predict(model, vectors.astype(float), np.array(clips.labels), cv=split), strict=True)
    )
    assert found.truth.ids is not None
    said = dict(zip(found.truth.ids.tolist(), found.predictions.labels.tolist(), strict=True))
    assert said == expected
    assert len({*said.values()}) == 3
    truth = dict(zip(clips.ids, clips.labels, strict=True))
    both = [truth[name] for name in said], [said[name] for name in said]
    report = evaluate(Oracle(), clips, folds=5, protocol=LinearProbe(c=0.3), num_resamples=200, progress=False)
    assert report.score().value == pytest.approx(np.mean([a == b for a, b in zip(*both, strict=True)]))
    assert 0.4 < report.score().value < 1
    assert report.score(metric="balanced_accuracy").value == pytest.approx(balanced_accuracy_score(*both))
    assert report.score(metric="macro_f1").value == pytest.approx(f1_score(*both, average="macro"))
    assert (report.score().n, report.score().n_groups, report.task["folds"]) == (90, 30, 5)


def test_differences_are_paired_over_all_samples() -> None:
    options = {"protocol": LinearProbe(c=0.3), "num_resamples": 1000, "progress": False, "baselines": ()}
    clips = world(strength=14)
    report = evaluate(Oracle(), clips, folds=4, external={"blind": Oracle(signal=False)}, **options)
    records = asked(LabelTask(clips, folds=4), LinearProbe(c=0.3)).records
    mine, theirs = (records[name]["linear"].outcomes for name in ("encoder", "blind"))
    assert mine.truth.ids is not None
    assert theirs.truth.ids is not None
    wins: dict[str, list[int]] = {}
    for i, name in enumerate(mine.truth.ids.tolist()):
        j = theirs.truth.ids.tolist().index(name)
        right = mine.truth.labels[i]
        gain = int(mine.predictions.labels[i] == right) - int(theirs.predictions.labels[j] == right)
        wins.setdefault(clips.groups[clips.ids.index(name)], []).append(gain)
    gains = [gain for group in wins.values() for gain in group]
    found = report.score().differences["blind"]
    assert found.difference == pytest.approx(sum(gains) / len(gains))
    assert found.difference > 0.1
    assert (found.n, found.n_groups) == (90, 30)
    rng = np.random.default_rng(0)
    names, means = sorted(wins), []
    for _ in range(1000):
        drawn = [gain for name in rng.choice(names, len(names)) for gain in wins[name]]
        means.append(sum(drawn) / len(drawn))
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


@dataclass
class Spy:
    """Fits a linear probe, and keeps what it was given and what it was asked."""

    seen: list[tuple[FeatureSet, FeatureSet | None]] = field(default_factory=list)
    asked: list[FeatureSet] = field(default_factory=list)
    name: str = "spy"

    def fit(self, train: FeatureSet, *, validation: FeatureSet | None = None, seed: int = 0) -> Head:
        self.seen.append((train, validation))
        head, spy = LinearProbe().fit(train, validation=validation, seed=seed), self

        class Asking:
            card, form = head.card, "linear"

            def predict(self, inputs: Any) -> Any:
                spy.asked.append(inputs)
                return head.predict(inputs)

        return Asking()


def test_no_group_is_in_two_folds_and_nothing_is_chosen_on_what_is_tested() -> None:
    spy, clips = Spy(), world()
    ask(LabelTask(clips, folds=5), [spy], {"encoder": NETS["encoder"]}, seed=0, compute=QUIET)
    assert len(spy.seen) == len(spy.asked) == 5
    tested: Counter[str] = Counter()
    for (train, validation), test in zip(spy.seen, spy.asked, strict=True):
        assert validation is None  # C is chosen on a part of train
        assert train.groups is not None
        assert test.groups is not None
        assert not {*train.groups.tolist()} & {*test.groups.tolist()}
        assert len(train) + len(test) == 90
        assert {*train.groups.tolist(), *test.groups.tolist()} == {*clips.groups}
        assert "" in {*test.labels.tolist(), ""}  # heads see no label
        assert test.ids is not None
        tested.update(test.ids.tolist())
    assert tested == Counter(clips.ids)


def test_folds_are_keyed_by_the_seed_and_not_by_the_order_of_rows() -> None:
    clips = world()
    assert folds_by_id(clips, 5) == folds_by_id(clips, 5)
    assert folds_by_id(clips, 5) != folds_by_id(clips, 5, seed=1)
    order = np.random.default_rng(0).permutation(90)
    moved = ArrayClips(
        clips.clips[order],
        labels=[clips.labels[i] for i in order],
        groups=[clips.groups[i] for i in order],
        ids=[clips.ids[i] for i in order],
    )
    assert folds_by_id(moved, 5) == folds_by_id(clips, 5)
    options: dict[str, Any] = {"folds": 3, "protocol": ALL, "num_resamples": 100, "progress": False}
    a, b = (evaluate(Oracle(), data, **options) for data in (clips, moved))
    assert [s.value for s in a.scores] == pytest.approx([s.value for s in b.scores])


def test_a_query_is_looked_up_in_the_other_folds() -> None:
    clips = world(strength=14)
    found = asked(LabelTask(clips, folds=3), Retrieval(ks=(1, 5))).records["encoder"]["retrieval"].outcomes
    vectors = embed_all([Oracle()], clips, compute=QUIET)[0].vectors.astype(float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    folds, place = folds_by_id(clips, 3), {name: i for i, name in enumerate(clips.ids)}
    assert found.truth.ids is not None
    for row, name in enumerate(found.truth.ids.tolist()):
        others = [other for other in clips.ids if folds[other] != folds[name]]
        near = sorted(others, key=lambda other: -vectors[place[name]] @ vectors[place[other]])[:5]
        labels = [clips.labels[place[other]] == clips.labels[place[name]] for other in near]
        assert found.values["hit@1"][row] == labels[0]
        assert found.values["hit@5"][row] == any(labels)
    report = evaluate(Oracle(), clips, folds=3, protocol="retrieval", num_resamples=100, progress=False)
    assert report.neighbours
    for query in report.neighbours:
        assert all(folds[hit.id] != folds[query.id] for hit in query.neighbours)
        assert all(hit.label == clips.labels[place[hit.id]] for hit in query.neighbours)


def test_a_class_that_a_fold_has_not_seen_is_wrong_there_and_nowhere_else() -> None:
    clips = world(30, per_group=1, strength=120)
    labels = ["rare" if i == 7 else name for i, name in enumerate(clips.labels)]
    odd = ArrayClips(clips.clips, labels=labels, groups=clips.groups, ids=clips.ids)
    report = evaluate(Oracle(), odd, folds=5, protocol="knn", baselines=(), num_resamples=100, progress=False)
    confusion = report.confusions[0]
    counts = np.array(confusion.counts)
    assert counts.sum() == 30
    assert counts[confusion.classes.index("rare"), confusion.classes.index("rare")] == 0
    assert any("training never shows (rare)" in note and "fold" in note for note in report.notes)


def test_batch_statistics_settle_on_the_samples_of_all_folds() -> None:
    clips = world(30)
    task = LabelTask(clips, folds=3)
    assert training_rows(task, task.clips(PLAN)) == list(range(30))
    found = embed_all([Oracle()], clips, compute=QUIET)[0]
    trained = [training_rows(fold, task.clips(PLAN)) for fold in task.folds]
    assert [len(rows) + len(fold.parts(found).test) for rows, fold in zip(trained, task.folds, strict=True)] == [30] * 3
    assert max(map(len, trained)) < 30
    with pytest.raises(UsageError, match="ask each of its"):
        task.parts(found)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folds": 1}, "folds|k"),
        ({"folds": 11}, "11 folds need 11 groups, and the labelled data have 10: ask for fewer"),
        ({"folds": 2, "gallery": world(30)}, "folds are of one data set"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        evaluate(Oracle(), world(30), **options)


def test_a_task_has_its_own_folds() -> None:
    with pytest.raises(UsageError, match="task's own"):
        evaluate(Oracle(), LabelTask(world(30)), folds=2)
    found = evaluate(Oracle(), LabelTask(world(30), folds=2), protocol="knn", num_resamples=100, progress=False)
    assert found.score().n == 30


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("pictures")
    rows = []
    for i in range(18):
        level = np.array([60, 120, 180] if i % 2 else [160, 100, 60])
        pixels = np.clip(level + np.random.default_rng(i).normal(0, 60, (16, 16, 3)), 0, 255).astype(np.uint8)
        (home / f"{i:02d}.png").write_bytes(encode_image(pixels))
        rows.append(Row(f"{i:02d}.png", split="train", labels={"colour": "ab"[i % 2]}, groups={"group": f"g{i // 2}"}))
    Manifest(str(home), tuple(rows)).to_csv(home / "data.csv")
    net = create_encoder("resnet_18", seed=1, width=4)
    net.input_spec = replace(net.input_spec, num_frames=1, stride_frames=1, size_px=16)
    save_encoder(net, home / "net.safetensors")
    return home


def test_a_job_with_folds_leaves_the_record_of_evaluate_to_the_byte(pictures: Path, tmp_path: Path) -> None:
    words = {"name": "label", "data": str(pictures / "data.csv"), "folds": 3}
    job = Job(words, str(pictures / "net.safetensors"), "knn")
    record = run(job, JobStore(tmp_path / "a"), compute=QUIET)
    assert record.about["split"] == "3 folds, seed 0"
    assert record.outcomes.n == 18
    assert any("play no part (train 18)" in note for note in record.notes)
    again = run(job, JobStore(tmp_path / "b"), compute=QUIET)
    assert again.to_json() == record.to_json() == Record.from_json(record.to_json()).to_json()
    assert replace(job, task={**words, "folds": 2}).digest != job.digest != replace(job, seed=1).digest
    report = evaluate(
        Oracle(), pictures / "data.csv", folds=3, protocol="knn", baselines=(), num_resamples=100, progress=False
    )
    assert report.score().n == 18


def test_fine_tuning_trains_once_for_every_fold(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = create_encoder("resnet_18", seed=1, width=4)
    net.input_spec = replace(net.input_spec, num_frames=1, stride_frames=1, size_px=16)
    report = evaluate(
        net,
        pictures / "data.csv",
        folds=3,
        protocol=["finetune", "knn"],
        settings={"finetune": {"epochs": 1, "warmup_epochs": 0}},
        baselines=("random-init",),
        num_resamples=100,
        progress=False,
        device="cpu",
    )
    score = report.score("finetune")
    assert (score.n, score.n_groups, score.n_train) == (18, 9, 12)
    assert score.differences["random-init"].n == 18
    assert score.settings["steps"] > 0
