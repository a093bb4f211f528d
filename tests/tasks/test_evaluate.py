"""Evaluation end to end on small arrays and files: controls, intervals, honesty about n, reports."""

import json

import numpy as np
import pytest
import torch

from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest
from unreel.data.sampling import ClipPlan
from unreel.media.write import write_video
from unreel.nn import InputSpec, create_encoder
from unreel.nn.encoder import Encoder, StageInfo
from unreel.protocols import ArrayClips, LinearProbe, Retrieval
from unreel.tasks import LabelTask, Report, evaluate
from unreel.tasks.profiles import resolve_protocols
from unreel.tasks.records import Resampling

ALL = ["linear", "knn", "retrieval"]


class Oracle(Encoder):
    """Sees the colour that carries the label; its random control does not."""

    def __init__(self, signal=True):
        super().__init__()
        self.input_spec, self.num_features = InputSpec(2, 1, 8), 6
        self.stage_info = {"out": StageInfo(6, 1, 1)}
        self.net = torch.nn.Conv3d(3, 6, 1)
        torch.nn.init.zeros_(self.net.bias)
        with torch.no_grad():
            self.net.weight.zero_()
            if signal:
                self.net.weight[:3, :, 0, 0, 0] = torch.eye(3)

    def forward_features(self, x, names=None):
        return {"out": self.net(x)}


