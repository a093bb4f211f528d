"""Fine-tuning: it learns, it is scored like the other protocols, its control sees the same videos."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.contracts.test_heads import HeadContract
from unreel.cli.main import main
from unreel.core.errors import DataError, UsageError
from unreel.data.dataset import EvaluationDataset
from unreel.data.manifest import Manifest, Row
from unreel.data.sampling import ClipPlan
from unreel.media.write import write_video
from unreel.nn import create_encoder
from unreel.nn.encoder import Encoder
from unreel.nn.weights import save_encoder
from unreel.protocols import ArrayClips, Compute, FeatureSet
from unreel.protocols.linear import FittedLinear
from unreel.protocols.store import encoder_digest
from unreel.tasks import FineTune, LabelTask, Report, evaluate
from unreel.tasks.classification import score_head
from unreel.tasks.profiles import resolve_protocols
from unreel.tasks.trained import Adapted, TrainedProtocol
from unreel.train.monitor import Monitor, read_lines

PLAN = ClipPlan(num_frames=4, stride=1, num_clips=3, num_crops=1, size_px=16, short_side_px=16)
QUICK = FineTune(epochs=4, batch_size=8, lr=3e-3, warmup_epochs=0)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Twenty-four videos of eight frames, in training in groups of two; half of them are reddish, half bluish."""
    root = tmp_path_factory.mktemp("videos")
    rows = []
    for i in range(24):
        rng = np.random.default_rng(i)
        colour = np.array([150, 100, 60] if i % 2 else [60, 100, 150])
        frames = np.clip(colour + rng.normal(0, 25, (8, 20, 26, 3)), 0, 255).astype(np.uint8)
        write_video(root / f"{i:02d}.mp4", frames, fps=8)
        label, split = ("blue", "red")[i % 2], "test" if i >= 16 else "train"
        rows.append(
            Row(f"{i:02d}.mp4", split=split, labels={"label": label}, groups={"group": f"g{i // 2 if i < 16 else i}"})
        )
    return Manifest(str(root), tuple(rows))


def encoder(seed: int = 1) -> Encoder:
    net = create_encoder("r3d_tiny", seed=seed)
    net.input_spec = replace(net.input_spec, num_frames=4, stride_frames=1, size_px=16)
    return net


def adapt(protocol: FineTune, data: Manifest, net: Encoder | None = None, **options: Any) -> Adapted:
    task = LabelTask(data)
    train = task.examples("train")
    assert train is not None
    compute = Compute(device="cpu", progress=False, work=options.pop("folder", None))
    return protocol.adapt(net or encoder(), train, task.examples("val"), plan=PLAN, compute=compute, **options)


class TestHead(HeadContract):
    """What fine-tuning leaves is a head as any other, on the embeddings of the tuned encoder."""

    @pytest.fixture
    def head(self, adapted):
        assert adapted.head.card.encoder == encoder_digest(adapted.encoder)
        return adapted.head

    @pytest.fixture
    def inputs(self, adapted):
        return np.random.default_rng(0).normal(size=(6, 3, adapted.encoder.num_features))


def weights(adapted: Adapted) -> list[torch.Tensor]:
    assert isinstance(adapted.head, FittedLinear)
    return [*adapted.encoder.state_dict().values(), torch.from_numpy(adapted.head.coefficients)]


def same(a: Adapted, b: Adapted) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


@pytest.fixture(scope="module")
def adapted(videos: Manifest) -> Adapted:
    return adapt(QUICK, videos)


@pytest.fixture(scope="module")
def report(videos: Manifest) -> Report:
    net = encoder().train()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    found = evaluate(
        net,
        videos,
        protocol=["finetune", "knn"],
        settings={"finetune": {"epochs": "14", "batch_size": 4, "warmup_epochs": 0}},
        baselines=("random-init", "frame-statistics"),
        clips=PLAN,
        num_resamples=100,
        progress=False,
        device="cpu",
    )
    assert net.training  # left as it was
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())
    return found


def test_it_learns_and_is_scored_like_the_other_protocols(report: Report) -> None:
    score = report.score("finetune")
    assert score.metric == "accuracy"
    assert score.value >= 0.9
    assert score.chance == 0.5
    assert score.above_chance
    assert (score.n, score.n_groups, score.n_train) == (8, 8, 16)
    assert score.settings["n_train"] + score.settings["n_val"] == 16  # type: ignore[operator]
    assert {s.metric for s in report.scores if s.protocol == "finetune"} == {
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
    }
    assert {c.protocol for c in report.confusions} == {"finetune", "knn"}
    assert Report.from_dict(report.to_dict()).to_dict() == report.to_dict()


