"""Does the accuracy that ``predict`` announces hold? Twenty labels, the rest held out, ten times for each label column.

    python benchmarks/expected_accuracy.py            # minutes; writes docs/results/expected_accuracy.json and .md
    python benchmarks/expected_accuracy.py --render   # the page again, from the JSON

Groups are shuffled by a seed. Half of them are held out; twenty clips of the other half are labelled, at random. A head
is fitted on the twenty, as ``unreel predict`` does; its interval is kept, and its accuracy on all held-out clips.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import COLLECTIONS_ROOT, RESULTS, arguments, fill, load, save
from numpy.typing import NDArray

from unreel.core.keys import Key
from unreel.data.manifest import Manifest
from unreel.data.synthetic import ActionWorld
from unreel.nn import create_encoder
from unreel.protocols import Embeddings, FeatureSet, LinearProbe, embed
from unreel.protocols.calibration import LEVEL, fit_calibrated

LABELS = 20
REPEATS = 10
ENCODER = "efficientnet_lite0"
# Collection → the columns of its table for the file, what must stay together, and the labels.
TABLES = {
    "covid_blues": ("video", "patient", ("bluepoint", "severity", "a_lines", "b_lines")),
    "fight_surv": ("clip", "source_group", ("label",)),
    "pocus_lung": ("clip", "patient_group", ("label",)),
}


class Collection(NamedTuple):
    """A collection, embedded: what must stay together and the labels, clip by clip."""

    name: str
    embeddings: Embeddings
    groups: NDArray[Any]
    labels: Mapping[str, NDArray[Any]]


def collections(root: Path, store: Path | None) -> Iterator[Collection]:
    """A built-in world, and the real collections that are there."""
    encoder = create_encoder(ENCODER)
    options: dict[str, Any] = {"workers": 0, "progress": False, "store": store}
    with tempfile.TemporaryDirectory() as folder:
        world = Manifest.open(ActionWorld(77, 120, 0, size_px=64, num_frames=16, audio_rate_hz=0).write(folder))
        found = embed(encoder, world, **options)
        names = {name: np.array(world.labels(name))[found.rows] for name in world.label_names}
        yield Collection("built-in world", found, found.ids, names)
    if (root / "clothing_small").is_dir():
        pictures = Manifest.open(root / "clothing_small")
        found = embed(encoder, pictures, **options)
        yield Collection("clothing_small", found, found.ids, {"label": np.array(pictures.labels())[found.rows]})
    for name, (file, group, labels) in TABLES.items():
        if not (root / name / "labels.csv").is_file():
            continue
        with (root / name / "labels.csv").open(encoding="utf-8") as stream:
            rows = [{k: v.strip() for k, v in row.items()} for row in csv.DictReader(stream)]
        if name == "pocus_lung":
            rows = [row for row in rows if row["label"] != "viral"]  # two clips
        place = root / name / ("lus_videos" if name == "covid_blues" else "")
        found = embed(encoder, [place / row[file] for row in rows], **options)
        column = {key: np.array([row[key] for row in rows])[found.rows] for key in (group, *labels)}
        yield Collection(name, found, column[group], {key: column[key] for key in labels})


def once(vectors: NDArray[Any], labels: NDArray[Any], groups: NDArray[Any], seed: int) -> dict[str, Any] | None:
    """One repeat: what was announced, and what came; None where the twenty have one class."""
    rng = Key(seed, "expected accuracy").numpy()
    units = rng.permutation(np.unique(groups))
    known = np.flatnonzero(np.isin(groups, units[: len(units) // 2]))
    few, others = (
        rng.choice(known, min(LABELS, len(known)), replace=False),
        np.flatnonzero(~np.isin(groups, units[: len(units) // 2])),
    )
    if len(np.unique(labels[few])) < 2:
        return None
    samples = FeatureSet(vectors[few], labels[few], groups[few], np.array([f"{i:05d}" for i in few]))
    head = fit_calibrated(LinearProbe(c=1.0), samples, others=len(others), seed=seed)
    expected = head.card.expected
    if expected is None:
        return None
    came = float(np.mean(head.predict(vectors[others]).labels == labels[others]))
    about = {"expected": expected.accuracy, "low": expected.low, "high": expected.high}
    inside = bool(expected.low - 1e-9 <= came <= expected.high + 1e-9)
    return {**about, "groups": expected.groups, "others": len(others), "came": came, "inside": inside}


def measure(root: Path, seed: int, store: Path | None) -> dict[str, Any]:
    rows = []
    for one in collections(root, store):
        for label, names in one.labels.items():
            cases = [once(one.embeddings.vectors, names, one.groups, seed + i) for i in range(REPEATS)]
            kept = [case for case in cases if case is not None]
            rows.append({"data": one.name, "label": label, "classes": len(np.unique(names)), "cases": kept})
            print(one.name, label, sum(case["inside"] for case in kept), "of", len(kept), flush=True)
    return {"labels": LABELS, "level": LEVEL, "encoder": ENCODER, "seed": seed, "rows": rows}


def render(found: Mapping[str, Any]) -> str:
    """The page, every number from the JSON beside it."""
    return fill("expected_accuracy", globals(), found=found)


def main() -> None:
    parser = arguments(__doc__, out=False)
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "expected_accuracy.json", help="the JSON; the page is beside it"
    )
    parser.add_argument("--root", type=Path, default=COLLECTIONS_ROOT, help="where the collections are")
    parser.add_argument("--seed", type=int, default=20, help="of the first repeat")
    parser.add_argument("--store", type=Path, help="a folder that keeps the embeddings")
    parser.add_argument("--render", action="store_true", help="write the page from the JSON, measure nothing")
    options = parser.parse_args()
    if not options.render:
        save(options.out, measure(options.root, options.seed, options.store))
    options.out.with_suffix(".md").write_text(render(load(options.out)), encoding="utf-8")


if __name__ == "__main__":
    main()
