"""The page of a run that has ended: views of its first samples, whether it collapsed, some files as it sees them."""

from __future__ import annotations

import logging
from typing import Any

import torch

from unreel.core.errors import UnreelError
from unreel.data.batch import Batch
from unreel.nn import Encoder
from unreel.protocols.compute import Compute
from unreel.protocols.store import FeatureStore
from unreel.recipes.build import Prepared
from unreel.report import html
from unreel.report.overview import LEAST, overview
from unreel.train.backend import Backend
from unreel.train.health import collapsed
from unreel.train.run import Run, add_note

log = logging.getLogger(__name__)

COLLAPSED = (
    "the embeddings of different samples are all but equal: the encoder has collapsed and tells nothing apart. Try a "
    "lower learning rate, a slower teacher (method.momentum) or another method"
)
_COMPARED = 16
_SEEN = 200
# To see a file takes about as long as to train on one: 3 % of a run.
_TRAINED_FOR_ONE_SEEN = 40


def write_first_page(prepared: Prepared, run: Run) -> None:
    """Write ``report.html`` of a run that is complete, and what it shows besides the run's records."""
    views = first_views(prepared, samples=min(_COMPARED, len(prepared.manifest)))
    if collapsed(_embedded(prepared.method.encoder, views)):
        add_note(run, COLLAPSED)
    html.save_views(run.path, views)
    _look(prepared, run)
    html.write_report(run.path)


def _look(prepared: Prepared, run: Run) -> None:
    """Keep what the encoder makes of some of the data, where that takes little beside the training."""
    trained = prepared.loader.batch_size * int(run.environment["identity"]["steps"])
    most = min(_SEEN, trained // _TRAINED_FOR_ONE_SEEN)
    if min(most, len(prepared.manifest)) < LEAST:
        return
    device = Backend(**prepared.settings.arguments("train", Backend)).device
    compute = Compute(device=device, store=FeatureStore.usual(run.path))
    try:
        found = overview(run.load_encoder(), prepared.manifest, source=prepared.source, most=most, compute=compute)
        found.keep(run.path)
    except UnreelError as error:
        log.warning("%s: the report shows no map of the data: %s", run.path, error)


@torch.no_grad()
def _embedded(encoder: Encoder, views: Batch) -> Any:
    """The first views' embeddings (B, D), in evaluation mode."""
    device, training = next(encoder.parameters()).device, encoder.training
    try:
        vectors = encoder.eval()(encoder.prepare(views.views[0].data.to(device)))
    finally:
        encoder.train(training)
    return vectors.float().cpu().numpy()


def first_views(prepared: Prepared, *, samples: int = 6) -> Batch:
    """The first samples of the run's first batch as the method sees them: views applied, on the CPU."""
    return prepared.method.views.apply(prepared.loader.first(samples))
