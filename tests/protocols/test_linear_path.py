"""Linear evaluation along a path of penalties (docs/methods/evaluation.md, Linear path), scikit-learn as oracle."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.contracts.test_task import ProtocolContract, blobs
from unreel.core.errors import UsageError
from unreel.nn.encoder import InputSpec
from unreel.protocols import FeatureSet, LinearPath
from unreel.protocols.linear_path import _Path, penalty
from unreel.tasks import PROFILES
from unreel.tasks.classification import score_head


def path_objective(x, y, weight, bias, w):
    return torch.nn.functional.cross_entropy(torch.addmm(bias, x, weight.T), y) + penalty(weight, bias, w)


class TestLinearPath(ProtocolContract):
    protocol = LinearPath(smallest=1e-2, largest=1, num_values=2, max_iterations=15)

    def test_given_validation_samples_are_used(self, train, test):
        fitted = self.protocol.fit(train, validation=blobs(9, n=40, prefix="val"), seed=3)
        assert fitted.card.settings["w_chosen_on"] == 40
        assert fitted.card.settings["n_train"] == 80  # the head tested is that of the training part alone
        assert score_head(fitted, test).n == 50


def test_check_C16_penalty() -> None:
    weight, bias = torch.tensor([[1.0, 1.0]]), torch.tensor([2.0])
    assert float(penalty(weight, bias, 1.0)) == 0.5 * (1 + 4)
    assert float(penalty(weight, bias, 3.0)) == 7.5
    x, y = torch.zeros(3, 2), torch.tensor([0, 0, 0])
    assert float(path_objective(x, y, weight, bias, 1.0)) == pytest.approx(2.5)  # one class: no cross-entropy
    # Means, not sums: more features of the same weights, more classes of the same bias cost the same.
    assert float(penalty(torch.ones(4, 6), 2 * torch.ones(4), 1.0)) == 2.5


def test_check_C16_separable_features_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = 4 * np.eye(3)[labels] + rng.normal(0, 0.3, (60, 3))
    fitted = LinearPath(num_values=4, max_iterations=60).fit(FeatureSet(x, labels))
    assert score_head(fitted, FeatureSet(x, labels)).score() == 1.0
    assert fitted.card.settings["validation_accuracy"] == 1.0
    assert fitted.card.settings["w"] == 1e-6  # the first best


def test_the_grid_is_the_papers() -> None:
    values = LinearPath().values
    assert len(values) == 45
    np.testing.assert_allclose(np.log10(values), np.linspace(-6, 5, 45))


@pytest.mark.parametrize("line_search", ["none", "strong_wolfe"])
@pytest.mark.parametrize("w", [0.03, 3.0])
def test_equals_scikit_learn_at_equal_objective(line_search, w) -> None:
    """b = v/√D turns the bias into one more weight of the same penalty; C = classes · D / (w · N)."""
    train = blobs(1, n=90, classes=3, d=6)
    fitted = LinearPath(w=w, line_search=line_search).fit(train)
    order = np.argsort(train.names(), kind="stable")
    x, names = train.vectors[order].astype(float), train.labels[order]
    y = np.array([list(fitted.card.classes).index(n) for n in names])
    wide = np.concatenate([x, np.full((90, 1), 6**-0.5)], 1)
    oracle = LogisticRegression(C=3 * 6 / (w * 90), fit_intercept=False, tol=1e-8, max_iter=5000).fit(wide, y)
    weight, bias = oracle.coef_[:, :6], oracle.coef_[:, 6] * 6**-0.5

    def objective(a, b):
        tensors = (torch.as_tensor(x), torch.as_tensor(y), torch.as_tensor(a), torch.as_tensor(b))
        return float(path_objective(*tensors, w))

    # Shifting all classes alike changes no probability; the penalty makes the sum over classes 0 at the optimum.
    own, best = objective(fitted.coefficients, fitted.intercepts), objective(weight, bias)
    assert own - best < 1e-5 * best
    np.testing.assert_allclose(fitted.coefficients, weight, atol=5e-3)
    np.testing.assert_allclose(fitted.intercepts, bias, atol=5e-3)


def test_the_closed_gradient_is_autograds() -> None:
    train = blobs(3, n=20)
    x, y = torch.from_numpy(train.vectors).double(), torch.arange(20) % 4
    path = _Path(x, y, 4, seed=0, max_iterations=1, line_search="none")
    loss = path._loss(0.7)
    grads = path.weight.grad, path.bias.grad
    weight, bias = path.weight.clone().requires_grad_(), path.bias.clone().requires_grad_()
    expected = path_objective(x, y, weight, bias, 0.7)
    expected.backward()
    assert loss == pytest.approx(expected.item())
    torch.testing.assert_close(grads[0], weight.grad)
    torch.testing.assert_close(grads[1], bias.grad)


def test_one_head_and_one_optimiser_go_along_the_path() -> None:
    train = blobs(1)
    x, y = torch.from_numpy(train.vectors), torch.arange(80) % 4
    path = _Path(x, y, 4, seed=0, max_iterations=40, line_search="none")
    optimizer = path.optimizer
    start = path.weight.clone()
    begun: list[torch.Tensor] = []
    objective = path._loss
    path._loss = lambda w: (begun.append(path.weight.clone()), objective(w))[1]  # type: ignore[method-assign]
    assert not path.solve(1e-2)
    first = path.weight.clone()
    assert torch.equal(begun[0], start)
    begun.clear()
    steps = optimizer.state[path.weight]["n_iter"]
    assert not path.solve(1e-1)
    assert torch.equal(begun[0], first)  # a warm start
    assert path.optimizer is optimizer
    assert optimizer.state[path.weight]["n_iter"] > steps  # its memory of the curvature is kept
    assert start.std() == pytest.approx(0.01, rel=0.5)
    assert not torch.equal(first, path.weight)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_going_on_along_the_path_does_not_change_what_is_kept(dtype: type[np.floating[Any]]) -> None:
    train, held = (replace(s, vectors=s.vectors.astype(dtype)) for s in (blobs(1), blobs(7, n=40, prefix="val")))
    fitted = LinearPath(smallest=1e-3, largest=1e6, num_values=4, max_iterations=60).fit(train, validation=held)
    assert fitted.card.settings["w"] != 1e6
    assert score_head(fitted, held).score() == fitted.card.settings["validation_accuracy"]


def test_the_first_best_on_validation_is_kept_and_not_refitted() -> None:
    train, validation = blobs(1), blobs(7, n=40, prefix="val")
    grid = LinearPath(smallest=1e-3, largest=1e3, num_values=4, max_iterations=60)
    fitted = grid.fit(train, validation=validation)
    accuracies = [score_head(LinearPath(w=w, max_iterations=100).fit(train), validation).score() for w in grid.values]
    assert fitted.card.settings["validation_accuracy"] == max(accuracies)
    assert fitted.card.settings["w"] == grid.values[accuracies.index(max(accuracies))]
    assert fitted.card.settings["n_train"] == 80
    alone = LinearPath(w=fitted.card.settings["w"], max_iterations=100).fit(train)
    np.testing.assert_allclose(fitted.coefficients, alone.coefficients, atol=0.02)
    assert fitted.mean is None  # neither standardised …
    assert not fitted.l2_normalize  # … nor normalised


def test_a_path_that_runs_away_goes_on_with_a_line_search(monkeypatch) -> None:
    train = blobs(1)

    def run_away(self, closure):
        closure()
        for tensor in self.param_groups[0]["params"]:
            tensor.mul_(float("inf") if self.param_groups[0]["line_search_fn"] is None else 1.0)

    monkeypatch.setattr(torch.optim.LBFGS, "step", run_away)
    fitted = LinearPath(w=1.0).fit(train)
    assert np.isfinite(fitted.coefficients).all()
    assert "line search" in fitted.card.notes[0]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="w must be > 0"):
        LinearPath(w=0)
    with pytest.raises(UsageError, match="smallest"):
        LinearPath(smallest=2, largest=1)
    with pytest.raises(UsageError, match="line_search must be one of none, strong_wolfe"):
        LinearPath(line_search="wolfe")


def test_the_profile_is_resize_256_and_centre_crop_224() -> None:
    profile = PROFILES["paper-occon"]
    assert isinstance(profile.protocols["linear"], LinearPath)
    plan = profile.plan(InputSpec(num_frames=1, size_px=224))
    assert (plan.num_views, plan.num_frames, plan.resized(300, 600)) == (1, 1, (256, 512))
    assert plan.crops(256, 512) == [(16, 144, 224)]
    small = profile.plan(InputSpec(num_frames=1, size_px=32))
    assert (small.short_side_px, small.size_px) == (37, 32)
