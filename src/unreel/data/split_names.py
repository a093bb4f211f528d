"""What splits are called: one reading of their names, whoever asks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from unreel.core.errors import DataError
from unreel.core.text import first_few

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "devel", "development"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SPLIT_ROLES = ("train", "val", "test")

# "training set", "val_split", "train2017"
_ENDING = re.compile(r"[\s_-]*(?:set|split|data|(?:19|20)\d\d)$")
_SHOWN = 5


def split_role(name: str) -> str | None:
    """ "train", "val" or "test", in any case and with spaces around; "" for no split; None: not understood.

    A ``set``, ``split``, ``data`` or a year at the end does not matter ("Training set", "train2017"). What may mean
    several things ("eval", "holdout", "fold0", "1", "unlabeled") is not understood.

    >>> split_role(" Validation"), split_role(""), split_role("fold0")
    ('val', '', None)
    """
    plain = name.strip().casefold()
    return SPLIT_NAMES.get(plain) or SPLIT_NAMES.get(_ENDING.sub("", plain)) or (None if plain else "")


def splits_meant(wanted: str, known: Iterable[str]) -> set[str]:
    """Which of the ``known`` names of splits ``wanted`` means.

    "train", "val" and "test" mean every name of that role; any other name means itself in any case or, where nothing
    is called so, every name of its role.

    >>> sorted(splits_meant("train", ["Training", "train", "test"])), splits_meant("fold1", ["fold1", "fold2"])
    (['Training', 'train'], {'fold1'})
    """
    names, plain = set(known), wanted.strip().casefold()
    itself = {name for name in names if name.strip().casefold() == plain}
    role = split_role(wanted)
    if role and (plain in SPLIT_ROLES or not itself):
        return itself | {name for name in names if split_role(name) == role}
    return itself


def count_splits(names: Iterable[str]) -> str:
    """ "test 12, train 30, without a split 3", for messages."""
    counts = Counter(name.strip() for name in names)
    shown = [f"{name} {count}" for name, count in sorted(counts.items()) if name][: 2 * _SHOWN]
    more = ["…"] if len(counts) - ("" in counts) > len(shown) else []
    return ", ".join(shown + more + ([f"without a split {counts['']}"] if counts[""] else []))


def unclear_splits(cells: Sequence[tuple[str, str]], advice: str) -> DataError:
    """The error for names of splits that are not understood where what happens depends on them.

    Args:
        cells: where each stands ("train.csv:17"), and the name; at least one.
        advice: what else than another name would help, a sentence.
    """
    names = list(dict.fromkeys(name for _, name in cells))
    others = first_few([*map(repr, names[1:])], _SHOWN - 1)
    several = f"{len(cells)} rows in all" if len(cells) > 1 else ""
    more = "; ".join(filter(None, (f"nor {'is' if len(names) == 2 else 'are'} {others}" if others else "", several)))
    more = f" ({more})" if more else ""
    understood = "; ".join(", ".join(n for n, r in SPLIT_NAMES.items() if r == role) for role in SPLIT_ROLES)
    return DataError(
        f"{cells[0][0]}: the split {names[0]!r} is not understood{more}. Understood, in any case, are {understood}. "
        f"{advice}"
    )
