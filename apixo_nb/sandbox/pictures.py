"""The drawn pictures: a calm landscape, the prompt, and the word SANDBOX that nobody can overlook.

The same task and index always give the same picture, so nothing needs to be kept. All measures are
fractions of the short side, which makes a small picture a true miniature of a large one.
"""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageColor, ImageDraw

from apixo_nb.core import fonts
from apixo_nb.core.models import MODELS
from apixo_nb.sandbox.tasks import Task

SHORT_SIDE = 1024  # of gpt-image-1's pictures: 1024x1024, 1024x1536, 1536x1024
SMALLEST = 16
INK = (255, 255, 255)
NIGHT = (14, 18, 32)
MARGIN = 0.07
BANNER = 0.17
BANNER_TEXT = "SANDBOX"
PROMPT_SIZES = (0.085, 0.07, 0.06, 0.05, 0.042, 0.035)
LONGEST_PROMPT = 1500
HAZE = 235

#: Sky above, sky below, sun, far hills, near hills.
PALETTES = (
    ("#274060", "#f2a07b", "#ffe3b3", "#8c5b7a", "#1d2b4a"),
    ("#0f4c5c", "#e9c891", "#fff1d0", "#5f8f8b", "#0b3440"),
    ("#3d2c5e", "#e58fa0", "#ffe0c7", "#8d5a9b", "#22193f"),
    ("#14506b", "#a8d8c5", "#fdf6d8", "#4b9195", "#0d3349"),
    ("#4a3550", "#f0b775", "#fff0c9", "#b06a5b", "#2b1f38"),
    ("#1b3b5f", "#b9c7e8", "#ffffff", "#6d86b8", "#142845"),
    ("#24504a", "#dfe0a4", "#fffbe0", "#7ba27a", "#14332f"),
    ("#5a2d3e", "#f3b9a1", "#fff0dd", "#b8697a", "#33182a"),
)


@dataclass(frozen=True, slots=True)
class Sketch:
    """All that decides how a picture looks. `token` is the task's, hexadecimal; `size` is in pixels."""

    token: str
    index: int
    prompt: str
    legend: str
    size: tuple[int, int]

    @classmethod
    def of(cls, task: Task, index: int, scale: float) -> Sketch:
        """The `index`-th picture of a task, counted from 1; at `scale` 1.0 its short side is 1024 pixels."""
        given = task.request["input"]
        spec = MODELS[task.model]
        choices = [
            str(given[parameter.wire]) for parameter in spec.parameters if parameter.wire != spec.count
        ]
        legend = " · ".join([task.model, *choices, f"{index} of {task.pictures}", task.task_id])
        size = _size(str(given.get("aspect_ratio")), scale)
        return cls(task.token, index, task.prompt, legend, size)

    @property
    def unit(self) -> int:
        """The short side in pixels."""
        return min(self.size)


@lru_cache(maxsize=32)
def draw(sketch: Sketch) -> bytes:
    """The picture as a PNG."""
    picture = _landscape(sketch)
    _write(picture, sketch)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _size(ratio: str, scale: float) -> tuple[int, int]:
    """Width and height for a ratio such as ``3:2``; anything else, such as ``auto``, is a square."""
    width, _, height = ratio.partition(":")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        width = height = "1"
    unit = SHORT_SIDE * scale / min(int(width), int(height))
    return max(SMALLEST, round(int(width) * unit)), max(SMALLEST, round(int(height) * unit))


def _landscape(sketch: Sketch) -> Image.Image:
    """A sky, a sun and four chains of hills, each nearer one darker."""
    chance = random.Random(f"{sketch.token}-{sketch.index}")  # noqa: S311 - no secret
    high, low, sun, far, near = PALETTES[(int(sketch.token, 16) + sketch.index) % len(PALETTES)]
    picture = _gradient(high, low, sketch.size)
    _glow(picture, sun, chance, sketch.unit)
    for depth in range(4):
        picture.paste(_between(far, near, depth / 3), mask=_hills(chance, sketch.size, 0.58 + 0.11 * depth))
    return picture


def _between(far: str, near: str, share: float) -> tuple[int, ...]:
    pairs = zip(ImageColor.getrgb(far), ImageColor.getrgb(near), strict=True)
    return tuple(round(there + share * (here - there)) for there, here in pairs)


def _gradient(high: str, low: str, size: tuple[int, int]) -> Image.Image:
    mask = Image.linear_gradient("L").resize(size, Image.Resampling.BICUBIC)
    return Image.composite(Image.new("RGB", size, low), Image.new("RGB", size, high), mask)


