"""Shifted test sets under ImageNet-9's head: renditions, sketches, corruptions, other textures.

Source: docs/methods/evaluation.md, Distribution shift.

ImageNet-R, -Sketch, -C and Stylized-ImageNet name their classes by WordNet id. Which of the nine super-classes a class
belongs to follows from WordNet's hierarchy, which is not a part of this package: give the file of any copy of it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import DataError, UsageError
from unreel.data.choice import choose_column
from unreel.data.columns import Columns
from unreel.data.manifest import Manifest, Row, Source
from unreel.data.split_names import split_role, unclear_splits
from unreel.tasks.background import VariantTask
from unreel.tasks.task import TASKS, Metric, Outcomes, source_name

SUPER_CLASSES: dict[str, str] = {
    "dog": "n02084071",
    "bird": "n01503061",
    "vehicle": "n04576211",
    "reptile": "n01661091",
    "carnivore": "n02075296",
    "insect": "n02159955",
    "instrument": "n03800933",
    "primate": "n02469914",
    "fish": "n02512053",
}
"""The nine super-classes and their roots in WordNet 3.0, the first that fits being taken: a dog is a carnivore, too.

Source: docs/methods/evaluation.md, Distribution shift.
"""
SHIFTED = "shifted"
"""The name of the shifted set among the variants where it has none of its own."""

_WNID = re.compile(r"n\d{8}")
_FILES = ("data.noun", "wordnet.is_a.txt", "meta.mat")
Hypernyms = Mapping[str, tuple[str, ...]]


def read_hypernyms(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """WordNet id of a noun → ids of what it is a kind of, from a file or a folder that holds one.

    Three forms are read: WordNet 3.0's own ``data.noun`` (instances count as kinds), ImageNet's ``wordnet.is_a.txt``
    ("<parent> <child>" a line), and ``meta.mat`` of ImageNet's development kit, whose table of classes holds the inner
    nodes too.
    Raises: DataError where there is no such file, or it is none of these.
    """
    file = Path(path)
    if file.is_dir():
        known = [file / name for name in _FILES if (file / name).is_file()]
        if not known:
            raise DataError(f"{file}: expected one of {', '.join(_FILES)} in it")
        file = known[0]
    found: dict[str, list[str]] = {}
    if file.suffix == ".mat":
        pairs = _from_kit(file)
    else:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
        first = next((line for line in text.splitlines() if line.strip()), "")
        pairs = _from_list(file, text) if _WNID.match(first) else _from_database(file, text)
    for parent, child in pairs:
        found.setdefault(child, []).append(parent)
    if not found:
        raise DataError(f"{file}: found no kinds in it; expected one of {', '.join(_FILES)}")
    return {child: tuple(dict.fromkeys(parents)) for child, parents in found.items()}


def _from_list(file: Path, text: str) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not all(_WNID.fullmatch(f) for f in fields):
            raise DataError(f"{file.name}:{number}: expected two WordNet ids, parent and child, found {line.strip()!r}")
        pairs.append((fields[0], fields[1]))
    return pairs


def _from_database(file: Path, text: str) -> list[tuple[str, str]]:
    """Lines "offset file n words … pointers … | gloss" (wndb(5)); the licence's lines begin with a space."""
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith(" "):
            continue
        fields = line.split("|")[0].split()
        try:
            child, kind, num_words = int(fields[0]), fields[2], int(fields[3], 16)
            at = 4 + 2 * num_words
            pointers = fields[at + 1 : at + 1 + 4 * int(fields[at])]
            if kind != "n" or len(pointers) != 4 * int(fields[at]):
                raise ValueError
            for symbol, offset, part in zip(pointers[::4], pointers[1::4], pointers[2::4], strict=True):
                if symbol in ("@", "@i") and part == "n":
                    pairs.append((f"n{int(offset):08d}", f"n{child:08d}"))
        except (ValueError, IndexError):
            raise DataError(f"{file.name}:{number}: not a line of WordNet's data.noun: {line[:60]!r}") from None
    return pairs


def _from_kit(file: Path) -> list[tuple[str, str]]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        table = loadmat(file, squeeze_me=True)["synsets"]
        columns = [table[name].ravel() for name in ("ILSVRC2012_ID", "WNID", "num_children", "children")]
        wnids = {int(number): str(wnid) for number, wnid in zip(columns[0], columns[1], strict=True)}
        return [
            (str(wnid), wnids[int(child)])
            for _, wnid, count, children in zip(*columns, strict=True)
            for child in np.atleast_1d(children).ravel()[: int(count)]
        ]
    except (OSError, ValueError, KeyError, IndexError, TypeError, MatReadError) as error:
        raise DataError(f"{file}: not the development kit's table of classes ({error})") from None


