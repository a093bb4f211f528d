"""Tables in other encodings: read where that is certain, else refused by name and line; never a wrong letter."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path

import numpy as np
import pytest

from unreel.cli.main import main
from unreel.core.errors import DataError
from unreel.data.manifest import Manifest
from unreel.media import encode_image

TEXT = "path,label,start_s\r\n0.png,Händewaschen,1.5\r\n1.png,Öffnen,\r\n2.png,手洗い,\r\n"
LABELS = ["Händewaschen", "Öffnen", "手洗い"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encode_image(np.zeros((8, 8, 3), np.uint8)))
    return tmp_path


def table(folder: Path, data: bytes) -> Path:
    (folder / "t.csv").write_bytes(data)
    return folder / "t.csv"


@pytest.mark.parametrize("newline", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_what_is_certain_is_read(folder: Path, encoding: str, newline: str) -> None:
    manifest = Manifest.open(table(folder, TEXT.replace("\r\n", newline).encode(encoding)))
    assert manifest.labels() == LABELS
    assert (manifest[0].start_s, manifest[1].line) == (1.5, 3)


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE])
def test_marks(folder: Path, mark: bytes) -> None:
    encoding = "utf-16-be" if mark == codecs.BOM_UTF16_BE else "utf-32-le"
    assert Manifest.open(table(folder, mark + TEXT.encode(encoding))).labels() == LABELS


@pytest.mark.parametrize(
    ("encoding", "label", "line", "byte"),
    [
        ("cp1252", "Öffnen", 3, 0xD6),
        ("latin-1", "Händewaschen", 2, 0xE4),
        ("mac-roman", "Händewaschen", 2, 0x8A),
        ("cp437", "Öffnen", 3, 0x99),
        ("shift-jis", "手洗い", 4, 0x8E),
        ("gb18030", "手洗い", 4, 0xCA),
        ("koi8-r", "рука", 4, 0xD2),
    ],
)
def test_what_is_not_is_refused_by_line(folder: Path, encoding: str, label: str, line: int, byte: int) -> None:
    lines = ["path,label", "0.png,a", "1.png,b", "2.png,c"]
    lines[line - 1] = lines[line - 1][:-1] + label
    with pytest.raises(DataError, match=rf"^t\.csv:{line}: label holds .*0x{byte:02x} is not UTF-8.*save .* CSV UTF-8"):
        Manifest.open(table(folder, "\n".join(lines).encode(encoding)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04" + bytes(60), "an Excel workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1" + bytes(60), "an old Excel workbook"),
        (b"PAR1" + bytes(60), "Parquet; name it"),
        (gzip.compress(TEXT.encode(), mtime=0), "compressed with gzip"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
        (bytes(range(256)), r"t\.csv:1: holds a NUL byte"),
        (b"path,label\n0.png,a\n1.png,\0b\n", r"t\.csv:3: holds a NUL byte"),
        (TEXT.encode("utf-16")[:-5], r"t\.csv:4: byte \d+ is not UTF-16"),
        (b"path,label\n0.png,a\n1.png,\x1b$B<j@v\x1b(B\n", r"t\.csv:3: holds letters in ISO-2022"),
        (b"\xff\xfe", "the table is empty"),
        (b'path,label\n0.png,"a\n1.png,b\n', r"t\.csv:2: a quote that opens here is never closed"),
        (b'path,label\n0.png,a\n1.png,"b"c\n', r"t\.csv:3: a cell goes on after its closing quote"),
        (b"0.png,a\n1.png,b\n", r"t\.csv:1: the first line must name the columns"),
    ],
)
def test_what_is_no_table(folder: Path, data: bytes, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "index", str(table(folder, data))]) == 1
    error = capsys.readouterr().err
    assert "t.csv" in error
    with pytest.raises(DataError, match=message):
        Manifest.open(folder / "t.csv")


def test_excel(folder: Path) -> None:
    data = "sep=;\r\npath;label;start_s;end_s\r\n0.png;ä;0,5;1,25\r\n1.png;b;;\r\n;;;\r\n".encode()
    manifest = Manifest.open(table(folder, codecs.BOM_UTF8 + data))
    assert [(r.labels["label"], r.start_s, r.end_s, r.line) for r in manifest] == [
        ("ä", 0.5, 1.25, 3),
        ("b", None, None, 4),
    ]
    with pytest.raises(DataError, match=r"t\.csv:2: start_s must be a number of seconds, with a point and not a comma"):
        Manifest.open(table(folder, b'path,start_s\n0.png,"1,500"\n'))


def test_the_cases(shared_cases: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "index", str(shared_cases / "text_not_utf8" / "cp1252.csv")]) == 1
    assert "cp1252.csv:2: label holds 'H\\xe4ndewaschen': the byte 0xe4 is not UTF-8" in capsys.readouterr().err
    manifest = Manifest.from_csv(shared_cases / "unclear_messages" / "utf16.csv", check=False)
    assert {row.labels["label"] for row in manifest} == {"left", "right"}
