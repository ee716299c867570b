"""Text within pictures that are drawn here, with whatever fonts this machine has.

Pillow's own font covers little more than ASCII. So the first font that has every character of a text is
taken, or else the one that has most; a character it lacks loses its accent or becomes a middle dot,
because boxes in a picture look like a fault.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont

#: By file name, in the order tried; the empty name is Pillow's own. Linux, macOS and Windows, then CJK.
FONTS = ("", "DejaVuSans.ttf", "Arial.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")
LACKING = "·"
CUT = "…"
LINE_HEIGHT = 1.4
_PROBE_PIXELS = 16
_NOBODY_HAS = "\U0010fffe"


@lru_cache(maxsize=64)
def font(name: str, pixels: int) -> FreeTypeFont:
    """A font of `FONTS` at a size; OSError where it is not installed."""
    face = ImageFont.truetype(name, pixels) if name else ImageFont.load_default(pixels)
    if not isinstance(face, FreeTypeFont):
        raise OSError("this Pillow was built without FreeType")
    return face


def best_font(text: str) -> str:
    """The name of the font that shows most of a text."""
    characters = set(text)
    return max(_installed(), key=lambda name: sum(_has(name, char) for char in characters))


def legible(text: str, name: str) -> str:
    """The text with what the font lacks replaced and what nobody can see left out."""
    return "".join(char if char == "\n" else _legible(char, name) for char in text)


def fit(
    text: str, name: str, box: tuple[float, float], sizes: Sequence[int]
) -> tuple[FreeTypeFont, list[str]]:
    """The font at the largest of `sizes` at which the text fits the box, and its lines.

    At the last size what still does not fit is cut off, with an ellipsis.
    """
    width, height = box
    for pixels in sizes:
        face = font(name, pixels)
        lines = list(_wrap(text, face, width))
        room = max(1, int(height / (LINE_HEIGHT * pixels)))
        if len(lines) <= room:
            break
    return face, lines if len(lines) <= room else _cut(lines[:room], face, width)


def _cut(lines: list[str], face: FreeTypeFont, width: float) -> list[str]:
    last = lines[-1]
    while last and face.getlength(last + CUT) > width:
        last = last[:-1]
    return [*lines[:-1], last.rstrip() + CUT]


def _wrap(text: str, face: FreeTypeFont, width: float) -> Iterator[str]:
    for paragraph in text.split("\n"):
        line = ""
        for piece in _pieces(paragraph, face, width):
            if line and face.getlength((line + piece).rstrip()) > width:
                yield line.rstrip()
                line = ""
            line += piece
        yield line.rstrip()


def _pieces(paragraph: str, face: FreeTypeFont, width: float) -> Iterator[str]:
    """Words with the space after them; a word too wide for a line, as Chinese text is, by the character."""
    for word in paragraph.split():
        if face.getlength(word) > width:
            yield from word[:-1]
            yield word[-1] + " "
        else:
            yield word + " "


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    found = []
    for name in FONTS:
        try:
            font(name, _PROBE_PIXELS)
        except OSError:
            continue
        found.append(name)
    return tuple(found)


@lru_cache(maxsize=8192)
def _has(name: str, char: str) -> bool:
    """Whether a font has a glyph for a character, told by its looking unlike the glyph for nothing."""
    face = font(name, _PROBE_PIXELS)
    return char.isspace() or bytes(face.getmask(char)) != bytes(face.getmask(_NOBODY_HAS))


def _legible(char: str, name: str) -> str:
    kind = unicodedata.category(char)
    if char.isspace():
        return " "
    if kind in ("Cc", "Cf") or char in "\ufe0e\ufe0f":
        return ""
    if kind != "Cs" and _has(name, char):
        return char
    plain = unicodedata.normalize("NFKD", char)[0]
    return plain if plain != char and _has(name, plain) else LACKING
