"""The linear support vector machine of the self-supervised video literature: squared hinge, no selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from sklearn.svm import LinearSVC

from unreel.core.errors import UsageError
from unreel.protocols.linear import FeatureScaling, FittedLinear, as_rows, converges
from unreel.protocols.protocol import class_card, encode, training_parts
from unreel.protocols.samples import FeatureSet, check_width

SVMViewRule: TypeAlias = Literal["vectors", "scores"]


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

    c: float = 100.0
    views: SVMViewRule = "scores"
    l2_normalize: bool = False
    standardize: bool = False
    max_iterations: int = 1000
    name: str = "svm"

    def __post_init__(self) -> None:
        if self.c <= 0 or self.max_iterations < 1:
            raise UsageError(f"expected c > 0 and max_iterations ≥ 1, got {self.c} and {self.max_iterations}")
        if self.views not in get_args(SVMViewRule):
            raise UsageError(f"views: expected one of {', '.join(get_args(SVMViewRule))}, got {self.views!r}")

    def fit(self, train: FeatureSet, *, validation: FeatureSet | None = None, seed: int = 0) -> FittedLinear:
        """Fit one hyperplane per class; ``seed`` plays no part. Errors as ``FeatureProtocol.fit``."""
        if validation is not None:
            check_width(validation, train.num_features)
            train = train.joined(validation)
        parts = training_parts(train, None, fraction=0.2, seed=seed, needs_selection=False)
        everything = parts.everything
        rows, labels, num_views = as_rows(everything, self.views)
        scaling = FeatureScaling.fit(rows, l2_normalize=self.l2_normalize, standardize=self.standardize)
        # Views of one sample share its weight, so that C means the same for any number of views.
        model = LinearSVC(C=self.c / num_views, loss="squared_hinge", dual=False, max_iter=self.max_iterations)
        converged = converges(model, scaling(rows), encode(labels, parts.classes))
        notes = parts.notes
        if not converged:
            notes = (*notes, f"the solver stopped after {self.max_iterations} iterations before convergence")
        weight, bias = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
        if len(weight) == 1:  # two classes: one hyperplane, seen from both sides
            weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
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
        weight, bias = np.ascontiguousarray(weight), np.ascontiguousarray(bias)
        return FittedLinear(card, weight, bias, self.views, **vars(scaling), has_probabilities=False)
