"""Queries of one data set in the gallery of another, and evaluation under a paper's profile, end to end."""

import numpy as np
import pytest
import torch

from tests.contracts.test_task import TaskContract
from tests.tasks.test_evaluate import Oracle, world
from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest, Row
from unreel.media.write import write_video
from unreel.nn import InputSpec
from unreel.nn.encoder import Encoder, StageInfo
from unreel.protocols import KNN, ArrayClips, Retrieval
from unreel.tasks import GalleryTask, LabelTask, Report, evaluate


def arrays(n=24, prefix="q", order=None, labels="ab"):
    rows = np.arange(n) if order is None else order
    pixels = np.random.default_rng(0).integers(0, 255, (n, 2, 8, 8, 3), dtype=np.uint8)
    return ArrayClips(
        pixels[rows],
        labels=[labels[i % len(labels)] for i in rows],
        groups=[f"{prefix}-g{i // 2}" for i in rows],
        ids=[f"{prefix}{i:02d}" for i in rows],
    )


class TestGalleryTask(TaskContract):
    def make(self, order=None):
        # The contract permutes the sources as they are embedded: queries, then gallery.
        if order is None:
            return GalleryTask(arrays(), arrays(prefix="g"))
        return GalleryTask(arrays(order=order[order < 24]), arrays(prefix="g", order=order[order >= 24] - 24))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two data sets of small videos that share the classes dark and light; the second also has a class of its own."""
    rng = np.random.default_rng(0)
    made = []
    for name, labels in (("first", ("dark", "light")), ("second", ("dark", "light", "grey"))):
        root = tmp_path_factory.mktemp(name)
        rows = []
        for label in labels:
            level = {"dark": 40, "grey": 120, "light": 200}[label]
            for i in range(6):
                path = f"{label}{i}.mp4"
                frames = np.clip(rng.normal(level, 15, (20, 32, 40, 3)), 0, 255).astype(np.uint8)
                frames[..., 0 if label == "dark" else 1] //= 2
                write_video(root / path, frames[: 10 if (name, path) == ("first", "dark5.mp4") else 20], fps=10)
                split = ("train", "val", "test")[i // 2]
                rows.append(Row(path, split=split, labels={"label": label}, groups={"group": f"{label}{i // 2}"}))
        made.append(Manifest(str(root), tuple(rows)))
    return made


class Colour(Encoder):
    """Its map is the clip at a quarter of its size; trained on ``frames`` × 28 px."""

    def __init__(self, frames=16):
        super().__init__()
        self.input_spec, self.num_features = InputSpec(frames, 1, 28), 3
        self.stage_info = {"out": StageInfo(3, 8, 4)}
        self.net = torch.nn.Conv3d(3, 3, 1, bias=False)
        with torch.no_grad():
            self.net.weight.copy_(torch.eye(3)[:, :, None, None, None])

    def forward_features(self, x, names=None):
        return {"out": torch.nn.functional.avg_pool3d(self.net(x), (8, 4, 4))}


OPTIONS = {"num_resamples": 50, "progress": False}


def test_the_profile_of_tcgl_end_to_end(sets, tmp_path):
    """TCGL's retrieval: train part (with validation) as gallery, pooled maps; a video below 16 frames is a fault."""
    report = evaluate(Colour(), sets[0], profile="paper-tcgl", store=tmp_path, **OPTIONS)
    assert [s.metric for s in report.scores if s.encoder == "encoder"] == ["hit@1", "hit@5", "mAP"]
    score = report.score()
    assert (score.protocol, score.value, score.n, score.settings["n_gallery"]) == ("retrieval", 1.0, 3, 8)
    assert [f["path"] for f in report.faults] == ["dark5.mp4"]
    assert "16 frames" in report.faults[0]["message"]
    assert report.task["n_unreadable"] == 1
    assert report.encoder["num_features"] == 3 * 2 * 3 * 3
    assert report.encoder["pooling"] == "max-1x2x2"
    assert (report.encoder["clips"]["num_clips"], report.encoder["clips"]["resize_px"]) == (10, (32, 43))
    assert any("profile paper-tcgl: clips are the paper's in proportion" in note for note in report.notes)
    assert Report.from_json(report.to_json(tmp_path / "s.json")).to_dict() == report.to_dict()
    # The last map, the clips and the rule may each be another's.
    gap = evaluate(Colour(), sets[0], profile="paper-tcgl", pooling="gap", baselines=(), **OPTIONS)
    assert gap.encoder["num_features"] == 3
    shorter = evaluate(Colour(frames=8), sets[0], profile="paper-tcgl", baselines=(), **OPTIONS)
    assert shorter.faults == ()
    assert shorter.score().n == 4


