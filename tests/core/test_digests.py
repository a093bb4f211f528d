import pytest

from unreel.core.digests import file_digest, mapping_digest
from unreel.core.errors import DataError

EDGE = 64 * 1024


def write(path, data: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_quick_digest_sees_head_tail_size_and_path(tmp_path) -> None:
    base = bytes(3 * EDGE)
    reference = file_digest(write(tmp_path / "a.mp4", base))
    changes = [b"x" + base[1:], base[:-1] + b"x", base + b"\0", base[:-1]]
    seen = {file_digest(write(tmp_path / "b" / "a.mp4", data)) for data in changes}
    assert len(seen | {reference}) == 5
    assert file_digest(write(tmp_path / "c.mp4", base)) != reference
    assert file_digest(write(tmp_path / "d" / "a.mp4", base)) == reference
    assert file_digest(tmp_path / "d" / "a.mp4", relative_to=tmp_path) != reference


@pytest.mark.parametrize("size", [0, 1, EDGE - 1, EDGE, EDGE + 1, 2 * EDGE - 1, 2 * EDGE])
def test_every_byte_of_a_small_file_counts(tmp_path, size: int) -> None:
    base = bytes(size)
    reference = file_digest(write(tmp_path / "a", base))
    for position in {0, size // 2, EDGE - 1, EDGE, size - 1} & set(range(size)):
        changed = bytearray(base)
        changed[position] = 1
        assert file_digest(write(tmp_path / "a", bytes(changed))) != reference


def test_only_the_full_digest_sees_the_middle(tmp_path) -> None:
    one = write(tmp_path / "1" / "a", bytes(3 * EDGE))
    changed = bytearray(3 * EDGE)
    changed[3 * EDGE // 2] = 1
    two = write(tmp_path / "2" / "a", bytes(changed))
    assert file_digest(one) == file_digest(two)
    assert file_digest(one, full=True) != file_digest(two, full=True)


def test_a_moved_folder_keeps_its_digests(tmp_path) -> None:
    one = write(tmp_path / "here" / "x" / "a", b"video")
    two = write(tmp_path / "there" / "x" / "a", b"video")
    assert file_digest(one, relative_to=tmp_path / "here") == file_digest(two, relative_to=tmp_path / "there")


def test_missing_file(tmp_path) -> None:
    with pytest.raises(DataError, match="none: cannot be read"):
        file_digest(tmp_path / "none")


def test_mapping_digest_ignores_key_order_only() -> None:
    assert mapping_digest({"a": 1, "b": [1, 2]}) == mapping_digest({"b": [1, 2], "a": 1})
    different = [{"a": 1}, {"a": 1.0}, {"a": "1"}, {"a": None}, {"a": [1]}, {"b": 1}, {"a": [1, 2]}, {"a": [2, 1]}]
    assert len({mapping_digest(d) for d in different}) == len(different)
    with pytest.raises(TypeError):
        mapping_digest({"a": object()})
    with pytest.raises(ValueError, match="JSON"):
        mapping_digest({"a": float("nan")})
