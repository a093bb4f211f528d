"""Arrays in, scores out: how frozen features are put to a test.

A *profile* is a named set of protocols. ``standard`` selects on validation, scores the whole test part and averages
the views' vectors.
"""

from unreel.core.errors import unknown_name
from unreel.protocols.features import ArrayClips, Embeddings, ManifestClips, default_plan, embed
from unreel.protocols.knn import KNN
from unreel.protocols.linear import LinearProbe
from unreel.protocols.protocol import FeatureProtocol, FeatureSet, FittedProtocol, Outcomes
from unreel.protocols.retrieval import Hit, Retrieval, search
from unreel.protocols.store import FeatureStore

PROFILES: dict[str, dict[str, FeatureProtocol]] = {
    "standard": {"linear": LinearProbe(), "knn": KNN(), "retrieval": Retrieval()},
}


def get_protocol(name: str, *, profile: str = "standard") -> FeatureProtocol:
    """A protocol of a profile by name. Raises UsageError, with the nearest names, for an unknown one."""
    if profile not in PROFILES:
        raise unknown_name("profile", profile, PROFILES)
    if name not in PROFILES[profile]:
        raise unknown_name("protocol", name, PROFILES[profile])
    return PROFILES[profile][name]


__all__ = [
    "KNN",
    "PROFILES",
    "ArrayClips",
    "Embeddings",
    "FeatureProtocol",
    "FeatureSet",
    "FeatureStore",
    "FittedProtocol",
    "Hit",
    "LinearProbe",
    "ManifestClips",
    "Outcomes",
    "Retrieval",
    "default_plan",
    "embed",
    "get_protocol",
    "search",
]
