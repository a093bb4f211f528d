"""Arrays in, scores out: how frozen features are put to a test.

A *profile* is a named set of protocols. ``standard`` selects on validation, scores the whole test part and averages
the views' vectors.
"""

from unreel.core.errors import unknown_name
from unreel.protocols.knn import KNN
from unreel.protocols.linear import LinearProbe
from unreel.protocols.protocol import FeatureProtocol, FeatureSet, FittedProtocol, Outcomes
from unreel.protocols.retrieval import Retrieval

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
    "FeatureProtocol",
    "FeatureSet",
    "FittedProtocol",
    "LinearProbe",
    "Outcomes",
    "Retrieval",
    "get_protocol",
]
