"""The benchmarks on real collections, without the collections: what they compute from outcomes, and their pages."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.scripts import script
from unreel.data.batch import Batch, View
from unreel.data.manifest import Manifest, Row
from unreel.data.snippets import permutations
from unreel.media import VideoInfo
from unreel.metrics.retrieval import Neighbours
from unreel.protocols import FeatureSet, HeadCard, Predictions, Truth
from unreel.stats import bootstrap_ci, paired_bootstrap
from unreel.tasks.classification import BALANCED_ACCURACY
from unreel.tasks.spans import Span
from unreel.tasks.task import Metric, Outcomes

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def scripts() -> SimpleNamespace:
    """real_data, real_cvrl and real_tcgl, as ``python benchmarks/…`` sees them."""
    return SimpleNamespace(**{name: script(name) for name in ("common", "real_data", "real_cvrl", "real_tcgl")})


def _classified(rng: np.random.Generator, labels: Any, groups: Any, right: float) -> Outcomes:
    classes = np.unique(labels)
    guess = np.where(rng.random(len(labels)) < right, labels, rng.choice(classes, len(labels)))
    values = {"accuracy": (guess == labels).astype(np.float64)}
    card = HeadCard("linear", classes=tuple(classes.tolist()), counts=(1,) * len(classes))
    said = Predictions("classes", card, scores=(guess[:, None] == classes).astype(np.float64))
    return Outcomes(said, Truth(labels, groups), values, {"accuracy": 0.5}, "accuracy")


def _values(protocol: str, n: int) -> Predictions:
    return Predictions("values", HeadCard(protocol), values=np.zeros(n))


def _seed(scripts: SimpleNamespace, seed: int) -> Any:
    """40 test videos of 5 patients and 4 positions; the faithful encoder is the better one."""
    tcgl, rng = scripts.real_tcgl, np.random.default_rng(seed)
    labels, groups = np.tile(list("abcd"), 10), np.repeat([f"p{i}" for i in range(5)], 8)
    outcomes: dict[str, dict[str, Outcomes]] = {}
    for net, right in zip(tcgl.NETS, (0.9, 0.5, 0.0, 0.0, 0.0), strict=True):
        found = {p: _classified(rng, labels, groups, right) for p in ("linear", "knn")}
        for protocol in ("retrieval", "patient retrieval"):
            hits = rng.random((2, 40)) < 0.3 + right / 2
            values = {"hit@1": hits[0].astype(float), "hit@5": (hits[0] | hits[1]).astype(float), "mAP": rng.random(40)}
            chance = {"hit@1": 0.25, "hit@5": 0.7, "mAP": 0.3}
            found[protocol] = Outcomes(_values(protocol, 40), Truth(labels, groups), values, chance, "hit@1")
        if net in tcgl.VARIANTS:
            blind = 0.5 if net == tcgl.FAITHFUL else 1 / 6
            values = {m: np.full(40, blind) for m in tcgl.ORDER_METRICS}
            truth, chance = Truth(labels, groups), dict.fromkeys(values, blind)
            found["order"] = Outcomes(_values("order", 40), truth, values, chance, "order")
        outcomes[net] = found
    metrics = {
        p: (*(Metric(m) for m in o.values), *([BALANCED_ACCURACY] if o.predictions.kind == "classes" else []))
        for p, o in outcomes[tcgl.FAITHFUL].items()
    }
    variant = {
        "pretrain_s": 1.0, "steps": 9, "videos": 7, "short": 2,
        "logs": {"order_accuracy": 0.5, "order_accuracy_up_to_reversal": 0.9},
        "train": dict.fromkeys(tcgl.ORDER_METRICS, 0.5),
    }  # fmt: skip
    cost = {
        "seed": seed, "order_s": 1.0, "evaluate_s": 1.0, "parameters": 1000, "features": 8, "architecture": "r3d_tiny",
        "min_frames": 32, **dict.fromkeys(tcgl.VARIANTS, variant),
    }  # fmt: skip
    return scripts.real_data.Seed(seed, outcomes, metrics, ("a note",), cost)


@pytest.fixture(scope="module")
def entry(scripts: SimpleNamespace) -> dict[str, Any]:
    """What one collection leaves in the JSON."""
    data = scripts.common
    quick = {"num_resamples": 100}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "bootstrap_ci", functools.partial(bootstrap_ci, **quick))
        patch.setattr(data, "paired_bootstrap", functools.partial(paired_bootstrap, **quick))
        scores = scripts.real_tcgl.all_scores("covid_blues", [_seed(scripts, s) for s in (1, 2)])
    part = {"videos": 40, "groups": 5, "classes": dict.fromkeys("abcd", 10)}
    cost = [_seed(scripts, s).cost for s in (1, 2)]
    environment = {"packages": {"torch": "2.13.0"}, "cores": 2, "threads": 1}
    recipe = [["method.name", "tcgl", ""]]
    found = {
        "seeds": [1, 2], "data": {"train": part, "test": part, "hours": 0.1}, "recipe": recipe, "scores": scores,
        "cost": cost, "notes": ["a note"], "environment": environment,
    }  # fmt: skip
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def test_every_difference_is_that_of_its_two_scores(scripts, entry):
    for row in entry["scores"]:
        for name, (a, b) in (scripts.real_tcgl.PAIRS | scripts.real_tcgl.ORDER_PAIRS).items():
            if name in row["differences"]:
                d = row["differences"][name]
                expected = row["values"][a]["value"] - row["values"][b]["value"]
                assert d["difference"] == pytest.approx(expected)
                assert d["low"] <= expected + 1e-9
                assert expected <= d["high"] + 1e-9
    first = next(r for r in entry["scores"] if r["protocol"] == "linear" and r["seed"] == "mean")
    single = [r["values"]["faithful"]["value"] for r in entry["scores"] if r["protocol"] == "linear"][:2]
    assert first["metric"] == "balanced_accuracy"
    assert first["values"]["faithful"]["value"] == pytest.approx(np.mean(single))
    assert first["differences"]["faithful − random-init"]["low"] > 0


def test_a_mean_is_resampled_as_its_function_is(scripts):
    seeds = [_seed(scripts, s) for s in (1, 2)]
    source, value, chance = scripts.real_data.mean_of(seeds, "faithful", "retrieval", "mAP")
    values = [s.measured("faithful", "retrieval", "mAP").source for s in seeds]
    groups = seeds[0].outcomes["faithful"]["retrieval"].truth.groups
    slow = bootstrap_ci(lambda rows: np.mean([v[rows].mean() for v in values]), groups=groups, num_resamples=60)
    assert bootstrap_ci(source, groups=groups, num_resamples=60) == pytest.approx(slow)
    assert (value, chance) == (pytest.approx(np.mean(source)), 0.3)


def test_signs_count_patients(scripts, entry):
    row = next(r for r in entry["scores"] if r["protocol"] == "order" and r["seed"] == "mean")
    found = row["signs"]["faithful − leak-free"]
    assert (found["better"], found["worse"], found["equal"]) == (5, 0, 0)
    assert found["p"] == pytest.approx(2 * 0.5**5)
    assert row["chances"] == {"faithful": 0.5, "leak-free": pytest.approx(1 / 6)}


def test_pages_render_from_json(scripts, entry):
    page = scripts.real_tcgl.render({"report": {"covid_blues": entry}})
    for text in (
        "patient retrieval, any hit among the k nearest",
        "2 of 9 training videos are shorter",
        "0.500 [0.500, 0.500]",
        "patients 5 : 0, p = 0.062",
        "With 5 groups a bootstrap interval is too narrow",
    ):
        assert text.lower() in page.lower()
    assert "Decided: nothing" in page  # five patients never reach 5 % by their signs
    assert "nan" not in page.split()
    assert "have not been run" in scripts.real_tcgl.render({"report": {}})


PAGES = {
    "atlas": "atlas", "cvrl": "real_cvrl", "demo": "demo_seeds", "object_aware": "object_aware", "tcgl": "real_tcgl",
    "tcgl_step": "tcgl_step", "exports": "exports", "expected_accuracy": "expected_accuracy",
    "long_video": "long_video",
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_what_its_template_makes_of_its_numbers(name: str):
    file = ROOT / "docs" / "results" / f"{name}.json"
    made = script(PAGES[name]).render(json.loads(file.read_text(encoding="utf-8")))
    assert made == file.with_suffix(".md").read_text(encoding="utf-8")


def test_the_rule_of_found_events_and_right_spans():
    """Half of the event's seconds, and half of the span's; another kind's spans and unlikely ones count for nothing."""
    score = script("long_video").score
    events = [{"label": "ring", "start_s": 10.0, "end_s": 22.0}, {"label": "bar", "start_s": 40.0, "end_s": 52.0}]
    spans = [
        Span("v", 8.0, 13.0, "ring", 0.9),  # 3 of its 5 seconds are in the event
        Span("v", 15.0, 18.0, "ring", 0.9),  # with the one before, half of the event
        Span("v", 30.0, 46.0, "bar", 0.9),  # half of the event, 6 of its own 16 seconds
        Span("v", 40.0, 52.0, "ring", 0.9),
        Span("v", 46.0, 52.0, "bar", 0.4),
        Span("v", 0.0, 9.0, "other", 0.9),
    ]
    found = score(events, spans, 0.5)
    assert (found["found"], found["right"], found["spans"]) == (2, 2, 4)
    assert (found["recall"], found["precision"]) == (1.0, 0.5)
    assert score(events, [spans[0], spans[4]], 0.0)["found"] == 1


