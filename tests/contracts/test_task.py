"""What every protocol and task must keep. Import ``ProtocolContract`` or ``TaskContract`` and name the subject.

Invariants: permuting samples permutes outcomes; renaming labels leaves scores; test labels never influence fitting;
equal calls give equal outcomes; n is reported.
"""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.sampling import ClipPlan
from unreel.protocols import Embeddings, FeatureProtocol, FeatureSet, Head
from unreel.tasks import PROFILES, Task
from unreel.tasks.classification import score_head


def blobs(seed=0, n=80, classes=4, d=6, spread=1.2, views=None, groups=20, prefix="s"):
    """Gaussian classes with shared centres, ``groups`` groups within each class label's samples."""
    centres = np.random.default_rng(12345).normal(size=(classes, d)) * 1.5
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    shape = (n, d) if views is None else (n, views, d)
    vectors = (centres[labels] if views is None else centres[labels][:, None]) + spread * rng.normal(size=shape)
    return FeatureSet(
        vectors.astype(np.float32),
        np.array(["north", "east", "south", "west", "up", "down", "in", "out"])[labels],
        np.array([f"{prefix}-g{i % groups:02d}" for i in range(n)]),
        np.array([f"{prefix}-{i:04d}" for i in range(n)]),
    )


class ProtocolContract:
    """Subclass as ``TestX(ProtocolContract)`` with a ``protocol`` fixture (or attribute)."""

    protocol: FeatureProtocol

    @pytest.fixture
    def train(self):
        return blobs(1, prefix="train")

    @pytest.fixture
    def test(self):
        return blobs(2, n=50, prefix="test")

    @pytest.fixture
    def outcomes(self, train, test):
        return score_head(self.protocol.fit(train, seed=3), test)

    @staticmethod
    def assert_equal(a, b, order=None):
        rows = slice(None) if order is None else order
        assert a.values.keys() == b.values.keys()
        for name in a.values:
            np.testing.assert_array_equal(a.values[name][rows], b.values[name], err_msg=name)
        assert a.chance == pytest.approx(b.chance)

    def test_is_a_protocol(self, train):
        assert isinstance(self.protocol, FeatureProtocol)
        assert isinstance(self.protocol.fit(train), Head)

    def test_beats_chance_on_separable_classes_and_says_n(self, outcomes):
        assert outcomes.n == 50
        assert outcomes.primary in outcomes.values
        for name, values in outcomes.values.items():
            assert values.shape == (50,)
            assert values.min() >= 0
            assert values.max() <= 1
            assert outcomes.score(name) >= outcomes.chance[name]
        assert outcomes.score() > outcomes.chance[outcomes.primary] + 0.2
        assert outcomes.chance_rule

    def test_noise_scores_near_chance(self):
        def noise(seed, n, prefix):
            like = blobs(seed, n, prefix=prefix)
            rng = np.random.default_rng(seed)
            return FeatureSet(rng.normal(size=(n, 6)).astype(np.float32), rng.permutation(like.labels), ids=like.ids)

        found = score_head(self.protocol.fit(noise(5, 200, "train")), noise(6, 300, "test"))
        assert abs(found.score() - found.chance[found.primary]) < 0.12

    def test_permuting_test_samples_permutes_outcomes(self, train, test, outcomes):
        order = np.random.default_rng(0).permutation(50)
        self.assert_equal(outcomes, score_head(self.protocol.fit(train, seed=3), test.select(order)), order)

    @pytest.mark.parametrize("named", [True, False])
    def test_order_of_training_samples_is_immaterial(self, train, test, named):
        def strip(samples):
            return samples if named else FeatureSet(samples.vectors, samples.labels)

        order = np.random.default_rng(1).permutation(len(train))
        a = score_head(self.protocol.fit(strip(train), seed=3), strip(test))
        self.assert_equal(a, score_head(self.protocol.fit(strip(train.select(order)), seed=3), strip(test)))

    def test_renaming_labels_leaves_scores(self, train, test, outcomes):
        names = {"north": "zz", "east": "a", "south": "mm", "west": "b"}

        def rename(samples):
            new = np.array([names[v] for v in samples.labels])
            return FeatureSet(samples.vectors, new, samples.groups, samples.ids)

        self.assert_equal(outcomes, score_head(self.protocol.fit(rename(train), seed=3), rename(test)))

    def test_test_labels_never_influence_fitting(self, train, test):
        fitted = self.protocol.fit(train, seed=3)
        before = pickle.dumps(fitted)
        first = score_head(fitted, test)
        shuffled = FeatureSet(test.vectors, np.roll(test.labels, 1), test.groups, test.ids)
        second = score_head(fitted, shuffled)
        assert pickle.dumps(fitted) == before
        np.testing.assert_array_equal(first.predictions.labels, second.predictions.labels)
        if first.predictions.neighbours is not None:
            indices = [o.predictions.neighbours.indices for o in (first, second)]
            np.testing.assert_array_equal(*indices)
        assert second.score() < first.score()

    def test_one_test_sample_does_not_change_another(self, train, test, outcomes):
        part = score_head(self.protocol.fit(train, seed=3), test.select(np.arange(7)))
        for name in part.values:
            np.testing.assert_array_equal(part.values[name], outcomes.values[name][:7])

    def test_equal_calls_give_equal_outcomes(self, train, test, outcomes):
        again = score_head(self.protocol.fit(train, seed=3), test)
        self.assert_equal(outcomes, again)
        assert again.card.settings == outcomes.card.settings
        self.assert_equal(outcomes, score_head(pickle.loads(pickle.dumps(self.protocol.fit(train, seed=3))), test))

    def test_training_arrays_are_left_alone(self, test):
        train = blobs(1, prefix="train")
        copy = train.vectors.copy()
        score_head(self.protocol.fit(train), test)
        np.testing.assert_array_equal(train.vectors, copy)

    def test_given_validation_samples_are_used(self, train, test):
        rest = score_head(self.protocol.fit(train, validation=blobs(9, n=40, prefix="val"), seed=3), test)
        assert rest.n == 50
        assert {v for k, v in rest.card.settings.items() if k in ("n_train", "n_gallery")} == {120}

    def test_views_are_taken(self):
        train, test = blobs(1, views=3, prefix="train"), blobs(2, n=40, views=3, prefix="test")
        assert score_head(self.protocol.fit(train), test).score() > 0.6

    def test_another_width_is_refused(self, train):
        with pytest.raises(UsageError, match="same encoder"):
            score_head(self.protocol.fit(train), blobs(2, d=5))


