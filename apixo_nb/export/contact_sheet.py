"""A contact sheet: runs laid out in one picture file, with the values they differ in as labels."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apixo_nb.analysis.pivot import Cell, Layout, Section, Slide, why_none
from apixo_nb.core import checks
from apixo_nb.core.files import checked_target, new_file, open_picture
from apixo_nb.errors import InvalidRequestError
from apixo_nb.storage.originals import GONE, Images, in_threads
from apixo_nb.text import printable

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw

SIDE_MAX = 16_383  # pixels, which is where WebP ends
AREA_MAX = 80_000_000  # pixels; from 89 million on, Pillow takes a picture for a bomb
PX_MIN, PX_MAX = 48, 2048
TAKES = 16  # pictures of one cell
_FLOW = 1.6  # as much wider than high is a sheet whose cells are wrapped
_LABEL = 500  # characters

_PAPER, _INK, _SOFT, _LINE, _INSET, _GOLD = "#ffffff", "#1d1e21", "#5a5d65", "#d5d6da", "#f1f1f3", "#c8961e"
_FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}


def write_sheet(layout: Layout, path: str | os.PathLike[str], images: Images, *, px: int = 256) -> Path:
    """Write a contact sheet, whole or not at all, and return its path.

    Parameters
    ----------
    path : path
        The name ends in .png, .webp, .jpg or .jpeg.
    px : int
        The side of a cell in pixels; several takes stand side by side within it, the winner first.

    Raises
    ------
    InvalidRequestError
        `px` is no number from 48 to 2048, or the sheet would have more than 16,383 pixels on a side, or more
        than 80 million.
    ApixoError
        The file cannot be written, or its name is that of another kind of file.
    """
    target = checked_target(path, "sheet")
    form = _FORMATS.get(target.suffix.casefold())
    if form is None:
        allowed = "a name that ends in " + ", ".join(_FORMATS)
        text = f"No kind of picture is known by the end of {printable(target, 80)}"
        raise InvalidRequestError(text, field="path", value=target, allowed=allowed)
    allowed = f"a whole number of pixels from {PX_MIN} to {PX_MAX}"
    text = f"The cells of a contact sheet cannot be {printable(repr(px), 40)} pixels wide"
    px = checks.whole(px, "px", PX_MIN, PX_MAX, allowed=allowed, message=text)
    plan = _checked(layout, px)
    sheet = _draw_sheet(plan, images)
    with new_file(target, "sheet") as file:
        sheet.save(file, form, **({} if form == "PNG" else {"quality": 88}))
    return target


# --- where everything stands ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Table:
    """One section: its top, and its cells by row; `lines` are the labels at the left."""

    label: str
    top: int
    columns: tuple[str, ...]
    lines: tuple[str, ...]
    rows: tuple[tuple[Cell | None, ...], ...]
    heads: tuple[tuple[str, ...], ...]  # over each row; over the first one only, unless the cells are wrapped


@dataclass(frozen=True, slots=True)
class _Plan:
    """A sheet in pixels."""

    px: int
    left: int
    width: int
    height: int
    tables: tuple[_Table, ...]

    @property
    def gap(self) -> int:
        return max(4, self.px // 24)

    @property
    def head(self) -> int:
        """The height of a line of labels."""
        return max(20, self.px // 5)

    @property
    def letters(self) -> list[int]:
        """The sizes of labels that are tried, in pixels."""
        return [max(10, self.px // part) for part in (13, 16, 20)]


def _checked(layout: Layout, px: int) -> _Plan:
    plan = _plan(layout, px)
    if _fits(plan):
        return plan
    smaller = next((side for side in range(px, PX_MIN - 1, -4) if _fits(_plan(layout, side))), None)
    step = "`.report(folder)` of the grid takes any number of them."
    raise InvalidRequestError(
        f"A contact sheet of {len(layout.cells):,} cells of {px} pixels would be {plan.width:,} x "
        f"{plan.height:,} pixels, which many programs cannot open",
        field="px",
        value=px,
        allowed=f"px={smaller} or less"
        if smaller
        else f"fewer cells, up to {AREA_MAX // 1_000_000} megapixels",
        next_step=step,
    )


def _fits(plan: _Plan) -> bool:
    return max(plan.width, plan.height) <= SIDE_MAX and plan.width * plan.height <= AREA_MAX


def _plan(layout: Layout, px: int) -> _Plan:
    empty = _Plan(px, 0, 0, 0, ())
    gap, head = empty.gap, empty.head
    longest = max((len(row.label) for section in layout.sections for row in section.rows), default=0)
    left = min(round(0.9 * px), max(px // 4, round(0.65 * empty.letters[0] * longest))) if layout.y else 0
    tables, top, wide = [], gap, 1
    for section in layout.sections:
        table = _table(section, top, wraps=not layout.y)
        tables.append(table)
        top += (head if section.label else 0) + sum(
            px + gap + (head if any(heads) else 0) for heads in table.heads
        )
        wide = max(wide, *map(len, table.rows)) if table.rows else wide
    width = gap + (left + gap if left else 0) + wide * (px + gap)
    return _Plan(px, left, width, max(top, px), tuple(tables))


def _table(section: Section, top: int, *, wraps: bool) -> _Table:
    if not wraps:
        rows = tuple(row.cells for row in section.rows)
        heads = (section.columns, *(() for _ in rows[1:]))
        return _Table(section.label, top, section.columns, tuple(r.label for r in section.rows), rows, heads)
    cells = section.rows[0].cells if section.rows else ()
    wide = max(1, math.ceil(math.sqrt(len(cells) * _FLOW)))
    starts = range(0, len(cells), wide)
    rows = tuple(cells[start : start + wide] for start in starts)
    heads = tuple(section.columns[start : start + wide] for start in starts)
    return _Table(section.label, top, (), tuple("" for _ in rows), rows, heads)


# --- drawing ----------------------------------------------------------------------------------------


def _draw_sheet(plan: _Plan, images: Images) -> Picture:
    from PIL import Image as Pillow
    from PIL import ImageDraw as Drawing

    sheet = Pillow.new("RGB", (plan.width, plan.height), _PAPER)
    draw = Drawing.Draw(sheet)
    for table in plan.tables:
        top = table.top
        if table.label:
            _write(draw, table.label, (plan.gap, top, plan.width - 2 * plan.gap, plan.head), plan, _INK)
            top += plan.head
        for line, row, heads in zip(table.lines, table.rows, table.heads, strict=True):
            first = plan.gap + (plan.left + plan.gap if plan.left else 0)
            lefts = [first + place * (plan.px + plan.gap) for place in range(len(row))]
            for x, head in zip(lefts, heads, strict=False):
                _write(draw, head or "(none)", (x, top, plan.px, plan.head), plan, _INK, bottom=True)
            top += plan.head if any(heads) else 0
            if plan.left:
                _write(draw, line or "(none)", (plan.gap, top, plan.left, plan.px), plan, _INK)
            # A row at a time, so that no more pictures than those of a row are held.
            for x, cell, tiles in zip(lefts, row, _tiles(row, plan.px, images), strict=True):
                _draw_cell(sheet, cell, tiles, (x, top), plan)
            top += plan.px + plan.gap
    return sheet


def _tiles(row: Sequence[Cell | None], px: int, images: Images) -> Iterator[list[Picture | None]]:
    """The pictures of each cell of a row, small enough for their places."""
    stacks = [_here(cell) for cell in row]
    wanted = [(slide, px // _across(len(stack))) for stack in stacks for slide in stack]
    found = iter(in_threads(lambda one: _small(images, *one), wanted))
    return ([next(found) for _ in stack] for stack in stacks)


def _here(cell: Cell | None) -> list[Slide]:
    slides = cell.slides() if cell else []
    return [slide for slide in slides if slide.image and slide.image.file][:TAKES]


def _across(count: int) -> int:
    """How many pictures stand side by side in a cell."""
    return max(1, math.ceil(math.sqrt(count)))


def _small(images: Images, slide: Slide, px: int) -> Picture | None:
    from PIL import Image as Pillow

    image = slide.image
    if image is None:
        return None
    try:
        with open_picture(images.path(image)) as original:
            original.draft("RGB", (px, px))  # a JPEG is decoded no larger than needed
            original.thumbnail((px - 2, px - 2))
            flat = Pillow.new("RGB", original.size, _PAPER)
            seen = original.convert("RGBA")
            flat.paste(seen, mask=seen.getchannel("A"))
            return flat
    except Exception:  # noqa: BLE001 - decoders raise OSError, SyntaxError, ValueError, bomb errors...
        return None


def _draw_cell(
    sheet: Picture, cell: Cell | None, tiles: Sequence[Picture | None], at: tuple[int, int], plan: _Plan
) -> None:
    from PIL import ImageDraw as Drawing

    draw = Drawing.Draw(sheet)
    left, top = at
    draw.rectangle((left, top, left + plan.px - 1, top + plan.px - 1), fill=_INSET, outline=_LINE)
    pad = max(4, plan.px // 20)
    inner = (left + pad, top + pad, plan.px - 2 * pad, plan.px - 2 * pad)
    if cell is None:
        _write(draw, "No run", inner, plan, _SOFT)
        return
    if not any(tiles):
        slides = cell.slides()
        gone = any(slide.image and slide.image.file for slide in slides)
        why = GONE if gone else why_none(slides[0])
        _write(draw, why, inner, plan, _SOFT)
        return
    wide = _across(len(tiles))
    side = plan.px // wide
    top += (plan.px - side * math.ceil(len(tiles) / wide)) // 2
    for place, tile in enumerate(tiles):
        x, y = left + place % wide * side, top + place // wide * side
        if tile is not None:
            sheet.paste(tile, (x + (side - tile.width) // 2, y + (side - tile.height) // 2))
        if place == 0 and cell.winner is not None:
            wider = max(2, plan.px // 64)
            draw.rectangle((x, y, x + side - 1, y + side - 1), outline=_GOLD, width=wider)


def _write(
    draw: ImageDraw, text: str, box: tuple[int, int, int, int], plan: _Plan, ink: str, *, bottom: bool = False
) -> None:
    from apixo_nb.core.fonts import LINE_HEIGHT, best_font, fit, legible

    left, top, width, height = box
    shown = printable(text, _LABEL)
    name = best_font(shown)
    face, lines = fit(legible(shown, name), name, (width, height), plan.letters)
    step = LINE_HEIGHT * face.size
    start = top + (max(0.0, height - step * len(lines)) if bottom else 0.0)
    for number, line in enumerate(lines):
        draw.text((left, start + number * step), line, font=face, fill=ink)
