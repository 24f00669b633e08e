"""PNG of 16 bits a channel, which Pillow reads but does not write."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}


def encode(array: NDArray[Any], texts: dict[str, str] | None = None, profile: bytes | None = None) -> bytes:
    """(H, W, 1 to 4) uint16 as the bytes of a PNG (W3C PNG, section 11), with ASCII texts and an ICC profile."""
    height, width, channels = array.shape
    raw = np.ascontiguousarray(array.astype(">u2")).view(np.uint8).reshape(height, -1)
    lines = np.empty((height, raw.shape[1] + 1), np.uint8)
    lines[:, 0] = 2  # each line as its difference to the one above, modulo 256
    lines[:, 1:] = raw
    lines[1:, 1:] -= raw[:-1]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _COLOURS[channels], 0, 0, 0))]
    if profile is not None:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)))
    chunks += [(b"tEXt", key.encode() + b"\0" + text.encode("latin-1")) for key, text in (texts or {}).items()]
    chunks += [(b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
