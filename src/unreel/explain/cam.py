"""The baseline with labels: a classifier's class-activation map (Zhou 2016) and Grad-CAM (Selvaraju 2017)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from unreel.core.errors import UsageError
from unreel.explain.contracam import Groups, contracam
from unreel.nn.encoder import Encoder


def classifier_cam(
    encoder: Encoder,
    classifier: nn.Module | Tensor,
    images: Tensor,
    *,
    targets: Groups | None = None,
    clamp_weights: bool = False,
    **knobs: Any,
) -> Tensor:
    """Where a classifier sees a class: the gradient of its logit weights the channels of the feature map.

    With a linear classifier on the mean of the last map this is the CAM, ReLU(Σ_k w_ck A_k); for an earlier ``layer``,
    or another classifier, Grad-CAM. Rows do not depend on each other.

    Args:
        encoder: its ``prepare`` is applied.
        classifier: embeddings (B, D) to logits (B, K), such as a fine-tuned head, or the weights (K, D) of a linear one
            (of a probe on scaled features: divided by the scale).
        images: as ``contracam`` takes them.
        targets: (B,) classes; None explains the class with the highest logit.
        clamp_weights: drop negative channel weights, as the release does by mistake (docs/methods/contracam.md, Map).
        knobs: ``expand_resolution``, ``layer``, ``upsample``, ``norm`` … of ``CamSettings``, and ``chunk``.
    Returns: (B, 1, H, W) for images, (B, 1, T, H, W) for clips, in [0, 1].
    Raises: UsageError as ``contracam``; for weights or targets that do not fit.
    """
    if isinstance(classifier, Tensor):
        if classifier.ndim != 2 or classifier.shape[1] != encoder.num_features:
            raise UsageError(
                f"weights of a classifier are (classes, {encoder.num_features}) for this encoder, "
                f"got {tuple(classifier.shape)}"
            )
        head: nn.Module = nn.Linear(classifier.shape[1], len(classifier), bias=False)
        like = next(encoder.parameters(), classifier)
        head.weight = nn.Parameter(classifier.detach().to(like.device, like.dtype), requires_grad=False)
    else:
        head = classifier
    return contracam(encoder, head, images, targets=targets, score="supervised", clamp_weights=clamp_weights, **knobs)
