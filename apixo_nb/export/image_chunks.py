"""PNG, JPEG and WebP files taken apart into their chunks and put together again with others.

The picture's own data is passed on byte for byte, never decoded and made anew: its pixels, colour profile and
everything else stay what they were. A C2PA credential covers every byte of its file, so in a changed one it
would read as forged: it is left out of what is put together here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping

XMP_KEYWORD = "XML:com.adobe.xmp"  # of a PNG's chunk that holds XMP

_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"  # what such a JPEG segment begins with
_APP0, _APP1, _APP11, _SOS = 0xE0, 0xE1, 0xEB, 0xDA
_MOST = 65_533  # bytes that a JPEG segment can hold

MOST_XMP = _MOST - len(_XMP)  # bytes of XMP that fit into a JPEG


def kind_of(data: bytes) -> str:
    """PNG, JPEG, WEBP, or "" for anything else."""
    if data.startswith(_PNG):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def has_credential(data: bytes) -> bool:
    """Whether a picture carries a C2PA credential. It is seen, not verified.

    Raises
    ------
    ValueError
        It cannot be taken apart.
    """
    kind = kind_of(data)
    if kind == "PNG":
        return any(name == b"caBX" for name, _ in _png_chunks(data))
    if kind == "JPEG":
        return bool(_credential_boxes(_jpeg_segments(data)[0]))
    return any(name == b"C2PA" for name, _ in _webp_chunks(data))


def exif_of(data: bytes) -> bytes:
    """The EXIF of a JPEG or WebP, from its ``Exif`` mark; b"" if it has none."""
    if kind_of(data) == "JPEG":
        bodies = [body for marker, body in _jpeg_segments(data)[0] if marker == _APP1]
        return next((body for body in bodies if body.startswith(_EXIF)), b"")
    found = next((body for name, body in _webp_chunks(data) if name == b"EXIF"), b"")
    return _EXIF + found.removeprefix(_EXIF) if found else b""


# --- PNG --------------------------------------------------------------------------------------------


def png_with(data: bytes, texts: Mapping[str, str]) -> bytes:
    """A PNG with these texts, each under its keyword, in place of any it had there."""
    kept = [chunk for chunk in _png_chunks(data) if not _is_replaced(chunk, texts)]
    added = [(b"iTXt", _itxt(keyword, text)) for keyword, text in texts.items()]
    return _PNG + b"".join(_png_chunk(*chunk) for chunk in (kept[0], *added, *kept[1:]))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_PNG)
    name = b""
    while name != b"IEND":
        head = data[at : at + 8]
        if len(head) < 8:
            raise ValueError("the PNG ends too early")
        length, name = struct.unpack(">I4s", head)
        body = data[at + 8 : at + 8 + length]
        if len(body) < length:
            raise ValueError("the PNG ends too early")
        yield name, body
        at += 12 + length


def _png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _is_replaced(chunk: tuple[bytes, bytes], texts: Mapping[str, str]) -> bool:
    name, body = chunk
    if name in (b"iTXt", b"tEXt", b"zTXt"):
        return body.partition(b"\0")[0].decode("latin-1") in texts
    return name == b"caBX"


def _itxt(keyword: str, text: str) -> bytes:
    # Not compressed, in no language; a zero byte would end it.
    return keyword.encode("latin-1") + b"\0\0\0\0\0" + text.replace("\0", "\ufffd").encode("utf-8", "replace")


# --- JPEG -------------------------------------------------------------------------------------------


def jpeg_with(data: bytes, exif: bytes, xmp: bytes) -> bytes:
    """A JPEG with this EXIF (from its ``Exif`` mark) and XMP, in place of what it had.

    Raises
    ------
    ValueError
        One of them is larger than a JPEG can hold, or the JPEG cannot be taken apart.
    """
    segments, rest = _jpeg_segments(data)
    boxes = _credential_boxes(segments)
    kept = [(marker, body) for marker, body in segments if not _is_old(marker, body, boxes)]
    # JFIF wants to be the first segment.
    first = 1 if kept and kept[0][0] == _APP0 else 0
    added = [(_APP1, exif), (_APP1, _XMP + xmp)]
    written = [_jpeg_segment(*segment) for segment in (*kept[:first], *added, *kept[first:])]
    return b"\xff\xd8" + b"".join(written) + rest


def _jpeg_segments(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The segments before the picture's data, and all that follows."""
    found: list[tuple[int, bytes]] = []
    at = 2
    while True:
        while data[at : at + 2] == b"\xff\xff":  # bytes that only fill
            at += 1
        if len(data) < at + 4 or data[at] != 0xFF:
            raise ValueError("the JPEG has a gap between its segments")
        marker, (length,) = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])
        if marker == _SOS:
            return found, data[at:]
        if length < 2 or len(data) < at + 2 + length:
            raise ValueError("the JPEG ends too early")
        found.append((marker, data[at + 4 : at + 2 + length]))
        at += 2 + length


def _jpeg_segment(marker: int, body: bytes) -> bytes:
    if len(body) > _MOST:
        raise ValueError("that is more than a JPEG can hold")
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _is_old(marker: int, body: bytes, boxes: set[bytes]) -> bool:
    if marker == _APP11:
        return body[2:4] in boxes
    return marker == _APP1 and body.startswith((_EXIF, _XMP))


def _credential_boxes(segments: list[tuple[int, bytes]]) -> set[bytes]:
    """The numbers of the JUMBF boxes that are C2PA's; a large one goes over several segments."""
    return {
        body[2:4]
        for marker, body in segments
        if marker == _APP11 and body.startswith(b"JP") and b"c2pa" in body[:200]
    }


# --- WebP -------------------------------------------------------------------------------------------


def webp_with(data: bytes, exif: bytes, xmp: bytes) -> bytes:
    """A WebP with this EXIF (from its ``Exif`` mark) and XMP, in place of what it had."""
    chunks = [chunk for chunk in _webp_chunks(data) if chunk[0] not in (b"EXIF", b"XMP ", b"C2PA")]
    if not chunks:
        raise ValueError("the WebP holds no picture")
    head = chunks.pop(0)[1] if chunks[0][0] == b"VP8X" else _extended_head(*chunks[0])
    head = bytes([head[0] | 0b1100]) + head[1:]  # it says: there are EXIF and XMP
    added = [(b"EXIF", exif.removeprefix(_EXIF)), (b"XMP ", xmp)]
    body = b"WEBP" + b"".join(_webp_chunk(*chunk) for chunk in ((b"VP8X", head), *chunks, *added))
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end:
        name, length = struct.unpack("<4sI", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if len(body) < length:
            raise ValueError("the WebP ends too early")
        yield name, body
        at += 8 + length + length % 2


def _webp_chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _extended_head(name: bytes, body: bytes) -> bytes:
    """The head that a WebP of the simple kind lacks: flags, and its size less one in 24 bits each."""
    if name == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    elif name == b"VP8 " and len(body) >= 10:
        width, height = ((side & 0x3FFF) - 1 for side in struct.unpack("<HH", body[6:10]))
        alpha = 0
    else:
        raise ValueError("the WebP holds no picture")
    return bytes([alpha << 4, 0, 0, 0]) + width.to_bytes(3, "little") + height.to_bytes(3, "little")
