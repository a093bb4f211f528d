"""From the bytes of a table to its text: read where the encoding is certain, refused by name and line where not."""

from __future__ import annotations

import codecs
from pathlib import Path

from unreel.core.errors import DataError

SAVE_AS = "save the table as CSV UTF-8"

# What other files begin with that get the name of a table.
_OTHERS = {
    b"PK\x03\x04": "an Excel workbook or another zip file; save its sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save its sheet as CSV UTF-8",
    b"PAR1": "Parquet; name it .parquet",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"BZh": "compressed with bzip2; unpack it first",
    b"\xfd7zXZ": "compressed with xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it first",
    b"SQLite format 3": "an SQLite database; save its table as CSV UTF-8",
    b"%PDF": "a PDF",
    b"{\\rtf": "a text document (RTF); save the table as CSV UTF-8",
}
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NO_TEXT = {
    "\0": "a NUL byte, as no text does: the file is damaged, or no table",
    "\x1b$": f"letters in ISO-2022 and not in UTF-8; {SAVE_AS}",
    "\x1b(": f"letters in ISO-2022 and not in UTF-8; {SAVE_AS}",
}
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")


def read_text(file: Path) -> str:
    """The text of a table in UTF-8, or in UTF-16 or UTF-32 where that is certain.

    Bytes that are no UTF-8 stay as lone surrogates (``surrogateescape``): a file's name may hold them, and whoever
    reads a cell refuses them elsewhere.

    Raises: DataError, naming the file, for what is no text.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
    for start, what in _OTHERS.items():
        if data.startswith(start):
            raise DataError(f"{file}: not a table in text; this is {what}")
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _decoded(file, data[len(mark) :], encoding)
    if b"\0" in data:
        encodings = [encoding for encoding in _WIDE if _is_certain(data, encoding)]
        if encodings:
            return _decoded(file, data, encodings[0])
    return _decoded(file, data, "utf-8")


def _is_certain(data: bytes, encoding: str) -> bool:
    """Whether the first line is plain ASCII in this encoding: read as another one, it would not be."""
    start = data[:4096]
    text = start[: len(start) // 4 * 4].decode(encoding, "replace").lstrip("\r\n")
    line = text.splitlines()[0] if text else ""
    return bool(line.strip()) and line.isascii() and line.replace("\t", "").isprintable()


def _decoded(file: Path, data: bytes, encoding: str) -> str:
    if encoding == "utf-8":
        text = data.decode(encoding, "surrogateescape")
        for sign, what in _NO_TEXT.items():
            if (place := text.find(sign)) >= 0:
                raise DataError(f"{file.name}:{_line_at(text, place)}: holds {what}")
        return text
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = _line_at(data[: error.start].decode(encoding, "replace"), len(data))
        wide = encoding[:-3].upper()
        raise DataError(
            f"{file.name}:{line}: byte {error.start} is not {wide}, as the beginning is; {SAVE_AS}"
        ) from None
    if "\0" in text:
        raise DataError(f"{file.name}:{_line_at(text, text.find(chr(0)))}: holds {_NO_TEXT[chr(0)]}")
    return text


def _line_at(text: str, place: int) -> int:
    before = text[:place].replace("\r\n", "\n").replace("\r", "\n")
    return before.count("\n") + 1
