"""CVRL's linear probe: SGD at a rate of 32 on frozen features of unit length.

Source of every number: docs/methods/evaluation.md, CVRL's linear probe.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from unreel.core.checks import Amount, Count, Positive, checked
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.protocols.linear import FeatureScaling, FittedLinear, ViewRule
from unreel.protocols.protocol import class_card, encode, training_parts
from unreel.protocols.samples import FeatureSet
from unreel.train.schedule import warmup_cosine


@checked
@dataclass(frozen=True)
class SGDProbe:
    """One linear layer on cached features; nothing is selected, so validation samples are trained on too.

    Differs from the paper: features are cached, so a step sees one of the V stored views of a sample, drawn anew every
    epoch, instead of a fresh random crop. Everything else as there: no weight decay, no Nesterov, cosine with linear
    warm-up, softmax averaged over the test views, which profile ``paper-cvrl`` makes the paper's 30.

    Args:
        lr: at a batch of 1024, scaled linearly to the batch used. 32 needs ``l2_normalize``; without it 0.1 to 1.
        epochs, warmup_epochs, batch_size, momentum: 100, 5, 1024, 0.9 (docs/methods/evaluation.md, CVRL's linear
            probe). A training part smaller than the batch is one batch.
        views: ``probabilities`` (CVRL) or ``logits`` (TCGL) averages test views behind the head; ``vectors`` before.
    """

    lr: Positive = 32.0
    epochs: Count = 100
    warmup_epochs: Amount = 5
    batch_size: Count = 1024
    momentum: float = 0.9
    l2_normalize: bool = True
    views: ViewRule = "probabilities"
    name: str = "linear"

    def __post_init__(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise UsageError(f"expected warmup_epochs ≤ epochs, got {self.warmup_epochs} and {self.epochs}")

    def fit(self, train: FeatureSet, *, validation: FeatureSet | None = None, seed: int = 0) -> FittedLinear:
        """Train the layer. Errors as ``FeatureProtocol.fit``."""
        parts = training_parts(train, validation)
        everything, classes = parts.everything, parts.classes
        scaling = FeatureScaling(self.l2_normalize)
        vectors = everything.vectors if everything.vectors.ndim == 3 else everything.vectors[:, None]
        x = torch.from_numpy(np.ascontiguousarray(scaling(vectors), dtype=np.float32))
        codes = encode(everything.labels, classes)
        y = torch.from_numpy(codes)
        num, num_views, width = x.shape
        batch = min(self.batch_size, num)
        steps = -(-num // batch)
        # Not drawn anywhere, so that no global generator moves.
        layer = nn.Linear(width, len(classes), device="meta").to_empty(device="cpu")
        nn.init.zeros_(layer.weight)  # a convex problem: the start only has to be the same every time
        nn.init.zeros_(layer.bias)
        optimizer = torch.optim.SGD(layer.parameters(), lr=self.lr, momentum=self.momentum)
        base = self.lr * batch / 1024
        for epoch in range(self.epochs):
            key = Key(seed, "sgd probe", epoch)
            order = torch.from_numpy(key.child("order").permutation(num))
            view = torch.from_numpy(key.child("view").numpy().integers(0, num_views, num))
            for i in range(steps):
                rows = order[i * batch : (i + 1) * batch]
                rate = warmup_cosine(epoch * steps + i, base, self.epochs * steps, self.warmup_epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                loss = nn.functional.cross_entropy(layer(x[rows, view[rows]]), y[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        settings: dict[str, object] = {
            "lr_at_1024": self.lr,
            "epochs": self.epochs,
            "batch_size": batch,
            "l2_normalize": self.l2_normalize,
            "views": self.views,
            "n_train": num,
        }
        card = class_card(self.name, classes, everything.labels, settings, parts.notes)
        weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        return FittedLinear(card, weight, bias, self.views, **vars(scaling))