def _glow(picture: Image.Image, colour: str, chance: random.Random, unit: int) -> None:
    """A sun with a soft halo, low in the sky."""
    x, y = chance.uniform(0.2, 0.8) * picture.width, chance.uniform(0.5, 0.6) * picture.height
    for radius, strength in ((0.9, 0.5), (0.4, 0.7)):
        _stamp(picture, colour, (x, y), _halo(round(2 * radius * unit), strength))
    _stamp(picture, colour, (x, y), _disc(round(0.2 * unit)))


def _stamp(picture: Image.Image, colour: str, centre: tuple[float, float], mask: Image.Image) -> None:
    corner = round(centre[0] - mask.width / 2), round(centre[1] - mask.height / 2)
    picture.paste(colour, corner, mask)


def _halo(side: int, strength: float) -> Image.Image:
    # Pillow's gradient grows from 0 in the middle to 181 where its circle meets the edge.
    fading = Image.radial_gradient("L").point(lambda v: round(255 * strength * max(0, 1 - v / 181) ** 2))
    return fading.resize((side, side), Image.Resampling.BICUBIC)


def _disc(side: int) -> Image.Image:
    large = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(large).ellipse((4, 4, 4 * side - 4, 4 * side - 4), fill=240)
    return large.reduce(4)


def _hills(chance: random.Random, size: tuple[int, int], top: float) -> Image.Image:
    """The mask of one chain of hills whose ridge swings around `top`, a fraction of the height."""
    width, height = size
    waves = [
        (turns * chance.uniform(0.4, 0.9), chance.uniform(0, math.tau), 0.03 / turns) for turns in (1, 2, 5)
    ]

    def ridge(x: int) -> float:
        swing = sum(reach * math.sin(math.tau * turns * x / width + start) for turns, start, reach in waves)
        return 2 * height * (top + swing)

    # Drawn at double size and halved: Pillow's polygons have hard edges.
    mask = Image.new("L", (2 * width, 2 * height))
    outline = [(2 * x, ridge(x)) for x in range(0, width + 8, 4)]
    ImageDraw.Draw(mask).polygon([*outline, (2 * width + 8, 2 * height), (0, 2 * height)], fill=HAZE)
    return mask.reduce(2)


def _write(picture: Image.Image, sketch: Sketch) -> None:
    veil = Image.new("L", picture.size)
    text = Image.new("L", picture.size)
    _write_banner(veil, text, sketch.unit)
    _write_prompt(veil, text, sketch)
    _write_legend(text, sketch)
    picture.paste(NIGHT, mask=veil)
    picture.paste(INK, mask=text)


def _write_banner(veil: Image.Image, text: Image.Image, unit: int) -> None:
    """The word SANDBOX on a dark strip over the whole width, wide and bold enough for a thumbnail."""
    ImageDraw.Draw(veil).rectangle((0, 0, veil.width, round(BANNER * unit)), fill=225)
    face = fonts.font("", max(8, round(0.115 * unit)))
    gap = 0.045 * unit
    lengths = [face.getlength(letter) for letter in BANNER_TEXT]
    x = (veil.width - sum(lengths) - gap * (len(lengths) - 1)) / 2
    for letter, length in zip(BANNER_TEXT, lengths, strict=True):
        ImageDraw.Draw(text).text(
            (x, BANNER * unit / 2), letter, 255, face, "lm", stroke_width=round(0.004 * unit), stroke_fill=255
        )
        x += length + gap


def _write_prompt(veil: Image.Image, text: Image.Image, sketch: Sketch) -> None:
    """The prompt on a card under the banner, as large as fits."""
    unit, margin = sketch.unit, MARGIN * sketch.unit
    name = fonts.best_font(sketch.prompt[:LONGEST_PROMPT])
    prompt = fonts.legible(sketch.prompt[:LONGEST_PROMPT].strip(), name)
    box = (veil.width - 3.4 * margin, veil.height - (BANNER + 0.36) * unit)
    face, lines = fonts.fit(prompt, name, box, [max(6, round(size * unit)) for size in PROMPT_SIZES])
    step = fonts.LINE_HEIGHT * face.size
    top = (BANNER + MARGIN) * unit
    card = (margin, top, veil.width - margin, top + step * len(lines) + 1.4 * margin)
    ImageDraw.Draw(veil).rounded_rectangle(card, 0.03 * unit, fill=140)
    for number, line in enumerate(lines):
        place = (1.7 * margin, top + 0.7 * margin + step * (number + 0.5))
        ImageDraw.Draw(text).text(place, line, 255, face, "lm")


def _write_legend(text: Image.Image, sketch: Sketch) -> None:
    face = fonts.font("", max(6, round(0.026 * sketch.unit)))
    place = (text.width / 2, text.height - MARGIN * sketch.unit * 0.8)
    ImageDraw.Draw(text).text(place, sketch.legend, 225, face, "mm")
