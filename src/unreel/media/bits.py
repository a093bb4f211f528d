"""How many pictures a packet holds, read from its own first bits, where a codec may hold none, two, or half of one.

A container counts packets; a player shows pictures. Field pictures come two packets to a picture, not-coded pictures
and hidden references have a packet and are never shown. What can be told here without decoding need not be decoded
to be counted; what cannot, says None.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeAlias

PictureCount: TypeAlias = Callable[[bytes, bool], int | None]
"""(packet's bytes, whether it is a keyframe) to the pictures it holds, or None where only decoding tells."""

# One packet is one picture, always. Whatever is not in _COUNTERS is decoded to be counted.
_ONE_EACH = frozenset(
    {
        *("av1", "libdav1d", "libaom-av1", "mjpeg", "jpeg2000", "png", "gif", "ffv1", "huffyuv", "ffvhuff", "utvideo"),
        *("magicyuv", "prores", "dnxhd", "dvvideo", "cfhd", "rawvideo", "v210", "h263", "h263p", "flv1", "msmpeg4v2"),
        *("msmpeg4v3", "wmv1", "wmv2", "svq1", "cinepak", "msrle", "msvideo1", "qtrle", "rpza", "vp6", "vp6f"),
    }
)
_HEADER_BYTES = 64  # of a slice or picture header: enough for every field read here
_SLICE_BYTES = 12  # of a slice, as far as its frame number: 64 bits at most, and what keeps start codes apart
_HEVC_FIRST_MESSAGE, _HEVC_RESERVED = 38, 41  # kinds of NAL units (H.265, table 7-1)
_UNIT_BYTES = 512  # of a NAL unit: the longest parameter sets
_BITS_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


class PictureCounter:
    """Counts the pictures of a stream's packets, which it is given in file order. Empty packets hold none."""

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        extra = bytes(extradata or b"")
        try:
            self._count = _COUNTERS[codec](extra)
        except (KeyError, ValueError, IndexError):
            self._count = lambda data, key: None

    def __call__(self, data: bytes, key: bool) -> int | None:
        """Pictures in the next packet, from its bytes and whether it is a keyframe; None where only decoding tells."""
        try:
            return self._count(data, key)
        except (ValueError, IndexError):  # a header that breaks off
            return None

    @property
    def in_sequence(self) -> bool:
        """Whether no picture is missing so far, by the stream's own numbers; True where a codec has none."""
        return bool(getattr(self._count, "in_sequence", True))


class _Bits:
    """Bits of a header, most significant first. Raises ValueError at its end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise ValueError("the header ends early")
        return (self._value >> self._left) & ((1 << count) - 1)

    def ue(self) -> int:
        """An unsigned Exp-Golomb code (ITU-T H.264, 9.1)."""
        zeros = self._left - (self._value & ((1 << self._left) - 1)).bit_length()
        return self.take(2 * zeros + 1) - 1

    def se(self) -> int:
        """A signed Exp-Golomb code."""
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)


def _unit_places(data: bytes, length_bytes: int) -> Iterator[tuple[int, int]]:
    """Where a packet's NAL units begin and end: behind start codes, or behind lengths of ``length_bytes`` each."""
    at = 0
    while length_bytes and at + length_bytes < len(data):
        size = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        if at + size > len(data):
            raise ValueError("a unit that ends beyond its packet")
        yield at, at + size
        at += size
    if length_bytes:
        return
    at = data.find(b"\0\0\1")
    while at >= 0:
        following = data.find(b"\0\0\1", at + 3)
        yield at + 3, following if following >= 0 else len(data)
        at = following


def _units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """The heads of a packet's NAL units."""
    return (data[at : min(end, at + _UNIT_BYTES)] for at, end in _unit_places(data, length_bytes))


def _plain(unit: bytes) -> _Bits:
    """The bits of a NAL unit's head, without its emulation prevention bytes."""
    return _Bits(unit[:_HEADER_BYTES].replace(b"\0\0\3", b"\0\0"))


def _h264_length_bytes(extra: bytes) -> int:
    """Bytes before each unit of a packet that hold its length; 0 where start codes part them."""
    return (extra[4] & 3) + 1 if extra[:1] == b"\1" else 0  # avcC (ISO/IEC 14496-15, 5.3.3.1)


class _H264:
    """ITU-T H.264: fields are pictures of their own in the stream, and half of one on the screen."""

    def __init__(self, extra: bytes) -> None:
        self._sps = b""
        self._frames_only, self._number_bits, self._highest = True, 0, 0
        self._last_number: int | None = None  # frame_num of the last picture that others may refer to
        self.in_sequence = True
        self._length_bytes = _h264_length_bytes(extra)
        for unit in islice(_units(extra[6:], 2), extra[5] & 31) if self._length_bytes else _units(extra, 0):
            if unit and unit[0] & 31 == 7:
                self._read_sps(unit)

    def __call__(self, data: bytes, key: bool) -> int | None:
        for unit in _units(data, self._length_bytes):
            kind = unit[0] & 31 if unit else 0
            if kind == 7 and not self._read_sps(unit):
                return None
            if kind in (1, 2, 5):
                return self._of_slice(unit)
        return 0

    def _of_slice(self, unit: bytes) -> int | None:
        if not self._sps:
            return None
        head = unit[1:_SLICE_BYTES].replace(b"\0\0\3", b"\0\0")
        value, left = int.from_bytes(head, "big"), 8 * len(head)  # as _Bits does it, at a third of the time
        try:
            for _ in range(3):  # first_mb_in_slice, slice_type, pic_parameter_set_id
                left = 2 * (value & ((1 << left) - 1)).bit_length() - left - 1
            left -= self._number_bits
            number = value >> left & self._highest
            field = not self._frames_only and value >> (left - 1) & 1
        except ValueError:  # a header that breaks off
            self.in_sequence = False
            return 1 if self._frames_only else None
        if self._last_number is not None and unit[0] & 31 != 5:
            self.in_sequence &= number == (self._last_number + 1) & self._highest
        if unit[0] & 0x60:  # nal_ref_idc
            self._last_number = number
        return None if field else 1

    def _read_sps(self, unit: bytes) -> bool:
        """Read a sequence parameter set; False where it is another one than before."""
        unit = unit.rstrip(b"\0")
        if self._sps:
            return unit == self._sps
        self._sps = unit
        bits = _Bits(unit[1:].replace(b"\0\0\3", b"\0\0"))
        profile = bits.take(8)
        bits.take(16)
        bits.ue()
        planes = 0
        if profile in _HIGH_PROFILES:
            chroma = bits.ue()
            planes = bits.take(1) if chroma == 3 else 0
            bits.ue(), bits.ue(), bits.take(1)
            for i in range((8 if chroma != 3 else 12) if bits.take(1) else 0):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
        number_bits = bits.ue() + 4
        # separate_colour_plane_flag puts colour_plane_id, two bits, before frame_num.
        self._number_bits, self._highest = number_bits + 2 * planes, (1 << number_bits) - 1
        order = bits.ue()
        if order == 0:
            bits.ue()
        elif order == 1:
            bits.take(1), bits.se(), bits.se()
            for _ in range(bits.ue()):
                bits.se()
        bits.ue(), bits.take(1), bits.ue(), bits.ue()
        self._frames_only = bool(bits.take(1))
        return True


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def _hevc_length_bytes(extra: bytes) -> int:
    """As for H.264."""
    return (extra[21] & 3) + 1 if extra[:1] == b"\1" else 0  # hvcC (ISO/IEC 14496-15, 8.3.3.1)


class _HEVC:
    """ITU-T H.265: pictures may be marked as not shown, and leading pictures are dropped where a stream was joined."""

    def __init__(self, extra: bytes) -> None:
        self._sets: dict[tuple[int, bytes], bytes] = {}
        self._length_bytes = _hevc_length_bytes(extra)
        self._all_shown = self._ended = False
        if self._length_bytes:
            at = 23
            for _ in range(extra[22]):
                count = int.from_bytes(extra[at + 1 : at + 3], "big")
                at += 3
                for _ in range(count):
                    size = int.from_bytes(extra[at : at + 2], "big")
                    self._read_set(extra[at + 2 : at + 2 + size])
                    at += 2 + size
        else:
            for unit in _units(extra, 0):
                self._read_set(unit)

    def __call__(self, data: bytes, key: bool) -> int | None:
        ended, self._ended = self._ended, data.endswith(b"\x48\1")  # an end of sequence, in either packing
        for unit in _units(data, self._length_bytes):
            kind = (unit[0] >> 1) & 63 if len(unit) > 2 else 63
            if kind in (33, 34) and not self._read_set(unit):
                return None
            if kind < 32:
                # Broken links, and keyframes that drop what still waits to be shown.
                joined = kind in (16, 17, 18) or (16 <= kind < 24 and (ended or unit[2] & 0x40))
                return 1 if self._all_shown and not joined else None
        return 0

    def _read_set(self, unit: bytes) -> bool:
        """Remember a parameter set; False where its number stood for another one before, or it hides pictures."""
        kind = (unit[0] >> 1) & 63 if unit else 0
        if kind not in (33, 34):
            return True
        unit = unit.rstrip(b"\0")
        if kind == 33:
            return self._sets.setdefault((33, b""), unit) == unit
        if unit in self._sets.values():
            return True
        bits = _plain(unit[2:])
        number = bits.ue()
        bits.ue(), bits.take(1)
        self._all_shown = not bits.take(1)  # output_flag_present_flag
        return self._all_shown and self._sets.setdefault((34, bytes([number])), unit) == unit


def _mpeg2(extra: bytes) -> PictureCount:
    """ISO/IEC 13818-2 and 11172-2: two field pictures make one."""

    def count(data: bytes, key: bool) -> int | None:
        pictures = data.count(b"\0\0\1\0")
        structures = []
        at = data.find(b"\0\0\1\xb5")
        while at >= 0:
            if data[at + 4] >> 4 == 8:  # picture coding extension
                structures.append(data[at + 6] & 3)
            at = data.find(b"\0\0\1\xb5", at + 4)
        if pictures == 1 and structures in ([], [3]):  # MPEG-1 has no extension
            return 1
        # A pair of fields in one packet is one picture; alone in a packet a field is half of one.
        return 1 if pictures == 2 and sorted(structures) == [1, 2] else None if pictures else 0

    return count


class _MPEG4:
    """ISO/IEC 14496-2: pictures that are not coded, and B-pictures packed with their reference."""

    def __init__(self, extra: bytes) -> None:
        self._time_bits = 0
        self._read_layer(extra)

    def __call__(self, data: bytes, key: bool) -> int | None:
        if key:
            self._read_layer(data)
        at = data.find(b"\0\0\1\xb6")
        pictures = data.count(b"\0\0\1\xb6")
        if pictures > 1:
            return pictures
        if not pictures or not self._time_bits:
            return None
        bits = _Bits(data[at + 4 : at + 4 + _HEADER_BYTES])
        bits.take(2)
        while bits.take(1):  # modulo_time_base
            pass
        bits.take(self._time_bits + 2)  # between two markers
        return bits.take(1)  # vop_coded

    def _read_layer(self, data: bytes) -> None:
        at = next((i for code in range(0x20, 0x30) if (i := data.find(bytes([0, 0, 1, code]))) >= 0), -1)
        if at < 0:
            return
        bits = _Bits(data[at + 4 : at + 4 + _HEADER_BYTES])
        bits.take(9)
        if bits.take(1):
            bits.take(7)
        if bits.take(4) == 15:
            bits.take(16)
        if bits.take(1):  # vol_control_parameters
            bits.take(3)
            if bits.take(1):
                bits.take(79)
        if bits.take(2):  # other shapes than a rectangle
            raise ValueError("not a rectangle")
        bits.take(1)
        self._time_bits = max(1, (bits.take(16) - 1).bit_length())


def _vp8(extra: bytes) -> PictureCount:
    return lambda data, key: (data[0] >> 4) & 1 if data else 0  # RFC 6386, 9.1: show_frame


def _vp9(extra: bytes) -> PictureCount:
    """VP9 bitstream, Annex B: a superframe holds hidden pictures and the one that is shown."""

    def shown(frame: bytes) -> int:
        bits = _Bits(frame[:2])
        bits.take(2)
        if bits.take(1) + 2 * bits.take(1) == 3:
            bits.take(1)
        if bits.take(1):  # show_existing_frame
            return 1
        bits.take(1)
        return bits.take(1)

    def count(data: bytes, key: bool) -> int | None:
        sizes = [len(data)]
        if data and data[-1] & 0xE0 == 0xC0:
            frames, width = (data[-1] & 7) + 1, ((data[-1] >> 3) & 3) + 1
            index = data[-2 - frames * width : -1]
            if len(index) == 1 + frames * width and index[0] == data[-1]:
                sizes = [int.from_bytes(index[1 + i * width :][:width], "little") for i in range(frames)]
        at = total = 0
        for size in sizes:
            total += shown(data[at : at + size]) if size else 0
            at += size
        return total

    return count


_COUNTERS: dict[str, Callable[[bytes], PictureCount]] = {
    **dict.fromkeys(_ONE_EACH, lambda extra: lambda data, key: 1),
    "h264": _H264,
    "hevc": _HEVC,
    "mpeg1video": _mpeg2,
    "mpeg2video": _mpeg2,
    "mpeg4": _MPEG4,
    "vp8": _vp8,
    "vp9": _vp9,
}


def ffv1_is_whole(data: bytes) -> bool:
    """Whether the checksums of an FFV1 packet hold: FFmpeg patches a slice where one does not, and gives no sign.

    A slice ends in its size (24 bits), a status (8) and a parity (32) that makes the CRC of it all zero, by the
    polynomial 0x04C11DB7 from the highest bit on (RFC 9043, Slice Footer). zlib's runs from the lowest bit on.
    """
    end = len(data)
    while end > 0:
        begin = end - 8 - int.from_bytes(data[end - 8 : end - 5], "big") if end >= 8 else -1
        if begin < 0 or zlib.crc32(data[begin:end].translate(_BITS_REVERSED), 0xFFFFFFFF) != 0xFFFFFFFF:
            return False
        end = begin
    return True


def is_h264_reference(data: bytes, extradata: bytes | None) -> bool:
    """Whether other pictures refer to an H.264 packet's, by its own mark; True where none can be read."""
    try:
        for unit in _units(data, _h264_length_bytes(bytes(extradata or b""))):
            if unit and unit[0] & 31 in (1, 2, 5):
                return bool(unit[0] & 0x60)  # nal_ref_idc
    except (ValueError, IndexError):
        pass
    return True


def pictures_of_hevc(data: bytes, extradata: bytes | None) -> bytes:
    """An HEVC packet whose messages, and whatever else no picture is made from, are of a kind that decoders pass over.

    A packet that breaks off is left as it is.
    """
    extra, found = bytes(extradata or b""), bytearray(data)
    try:
        for at, end in _unit_places(data, _hevc_length_bytes(extra)):
            if at < end and (data[at] >> 1) & 63 >= _HEVC_FIRST_MESSAGE:
                found[at] = (data[at] & 0x81) | _HEVC_RESERVED << 1
    except (ValueError, IndexError):
        return data
    return bytes(found)