def test_the_control_is_the_same_net_from_scratch_on_the_same_videos(report: Report) -> None:
    score = report.score("finetune")
    assert set(score.references) == {"random-init"}  # frame statistics have nothing to train
    assert score.differences["random-init"].n_groups == 8
    control = report.score("finetune", encoder="random-init")
    assert (control.n, control.settings["steps"]) == (score.n, score.settings["steps"])
    assert any("random-init is the same net trained from scratch" in note for note in report.notes)
    assert set(report.score("knn").references) == {"random-init", "frame-statistics"}


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_clips_are_averaged_as_said(average: Any, videos: Manifest, adapted: Adapted) -> None:
    assert isinstance(adapted.head, FittedLinear)
    task = LabelTask(videos)
    test = task.examples("test")
    assert test is not None
    data = EvaluationDataset(test.manifest, PLAN)
    vectors, slow = [], []
    weight, bias = adapted.head.coefficients, adapted.head.intercepts
    for row in range(len(data)):
        views = data[row].views
        assert views is not None
        with torch.no_grad():
            embedded = adapted.encoder(adapted.encoder.prepare(views)).numpy()
        vectors.append(embedded)
        clips = []
        for vector in embedded.astype(np.float64):
            logits = np.array([sum(w * v for w, v in zip(weight[c], vector, strict=True)) + bias[c] for c in (0, 1)])
            clips.append(logits if average == "logits" else np.exp(logits) / np.exp(logits).sum())
        mean = sum(clips) / len(clips)
        slow.append(np.exp(mean) / np.exp(mean).sum() if average == "logits" else mean)
    head = replace(adapted.head, views=average)
    found = score_head(head, FeatureSet(np.stack(vectors), test.labels, test.groups))
    assert found.predictions.probabilities is not None
    np.testing.assert_allclose(found.predictions.probabilities, np.stack(slow), rtol=1e-6)


def test_averages_can_disagree(adapted: Adapted) -> None:
    """One confident clip outweighs two others among logits, not among probabilities."""
    assert isinstance(adapted.head, FittedLinear)
    plain = replace(adapted.head, coefficients=np.eye(2), intercepts=np.zeros(2))
    test = FeatureSet(np.array([[[9.0, 0.0], [0.0, 2.0], [0.0, 2.0]]]), np.array(["red"]))
    assert replace(plain, views="logits").predict(test).labels.tolist() == ["blue"]  # type: ignore[union-attr]
    assert replace(plain, views="probabilities").predict(test).labels.tolist() == ["red"]  # type: ignore[union-attr]


def test_the_order_of_rows_changes_nothing(videos: Manifest, adapted: Adapted) -> None:
    order = np.random.default_rng(0).permutation(len(videos))
    assert same(adapt(QUICK, videos.subset(order)), adapted)
    assert isinstance(adapted.head, FittedLinear)
    assert adapted.head.card.classes == ("blue", "red")
    assert not same(adapt(QUICK, videos, seed=1), adapted)


def test_a_frozen_trunk_is_a_linear_probe(videos: Manifest) -> None:
    start = encoder()
    found = adapt(replace(QUICK, freeze="trunk", epochs=1), videos, start)
    assert all(
        torch.equal(a, b) for a, b in zip(start.state_dict().values(), found.encoder.state_dict().values(), strict=True)
    )


