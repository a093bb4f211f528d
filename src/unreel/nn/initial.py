"""Start from weights that exist: of a run, of a saved encoder, of a foreign checkpoint; all of them, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from unreel.core.errors import DataError, UsageError
from unreel.nn.encoder import Encoder
from unreel.nn.inflate import InflateMode
from unreel.nn.matching import MatchReport
from unreel.nn.weights import load_weights, read_card


def initial_weights(
    encoder: Encoder,
    *,
    weights: str | None = None,
    weights_source: str = "auto",
    inflate: InflateMode | None = None,
    weights_digest: str | None = None,
) -> MatchReport | None:
    """Load weights into an encoder, in place; a depth or width that differs is refused with the reason.

    What unreel's own encoders were trained to see travels with their weights: mean, standard deviation and temporal
    high-pass of their input (docs/methods/tcgl.md, STKD).

    Args:
        encoder: left as it was when the weights do not fit.
        weights: a run's folder, an encoder's file, or a checkpoint; None loads nothing.
        weights_source: the checkpoint's kind, see ``unreel.nn.weights.load_weights``.
        inflate: turn 2-D kernels into 3-D ones by "mean" or "center".
        weights_digest: what the matched tensors must hash to; written by unreel into config.yaml, so that a run is not
            resumed from others.
    Returns: what matched; None without weights.
    Raises: DataError for a missing or damaged file; UsageError for a poor match, or weights with another digest.
    """
    if weights is None:
        return None
    try:
        card = read_card(weights)
    except DataError:
        card = {}  # a foreign checkpoint says nothing of its net and its input
    try:
        report = load_weights(encoder, Path(weights), weights_source, inflate=inflate)
    except UsageError as error:
        name = str(card.get("architecture", ""))
        hint = f" They are weights of {name}: name it as the encoder." if name not in ("", encoder.architecture) else ""
        raise UsageError(f"{error}{hint}") from None
    if weights_digest is not None and report.digest != weights_digest:
        raise UsageError(
            f"{weights} holds other weights than the settings were written for (digest {report.digest[:12]} instead "
            f"of {weights_digest[:12]}); give the old ones, or leave encoder.weights_digest out"
        )
    spec, trained_on = encoder.input_spec, card.get("input_spec", {})
    if trained_on.get("channels") == spec.channels:
        encoder.input_spec = replace(
            spec,
            mean=tuple(trained_on["mean"]),
            std=tuple(trained_on["std"]),
            dct_highpass=int(trained_on["dct_highpass"]),
        )
    return report