def world(n=90, classes=3, seed=0, strength=40, per_group=3):
    """Class c brightens channel c a little; groups of ``per_group`` sources."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    pixels = rng.integers(60, 160, (n, 1, 1, 1, 1, 3)) + np.zeros((n, 1, 2, 8, 8, 3), np.int64)
    for i, c in enumerate(labels):
        pixels[i, ..., c] += strength
    return ArrayClips(
        pixels.astype(np.uint8),
        labels=[f"c{v}" for v in labels],
        groups=[f"g{i // per_group:02d}" for i in range(n)],
        ids=[f"v{i:03d}" for i in range(n)],
    )


@pytest.fixture(scope="module")
def report():
    return evaluate(
        Oracle(),
        world(),
        protocol=ALL,
        baselines=("random-init", "frame-statistics"),
        num_resamples=300,
        progress=False,
    )


def test_every_score_carries_what_is_needed_to_judge_it(report):
    combinations = {(s.encoder, s.protocol, s.metric) for s in report.scores}
    assert len(combinations) == len(report.scores)
    for s in report.scores:
        assert s.n == report.task["n_test"]
        assert s.n_groups == s.n / 3
        assert s.n_train == report.task["n_train"]
        assert 0 <= s.chance <= 1
        assert s.interval is not None
        assert s.interval.low <= s.value <= s.interval.high
        assert s.chance_rule
        assert s.interval_rule
        if s.encoder == "encoder":
            assert set(s.references) == set(s.differences) == {"random-init", "frame-statistics"}
            difference = s.differences["random-init"]
            assert difference.difference == pytest.approx(s.value - s.references["random-init"])
            assert difference.n_groups == s.n_groups
        else:
            assert not s.differences
    for protocol, metric in (("linear", "accuracy"), ("knn", "accuracy"), ("retrieval", "hit@1")):
        assert report.score(protocol).metric == metric
        assert report.score(protocol).above_chance
    assert {s.metric for s in report.scores if s.protocol == "linear"} == {"accuracy", "balanced_accuracy", "macro_f1"}


def test_groups_never_straddle_and_the_split_is_said(report):
    assert "hash of the group" in report.notes[0]
    assert report.task["n_train"] + report.task["n_val"] + report.task["n_test"] == 90


def test_same_call_same_report_and_another_seed_another(report):
    options = {"protocol": "knn", "num_resamples": 100, "progress": False}
    a, b = (evaluate(Oracle(), world(), **options) for _ in range(2))
    assert a == b
    assert evaluate(Oracle(), world(), seed=5, **options) != a


def test_report_survives_json(report, tmp_path):
    path = report.to_json(tmp_path)
    assert path == tmp_path / "scores.json"
    again = Report.from_json(path)
    assert again.to_dict() == report.to_dict()
    assert again.score("linear").interval == report.score("linear").interval
    assert again.scores == report.scores
    assert again.text() == report.text()
    assert list(tmp_path.iterdir()) == [path]
    assert json.loads(path.read_text())["verdicts"]


def test_a_broken_report_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match=r"x\.json"):
        Report.from_json(tmp_path / "x.json")
    with pytest.raises(DataError, match="format"):
        Report.from_dict({})
    with pytest.raises(DataError, match="complete"):
        Report.from_dict({"format": 1})


def test_table_shows_controls_beside_scores(report):
    lines = report.table().splitlines()
    assert lines[0].split()[:4] == ["protocol", "metric", "n", "score"]
    assert "random-init" in lines[0]
    assert "frame-statistics" in lines[0]
    assert len(lines) == 1 + sum(s.encoder == "encoder" for s in report.scores)
    assert "better than random-init" in report.text() or "undecided" in report.text()


def test_neighbours_show_every_class_first(report):
    queries = report.neighbours
    assert 3 <= len(queries) <= 12
    assert {q.label for q in queries[:3]} == {"c0", "c1", "c2"}
    for query in queries:
        assert len(query.neighbours) == 5
        values = [h.similarity for h in query.neighbours]
        assert values == sorted(values, reverse=True)
        assert query.id not in {h.id for h in query.neighbours}


def test_confusions_count_the_test_samples(report):
    assert {c.protocol for c in report.confusions} == {"linear", "knn"}
    for confusion in report.confusions:
        assert np.sum(confusion.counts) == report.task["n_test"]
        trace = np.trace(np.array(confusion.counts)) / report.task["n_test"]
        assert trace == pytest.approx(report.score(confusion.protocol).value)


def test_a_useless_encoder_is_not_above_chance():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (120, 2, 8, 8, 3), dtype=np.uint8)
    noise = ArrayClips(pixels, labels=rng.permutation(np.arange(120) % 2))
    found = evaluate(Oracle(), noise, protocol="knn", num_resamples=200, progress=False)
    assert found.score().above_chance is False
    assert "not distinguishable from chance" in found.verdicts[0]


def test_constant_embeddings_are_named():
    found = evaluate(Oracle(signal=False), world(), protocol="knn", baselines=(), num_resamples=100, progress=False)
    assert "all embeddings of encoder are equal, or nearly so: it has collapsed" in found.notes
    assert not found.score().references


def test_few_groups_are_said_and_a_perfect_score_keeps_its_width():
    found = evaluate(
        Oracle(), world(36, strength=90, per_group=6), protocol="linear", num_resamples=100, progress=False
    )
    assert found.score().n_groups < 20
    assert "too narrow" in found.verdicts[0]


@pytest.mark.parametrize("right", [0.0, 1.0])
@pytest.mark.parametrize("by_function", [False, True])
def test_all_right_or_all_wrong_keeps_its_width(right, by_function):
    values = (lambda rows: right) if by_function else np.full(30, right)
    interval, rule = Resampling(0.95, 100).interval(values, np.repeat(np.arange(10), 3))
    # Clopper and Pearson, ten of ten: 0.025 ** (1 / 10).
    assert interval.width == pytest.approx(1 - 0.025**0.1)
    assert right in interval
    assert "exact binomial over 10 groups" in rule


def test_one_group_gives_no_interval():
    clips = world(60, strength=90, per_group=30)
    splits = ["train"] * 30 + ["test"] * 30
    found = evaluate(Oracle(), LabelTask(clips, splits=splits), num_resamples=100, progress=False)
    assert found.score().interval is None
    assert not found.score().differences
    assert "decides nothing" in found.verdicts[0]
    assert Report.from_dict(json.loads(json.dumps(found.to_dict()))).score().interval is None
    assert "—" in found.table()


def test_external_encoders_stand_beside():
    found = evaluate(
        Oracle(),
        world(),
        protocol="linear",
        external={"blind": Oracle(signal=False)},
        num_resamples=200,
        progress=False,
    )
    assert found.score().differences["blind"].difference > 0.2
    assert found.score(encoder="blind").differences["random-init"].difference < 0
    assert "blind" in found.table().splitlines()[0]


def test_test_labels_decide_scores_and_nothing_else():
    """Changing test labels changes no prediction, setting or neighbour; only what counts as right."""
    clips = world()
    splits = ["train"] * 60 + ["test"] * 30
    labels = list(clips.labels)
    moved = labels[:60] + labels[61:] + labels[60:61]
    other = ArrayClips(clips.clips, labels=moved, groups=clips.groups, ids=clips.ids)
    options = {"protocol": ALL, "num_resamples": 100, "progress": False}
    a = evaluate(Oracle(), LabelTask(clips, splits=splits), **options)
    b = evaluate(Oracle(), LabelTask(other, splits=splits), **options)
    assert [s.settings for s in a.scores] == [s.settings for s in b.scores]
    assert a.score("linear").value > b.score("linear").value
    for x, y in zip(a.confusions, b.confusions, strict=True):
        np.testing.assert_array_equal(np.sum(x.counts, 0), np.sum(y.counts, 0))


def test_the_encoder_is_left_as_it_was():
    net = create_encoder("r3d_tiny", seed=0).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    rng = np.random.default_rng(0)
    clips = ArrayClips(rng.integers(0, 255, (20, 4, 32, 32, 3), dtype=np.uint8), labels=np.arange(20) % 2)
    evaluate(net, clips, protocol="knn", num_resamples=100, progress=False)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_files_with_a_store_a_fault_and_scores_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 190)):
        (tmp_path / "v" / label).mkdir(parents=True)
        for i in range(8):
            frames = np.clip(rng.normal(level, 20, (4, 32, 32, 3)), 0, 255).astype(np.uint8)
            write_video(tmp_path / "v" / label / f"{i}.mp4", frames, fps=8)
    (tmp_path / "v" / "dark" / "3.mp4").write_bytes(b"broken" * 99)
    plan = ClipPlan(num_frames=2, stride=1, num_clips=2, num_crops=1, size_px=16, short_side_px=16)
    splits = ["train" if i % 2 else "test" for i in range(16)]
    task = LabelTask(Manifest.open(tmp_path / "v"), splits=splits)
    calls = []
    options = {"clips": plan, "store": tmp_path / "store", "protocol": ALL, "num_resamples": 100}
    found = evaluate(
        Oracle(), task, out=tmp_path / "run" / "scores.json", progress=lambda d, t: calls.append(d), **options
    )
    assert found.task["n_unreadable"] == 1
    assert [f["path"] for f in found.faults] == ["dark/3.mp4"]
    assert found.task["n_train"] == 7
    assert found.score("linear").value == 1.0
    assert found.neighbours[0].path.endswith(".mp4")
    assert "\n1 source could not be read; no n includes it: dark/3.mp4" in found.text()
    assert Report.from_json(tmp_path / "run" / "scores.json").to_dict() == found.to_dict()
    assert len(calls) == 16
    calls.clear()
    again = evaluate(Oracle(), task, progress=lambda d, t: calls.append(d), **options)
    assert len(calls) == 1  # only the broken file is tried again
    assert again.to_dict() == found.to_dict()


def test_names_get_help():
    with pytest.raises(UsageError, match="did you mean 'linear'"):
        evaluate(Oracle(), world(), protocol="linaer")
    with pytest.raises(UsageError, match="did you mean 'random-init'"):
        evaluate(Oracle(), world(), baselines=("random_init",))
    with pytest.raises(UsageError, match="control"):
        evaluate(Oracle(), world(), external={"encoder": Oracle()})
    with pytest.raises(UsageError, match="task's own"):
        evaluate(Oracle(), LabelTask(world()), label="label")
    with pytest.raises(UsageError, match="unknown profile"):
        resolve_protocols("linear", "standrad")
    with pytest.raises(UsageError, match="two are called"):
        resolve_protocols(["linear", LinearProbe(c=1.0)])
    with pytest.raises(UsageError, match="at least one"):
        resolve_protocols([])
    own = Retrieval(ks=(2,), name="retrieval-2")
    assert resolve_protocols([own, "knn"])[0] is own
    with pytest.raises(DataError, match="no score for"):
        evaluate(Oracle(), world(), protocol="knn", baselines=(), num_resamples=100, progress=False).score("linear")


def test_the_paper_profile_is_cvrls_probe():
    found = evaluate(Oracle(), world(), profile="paper-cvrl", num_resamples=100, progress=False)
    assert found.profile == "paper-cvrl"
    assert found.score().settings["lr_at_1024"] == 32.0
