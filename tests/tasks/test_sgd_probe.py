"""CVRL's probe on cached features: the protocol contract, agreement with logistic regression."""

import numpy as np
import pytest
import torch

from tests.contracts.test_task import ProtocolContract, blobs
from unreel.core.errors import UsageError
from unreel.protocols import FeatureSet, LinearProbe
from unreel.protocols.linear import average_views
from unreel.tasks import SGDProbe
from unreel.tasks.classification import score_head


class TestSGDProbe(ProtocolContract):
    # 100 epochs of one batch each are 100 steps; with so few samples the scaled rate needs a few more.
    protocol = SGDProbe(epochs=200)


def test_agrees_with_logistic_regression_on_the_same_features():
    train, test = blobs(1, n=400), blobs(2, n=200)
    ours = score_head(SGDProbe(epochs=300).fit(train), test).score()
    theirs = score_head(LinearProbe(l2_normalize=True, standardize=False).fit(train), test).score()
    assert ours == pytest.approx(theirs, abs=0.04)


def test_check_24_softmax_averaging_is_the_default_and_differs_from_logits():
    """A crafted 30-view sample: a few confident views against many lukewarm ones."""
    train = FeatureSet(np.array([[1.0, 0.02], [1.0, -0.02]]).repeat(20, 0), np.repeat(["up", "down"], 20))
    fitted = SGDProbe(epochs=500, l2_normalize=False, lr=300.0).fit(train)
    towards = fitted.coefficients[0] - fitted.coefficients[1]
    views = np.empty((1, 30, 2))
    views[:, :3] = 40 * towards / (towards @ towards)
    views[:, 3:] = -1 * towards / (towards @ towards)
    sample = FeatureSet(views, np.array(fitted.card.classes[:1]))
    assert fitted.views == "probabilities"
    assert fitted.predict(sample).probabilities.argmax() == 1
    assert average_views(fitted.logits(views), "logits").argmax() == 0


def test_no_global_generator_moves():
    before = torch.random.get_rng_state()
    SGDProbe(epochs=5).fit(blobs(1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_view_is_trained_on():
    """The first view of each training sample says nothing; the others say all."""
    train, test = blobs(1, views=3), blobs(2, n=60)
    hidden = train.vectors.copy()
    hidden[:, 0] = 0
    blind = FeatureSet(hidden, train.labels, train.groups, train.ids)
    assert score_head(SGDProbe().fit(blind), test).score() > 0.6


def test_learning_rate_32_needs_the_norm():
    """A rate of 32 only makes sense with the L2 norm, which makes the probe blind to the features' scale."""
    train, test = blobs(1, n=200), blobs(2, n=200)
    scaled = [FeatureSet(100 * s.vectors, s.labels, s.groups, s.ids) for s in (train, test)]
    plain = SGDProbe().fit(train).predict(test).probabilities
    np.testing.assert_allclose(SGDProbe().fit(scaled[0]).predict(scaled[1]).probabilities, plain, atol=1e-3)
    without = SGDProbe(l2_normalize=False).fit(scaled[0]).predict(scaled[1]).probabilities
    assert without.max(1).mean() > 0.99  # saturated: no probability to speak of
    assert plain.max(1).mean() < 0.95


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"epochs": 0}, {"warmup_epochs": 200}, {"views": "max"}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError):
        SGDProbe(**wrong)