def super_class(wnid: str, hypernyms: Hypernyms) -> str | None:
    """The first of the nine whose root a WordNet id is or descends from; ``None`` where it is none of them."""
    above, waiting = {wnid}, [wnid]
    while waiting:
        for parent in hypernyms.get(waiting.pop(), ()):
            if parent not in above:
                above.add(parent)
                waiting.append(parent)
    return next((name for name, root in SUPER_CLASSES.items() if root in above), None)


@TASKS.register("shift")
class ShiftTask(VariantTask):
    """ImageNet-9's head on a shifted test set of the same nine super-classes.

    Source: docs/methods/evaluation.md, Distribution shift.

    "accuracy" is that on the shifted set, all of it; "accuracy.original" that on ImageNet-9's own test part, where it
    has one; "shift_gap" the second minus the first, lower being better. Where the shifted set has the column
    ``label.corruption`` (ImageNet-C), "accuracy.<corruption>" are its parts, over all severities.

    Args:
        data: ImageNet-9's manifest (``unreel data prepare imagenet9 … --layout.splits linear``): the head is fitted on
            the training part of ``train_variant`` and chosen on its validation part.
        shifted: manifest of the shifted set (``unreel data prepare imagenet_r`` and the like), labelled by WordNet ids,
            or by the nine names. Its test part, else its validation part, is taken, or all of it where it has neither
            and no training part. Sources of other classes are left out.
        hypernyms: file of WordNet's hierarchy, see ``read_hypernyms``; not needed for labels that are the nine names.
        train_variant: as in ``VariantTask``; not asked for where the data has no column ``label.variant``.
        label, group: which columns, of both. seed: as in ``LabelTask``.
    Raises: UsageError without ``hypernyms`` where they are needed; DataError where no source of the shifted set is of
        the nine classes, and as ``VariantTask``.
    """

    def __init__(
        self,
        data: Source,
        *,
        shifted: str | os.PathLike[str] | Manifest,
        hypernyms: str | os.PathLike[str] | None = None,
        train_variant: str = "original",
        label: str | None = None,
        group: str | None = None,
        seed: int = 0,
    ) -> None:
        meant = Columns(label=label, group=group)
        known, other = Manifest.open(data, columns=meant), Manifest.open(shifted, columns=meant)
        kinds = read_hypernyms(hypernyms) if hypernyms is not None else None
        base = _own_rows(known, train_variant)
        if not any(row.split == "train" for row in base):
            raise DataError(f"{os.path.basename(known.root)}: no training source of variant {train_variant!r}")
        moved, told = _shifted_rows(other, kinds, same=known.root == other.root)
        root = os.path.commonpath([known.root, other.root])
        rows = [*_below(root, known, base), *_below(root, other, moved)]
        super().__init__(
            Manifest(root, tuple(rows)),
            train_variant=train_variant,
            main=SHIFTED,
            label="label",
            group="group" if any(row.groups for row in rows) else None,
            seed=seed,
        )
        assert isinstance(self.data, Manifest)
        has = "corruption" in self.data.label_names
        self._corruptions = np.array(self.data.labels("corruption") if has else [""] * len(self.data))
        #: The corruptions of the shifted set; none where it has no such column.
        self.corruptions = tuple(sorted({*self._corruptions[self.roles == "test"].tolist()} - {""}))
        self._train_variant = train_variant
        self.source = f"{source_name(data)} against {source_name(shifted)}"
        self.notes = (*self.notes, *told)

    def direction(self, variant: str) -> bool | None:
        return True

    def differences(self) -> Mapping[str, tuple[str, str]]:
        """What the shift costs, where ImageNet-9's own test part is there."""
        return {"shift_gap": (self._train_variant, SHIFTED)} if self._train_variant in self.tested else {}

    def metrics(self, outcomes: Outcomes) -> tuple[Metric, ...]:
        """As ``VariantTask``, then each corruption."""
        name = outcomes.primary
        parts = (Metric(f"{name}.{part}", statistic=partial(self._of, variant=part)) for part in self.corruptions)
        return (*super().metrics(outcomes), *parts)

    def is_of(self, variant: str) -> NDArray[np.bool_]:
        """Which sources of the data are of a variant, or of a corruption."""
        return np.asarray(self._corruptions == variant) if variant in self.corruptions else super().is_of(variant)


