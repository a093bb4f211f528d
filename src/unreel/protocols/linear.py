"""Linear heads: logistic regression, its regularisation chosen on validation, and the literature's support vectors.

The optimisers are scikit-learn's; what is here is the discipline around them: groups, selection, refit, views.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from unreel.core.checks import Count, Fraction, Positive, checked
from unreel.core.errors import UsageError
from unreel.protocols.head import HEADS, HeadCard, Predictions, softmax
from unreel.protocols.protocol import class_card, encode, training_parts
from unreel.protocols.samples import FeatureSet, Inputs, as_features

ViewRule: TypeAlias = Literal["vectors", "probabilities", "logits"]
HeadViewRule: TypeAlias = Literal["vectors", "probabilities", "logits", "scores"]
SVMViewRule: TypeAlias = Literal["vectors", "scores"]


def average_views(logits: NDArray[np.float64], rule: HeadViewRule) -> NDArray[np.float64]:
    """(N, V, C) logits to (N, C) probabilities.

    ``probabilities`` averages softmax over views (CVRL, docs/methods/evaluation.md, CVRL's linear probe); ``logits``
    averages logits (TCGL, docs/methods/evaluation.md, TCGL's fine-tuning). They can disagree: one confident view weighs
    more among logits.
    """
    if rule == "logits":
        return softmax(logits.mean(1))
    if rule == "probabilities":
        averaged: NDArray[np.float64] = softmax(logits).mean(1)
        return averaged
    raise UsageError(f"views: {rule!r} averages vectors before the head; expected 'probabilities' or 'logits'")


@dataclass(frozen=True)
class FeatureScaling:
    """What is done to a feature vector before the head: L2 normalisation, then standardisation with training values."""

    l2_normalize: bool
    mean: NDArray[np.float64] | None = None
    scale: NDArray[np.float64] | None = None

    @classmethod
    def fit(cls, vectors: NDArray[Any], *, l2_normalize: bool, standardize: bool) -> FeatureScaling:
        """Measure mean and standard deviation per feature on training vectors (..., D)."""
        if not standardize:
            return cls(l2_normalize)
        rows = cls(l2_normalize)(vectors).reshape(-1, vectors.shape[-1]).astype(np.float64)
        scale = rows.std(0)
        # A feature that never moves carries nothing; dividing by its rounding noise would make it the loudest.
        scale[scale < 1e-6 * max(float(scale.max()), 1e-30)] = 1.0
        return cls(l2_normalize, rows.mean(0), scale)

    def __call__(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Scaled vectors of the same shape and dtype."""
        out = vectors
        if self.l2_normalize:
            out = out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-12)
        if self.mean is not None and self.scale is not None:
            out = (out - self.mean) / self.scale
        return out.astype(vectors.dtype)


@HEADS.register("linear")
@dataclass(frozen=True)
class FittedLinear:
    """A linear layer on scaled features: ``coefficients`` (C, D) and ``intercepts`` (C,).

    ``views`` says what is averaged over the views of a sample: vectors before the layer, or what comes out of it.
    "scores" (a support vector machine's) averages outputs and has no probabilities.
    """

    card: HeadCard
    coefficients: NDArray[np.float64]
    intercepts: NDArray[np.float64]
    views: HeadViewRule = "vectors"
    l2_normalize: bool = False
    mean: NDArray[np.float64] | None = None
    scale: NDArray[np.float64] | None = None
    has_probabilities: bool = True
    form: ClassVar[str] = "linear"

    def logits(self, vectors: NDArray[Any]) -> NDArray[np.float64]:
        """Feature vectors (..., D) to logits, or signed distances in units of the margin, (..., C)."""
        scaled = FeatureScaling(self.l2_normalize, self.mean, self.scale)(vectors)
        out: NDArray[np.float64] = scaled.astype(np.float64) @ self.coefficients.T + self.intercepts
        return out

    def predict(self, inputs: Inputs) -> Predictions:
        """Classes, the views of a sample averaged by the head's rule. Errors as ``Head.predict``."""
        features = as_features(inputs, self.coefficients.shape[1])
        outside = features.vectors.ndim == 3 and self.views != "vectors"
        logits = self.logits(features.vectors if outside else features.mean_over_views().vectors)
        if not self.has_probabilities:
            return Predictions("classes", self.card, scores=logits.mean(1) if outside else logits)
        shares = average_views(logits, self.views) if outside else softmax(logits)
        return Predictions("classes", self.card, scores=shares, probabilities=shares)


def as_rows(samples: FeatureSet, views: HeadViewRule) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Training rows: one per sample, or one per view where views are averaged after the head."""
    if views == "vectors" or samples.vectors.ndim == 2:
        return samples.mean_over_views().vectors, samples.labels, 1
    num_views = samples.vectors.shape[1]
    return samples.vectors.reshape(-1, samples.num_features), np.repeat(samples.labels, num_views), num_views


def converges(model: Any, x: NDArray[Any], y: NDArray[np.int64]) -> bool:
    """Fit a model of scikit-learn, and say whether it converged; it does not warn."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(x, y)
    return not any(issubclass(w.category, ConvergenceWarning) for w in caught)


def _planes(model: Any, side: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients and intercepts of a fitted model; of two classes, its one plane as ``side`` of each class."""
    weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) * side, np.concatenate([-bias, bias]) * side
    return weight, bias


class _Regression:
    """One L-BFGS problem solved for several C, each from the last solution."""

    def __init__(
        self, x: NDArray[Any], y: NDArray[np.int64], num_views: int, max_iterations: int, *, balanced: bool = False
    ) -> None:
        self.x, self.y, self.num_views = x, y, num_views
        self.model = LogisticRegression(
            solver="lbfgs",
            max_iter=max_iterations,
            tol=1e-4,
            warm_start=True,
            class_weight="balanced" if balanced else None,
        )
        self.converged = True

    def solve(self, c: float) -> None:
        # Views of one sample share its weight, so that C means the same for any number of views.
        self.model.set_params(C=c / self.num_views)
        self.converged = converges(self.model, self.x, self.y)

    def head(self, num_classes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coefficients (C, D) and intercepts (C,) of a softmax over all classes; −inf for classes not in this part."""
        weight, bias = _planes(self.model, side=0.5)  # of two classes: softmax of (−z/2, z/2) is their probability
        full_weight = np.zeros((num_classes, weight.shape[1]))
        full_bias = np.full(num_classes, -np.inf)
        full_weight[self.model.classes_], full_bias[self.model.classes_] = weight, bias
        return full_weight, full_bias


@checked
@dataclass(frozen=True)
class LinearProbe:
    """Logistic regression with an L2 penalty, C chosen on validation, refitted on training and validation together.

    Args:
        c: one value (no selection), or ``None`` to go through ``c_values``.
        c_values: ascending; each starts from the last solution. The path ends early once accuracy has not risen
            and log loss has grown twice in a row. Best accuracy wins, then lower log loss.
        l2_normalize: divide each vector by its length (CVRL's probe, docs/methods/evaluation.md, CVRL's linear probe).
        standardize: zero mean and unit variance per feature, measured on training samples.
        views: with (N, V, D) features: ``vectors`` averages them first; ``probabilities`` and ``logits`` train on
            every view and average behind the head.
        validation_fraction: share of each class kept for selection, cut by whole groups.
        balanced: all classes weigh the same, however many samples they have, in fitting and in the choice of C.
        max_iterations: of L-BFGS; a fit that needs more is noted.
    """

    c: Positive | None = None
    c_values: tuple[Positive, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4)
    l2_normalize: bool = False
    standardize: bool = True
    views: ViewRule = "vectors"
    validation_fraction: Fraction = 0.2
    max_iterations: Count = 1000
    name: str = "linear"
    balanced: bool = False

    def __post_init__(self) -> None:
        if not self.c_values or list(self.c_values) != sorted(self.c_values):
            raise UsageError(f"c_values: expected ascending positive numbers, got {self.c_values}")

    def fit(self, train: FeatureSet, *, validation: FeatureSet | None = None, seed: int = 0) -> FittedLinear:
        """Choose C and fit. Errors as ``FeatureProtocol.fit``."""
        fraction = self.validation_fraction if self.c is None else None
        parts = training_parts(train, validation, fraction=fraction, seed=seed)
        settings: dict[str, object] = {
            "l2_normalize": self.l2_normalize,
            "standardize": self.standardize,
            "views": self.views,
            "n_train": len(parts.everything),
            **({"balanced": True} if self.balanced else {}),
        }
        notes = parts.notes
        c = self.c if self.c is not None else 1.0
        if self.c is None and parts.validation is not None and len(np.unique(parts.train.labels)) > 1:
            c, tried = self._choose(parts.train, parts.validation, parts.classes)
            settings |= {
                "c_chosen_on": len(parts.validation),
                "validation_accuracy": tried[c][0],
                "path": sorted(tried),
            }
            # At an end of the path for another reason than a perfect score, a better value may lie beyond.
            if c == self.c_values[-1] and tried[c][0] < 1:
                notes = (*notes, f"C={c:g} is the largest tried: a larger one may be better")
        scaling, regression = self._problem(parts.everything, parts.classes)
        regression.solve(c)
        if not regression.converged:
            notes = (*notes, f"L-BFGS stopped after {self.max_iterations} iterations before convergence")
        weight, bias = regression.head(len(parts.classes))
        settings |= {"c": c, "converged": regression.converged}
        card = class_card(self.name, parts.classes, parts.everything.labels, settings, notes)
        return FittedLinear(card, weight, bias, self.views, **vars(scaling))

    def _problem(self, samples: FeatureSet, classes: NDArray[Any]) -> tuple[FeatureScaling, _Regression]:
        rows, labels, num_views = as_rows(samples, self.views)
        scaling = FeatureScaling.fit(rows, l2_normalize=self.l2_normalize, standardize=self.standardize)
        codes = encode(labels, classes)
        return scaling, _Regression(scaling(rows), codes, num_views, self.max_iterations, balanced=self.balanced)

    def _choose(
        self, train: FeatureSet, validation: FeatureSet, classes: NDArray[Any]
    ) -> tuple[float, dict[float, tuple[float, float]]]:
        """The C of best validation accuracy; and C → (accuracy, log loss) of those tried."""
        scaling, regression = self._problem(train, classes)
        truth = encode(validation.labels, classes)
        shares = 1 / np.bincount(truth, minlength=len(classes)).clip(1)[truth]

        def mean(values: NDArray[Any]) -> float:  # rounded, so that equal sums are ties
            return round(float(np.average(values, weights=shares)), 12) if self.balanced else float(values.mean())

        tried: dict[float, tuple[float, float]] = {}
        best, worse = (-1.0, np.inf), 0
        for c in self.c_values:
            regression.solve(c)
            weight, bias = regression.head(len(classes))
            head = FittedLinear(HeadCard(self.name), weight, bias, self.views, **vars(scaling))
            probabilities = head.predict(validation).probabilities
            assert probabilities is not None
            right = mean(probabilities.argmax(1) == truth)
            loss = mean(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12)))
            tried[c] = (right, loss)
            worse = worse + 1 if right <= best[0] and loss > best[1] else 0
            if (-right, loss) < (-best[0], best[1]):
                best = (right, loss)
            if worse == 2:
                break
        return min(tried, key=lambda c: (-tried[c][0], tried[c][1])), tried


