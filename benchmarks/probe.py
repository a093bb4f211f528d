"""The linear probe against scikit-learn's LogisticRegression on the same features, splits and values of C.

Variants take turns within each round; ratios are medians of per-round ratios.

    python benchmarks/probe.py --out probe.json

``one C``: one fit at the same objective; both minimise the same function, so the objectives reached are compared too.
``path``: choosing C on a validation part and refitting, as ``LinearProbe`` does (each C from the last solution, path
cut short once it gets worse), against fitting every C of the grid from zero and refitting.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable

import numpy as np
import sklearn
from common import arguments, ratio, save, take_turns
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from unreel.core.keys import Key
from unreel.protocols import FeatureSet, LinearProbe
from unreel.protocols.linear import FeatureScaling
from unreel.protocols.protocol import group_cut
from unreel.tasks.classification import score_head


def features(num: int, width: int, classes: int, name: str, noise: float) -> FeatureSet:
    """Gaussian classes in a low-dimensional subspace plus noise, as pooled features of a trained net roughly are."""
    shared = Key("benchmark", "probe").numpy()
    centres = shared.normal(size=(classes, width)) @ np.diag(shared.random(width) ** 4)
    generator = Key("benchmark", "probe", name).numpy()
    labels = np.arange(num) % classes
    x = centres[labels] + noise * generator.normal(size=(num, width))
    return FeatureSet(x.astype(np.float32), labels, ids=np.array([f"{name}{i}" for i in range(num)]))


def objective(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, c: float) -> float:
    """½‖W‖² + C·Σ cross-entropy, in float64."""
    logits = x.astype(np.float64) @ weight.T + bias
    top = logits.max(1, keepdims=True)
    losses = np.log(np.exp(logits - top).sum(1)) + top[:, 0] - logits[np.arange(len(y)), y]
    return float(0.5 * (weight**2).sum() + c * losses.sum())


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--train", type=int, default=5_000)
    parser.add_argument("--test", type=int, default=2_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--noise", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    train = features(options.train, options.features, options.classes, "train", options.noise)
    test = features(options.test, options.features, options.classes, "test", options.noise)
    grid = LinearProbe().c_values

    def ours(c: float | None) -> tuple[float, float, float]:
        fitted = LinearProbe(c=c).fit(train)
        rows = FeatureScaling(fitted.l2_normalize, fitted.mean, fitted.scale)(train.vectors)
        # Classes in the probe's own order.
        codes = np.argsort(fitted.card.classes)[train.labels]
        used = float(fitted.card.settings["c"])  # type: ignore[arg-type]
        reached = objective(rows, codes, fitted.coefficients, fitted.intercepts, used)
        return score_head(fitted, test).score(), used, reached

    def theirs(c: float | None) -> tuple[float, float, float]:
        def scaled(fit_on: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
            mean, scale = fit_on.mean(0, dtype=np.float64), fit_on.std(0, dtype=np.float64)
            return [((x - mean) / scale).astype(np.float32) for x in (fit_on, *others)]

        def model(value: float) -> LogisticRegression:
            return LogisticRegression(C=value, max_iter=1000, tol=1e-4)

        if c is None:
            mask = group_cut(train)
            assert mask is not None
            inner, held = scaled(train.vectors[~mask], train.vectors[mask])
            scores = {v: model(v).fit(inner, train.labels[~mask]).score(held, train.labels[mask]) for v in grid}
            c = max(grid, key=lambda v: scores[v])
        rows, held_out = scaled(train.vectors, test.vectors)
        fitted = model(c).fit(rows, train.labels)
        reached = objective(rows, train.labels, fitted.coef_.astype(float), fitted.intercept_.astype(float), c)
        return fitted.score(held_out, test.labels), c, reached

    fixed = 0.01
    variants: dict[str, Callable[[], tuple[float, float, float]]] = {
        "one C: unreel": lambda: ours(fixed),
        "one C: scikit-learn": lambda: theirs(fixed),
        "path: unreel": lambda: ours(None),
        "path: scikit-learn": lambda: theirs(None),
    }
    with threadpool_limits(options.threads):
        answers = {name: run() for name, run in variants.items()}
        seconds = take_turns(variants, options.rounds)
    rows = {}
    for name, times in seconds.items():
        peer = seconds[name.split(":")[0] + ": scikit-learn"]
        accuracy, c, reached = answers[name]
        rows[name] = {
            "seconds_median": statistics.median(times),
            "seconds_best": min(times),
            "speed_to_scikit_learn": ratio(peer, times),
            "accuracy": accuracy,
            "c": c,
            "objective": reached,
        }
        print(
            f"{name:22s} {rows[name]['seconds_median']:7.2f} s  "
            f"{rows[name]['speed_to_scikit_learn']:5.2f} × scikit-learn  "
            f"accuracy {accuracy:.4f}  C {c:g}  objective {reached:.6g}"
        )
    result = {
        "setting": {key: value for key, value in vars(options).items() if key != "out"},
        "versions": {"scikit-learn": sklearn.__version__, "numpy": np.__version__},
        "machine": platform.processor() or platform.machine(),
        "variants": rows,
    }
    save(options.out, result)


if __name__ == "__main__":
    main()