def test_every_template_has_its_page():
    templates = {path.name.partition(".")[0] for path in (ROOT / "benchmarks" / "pages").iterdir()}
    assert templates == {*PAGES, "real"}  # what the two pages on real collections share


def test_patient_retrieval_leaves_the_query_out_and_not_its_patient(scripts):
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], dtype=np.float32)
    groups = np.array(["p", "p", "q", "q"])
    found = scripts.real_tcgl.same_group(FeatureSet(vectors, np.array(list("abab")), groups, np.array(list("wxyz"))))
    assert found.values["hit@1"].tolist() == [1, 1, 1, 1]
    assert found.chance["hit@1"] == pytest.approx(1 / 3)
    assert isinstance(found.predictions.neighbours, Neighbours)


def test_snippets_are_put_into_every_order_and_mixed(scripts):
    clips = [torch.full((4, 3, 2, 1, 1), float(k)) + 10 * torch.arange(4.0).view(4, 1, 1, 1, 1) for k in range(3)]
    ids = torch.arange(4)
    batch = Batch(tuple(View(c, torch.zeros(4, 2)) for c in clips), {}, ids, ids, ids)
    for index, order in enumerate(permutations(3)):
        made = scripts.real_tcgl.reordered(batch, order)
        assert [int(v.data[0, 0, 0, 0, 0]) for v in made.views] == order.tolist()
        assert made.targets["order"].tolist() == [order.tolist()] * 4
        assert made.targets["order_class"].tolist() == [index] * 4
        videos = torch.stack([v.data[:, 0, 0, 0, 0] // 10 for v in scripts.real_tcgl.mixed(made).views], 1)
        assert all(len(set(row)) == 3 for row in videos.tolist())


def test_kept_frames_are_the_resized_ones_and_facts_say_so(scripts, tmp_path):
    from unreel.data.dataset import resize_frames
    from unreel.media import read_clip
    from unreel.media.write import write_video

    pixels = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3), dtype=np.uint8)
    write_video(tmp_path / "a.mp4", pixels, fps=10)
    kept = scripts.real_data.KeptFrames(16, 20)
    found = kept.read(tmp_path / "a.mp4", indices=np.array([3, 1]))
    whole = torch.from_numpy(read_clip(tmp_path / "a.mp4").pixels)
    assert torch.equal(torch.from_numpy(found.pixels), resize_frames(whole, 16, 20)[[3, 1]])
    info = VideoInfo(width=48, height=32, num_frames=5, duration_s=0.5, fps=10.0, codec="h264")
    facts = kept.facts(Manifest(str(tmp_path), (Row(path="a.mp4", facts=info),)))[0].facts
    assert facts is not None
    assert (facts.height, facts.width, facts.num_frames) == (16, 20, 5)


