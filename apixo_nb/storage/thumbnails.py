"""Thumbnails: small WebP pictures for notebooks and pages, with what a template needs to show them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from apixo_nb.core.files import open_picture
from apixo_nb.core.records import Image, Run
from apixo_nb.text import printable

THUMBNAIL_PX = 384
THUMBNAIL_QUALITY = 78  # about 20 kB of WebP for a photograph at this size, 1/80 of its PNG

#: What is said in place of a picture that has a file name.
GONE = "Its file is gone, or cannot be read"

_WEBP_URI = "data:image/webp;base64,"
_THREADS = 4  # Pillow releases the GIL while it decodes

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture as a template shows it.

    Attributes
    ----------
    link : str
        To the original; "" if that is not on disk.
    data_uri : str
        The small picture; "" if there is none, then see `problem`.
    width, height : int
        The size at which it is shown, in CSS pixels.
    alt : str
        The alternative text: which picture it is, and its prompt.
    problem : str
        Why there is no small picture, as a sentence without its full stop.
    """

    link: str
    data_uri: str
    width: int
    height: int
    alt: str = ""
    problem: str = ""


def small_webp(path: Path, px: int) -> bytes:
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


def data_uri(content: bytes) -> str:
    """The bytes of a WebP as a data URI; "" if there are none."""
    return _WEBP_URI + base64.b64encode(content).decode("ascii") if content else ""


def scaled(image: Image, px: int) -> tuple[int, int]:
    """The width and height of a picture within a square of `px` pixels; a square if its size is not known."""
    width, height = image.width or px, image.height or px
    scale = min(1.0, px / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def number_text(run: Run, image: Image) -> str:
    """Which picture of its run it is: Picture 1 of 4."""
    return f"Picture {image.index + 1} of {max(len(run.images), len(run.result_urls))}"


def alt_text(run: Run, image: Image, characters: int) -> str:
    """Which picture it is, and its prompt as far as `characters` go."""
    return f"{number_text(run, image)}: {printable(run.prompt, characters)}"


def in_threads(make: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """What `make` makes of each item, in their order; on a few threads, for what decodes pictures."""
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(make, items))
