"""A frozen encoder as a scikit-learn transformer: paths of videos or images in, embeddings out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from unreel.api import AnyEncoder, embed, load_encoder
from unreel.core.errors import DataError, UsageError
from unreel.core.text import first_few, shown
from unreel.core.words import counted
from unreel.data.manifest import Manifest
from unreel.data.sampling import ClipPlan
from unreel.nn.encoder import Encoder
from unreel.protocols.compute import ProgressLike
from unreel.protocols.pooling import PoolingLike

_SHOWN = 5


class VideoEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Embeddings of files, for a pipeline: ``make_pipeline(VideoEmbedder("runs/first"), LogisticRegression())``.

    Nothing is learned in ``fit``: the encoder is frozen. What ``unreel.embed`` gives for a file is its row here.

    Args:
        encoder: an encoder, a run, or the path of either.
        clips, pooling, device, workers, batch_size, store, progress: as ``unreel.embed``.
        unreadable: "raise" stops at files that cannot be read; "nan" gives them rows of NaN, for an imputer.
    Attributes:
        encoder_: the encoder in use. n_features_out_: width of an embedding, known after ``fit``.
    """

    def __init__(
        self,
        encoder: AnyEncoder | None = None,
        *,
        clips: ClipPlan | None = None,
        pooling: PoolingLike = None,
        device: str | None = None,
        workers: int | None = None,
        batch_size: int | None = None,
        store: str | os.PathLike[str] | None = None,
        progress: ProgressLike = False,
        unreadable: Literal["raise", "nan"] = "raise",
    ) -> None:
        self.encoder = encoder
        self.clips = clips
        self.pooling = pooling
        self.device = device
        self.workers = workers
        self.batch_size = batch_size
        self.store = store
        self.progress = progress
        self.unreadable = unreadable

    def fit(self, X: Sequence[str | os.PathLike[str]] | NDArray[Any], y: object = None) -> VideoEmbedder:
        """Open the encoder. Raises UsageError for what are no paths, DataError for an encoder that is not there."""
        del y
        if self.encoder is None:
            raise UsageError("VideoEmbedder needs an encoder: VideoEmbedder('runs/first')")
        if self.unreadable not in ("raise", "nan"):
            raise UsageError(f"unreadable: expected 'raise' or 'nan', got {self.unreadable!r}")
        _paths(X)
        self.encoder_ = self.encoder if isinstance(self.encoder, Encoder) else load_encoder(self.encoder)
        self.n_features_in_ = 1
        return self

    def transform(self, X: Sequence[str | os.PathLike[str]] | NDArray[Any]) -> NDArray[np.float32]:
        """(N, D) float32, a row for each path in its order; a path may occur more than once.

        Args:
            X: N paths, (N,) or (N, 1).
        Raises: DataError for files that are missing, or cannot be read unless ``unreadable="nan"``.
        """
        check_is_fitted(self, "encoder_")
        paths = _paths(X)
        once = list(dict.fromkeys(paths))
        options = {
            name: getattr(self, name)
            for name in ("clips", "pooling", "device", "workers", "batch_size", "store", "progress")
        }
        found = embed(self.encoder_, Manifest.from_paths(once), **options)
        if found.faults and self.unreadable == "raise":
            causes = first_few([fault.message for fault in found.faults], _SHOWN)
            advice = "Leave them out, or set unreadable='nan'"
            raise DataError(f"{counted(len(found.faults), 'file')} cannot be read: {causes}. {advice}")
        vectors = np.full((len(once), found.vectors.shape[1]), np.nan, np.float32)
        vectors[found.rows] = found.vectors
        place = {path: i for i, path in enumerate(once)}
        return vectors[[place[path] for path in paths]]

    @property
    def n_features_out_(self) -> int:
        """Width of an embedding. Raises scikit-learn's NotFittedError before ``fit``."""
        check_is_fitted(self, "encoder_")
        return self.encoder_.num_features

    def get_feature_names_out(self, input_features: object = None) -> NDArray[Any]:
        """Names of the columns, ``embedding0`` and so on."""
        del input_features
        return np.array([f"embedding{i}" for i in range(self.n_features_out_)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        """Paths are text, not numbers, and every call reads files: scikit-learn's numeric checks do not apply."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.input_tags.string = True
        tags.no_validation = True
        tags.requires_fit = True
        return tags


def _paths(X: object) -> list[str]:
    """Paths as text. Raises UsageError, naming the first that is none."""
    if isinstance(X, str | os.PathLike):
        raise UsageError(f"expected a list of paths, got one: [{os.fspath(X)!r}]")
    column = X.to_numpy() if hasattr(X, "to_numpy") else X
    values = list(column) if isinstance(column, Sequence) else list(np.asarray(column, dtype=object))
    flat = [v[0] if isinstance(v, list | tuple | np.ndarray) and len(v) == 1 else v for v in values]
    for i, value in enumerate(flat):
        if not isinstance(value, str | os.PathLike):
            raise UsageError(f"expected paths of videos or images; number {i} is {shown(repr(value))[:80]}")
    if not flat:
        raise UsageError("expected at least one path, got none")
    return [os.fspath(value) for value in flat]
