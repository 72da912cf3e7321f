"""Pictures of screens as PNG: QEMU before 7.1 gives PPM.

PPM as in netpbm's ppm(5), PNG as in RFC 2083.
"""

from __future__ import annotations

import re
import struct
import zlib

#: How a PNG begins.
SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: The head of a PPM with one byte for each colour: width, height, and where the pixels begin.
_PPM = re.compile(rb"P6\s+(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)\s+255\s")

#: PNG's filter that keeps the difference to the line above: most lines of a screen are like it.
_UP = b"\x02"


def png_of(picture: bytes) -> bytes | None:
    """Return a picture as PNG: as it is, or made from PPM; None where it is neither."""
    if picture.startswith(SIGNATURE):
        return picture
    head = _PPM.match(picture)
    if head is None:
        return None
    width, height = int(head[1]), int(head[2])
    pixels = picture[head.end() :]
    line = width * 3
    if not width or not height or len(pixels) < line * height:
        return None
    rows = []
    above = bytes(line)
    for start in range(0, line * height, line):
        here = pixels[start : start + line]
        rows.append(_UP + (bytes(line) if here == above else _difference(here, above)))
        above = here
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(rows), 9)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _difference(here: bytes, above: bytes) -> bytes:
    return bytes((one - two) & 0xFF for one, two in zip(here, above, strict=True))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
