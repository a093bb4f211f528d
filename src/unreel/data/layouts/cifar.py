"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 60,000 images of 32 × 32 px in pickled batches, written once as PNG."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import DataError
from unreel.data.layouts import common
from unreel.data.layouts.common import Entry, LayoutResult, Missing, Root
from unreel.data.layouts.objects import files_folder, write_image

_SIDE = 32


def cifar10(root: Root, *, split_number: int = 1, missing: Missing = "error", files: str | None = None) -> LayoutResult:
    """A folder that holds ``cifar-10-batches-py`` or its content.

    Expected: ``data_batch_1`` to ``data_batch_5``, ``test_batch`` and ``batches.meta``, the release for Python.
    The images are written as ``<files>/cifar10/<split>/<class>/<name>.png``, lossless, and the manifest lies there;
    images that are there already are kept. Complete data has 50,000 train and 10,000 test images of 10 classes.

    Args:
        root: the folder.
        split_number: 1, the only one.
        missing: ``skip`` takes the batches that are there, and counts the others.
        files: the folder to write to; needed.
    Raises: UsageError for another split or without ``files``; DataError for missing batches, and for files that hold
        anything but the numbers, texts, lists and arrays of bytes of the data set.
    """
    home = common.home_of("CIFAR-10", root, split_number)
    batches = {**{f"data_batch_{i}": "train" for i in range(1, 6)}, "test_batch": "test"}
    return _read("CIFAR-10", home, batches, ("batches.meta", "label_names", "labels"), None, missing, files)


def cifar100(
    root: Root, *, split_number: int = 1, missing: Missing = "error", files: str | None = None
) -> LayoutResult:
    """A folder that holds ``cifar-100-python`` or its content: ``train``, ``test`` and ``meta``.

    ``label`` is the fine class, ``label.coarse`` its super-class. Arguments and errors as ``cifar10``.
    """
    home = common.home_of("CIFAR-100", root, split_number)
    batches = {"train": "train", "test": "test"}
    fine, coarse = ("meta", "fine_label_names", "fine_labels"), ("coarse_label_names", "coarse_labels")
    return _read("CIFAR-100", home, batches, fine, coarse, missing, files)


def _read(
    data_set: str,
    home: Path,
    batches: dict[str, str],
    fine: tuple[str, str, str],
    coarse: tuple[str, str] | None,
    missing: Missing,
    files: str | None,
) -> LayoutResult:
    meta, names_key, labels_key = fine
    base = common.find_folder(home, lambda f: (f / meta).is_file() and any((f / b).is_file() for b in batches), meta)
    out = files_folder(files, "CIFAR's images") / data_set.lower().replace("-", "")
    names = _texts(base / meta, names_key)
    coarse_names = _texts(base / meta, coarse[0]) if coarse else []
    entries: list[Entry] = []
    for batch, split in batches.items():
        if not (base / batch).is_file():
            entries.append(Entry(batch, None, split, ""))
            continue
        data = read_batch(base / batch)
        pixels = _pixels(base / batch, data)
        labels = _codes(base / batch, data, labels_key, len(pixels), names)
        groups = _codes(base / batch, data, coarse[1], len(pixels), coarse_names) if coarse else [""] * len(pixels)
        for i, (label, group) in enumerate(zip(labels, groups, strict=True)):
            path = f"{split}/{label}/{batch}_{i:05d}.png"
            if not (out / path).exists():
                write_image(out / path, pixels[i])
            entries.append(Entry(path, path, split, label, labels={"coarse": group}))
    return common.assemble(data_set, out, out, entries, missing=missing, noun="images or batches")


def _pixels(path: Path, data: dict[str, Any]) -> NDArray[np.uint8]:
    """(N, 32, 32, 3) from rows of 1,024 red, 1,024 green and 1,024 blue values."""
    found = data.get("data")
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.shape[1] != 3 * _SIDE * _SIDE:
        raise DataError(f"{path}: expected 'data' of N × 3072 bytes")
    return np.ascontiguousarray(found.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1))


def _codes(path: Path, data: dict[str, Any], key: str, count: int, names: list[str]) -> list[str]:
    codes = data.get(key)
    if (
        not isinstance(codes, list)
        or len(codes) != count
        or not all(isinstance(c, int) and 0 <= c < len(names) for c in codes)
    ):
        raise DataError(f"{path}: expected {key!r}, {count} numbers from 0 to {len(names) - 1}")
    return [names[c] for c in codes]


def _texts(path: Path, key: str) -> list[str]:
    names = read_batch(path).get(key)
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: expected {key!r}, a list of names")
    return [_text(n) for n in names]


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class _Kept:
    """Stands in for numpy's arrays and types while unpickling: it keeps what it is given, and runs nothing."""

    def __init__(self, *arguments: object) -> None:
        self.code = _text(next(iter(arguments), None))
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", b"latin1"):
        raise pickle.UnpicklingError("bytes in a form that the data set does not use")
    return text.encode("latin-1")


# What the batches refer to; nothing else is looked up, so nothing in a file can run.
_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _Kept,
    ("numpy._core.multiarray", "_reconstruct"): _Kept,
    ("numpy", "ndarray"): _Kept,
    ("numpy", "dtype"): _Kept,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which no batch of the data set does")
        return _KNOWN[module, name]


def read_batch(path: Path) -> dict[str, Any]:
    """The dictionary of a pickled batch, keys as text and arrays of bytes as numpy arrays; runs nothing from the file.

    Raises: DataError where the file cannot be read, or holds anything that a batch does not.
    """
    try:
        with open(path, "rb") as stream:
            found = _Unpickler(stream, encoding="bytes").load()
        if not isinstance(found, dict):
            raise pickle.UnpicklingError(f"it holds a {type(found).__name__}, not a dictionary")
        return {_text(key): _array(value) if isinstance(value, _Kept) else value for key, value in found.items()}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{path}: not a batch of CIFAR ({error})") from None


def _array(value: _Kept) -> NDArray[np.uint8]:
    _, shape, kind, fortran, raw = value.state
    if not isinstance(kind, _Kept) or kind.code not in ("u1", "|u1") or not isinstance(raw, bytes):
        raise pickle.UnpicklingError(f"an array of {getattr(kind, 'code', kind)}; expected bytes")
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")
