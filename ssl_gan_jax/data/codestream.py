"""What JPEG, JPEG-LS and JPEG 2000 data say of themselves before a pixel is decoded."""

import struct
from typing import NamedTuple

_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # JPEG's and JPEG-LS's markers SOF
_BARE = {0, 1, 0xFF, *range(0xD0, 0xD9)}  # what follows 0xFF without a segment
_LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF, 0xF7)


class Codestream(NamedTuple):
    """The frame header of coded pixels."""

    width: int  # pixels
    height: int  # pixels
    bits: int  # of one sample
    signed: bool
    lossless: bool | None  # None: JPEG 2000 says it elsewhere


def describe(data: bytes) -> Codestream:
    """Read the frame header of JPEG, JPEG-LS, JPEG 2000 or JP2; `ValueError` if there is none."""
    try:
        if data.startswith(b"\xff\xd8"):
            at = 2
            while (marker := data[at + 1]) not in _FRAMES:  # as libjpeg finds the first
                if data[at] != 0xFF or marker in _BARE:
                    at = data.index(b"\xff", at + 1)
                else:
                    at += 2 + int.from_bytes(data[at + 2 : at + 4])
            bits, height, width = struct.unpack(">B2H", data[at + 4 : at + 9])
            return Codestream(width, height, bits, False, marker in _LOSSLESS)
        at = data.index(b"\xff\x4f\xff\x51")  # JPEG 2000: its size follows at once
        right, bottom, left, top = struct.unpack(">4I", data[at + 8 : at + 24])
        depth = data[at + 42]
        return Codestream(right - left, bottom - top, (depth & 0x7F) + 1, depth > 0x7F, None)
    except (ValueError, IndexError, struct.error):
        raise ValueError("no frame header") from None
