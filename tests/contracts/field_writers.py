"""Field pictures written bit by bit: no encoder in PyAV makes them, and broadcasts are full of them.

A number of eight bits is drawn as eight black and white columns of 16 pixels: 128 x 32 luma, no colour. Pixels are
stored as they are (H.264: I_PCM) or as the mean of a block (MPEG-2: intra, DC only), so that each is known.
"""

from __future__ import annotations

COLUMNS, WIDTH, HEIGHT = 8, 128, 32
BLACK, WHITE = 16, 232


class _Writer:
    def __init__(self) -> None:
        self._bits: list[str] = []

    def put(self, value: int, count: int) -> None:
        self._bits.append(f"{value:0{count}b}" if count else "")

    def ue(self, value: int) -> None:
        code = f"{value + 1:b}"
        self._bits.append("0" * (len(code) - 1) + code)

    def se(self, value: int) -> None:
        self.ue(2 * value - 1 if value > 0 else -2 * value)

    def align(self, fill: str = "0") -> None:
        length = sum(map(len, self._bits))
        self._bits.append(fill * (-length % 8))

    def bytes(self) -> bytes:
        text = "".join(self._bits)
        return int(text, 2).to_bytes(len(text) // 8, "big")


def _levels(number: int) -> list[int]:
    return [WHITE if number >> column & 1 else BLACK for column in range(COLUMNS)]


# ------------------------------------------------------------------------------------------------------------- H.264


def _nal(header: int, writer: _Writer) -> bytes:
    writer.put(1, 1)
    writer.align()
    escaped, zeros = bytearray([header]), 0
    for byte in writer.bytes():
        if zeros >= 2 and byte <= 3:
            escaped.append(3)
            zeros = 0
        escaped.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return b"\0\0\0\1" + bytes(escaped)


def h264_parameter_sets() -> bytes:
    """Main profile, interlaced, 128 x 32, pictures shown in the order stored."""
    sps = _Writer()
    sps.put(77, 8), sps.put(0, 8), sps.put(30, 8)
    sps.ue(0), sps.ue(0)  # id; log2_max_frame_num - 4
    sps.ue(0), sps.ue(4)  # order by pic_order_cnt_lsb, 8 bits
    sps.ue(1), sps.put(0, 1)  # one reference; no gaps
    sps.ue(WIDTH // 16 - 1), sps.ue(HEIGHT // 32 - 1)
    sps.put(0, 1), sps.put(0, 1)  # frame_mbs_only_flag = 0; no mb_adaptive_frame_field
    sps.put(1, 1), sps.put(0, 1), sps.put(0, 1)  # direct_8x8; no cropping; no VUI
    pps = _Writer()
    pps.ue(0), pps.ue(0), pps.put(0, 1), pps.put(0, 1), pps.ue(0), pps.ue(0), pps.ue(0)
    pps.put(0, 1), pps.put(0, 2), pps.se(0), pps.se(0), pps.se(0), pps.put(1, 1), pps.put(0, 1), pps.put(0, 1)
    return _nal(0x67, sps) + _nal(0x68, pps)


def h264_picture(number: int, *, order: int, idr: bool, frame_num: int, field: int | None) -> bytes:
    """A picture of I_PCM macroblocks, or the top (0) or bottom (1) field of one; only a top field can be an IDR."""
    own_idr = idr and field != 1
    slice_ = _Writer()
    slice_.ue(0), slice_.ue(7), slice_.ue(0)
    slice_.put(frame_num % 16, 4)
    slice_.put(field is not None, 1)
    if field is not None:
        slice_.put(field, 1)
    if own_idr:
        slice_.ue(0)
    slice_.put((2 * order + (field or 0)) % 256, 8)
    if own_idr:
        slice_.put(0, 2)
    else:
        slice_.put(0, 1)
    slice_.se(0), slice_.ue(1)  # quantiser; no deblocking (deblocking_filter_control_present_flag)
    for _ in range(HEIGHT // 16 // (1 if field is None else 2)):
        for level in _levels(number):
            slice_.ue(25)  # I_PCM
            slice_.align()
            for _ in range(256):
                slice_.put(level, 8)
            for _ in range(128):
                slice_.put(128, 8)
    return _nal(0x65 if own_idr else 0x61, slice_)


def h264_fields(numbers: list[int], *, group: int = 5, as_fields: bool = True) -> list[list[bytes]]:
    """One entry per picture: its access units, two where it is coded as fields; a keyframe every ``group`` pictures."""
    pictures = []
    for i, number in enumerate(numbers):
        idr = i % group == 0
        head = b"\0\0\0\1\x09\xf0" + (h264_parameter_sets() if idr else b"")
        make = {"order": i % group, "idr": idr, "frame_num": i % group}
        if as_fields:
            second = b"\0\0\0\1\x09\xf0" + h264_picture(number, **make, field=1)
            pictures.append([head + h264_picture(number, **make, field=0), second])
        else:
            pictures.append([head + h264_picture(number, **make, field=None)])
    return pictures


# ------------------------------------------------------------------------------------------------------------ MPEG-2


def _mpeg2_code(code: int, writer: _Writer | None = None) -> bytes:
    if writer is not None:
        writer.align()
    return b"\0\0\1" + bytes([code]) + (writer.bytes() if writer is not None else b"")


# ISO/IEC 13818-2, table B.12: dct_dc_size of luma, up to 8 bits.
_LUMA_SIZE = [
    "100",
    "00",
    "01",
    "101",
    "110",
    "1110",
    "11110",
    "111110",
    "1111110",
    "11111110",
    "111111110",
    "111111111",
]


def _mpeg2_headers() -> bytes:
    sequence = _Writer()
    sequence.put(WIDTH, 12), sequence.put(HEIGHT, 12), sequence.put(1, 4), sequence.put(3, 4)
    sequence.put(20000, 18), sequence.put(1, 1), sequence.put(112, 10), sequence.put(0, 3)
    extension = _Writer()
    extension.put(1, 4), extension.put(0x48, 8), extension.put(0, 1), extension.put(1, 2), extension.put(0, 4)
    extension.put(0, 12), extension.put(1, 1), extension.put(0, 8), extension.put(0, 1), extension.put(0, 7)
    group = _Writer()
    group.put(1 << 12, 25), group.put(1, 1), group.put(0, 1)
    return _mpeg2_code(0xB3, sequence) + _mpeg2_code(0xB5, extension) + _mpeg2_code(0xB8, group)


def _mpeg2_picture(number: int, reference: int, structure: int) -> bytes:
    """An intra picture (structure 3) or field (1 top, 2 bottom)."""
    picture = _Writer()
    picture.put(reference, 10), picture.put(1, 3), picture.put(0xFFFF, 16), picture.put(0, 1)
    coding = _Writer()
    coding.put(8, 4), coding.put(0xFFFF, 16), coding.put(0, 2), coding.put(structure, 2)
    coding.put(structure == 3, 1), coding.put(structure == 3, 1)  # top_field_first; frame_pred_frame_dct
    coding.put(0, 5), coding.put(0, 1), coding.put(structure == 3, 1), coding.put(0, 1)
    data = _mpeg2_code(0, picture) + _mpeg2_code(0xB5, coding)
    rows = HEIGHT // 16 // (1 if structure == 3 else 2)
    for row in range(rows):
        line = _Writer()
        line.put(8, 5), line.put(0, 1)
        luma = 128  # DC prediction starts at the middle of 8 bits
        for level in _levels(number):
            line.put(1, 1), line.put(1, 1)  # address increment 1; macroblock_type intra
            for _ in range(4):
                _dc(line, level - luma)
                luma = level
            for _ in range(2):
                line.put(0, 2)  # chroma: no difference
                line._bits.append("10")
        data += _mpeg2_code(row + 1, line)
    return data


def _dc(line: _Writer, difference: int) -> None:
    size = abs(difference).bit_length()
    line._bits.append(_LUMA_SIZE[size])
    line.put(difference if difference > 0 else difference + (1 << size) - 1, size)
    line._bits.append("10")  # end of block


def mpeg2_fields(numbers: list[int], *, group: int = 5, as_fields: bool = True) -> list[list[bytes]]:
    """As ``h264_fields``."""
    pictures = []
    for i, number in enumerate(numbers):
        head = _mpeg2_headers() if i % group == 0 else b""
        if as_fields:
            pictures.append([head + _mpeg2_picture(number, i % group, 1), _mpeg2_picture(number, i % group, 2)])
        else:
            pictures.append([head + _mpeg2_picture(number, i % group, 3)])
    return pictures
