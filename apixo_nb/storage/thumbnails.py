"""The stored pictures: originals byte for byte, a JSON sidecar beside each, and thumbnails for notebooks."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from apixo_nb.core.files import open_picture

THUMBNAIL_PX = 384
THUMBNAIL_QUALITY = 78  # about 20 kB of WebP for a photograph at this size, 1/80 of its PNG


_WEBP_URI = "data:image/webp;base64,"


def small(path: Path, px: int) -> bytes:
    """A picture file as a WebP that fits a square of `px` pixels; b"" if it is gone or cannot be read."""
    try:
        with open_picture(path) as original:
            original.draft("RGB", (px, px))  # a JPEG is decoded no larger than needed
            original.thumbnail((px, px))
            buffer = io.BytesIO()
            mode = "RGBA" if "A" in original.getbands() else "RGB"
            original.convert(mode).save(buffer, "WEBP", quality=THUMBNAIL_QUALITY, method=4)
            return buffer.getvalue()
    except Exception:  # noqa: BLE001 - decoders raise OSError, SyntaxError, ValueError, bomb errors...
        return b""


def _data_uri(webp: bytes) -> str:
    return _WEBP_URI + base64.b64encode(webp).decode("ascii") if webp else ""
