"""Say what bytes that are no readable picture are, in one short line."""

from __future__ import annotations

import struct
import zlib

# First bytes of formats people do have and this library does not read.
FOREIGN = {
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript document",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"8BPS": "a Photoshop document",
    b"\x00\x05\x16\x07": "an AppleDouble resource fork",
}
KNOWN = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8": "JPEG",
    b"GIF8": "GIF",
    b"RIFF": "WEBP",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}


def why_unreadable(data: bytes) -> str:
    """The reason why no decoder recognised `data`: empty, text, HTML, another format, or a damaged header."""
    if not data:
        return "the file is empty"
    for magic, name in FOREIGN.items():
        if data.startswith(magic):
            return f"not a picture: this is {name}"
    if data[4:8] == b"ftyp":
        return f"pictures of the kind {data[8:12].decode('latin-1')!r} (HEIC, AVIF, video) are not supported"
    for magic, name in KNOWN.items():
        if data.startswith(magic):
            damage = png_damage(data) if name == "PNG" else None
            return f"damaged {name}: {damage or 'its header cannot be read'}"
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg", b"<head", b"<body")):
        return "not a picture: this is an HTML or XML text"
    if all(byte in b"\t\n\r\f\b" or byte >= 32 for byte in head) and b"\x7f" not in head:
        try:
            data[:512].decode("utf-8")
            return "not a picture: this is plain text"
        except UnicodeDecodeError:
            pass
    return "not a picture of a supported format (JPEG, PNG, WEBP, BMP, TIFF, GIF)"


def png_damage(data: bytes) -> str | None:
    """The first damaged or missing chunk of a PNG, None where all are whole."""
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        name = kind.decode("latin-1")
        end = at + 12 + length
        if end > len(data):
            return f"cut in the middle of its {name} chunk ({len(data)} bytes)"
        (stored,) = struct.unpack(">I", data[end - 4 : end])
        if zlib.crc32(data[at + 4 : end - 4]) != stored:
            return f"the checksum of its {name} chunk is wrong"
        if kind == b"IEND":
            return None
        at = end
    return f"cut before its end ({len(data)} bytes)"