class TaskContract:
    """Subclass as ``TestX(TaskContract)`` with a ``make`` that builds the task; ``order`` permutes its sources."""

    def make(self, order=None):
        raise NotImplementedError

    def embeddings(self, task):
        """One-hot-ish features keyed by id, so that a source has the same vector wherever it stands."""
        source = task.clips(ClipPlan(num_frames=2, stride=1, num_clips=1, num_crops=1, size_px=8, short_side_px=8))
        vectors = np.stack([Key("contract", name).numpy().normal(size=6) for name in source.ids]).astype(np.float32)
        n = len(source.ids)
        return Embeddings(
            vectors,
            np.array(source.ids),
            None if source.labels is None else np.array(source.labels),
            None,
            (),
            vectors[:, None],
            np.arange(n),
            np.array(source.ids),
            ("",) * n,
            (None,) * n,
            n,
            "contract",
        )

    def test_is_a_task(self):
        assert isinstance(self.make(), Task)

    def test_parts_cover_the_sources_and_share_no_group(self):
        task = self.make()
        found = self.embeddings(task)
        parts = task.parts(found)
        named = [p for p in parts if p is not None]
        assert sum(len(p) for p in named) == len(found)
        for a in range(len(named)):
            for b in range(a):
                assert not set(named[a].groups) & set(named[b].groups)
                assert not set(named[a].ids) & set(named[b].ids)

    def test_order_of_sources_is_immaterial(self):
        task = self.make()
        found = self.embeddings(task)
        order = np.random.default_rng(0).permutation(len(found))
        other = self.make(order=order)
        mine, theirs = task.parts(found), other.parts(self.embeddings(other))
        for a, b in zip(mine, theirs, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert dict(zip(a.ids, a.labels, strict=True)) == dict(zip(b.ids, b.labels, strict=True))

    def test_unreadable_sources_leave_the_others_where_they_were(self):
        task = self.make()
        found = self.embeddings(task)
        roles = {i: k for k, part in enumerate(task.parts(found)) if part is not None for i in part.ids}
        fewer = task.parts(found.select(np.arange(len(found)) % 7 != 3))
        assert sum(len(p) for p in fewer if p is not None) < len(found)
        for k, part in enumerate(fewer):
            if part is not None:
                assert all(roles[i] == k for i in part.ids)

    def test_metrics_know_their_direction_and_resample(self):
        task = self.make()
        parts = task.parts(self.embeddings(task))
        for protocol in PROFILES["standard"].protocols.values():
            outcomes = score_head(protocol.fit(parts.train), parts.test)
            metrics = task.metrics(outcomes)
            assert metrics[0].name == outcomes.primary
            assert len({m.name for m in metrics}) == len(metrics)
            for metric in metrics:
                assert metric.higher_is_better in (True, False, None)
                if metric.statistic is not None:
                    statistic, chance = metric.statistic(outcomes)
                    everyone = np.arange(outcomes.n)
                    assert statistic(everyone) == pytest.approx(statistic(everyone[::-1]))
                    assert 0 <= chance <= 1