def test_same_draws_tells_one_bit_and_forgives_another_name_and_what_is_new():
    same = script("same_draws")
    weights = {"a": torch.arange(3.0), "b": torch.zeros(2), "c": torch.zeros(2), "d": torch.tensor(True)}
    renamed = {"net": {"x": weights["d"]}, "others": [weights["c"], weights["a"], (weights["b"], torch.ones(1))]}
    moved = {**weights, "a": torch.nextafter(weights["a"], torch.tensor(9.0))}

    def measured(loss: float, tree: object) -> Any:
        found = same.Measured()
        found.floats("moco: step 1", {"loss": loss})
        found.tensors["moco: encoder"] = same.digests(tree)
        return found

    first = measured(0.1 + 0.2, weights)
    before = json.loads(json.dumps({"numbers": first.numbers, "tensors": first.tensors}))
    assert same.differences(before, measured(0.1 + 0.2, renamed), ["moco"]) == []
    assert same.differences(before, measured(0.3, moved), ["moco"]) == [
        "moco: step 1: loss: was 0.30000000000000004, is 0.3",
        "moco: encoder: 1 of 4 tensors are not there as they were",
    ]
    assert same.differences(before, measured(0.1 + 0.2, {k: weights[k] for k in "abd"}), ["moco"])  # one zero is gone
    assert len(same.differences(before, same.Measured(), ["moco"])) == 2
    assert same.differences(before, same.Measured(), ["pace"]) == []