@checked
@dataclass(frozen=True)
class LinearSVM:
    """L2-regularised squared hinge, one class against the rest, solved in the primal.

    Source: docs/methods/evaluation.md, Linear SVM.

    Nothing is selected, so validation samples are trained on too. The solver is scikit-learn's (LIBLINEAR's trust
    region method), whose intercept is regularised like the weights.

    Args:
        c: weight of the loss against the penalty; 100 is TCGL's.
        views: with (N, V, D) features: ``scores`` trains on every view and averages decision values; ``vectors``
            averages features first.
        l2_normalize, standardize: what is done to features before; nothing in TCGL's release.
        max_iterations: the most iterations of the solver, for each class; a fit that needs more is noted.
    """

    c: Positive = 100.0
    views: SVMViewRule = "scores"
    l2_normalize: bool = False
    standardize: bool = False
    max_iterations: Count = 1000
    name: str = "svm"

    def fit(self, train: FeatureSet, *, validation: FeatureSet | None = None, seed: int = 0) -> FittedLinear:
        """Fit one hyperplane per class; ``seed`` plays no part. Errors as ``FeatureProtocol.fit``."""
        parts = training_parts(train, validation)
        everything = parts.everything
        rows, labels, num_views = as_rows(everything, self.views)
        scaling = FeatureScaling.fit(rows, l2_normalize=self.l2_normalize, standardize=self.standardize)
        # Views of one sample share its weight, so that C means the same for any number of views.
        model = LinearSVC(C=self.c / num_views, loss="squared_hinge", dual=False, max_iter=self.max_iterations)
        converged = converges(model, scaling(rows), encode(labels, parts.classes))
        notes = parts.notes
        if not converged:
            notes = (*notes, f"the solver stopped after {self.max_iterations} iterations before convergence")
        settings: dict[str, object] = {
            "c": self.c,
            "l2_normalize": self.l2_normalize,
            "standardize": self.standardize,
            "views": self.views,
            "n_train": len(everything),
            "converged": converged,
        }
        card = class_card(self.name, parts.classes, everything.labels, settings, notes)
        # Laid out as a saved head is: sums over another layout may end in another bit.
        weight, bias = (np.ascontiguousarray(a) for a in _planes(model))
        return FittedLinear(card, weight, bias, self.views, **vars(scaling), has_probabilities=False)
