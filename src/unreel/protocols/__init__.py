"""Arrays in, heads out: how frozen features are put to a test.

A *profile* is a named set of protocols with the test clips and the pooling their features are made with. ``standard``
selects on validation, scores the whole test part and averages the views' vectors, of clips as the encoder was trained.
``paper-tcgl`` is the retrieval of the video order papers, and a linear SVM, on pooled maps of ten clips (tcgl.md §6.2).
``paper-occon`` is the object-aware paper's linear evaluation of images (object_aware.md §5.3).
"""

from unreel.core.errors import unknown_name
from unreel.data.sampling import ClipPlan
from unreel.protocols.features import ArrayClips, Embeddings, ManifestClips, default_plan, embed
from unreel.protocols.head import Head, HeadCard, Predictions, load_head, save_head
from unreel.protocols.knn import KNN
from unreel.protocols.linear import LinearProbe
from unreel.protocols.linear_path import LinearPath
from unreel.protocols.pooling import Pooling
from unreel.protocols.profile import Profile, TrainedOn
from unreel.protocols.protocol import FeatureProtocol
from unreel.protocols.retrieval import Hit, Retrieval, search
from unreel.protocols.samples import FeatureSet, Truth
from unreel.protocols.store import FeatureStore
from unreel.protocols.svm import LinearSVM

PROTOCOLS: dict[str, FeatureProtocol] = {
    "linear": LinearProbe(),
    "knn": KNN(),
    "retrieval": Retrieval(),
    "svm": LinearSVM(),
}
"""Every protocol with its usual settings, for a profile that has none of that name."""

PROFILES: dict[str, Profile] = {
    "standard": Profile({name: PROTOCOLS[name] for name in ("linear", "knn", "retrieval")}),
    # tcgl.md §6.2: ten clips of 16 frames, frames resized to 128 × 171, centre crop of 112; the whole train part.
    "paper-tcgl": Profile(
        {"retrieval": Retrieval(ks=(1, 5, 10, 20, 50), exclude="source"), "svm": LinearSVM()},
        clips=ClipPlan(
            num_frames=16,
            stride=1,
            num_clips=10,
            num_crops=1,
            size_px=112,
            short_side_px=128,
            rule="tcgl",
            resize_px=(128, 171),
        ),
        trained=TrainedOn(num_frames=16, size_px=112),
        pooling=Pooling("max", (1, 2, 2)),
    ),
    # object_aware.md §5.3: one image, its shorter side resized to 256, centre crop of 224.
    "paper-occon": Profile(
        {"linear": LinearPath()},
        clips=ClipPlan(num_frames=1, stride=1, num_clips=1, num_crops=1, size_px=224, short_side_px=256),
        trained=TrainedOn(num_frames=1, size_px=224),
    ),
}


def get_protocol(name: str, *, profile: str = "standard") -> FeatureProtocol:
    """A protocol by name: the profile's, or with its usual settings where the profile has none of that name.

    Raises: UsageError, with the nearest names, for an unknown one.
    """
    if profile not in PROFILES:
        raise unknown_name("profile", profile, PROFILES)
    known = {**PROTOCOLS, **PROFILES[profile].protocols}
    if name not in known:
        raise unknown_name("protocol", name, known)
    return known[name]


__all__ = [
    "KNN",
    "PROFILES",
    "PROTOCOLS",
    "ArrayClips",
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
    "Profile",
    "Retrieval",
    "TrainedOn",
    "Truth",
    "default_plan",
    "embed",
    "get_protocol",
    "load_head",
    "save_head",
    "search",
]