def _role(row: Row) -> str:
    return split_role(row.split) or row.split


def _own_rows(manifest: Manifest, variant: str) -> list[Row]:
    """Rows of one variant with the columns that the joint manifest has."""
    names = [name for name in manifest.label_names if name not in ("variant", "corruption")]
    column = choose_column("label", manifest.columns.label or None, names, required=True)
    together = choose_column("group", manifest.columns.group or None, manifest.group_names, required=False)
    has = "variant" in manifest.label_names
    rows = []
    for row in manifest:
        if has and row.labels.get("variant", "") != variant:
            continue
        labels = {"label": row.labels.get(column, ""), "variant": variant}
        groups = {"group": row.groups.get(together, "")}
        rows.append(replace(row, split=_role(row), labels=labels, groups=groups))
    return rows


def _shifted_rows(manifest: Manifest, kinds: Hypernyms | None, *, same: bool) -> tuple[list[Row], list[str]]:
    """Rows of the nine classes as test rows, and notes on what was taken."""
    set_name = os.path.basename(manifest.root)
    names = [name for name in manifest.label_names if name not in ("variant", "corruption", "severity", "name")]
    column = choose_column("label", manifest.columns.label or None, names or list(manifest.label_names), required=True)
    together = choose_column("group", manifest.columns.group or None, manifest.group_names, required=False)
    roles = [_role(row) for row in manifest]
    part = next((name for name in ("test", "val", "") if name in roles), None)
    unclear = [i for i, row in enumerate(manifest) if split_role(row.split) is None]
    if unclear and part != "test":
        cells = [(manifest.where(i), roles[i]) for i in unclear]
        raise unclear_splits(cells, "Name the split to test on test, or leave the split column out to test on all rows")
    if part is None:
        raise DataError(f"{set_name}: the shifted set has training rows only; mark those to test on as test")
    classes = {value: _class_of(value, kinds) for value in {*manifest.labels(column)} - {""}}
    rows, elsewhere = [], 0
    for i, row in enumerate(manifest):
        if roles[i] != part:
            continue
        name = classes.get(row.labels.get(column, ""))
        if name is None:
            elsewhere += 1
            continue
        labels = {"label": name, "variant": SHIFTED, "corruption": row.labels.get("corruption", "")}
        own = row.groups.get(together, "")
        # Names of groups mean the same in both sets only where both lie in one folder.
        groups = {"group": own if same or not own else f"{SHIFTED}:{own}"}
        rows.append(replace(row, split="test", labels=labels, groups=groups))
    if not rows:
        raise DataError(
            f"{set_name}: none of its {len(classes)} classes ({', '.join(sorted(classes)[:3])} …) is one of the nine "
            "super-classes; is the file of hypernyms WordNet 3.0's?"
        )
    sizes = Counter(row.labels["label"] for row in rows)
    shown = ", ".join(f"{name} {sizes[name]}" for name in SUPER_CLASSES if name in sizes)
    told = [f"{set_name}: {len(rows)} sources of {sum(v is not None for v in classes.values())} classes ({shown})"]
    if elsewhere:
        told.append(f"{set_name}: {elsewhere} sources of classes outside the nine are left out")
    return rows, told


def _class_of(value: str, kinds: Hypernyms | None) -> str | None:
    if value in SUPER_CLASSES:
        return value
    if not _WNID.fullmatch(value):
        return None
    if kinds is None:
        raise UsageError(
            f"the class {value} is a WordNet id: give hypernyms (--task.hypernyms FILE), one of {', '.join(_FILES)}, "
            "so that its super-class can be found"
        )
    return super_class(value, kinds)


def _below(root: str, manifest: Manifest, rows: list[Row]) -> list[Row]:
    """Rows whose paths are relative to ``root``."""

    def moved(path: str) -> str:
        return Path(os.path.relpath(os.path.join(manifest.root, path), root)).as_posix() if path else ""

    return [
        replace(
            row,
            path=moved(row.path),
            frames=tuple(moved(f) for f in row.frames),
            files={name: moved(file) for name, file in row.files.items()},
        )
        for row in rows
    ]
