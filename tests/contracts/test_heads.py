"""What every head must keep. Import ``HeadContract`` and give ``fitted`` a head and ``inputs`` to predict from.

Invariants: a head predicts without labels, each sample by itself; what is saved and loaded predicts the same bits and
says the same of itself; nothing in the file runs code.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.contracts.test_task import blobs
from unreel.core.errors import DataError, UsageError
from unreel.data.sampling import ClipPlan
from unreel.protocols import KNN, FeatureSet, LinearPath, LinearProbe, LinearSVM, Retrieval, load_head, save_head
from unreel.protocols.head import HEADS, Head, with_card
from unreel.tasks import SGDProbe
from unreel.tasks.classification import score_labels

PROTOCOLS = {
    "linear": LinearProbe(),
    "linear normalized": LinearProbe(l2_normalize=True, standardize=False, c=1.0),
    "linear by view": LinearProbe(views="probabilities", c=0.1),
    "path": LinearPath(num_values=3, max_iterations=20, device="cpu"),
    "sgd": SGDProbe(epochs=3, warmup_epochs=1),
    "svm": LinearSVM(),
    "svm of means": LinearSVM(c=1.0, views="vectors", standardize=True),
    "knn": KNN(),
    "retrieval": Retrieval(ks=(1, 5)),
}


def arrays(predictions):
    """Everything that was predicted, by name."""
    found = {name: getattr(predictions, name) for name in ("scores", "probabilities", "values", "boxes", "maps")}
    if predictions.neighbours is not None:
        found |= predictions.neighbours._asdict() | {"gallery ids": predictions.gallery.ids}
    return {name: value for name, value in found.items() if value is not None} | {"labels": predictions.labels}


def assert_same(a, b):
    assert arrays(a).keys() == arrays(b).keys()
    for name, value in arrays(a).items():
        np.testing.assert_array_equal(value, arrays(b)[name], err_msg=name)
        assert value.dtype == arrays(b)[name].dtype


class HeadContract:
    """Subclass as ``TestX(HeadContract)`` with a fixture ``head`` and a fixture ``inputs`` of at least 6 samples."""

    def test_is_a_head_of_a_registered_form(self, head):
        assert isinstance(head, Head)
        assert HEADS[head.form] is type(head)

    def test_predicts_for_every_sample_and_says_by_what(self, head, inputs):
        found = head.predict(inputs)
        assert len(found) == len(inputs) == len(found.labels)
        assert found.card is head.card
        assert set(np.unique(found.labels)) <= set(head.card.classes)

    def test_saved_and_loaded_it_predicts_the_same_bits(self, head, inputs, tmp_path):
        plan = ClipPlan(num_frames=4, size_px=16, short_side_px=16, resize_px=(16, 20))
        described = with_card(head, label="action", clips=plan, layer="stage4", encoder="ab12", temperature=1.5)
        again = load_head(save_head(described, tmp_path / "head.safetensors"))
        assert_same(again.predict(inputs), head.predict(inputs))
        assert again.card.clips == plan
        for name in ("protocol", "label", "classes", "counts", "layer", "encoder", "temperature", "notes"):
            assert getattr(again.card, name) == getattr(described.card, name)
        assert {**again.card.settings}.keys() == {**head.card.settings}.keys()
        assert_same(again.predict(inputs).calibrated(), with_card(head, temperature=1.5).predict(inputs).calibrated())


@pytest.mark.parametrize("views", [None, 3])
@pytest.mark.parametrize("name", PROTOCOLS)
class TestHeads(HeadContract):
    @pytest.fixture
    def head(self, name, views):
        return PROTOCOLS[name].fit(blobs(1, views=views, prefix="train"), seed=3)

    @pytest.fixture
    def inputs(self, views):
        return blobs(2, n=20, views=views, prefix="test").unlabelled

    def test_labels_play_no_part_in_predicting(self, head, inputs):
        labelled = FeatureSet(inputs.vectors, np.repeat("south", 20), inputs.groups, inputs.ids)
        assert_same(head.predict(labelled), head.predict(inputs))
        assert_same(head.predict(inputs.vectors), head.predict(torch.from_numpy(inputs.vectors)))

    def test_one_sample_does_not_change_another(self, head, inputs):
        part, whole = head.predict(inputs.select(np.arange(6))), head.predict(inputs)
        np.testing.assert_array_equal(part.labels, whole.labels[:6])

    def test_another_width_is_refused(self, head):
        with pytest.raises(UsageError, match="same encoder"):
            head.predict(np.zeros((2, 5)))

    def test_probabilities_are_shares_and_calibration_keeps_the_order(self, head, inputs):
        found = head.predict(inputs)
        if found.kind != "classes":
            return
        flat = with_card(head, temperature=1e6).predict(inputs).calibrated()
        np.testing.assert_allclose(flat.probabilities, 1 / len(head.card.classes), atol=1e-3)
        np.testing.assert_array_equal(flat.labels, found.labels)
        if found.probabilities is not None:
            np.testing.assert_allclose(found.probabilities.sum(1), 1)
            one = with_card(head, temperature=1.0).predict(inputs).calibrated().probabilities
            np.testing.assert_allclose(one, found.probabilities, atol=1e-9)


def test_numbers_as_labels_come_back_as_numbers(tmp_path):
    samples = blobs(1)
    codes = np.unique(samples.labels, return_inverse=True)[1]
    for protocol in (KNN(k=3), LinearProbe(c=1.0), Retrieval(ks=(1,))):
        again = load_head(save_head(protocol.fit(FeatureSet(samples.vectors, codes)), tmp_path / "head.safetensors"))
        assert again.predict(samples.vectors).labels.dtype.kind == "i"


def test_a_retrieval_head_keeps_a_sample_from_finding_itself(tmp_path):
    samples = blobs(1)
    head = load_head(save_head(Retrieval(ks=(1,)).fit(samples), tmp_path / "head.safetensors"))
    found = head.predict(samples.unlabelled)
    assert (found.gallery.ids[found.neighbours.indices[:, 0]] != samples.ids).all()
    assert (head.predict(samples.vectors).gallery.query_ids) is None


def test_scoring_refuses_other_samples_and_kinds():
    found = KNN(k=1).fit(blobs(1)).predict(blobs(2).vectors)
    with pytest.raises(UsageError, match="do not belong"):
        score_labels(found, blobs(2, n=8).truth)


def test_the_head_of_a_folder_or_run(tmp_path):
    with pytest.raises(DataError, match="no head"):
        load_head(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    head = with_card(KNN(k=1).fit(blobs(1)), label="a/b")
    file = save_head(head, tmp_path)
    assert file == tmp_path / "heads" / "knn-a_b.safetensors"
    assert load_head(tmp_path).card == load_head(file).card
    other = save_head(with_card(head, label="c"), tmp_path)
    with pytest.raises(DataError, match=r"2 heads; name one of knn-a_b.safetensors, knn-c"):
        load_head(tmp_path)
    other.write_bytes(other.read_bytes()[:50])
    assert load_head(tmp_path).card.label == "a/b"


def test_what_is_no_head_is_said(tmp_path):
    file = tmp_path / "x.safetensors"
    with pytest.raises(DataError, match="no head at"):
        load_head(file)
    file.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not a readable head"):
        load_head(file)
    save_file({"a": np.zeros(2)}, file)
    with pytest.raises(DataError, match="is no head"):
        load_head(file)
    save_file({"a": np.zeros(2)}, file, metadata={"unreel_head": json.dumps({"format": 2})})
    with pytest.raises(DataError, match="newer unreel"):
        load_head(file)
    save_file({"a": np.zeros(2)}, file, metadata={"unreel_head": json.dumps({"format": 1, "text": []})})
    with pytest.raises(DataError, match="not a complete head"):
        load_head(file)


def test_chance_knows_the_training_counts_and_nothing_else():
    """Other counts on the card give another chance for the same predictions; other predictions do not."""
    test = blobs(2, n=40)
    head = KNN(k=3).fit(blobs(1))
    only = with_card(head, counts=tuple(int(c == "north") for c in head.card.classes))
    assert score_labels(only.predict(test.vectors), test.truth).chance == {"accuracy": np.mean(test.labels == "north")}
    other = with_card(KNN(k=3).fit(blobs(5, spread=9.0)), counts=head.card.counts, classes=head.card.classes)
    a, b = (score_labels(h.predict(test.vectors), test.truth) for h in (head, other))
    assert a.chance == b.chance
    assert a.score() > b.score()
