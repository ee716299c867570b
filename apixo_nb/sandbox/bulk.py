"""Bodies that are larger than they look, or than they should be; made block by block, never in one piece."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2

_ROWS, _WIDTH = 4, 5000  # so many rows of a huge picture fill one stored block, at most 65,535 bytes
_MEGABYTE = bytes(1_000_000)


@dataclass(frozen=True, slots=True)
class Bulk:
    """A body: its length in bytes on the wire, and its blocks, to be read once."""

    length: int
    blocks: Iterator[bytes]


def bomb(pixels: int) -> bytes:
    """A PNG of a few bytes whose header says that it is `pixels` wide and high."""
    header = _header(pixels, pixels, 1, _GREY)
    return header + _chunk(b"IDAT", zlib.compress(bytes(1000))) + _chunk(b"IEND", b"")


def huge_png(megabytes: int) -> Bulk:
    """A whole picture of about so many megabytes, in stripes.

    Its pixels are stored, not compressed: every block is the same, and only the checksum has to be counted.
    """
    rows = b"".join(
        b"\0" + bytes((row * 40 + column // 3) % 256 for column in range(3 * _WIDTH)) for row in range(_ROWS)
    )
    times = -(-megabytes * 1_000_000 // len(rows))
    head = _header(_WIDTH, times * _ROWS, 8, _RGB) + _chunk(b"IDAT", b"\x78\x01")
    block = _chunk(b"IDAT", b"\0" + struct.pack("<HH", len(rows), len(rows) ^ 0xFFFF) + rows)

    def tail(checksum: int) -> bytes:
        return _chunk(b"IDAT", b"\1\0\0\xff\xff" + struct.pack(">I", checksum)) + _chunk(b"IEND", b"")

    def blocks() -> Iterator[bytes]:
        yield head
        checksum = 1
        for _ in range(times):
            checksum = zlib.adler32(rows, checksum)
            yield block
        yield tail(checksum)

    return Bulk(len(head) + times * len(block) + len(tail(0)), blocks())


def swollen(megabytes: int) -> Bulk:
    """A gzip body, about a thousandth of what it holds: so many megabytes of zeros.

    Each megabyte ends in a full flush, so its bytes fit behind any others: one is compressed for all.
    """
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = squeeze.compress(_MEGABYTE) + squeeze.flush(zlib.Z_FULL_FLUSH)
    head = b"\x1f\x8b\x08" + bytes(6) + b"\xff"

    def blocks() -> Iterator[bytes]:
        yield head
        checksum = 0
        for _ in range(megabytes):
            checksum = zlib.crc32(_MEGABYTE, checksum)
            yield block
        yield b"\x03\0" + struct.pack("<II", checksum, megabytes * len(_MEGABYTE) % 2**32)

    return Bulk(len(head) + megabytes * len(block) + 10, blocks())


def _header(width: int, height: int, depth: int, colour: int) -> bytes:
    return _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