def test_interrupted_and_called_again_gives_equal_bits(
    videos: Manifest, adapted: Adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Monitor.log

    def breaks(self: Monitor, values: Any) -> None:
        if values["step"] >= 6:
            raise KeyboardInterrupt
        log(self, values)

    monkeypatch.setattr(Monitor, "log", breaks)
    with pytest.raises(KeyboardInterrupt):
        adapt(QUICK, videos, folder=tmp_path)
    monkeypatch.undo()
    (folder,) = tmp_path.iterdir()
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-000000004.pt"]
    assert same(adapt(QUICK, videos, folder=tmp_path), adapted)
    lines = (folder / "metrics.jsonl").read_text()
    assert [r["step"] for r in read_lines(folder / "metrics.jsonl")] == [2, 4, 6, 8]
    assert same(adapt(replace(QUICK, average="logits"), videos, folder=tmp_path), adapted)  # trained already
    assert (folder / "metrics.jsonl").read_text() == lines
    adapt(replace(QUICK, epochs=0.5), videos, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2  # another recipe has its own folder


def test_without_selection_the_validation_part_is_trained_on(videos: Manifest) -> None:
    rows = tuple(replace(r, split="val") if r.split == "train" and i < 4 else r for i, r in enumerate(videos))
    data = replace(videos, rows=rows)
    last = adapt(replace(QUICK, epochs=0.5, select="last"), data).head
    best = adapt(replace(QUICK, epochs=0.5), data).head
    assert isinstance(last, FittedLinear)
    assert isinstance(best, FittedLinear)
    assert (last.card.settings["n_train"], "n_val" in last.card.settings) == (16, False)
    assert (best.card.settings["n_train"], best.card.settings["n_val"]) == (12, 4)
    # A plateau watches validation even where the last weights are kept.
    plateau = adapt(replace(QUICK, epochs=0.5, select="last", schedule="plateau"), data).head
    assert isinstance(plateau, FittedLinear)
    assert (plateau.card.settings["n_train"], plateau.card.settings["n_val"]) == (12, 4)


def test_unreadable_videos(videos: Manifest, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"broken" * 99)
    root = Path(videos.root)
    for path in root.glob("*.mp4"):
        (tmp_path / path.name).symlink_to(path)
    broken = {1: "bad.mp4", 20: "bad.mp4"}
    (tmp_path / "worse.mp4").write_bytes(b"broken" * 98)
    broken[20] = "worse.mp4"
    data = Manifest(str(tmp_path), tuple(replace(r, path=broken.get(i, r.path)) for i, r in enumerate(videos)))
    found = evaluate(
        encoder(),
        data,
        protocol=replace(QUICK, epochs=1, select="last"),
        clips=PLAN,
        num_resamples=50,
        progress=False,
        device="cpu",
    )
    assert found.score().n == found.score(encoder="random-init").n == 7
    assert [f["path"] for f in found.faults] == ["worse.mp4"]
    assert {s.encoder for s in found.scores} == {"encoder", "random-init"}  # training settles statistics itself
    assert "finetune: 1 training clip could not be read; clips of other files took their place" in found.notes


def test_names_settings_and_profiles() -> None:
    assert isinstance(FineTune(), TrainedProtocol)
    (paper,) = resolve_protocols("finetune", "paper-tcgl")
    assert isinstance(paper, FineTune)
    values = (paper.optimizer, paper.lr, paper.weight_decay, paper.batch_size, paper.epochs, paper.schedule)
    assert values == ("sgd", 1e-3, 5e-4, 16, 200, "plateau")
    assert (paper.decay, paper.min_lr, paper.plateau_patience, paper.average) == ("all", 1e-5, 50, "logits")
    (cvrl,) = resolve_protocols("finetune", "paper-cvrl", settings={"finetune": {"epochs": 3}})
    assert isinstance(cvrl, FineTune)
    assert (cvrl.epochs, cvrl.lr, cvrl.batch_size, cvrl.average) == (3, 0.16, 128, "probabilities")
    with pytest.raises(UsageError, match=r"did you mean finetune\.epochs"):
        resolve_protocols("finetune", settings={"finetune": {"epoch": 3}})
    with pytest.raises(UsageError, match=r"finetune\.lr must be > 0"):
        resolve_protocols("finetune", settings={"finetune": {"lr": -1}})
    with pytest.raises(UsageError, match="not among the protocols asked for"):
        resolve_protocols("linear", settings={"finetune": {"epochs": 3}})
    with pytest.raises(UsageError, match="warmup_epochs"):
        FineTune(epochs=2, warmup_epochs=3)


def test_on_the_command_line(videos: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save_encoder(encoder(), tmp_path / "encoder.safetensors")
    table = videos.to_csv(tmp_path / "videos.csv")
    call = ["evaluate", str(file), str(table), "--protocol", "finetune", "--work", str(tmp_path / "work"), "--json"]
    assert main([*call, "--quiet", "--finetune.epochs", "1", "--finetune.freeze=trunk"]) == 0
    score = Report.from_dict(json.loads(capsys.readouterr().out)).score("finetune")
    assert (score.n, score.settings["epochs"], score.settings["freeze"]) == (8, 1, "trunk")
    assert len(list((tmp_path / "work").iterdir())) == 2  # the encoder's and the control's
    assert main([*call, "--finetune.epoch", "1"]) == 2
    assert "did you mean finetune.epochs" in capsys.readouterr().out


def test_what_cannot_be_trained_on_is_refused(videos: Manifest) -> None:
    arrays = ArrayClips(np.zeros((8, 4, 16, 16, 3), np.uint8), labels=["a", "b"] * 4)
    options: dict[str, Any] = {"protocol": "finetune", "progress": False, "clips": PLAN}
    with pytest.raises(UsageError, match="clips in memory cannot be trained on"):
        evaluate(encoder(), arrays, **options)
    with pytest.raises(UsageError, match="trains on labelled files"):
        evaluate(encoder(), videos, gallery=videos, **options)
    single = replace(videos, rows=tuple(replace(r, groups={"group": r.labels["label"] + r.split}) for r in videos))
    with pytest.raises(UsageError, match="no validation part can be cut"):
        evaluate(encoder(), single, settings={"finetune": {"schedule": "plateau"}}, **options)
    with pytest.raises(DataError, match="test"):
        evaluate(encoder(), videos.select(split="train"), **options)
