import os
from hashlib import blake2b
from pathlib import Path

import pytest

from unreel.core.digests import content_digest, file_state, fingerprint, mapping_digest, place_digest
from unreel.core.errors import DataError

BASE = b"x" * 300_000
DIGESTS = {
    "place": place_digest,
    "content": content_digest,
    "edges": lambda path: fingerprint(path, Path(path).parent),
    "full": lambda path: fingerprint(path, Path(path).parent, full=True),
}


def write(path: Path, data: bytes = BASE) -> Path:
    """A file with a set time of change. One that is there already is replaced at another tick of the system's clock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_ctime_ns if path.exists() else 0
    while not path.exists() or path.stat().st_ctime_ns == before:
        path.write_bytes(data)
        os.utime(path, (1, 1))
    return path


def test_which_digest_sees_what(tmp_path: Path) -> None:
    """The place sees every change of a file, the content every byte, the fingerprint the ends."""
    file = write(tmp_path / "a.mp4")
    before = {name: of(file) for name, of in DIGESTS.items()}

    def seen(path: Path) -> set[str]:
        return {name for name, of in DIGESTS.items() if of(path) != before[name]}

    assert seen(file) == set()
    assert seen(write(tmp_path / "there" / "a.mp4")) == {"place"}
    assert seen(write(tmp_path / "b.mp4")) == {"place", "edges", "full"}
    os.utime(file, (2, 2))
    assert seen(file) == {"place"}
    middle = bytearray(BASE)
    middle[150_000] = 0
    assert seen(write(file, bytes(middle))) == {"place", "content", "full"}  # at the old time, of the old size
    for changed in (BASE[:-1], b"y" + BASE[1:], BASE[:-1] + b"y"):
        assert seen(write(file, changed)) == {"place", "content", "edges", "full"}


def test_a_link_is_what_it_points_to(tmp_path: Path) -> None:
    file = write(tmp_path / "a" / "1.mp4")
    (tmp_path / "link.mp4").symlink_to(file)
    (tmp_path / "folder").symlink_to(tmp_path / "a")
    names = {place_digest(p) for p in (file, tmp_path / "link.mp4", tmp_path / "folder" / "1.mp4")}
    assert len(names) == 1
    assert place_digest(os.path.relpath(file)) in names
    (tmp_path / "link.mp4").unlink()
    (tmp_path / "link.mp4").symlink_to(write(tmp_path / "b" / "1.mp4"))
    assert place_digest(tmp_path / "link.mp4") not in names


def test_a_folder_is_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    for i in range(3):
        write(folder / f"{i}.png", bytes([i]) * 10)
    (folder / "deeper").mkdir()
    before = {name: of(folder) for name, of in DIGESTS.items()}
    assert file_state(folder).size == 30
    write(folder / ".hidden", b"")
    write(folder / "deeper" / "x.png", b"")
    assert {name: of(folder) for name, of in DIGESTS.items()} == before
    os.rename(folder / "0.png", folder / "3.png")
    assert all(of(folder) != before[name] for name, of in DIGESTS.items())
    os.rename(folder / "3.png", folder / "0.png")
    write(folder / "1.png", bytes([9]) * 10)
    assert all(of(folder) != before[name] for name, of in DIGESTS.items())
    # A frame that is a link is its target.
    (folder / "1.png").unlink()
    targets = [write(tmp_path / name / "1.png", bytes([1]) * 10) for name in "ab"]
    (folder / "1.png").symlink_to(targets[0])
    linked = place_digest(folder)
    (folder / "1.png").unlink()
    (folder / "1.png").symlink_to(targets[1])
    assert place_digest(folder) != linked


def test_a_fingerprint_is_relative_to_a_root(tmp_path: Path) -> None:
    one, two = write(tmp_path / "here" / "cat" / "1.mp4"), write(tmp_path / "there" / "cat" / "1.mp4")
    assert fingerprint(one, tmp_path / "here") == fingerprint(two, tmp_path / "there")
    assert fingerprint(one, tmp_path / "here") != fingerprint(one, tmp_path)


def test_fingerprints_stay_what_they_were(tmp_path: Path) -> None:
    """A run that began under an older unreel goes on."""
    data = bytes(range(256)) * 1000
    expected = blake2b(b"edges\0a/1.mp4\0" + b"256000" + b"\0" + data[:65536] + data[-65536:], digest_size=16)
    assert fingerprint(write(tmp_path / "a" / "1.mp4", data), tmp_path) == expected.hexdigest()


def test_names_that_are_no_text(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path / "caf") + b"\xe9.mp4"))
    try:
        write(odd)
    except OSError:
        pytest.skip("this file system takes text only")
    assert len({of(odd) for of in DIGESTS.values()}) == len(DIGESTS)


@pytest.mark.parametrize("of", DIGESTS.values(), ids=DIGESTS)
def test_missing_file(tmp_path: Path, of) -> None:
    with pytest.raises(DataError, match="none: cannot be read"):
        of(tmp_path / "none")


def test_mapping_digest_ignores_key_order_only() -> None:
    assert mapping_digest({"a": 1, "b": [1, 2]}) == mapping_digest({"b": [1, 2], "a": 1})
    different = [{"a": 1}, {"a": 1.0}, {"a": "1"}, {"a": None}, {"a": [1]}, {"b": 1}, {"a": [1, 2]}, {"a": [2, 1]}]
    assert len({mapping_digest(d) for d in different}) == len(different)
    with pytest.raises(TypeError):
        mapping_digest({"a": object()})
    with pytest.raises(ValueError, match="JSON"):
        mapping_digest({"a": float("nan")})
