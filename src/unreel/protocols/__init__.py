"""Arrays in, heads out: how frozen features are put to a test."""

from unreel.protocols.clips import ArrayClips, ManifestClips, default_plan
from unreel.protocols.compute import Compute
from unreel.protocols.features import Embeddings, embed
from unreel.protocols.head import Head, HeadCard, Predictions, load_head, save_head
from unreel.protocols.knn import KNN
from unreel.protocols.linear import LinearProbe, LinearSVM
from unreel.protocols.linear_path import LinearPath
from unreel.protocols.pooling import Pooling
from unreel.protocols.protocol import FeatureProtocol
from unreel.protocols.retrieval import Hit, Retrieval, search
from unreel.protocols.samples import FeatureSet, Truth
from unreel.protocols.store import FeatureStore

__all__ = [
    "KNN",
    "ArrayClips",
    "Compute",
    "Embeddings",
    "FeatureProtocol",
    "FeatureSet",
    "FeatureStore",
    "Head",
    "HeadCard",
    "Hit",
    "LinearPath",
    "LinearProbe",
    "LinearSVM",
    "ManifestClips",
    "Pooling",
    "Predictions",
    "Retrieval",
    "Truth",
    "default_plan",
    "embed",
    "load_head",
    "save_head",
    "search",
]
