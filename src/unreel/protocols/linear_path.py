"""Linear evaluation along a path of penalties: full-batch L-BFGS with warm starts, chosen on validation.

The protocol of the object-aware paper (docs/methods/evaluation.md, Linear path): raw features, one head whose optimiser
goes on from one penalty to the next, ascending; the head that is best on validation is the one tested, without a refit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from unreel.core.checks import Count, Fraction, Positive, checked
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.protocols.linear import FittedLinear
from unreel.protocols.protocol import class_card, encode, training_parts
from unreel.protocols.samples import FeatureSet

LineSearch: TypeAlias = Literal["none", "strong_wolfe"]

# Where no validation part can be cut: the penalty's mean of squares then weighs like half a unit of cross-entropy.
_DEFAULT_W = 1.0
# A step that leaves the loss higher than this above its start, relatively, has not minimised anything.
_WORSE = 1e-3


def penalty(weight: Tensor, bias: Tensor, w: float) -> Tensor:
    """w/2 · (mean of the squared weights + mean of the squared biases): means, not sums."""
    return 0.5 * w * (weight.square().mean() + bias.square().mean())


class _Path:
    """One head and one optimiser, taken from penalty to penalty."""

    def __init__(
        self, x: Tensor, y: Tensor, num_classes: int, *, seed: int, max_iterations: int, line_search: LineSearch
    ) -> None:
        self.x, self.y = x, y
        self.max_iterations = max_iterations
        draw = Key(seed, "linear path").numpy()
        start = torch.from_numpy(draw.normal(0.0, 0.01, (num_classes, x.shape[1] + 1))).to(x)
        self.weight, self.bias = start[:, :-1].contiguous(), start[:, -1].contiguous()
        self.rows = torch.arange(len(x), device=x.device)
        self.optimizer = self._optimizer(line_search)

    def _optimizer(self, line_search: LineSearch) -> torch.optim.LBFGS:
        search = None if line_search == "none" else line_search
        return torch.optim.LBFGS([self.weight, self.bias], lr=1, max_iter=self.max_iterations, line_search_fn=search)

    def _loss(self, w: float) -> float:
        """Mean cross-entropy plus ``penalty``; leaves its gradient, in closed form, where the optimiser looks."""
        logits = torch.addmm(self.bias, self.x, self.weight.T)
        total = logits.logsumexp(1)
        loss = (total - logits[self.rows, self.y]).mean() + penalty(self.weight, self.bias, w)
        error = logits.sub_(total[:, None]).exp_()
        error[self.rows, self.y] -= 1
        error /= len(self.x)
        self.weight.grad = torch.addmm(self.weight, error.T, self.x, beta=w / self.weight.numel())
        self.bias.grad = error.sum(0).add_(self.bias, alpha=w / self.bias.numel())
        return float(loss)

    @torch.no_grad()
    def solve(self, w: float) -> bool:
        """Go on to the minimum at ``w``; whether that took a second start."""
        before = self.weight.clone(), self.bias.clone()
        first = self._loss(w)
        self.optimizer.step(lambda: self._loss(w))  # type: ignore[no-untyped-call]
        last = self._loss(w)
        restarted = not last <= first * (1 + _WORSE)
        if restarted:  # unit steps without a search may run away: once more from where it began, with one
            self.weight.copy_(before[0])
            self.bias.copy_(before[1])
            self.optimizer = self._optimizer("strong_wolfe")
            self.optimizer.step(lambda: self._loss(w))  # type: ignore[no-untyped-call]
        return restarted


@checked
@dataclass(frozen=True)
class LinearPath:
    """Multinomial logistic regression whose penalty is chosen on validation along a path.

    Source: docs/methods/evaluation.md, Linear path.

    Minimises mean cross-entropy + w/2 · (mean W² + mean b²) with full-batch L-BFGS. Weights start once from a normal
    distribution of standard deviation 0.01; each w, ascending, goes on with the weights and the optimiser of the one
    before. The first w of best validation accuracy is tested, fitted on the training part alone.

    Args:
        w: one value (no selection), or ``None`` for the path.
        smallest, largest, num_values: the path's values, evenly spaced in log w.
        max_iterations: of L-BFGS, for each w.
        line_search: "none" takes unit steps, as the paper; "strong_wolfe" searches along each. A path that runs away
            without one goes on with one, and says so.
        validation_fraction: share of each class kept for selection where the data has no validation part, cut by
            whole groups; the paper keeps 5 % of ImageNet-9 and a tenth of Food-101.
        device: where to compute; ``None``: the GPU where there is one.
    Raises: UsageError for values out of range.
    """

    w: Positive | None = None
    smallest: Positive = 1e-6
    largest: Positive = 1e5
    num_values: Count = 45
    max_iterations: Count = 1000
    line_search: LineSearch = "none"
    validation_fraction: Fraction = 0.1
    device: str | None = None
    name: str = "linear"

    def __post_init__(self) -> None:
        if self.smallest > self.largest:
            raise UsageError(f"path: expected smallest ≤ largest, got {self.smallest} and {self.largest}")

    @property
    def values(self) -> tuple[float, ...]:
        """The penalties tried, ascending."""
        if self.w is not None:
            return (self.w,)
        return tuple(float(v) for v in np.geomspace(self.smallest, self.largest, self.num_values))

    def fit(self, train: FeatureSet, *, validation: FeatureSet | None = None, seed: int = 0) -> FittedLinear:
        """Go along the path and keep the best head. Errors as ``FeatureProtocol.fit``."""
        fraction = self.validation_fraction if self.w is None else None
        parts = training_parts(train, validation, fraction=fraction, seed=seed)
        classes, notes = parts.classes, parts.notes
        held = parts.validation if self.w is None else None
        values = self.values if held is not None or self.w is not None else (_DEFAULT_W,)
        target = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        codes = encode(parts.train.labels, classes)
        path = _Path(
            _rows(parts.train, target),
            torch.from_numpy(codes).to(target),
            len(classes),
            seed=seed,
            max_iterations=self.max_iterations,
            line_search=self.line_search,
        )
        asked = None if held is None else _rows(held, target)
        truth = None if held is None else torch.from_numpy(encode(held.labels, classes)).to(target)
        best, chosen, restarts = -1, values[0], 0
        for w in values:
            restarts += path.solve(w)
            right = 0
            if asked is not None and truth is not None:
                right = int((torch.addmm(path.bias, asked, path.weight.T).argmax(1) == truth).sum())
            if right > best:
                best, chosen = right, w
                weight, bias = (t.double().cpu().numpy().copy() for t in (path.weight, path.bias))
        settings: dict[str, object] = {"w": chosen, "n_train": len(parts.train), "line_search": self.line_search}
        if held is not None:
            settings |= {"w_chosen_on": len(held), "validation_accuracy": best / len(held), "num_values": len(values)}
        if restarts:
            notes = (*notes, f"L-BFGS ran away at {restarts} of {len(values)} penalties and was run with a line search")
        if held is not None and len(values) > 1 and chosen == values[-1]:
            notes = (*notes, f"w={chosen:g} is the largest tried: a larger one may be better")
        card = class_card(self.name, classes, parts.train.labels, settings, notes)
        return FittedLinear(card, weight, bias)


def _rows(samples: FeatureSet, device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(samples.mean_over_views().vectors)).to(device)