def test_svm_is_at_hand_under_any_profile(sets):
    paper = evaluate(Colour(), sets[0], profile="paper-tcgl", protocol=["retrieval", "svm"], baselines=(), **OPTIONS)
    assert paper.score("svm").value == 1.0
    assert paper.score("svm").settings["c"] == 100.0
    assert not any("usual settings" in note for note in paper.notes)
    plain = evaluate(Oracle(), world(), protocol="svm", baselines=(), **OPTIONS)
    assert plain.score().value > plain.score().chance
    assert "svm: not a part of profile standard, taken with its usual settings" in plain.notes
    assert {c.protocol for c in plain.confusions} == {"svm"}


def test_controls_and_external_encoders_under_a_profile(sets):
    report = evaluate(
        Colour(frames=8),
        sets[0],
        profile="paper-tcgl",
        baselines=("random-init", "frame-statistics"),
        external=Colour(frames=16),
        **OPTIONS,
    )
    assert set(report.score().references) == {"random-init", "frame-statistics", "external"}
    assert [f["path"] for f in report.faults] == ["dark5.mp4"]  # too short for the external one: left out for all
    assert report.score().n == 3


def test_queries_of_one_data_set_in_the_gallery_of_another(sets):
    report = evaluate(Colour(frames=8), sets[1], gallery=sets[0], **OPTIONS)
    score = report.score()
    assert score.protocol == "retrieval"
    assert (report.task["n_test"], report.task["n_train"], score.settings["n_gallery"]) == (6, 8, 8)
    assert score.value == pytest.approx(4 / 6)  # grey is not in the gallery
    assert score.chance == pytest.approx(4 / 6 * 0.5)
    roots = [m.root.rsplit("/", 1)[1] for m in sets]
    assert (
        report.notes[0]
        == f"queries: 6 of {roots[1]} (the test part); gallery: 8 of {roots[0]} (the train and val part)"
    )
    assert report.notes[1].startswith("2 of the queries' 3 classes are in the gallery: 2 queries of the others")
    query = report.neighbours[0]
    assert all(h.id.startswith("gallery:") and h.path.startswith(sets[0].root) for h in query.neighbours)
    assert query.path.startswith(sets[1].root)
    # Whatever fits something fits it on the gallery.
    knn = evaluate(Colour(frames=8), sets[1], gallery=sets[0], protocol=KNN(k=1), baselines=(), **OPTIONS)
    assert knn.score().value == pytest.approx(4 / 6)


def test_without_splits_everything_is_asked_and_everything_held(sets):
    bare = [m.with_splits([""] * len(m)) for m in sets]
    report = evaluate(Colour(frames=8), bare[0], gallery=bare[1], baselines=(), **OPTIONS)
    assert (report.task["n_test"], report.task["n_train"]) == (12, 18)
    assert "(all); gallery: 18" in report.notes[0]
    held_out = sets[0].select(split=["train", "val"])
    assert len(GalleryTask(held_out, bare[1]).queries.used) == 4  # no test part: the validation part


def test_a_file_on_both_sides_never_finds_itself_and_groups_hold_within_one_folder(sets):
    bare = sets[0].with_splits([""] * 12)
    task = GalleryTask(bare, bare)
    report = evaluate(Colour(frames=8), task, protocol=Retrieval(exclude="source"), baselines=(), **OPTIONS)
    assert all(q.path not in {h.path for h in q.neighbours} for q in report.neighbours)
    assert report.score().settings["n_gallery"] == 12
    grouped = evaluate(Colour(frames=8), task, protocol="retrieval", baselines=(), **OPTIONS)
    for query in grouped.neighbours:
        pair = query.path[:-5] + str(int(query.path[-5]) ^ 1) + ".mp4"
        assert not {query.path, pair} & {h.path for h in query.neighbours}


def test_what_cannot_be_asked_is_named(sets):
    other = Manifest(sets[1].root, tuple(r for r in sets[1] if r.labels["label"] == "grey"))
    with pytest.raises(DataError, match="share no label: dark, light against grey"):
        GalleryTask(sets[0], other)
    nameless = Manifest(sets[1].root, tuple(Row(r.path) for r in sets[1]))
    with pytest.raises(DataError, match="no label"):
        GalleryTask(sets[0], nameless)
    with pytest.raises(DataError, match="no labels"):
        GalleryTask(arrays(), ArrayClips(arrays().clips))
    with pytest.raises(UsageError, match="task's own"):
        evaluate(Colour(), LabelTask(sets[0]), gallery=sets[1])
    with pytest.raises(UsageError, match="does not fit"):
        evaluate(Oracle(), world(), pooling="max-9x9x9", **OPTIONS)
    some = Manifest(sets[0].root, (*sets[0].rows, Row("dark0.mp4", 0.0, 0.5, split="test")))
    assert "1 queries have no 'label' label and are left out" in GalleryTask(some, sets[1]).notes[-1]
