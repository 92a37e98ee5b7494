"""Image files of kinds that Pillow reads and does not write: 16-bit PNG of any colour type, TIFF of any numbers."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def write_png16(path: Path, values: np.ndarray) -> None:
    """Write a 16-bit PNG.

    `values` are 0 to 65535: (H, W) grey, (H, W, 2) with alpha, (H, W, 3) RGB or (H, W, 4) RGBA.
    """
    height, width = values.shape[:2]
    colour = PNG_COLOUR_TYPES[1 if values.ndim == 2 else values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
    )


def write_tiff(path: Path, values: np.ndarray, *, bits: int = 0, photometric: int = 1, orientation: int = 1) -> None:
    """Write a grey TIFF of `values` (H, W), whose dtype and byte order are the file's.

    `bits` is given where it is not the dtype's; 12 packs two numbers into three bytes. A `photometric` of 0 means that
    white is 0.
    """
    height, width = values.shape
    order = ">" if values.dtype.byteorder == ">" else "<"
    data = values.tobytes()
    if bits == 12:
        even, odd = values.reshape(-1, 2).astype(int).T
        data = np.stack((even >> 4, (even & 15) << 4 | odd >> 8, odd & 255), 1).astype(np.uint8).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = bits or 8 * values.dtype.itemsize
    entries = [
        *((256, "I", width), (257, "I", height), (258, "H", bits), (259, "H", 1), (262, "H", photometric)),
        *((273, "I", 0), (274, "H", orientation), (277, "H", 1), (278, "I", height), (279, "I", len(data))),
        (339, "H", kind),
    ]
    begin = 8 + 2 + 12 * len(entries) + 4
    directory = struct.pack(order + "H", len(entries))
    for tag, form, value in entries:
        value = begin if tag == 273 else value
        directory += struct.pack(order + "HHI", tag, 3 if form == "H" else 4, 1)
        directory += struct.pack(order + ("HH" if form == "H" else "I"), value, *([0] if form == "H" else []))
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    path.write_bytes(head + directory + struct.pack(order + "I", 0) + data)
