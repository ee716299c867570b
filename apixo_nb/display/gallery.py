"""Many runs as lasting HTML: a gallery of cards, and a table with thumbnails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from apixo_nb.analysis.frame import KINDS
from apixo_nb.core.formatting import HtmlResult, remark_of, render
from apixo_nb.core.records import Run
from apixo_nb.storage.originals import Images
from apixo_nb.text import dollars, printable, to_micros

from .cards import Picture, best_first, choice

GALLERY_PX = 160
THUMB_PX = 96  # with its row some 3 kB in the notebook
_CELL = 160  # characters
_PROMPT = 90

#: What `thumbs` shows of the columns we know; all columns of your own are shown beside them.
BRIEF = ("created_at", "state", "prompt", "aspect_ratio", "rating", "starred", "cost_usd")


# --- a gallery --------------------------------------------------------------------------------------


def gallery(pictures: Sequence[Picture], without: Sequence[Run], images: Images, limit: int) -> HtmlResult:
    """Cards of pictures, `limit` at most, and a line for each run without any, such as one that failed."""
    shown = list(pictures[:limit])
    cards = [
        {
            "thumbnail": thumbnail,
            "choice": choice(image),
            "prompt": printable(run.prompt, _PROMPT),
            "facts": _facts(run),
            "sandbox": run.sandbox,
        }
        for (run, image), thumbnail in zip(shown, images.thumbnails(shown, GALLERY_PX), strict=True)
    ]
    bare = [f"{printable(run.prompt, _PROMPT)} · {remark_of(run) or run.state}" for run in without[:limit]]
    summary = _count(pictures, without, len(shown))
    lines = [f"{card['prompt']} · {card['facts']}" for card in cards]
    return HtmlResult(
        render("gallery.html", cards=cards, bare=bare, summary=summary, px=GALLERY_PX),
        "\n".join([summary, *lines, *bare]),
    )


def _facts(run: Run) -> str:
    return " · ".join(part for part in (printable(run.name, 40), run.aspect_ratio, run.run_id) if part)


def _count(pictures: Sequence[Picture], without: Sequence[Run], shown: int) -> str:
    runs = len({run.run_id for run, _ in pictures}) + len(without)
    text = f"{len(pictures):,} picture{'s' * (len(pictures) != 1)} of {runs:,} run{'s' * (runs != 1)}"
    left = len(pictures) - shown
    return f"{text}; {left:,} more with gallery(limit=...) or report(path)" if left else text


# --- thumbnails in a table --------------------------------------------------------------------------


def thumbs(
    table: pd.DataFrame, pictures: Sequence[list[Picture]], images: Images, columns: Sequence[Any], more: int
) -> HtmlResult:
    """The table as HTML with a small picture in each row, and all that is text shown as text.

    Parameters
    ----------
    table : DataFrame
        The rows to show.
    pictures : list of lists
        The pictures of each row; the best one is shown, with the number of the others.
    columns : list
        Labels of the columns to show.
    more : int
        How many rows are left out.
    """
    firsts = [best_first(image for _, image in each)[:1] for each in pictures]
    chosen = [(each[0][0], first[0]) for each, first in zip(pictures, firsts, strict=True) if first]
    made = iter(images.thumbnails(chosen, THUMB_PX))
    thumbnails = [{"thumbnail": next(made), "more": len(each) - 1} if each else None for each in pictures]
    cells = [[_cell(value, label) for value in table[label].tolist()] for label in columns]
    rows = [
        {"label": printable(label, _CELL), "picture": picture, "cells": [column[at] for column in cells]}
        for at, (label, picture) in enumerate(zip(table.index, thumbnails, strict=True))
    ]
    footer = f"{more:,} more rows with thumbs(limit=...)" if more else ""
    html = render(
        "thumbnail_table.html", heads=[printable(label, _CELL) for label in columns], rows=rows, footer=footer
    )
    return HtmlResult(html, "\n".join(part for part in (table[list(columns)].to_string(), footer) if part))


def shown_columns(table: pd.DataFrame) -> list[Any]:
    """The columns that `thumbs` shows unless it is told."""
    return [label for label in table.columns if label in BRIEF or label not in KINDS]


def _cell(value: Any, label: Any) -> str:
    if isinstance(value, dict):
        return printable(", ".join(f"{name}={each}" for name, each in value.items()), _CELL)
    if isinstance(value, (list, tuple)):
        return printable(", ".join(map(str, value)), _CELL)
    if value is None or (not isinstance(value, str) and pd.isna(value) is True):
        return ""
    if isinstance(value, bool) and label == "starred":
        return "★" if value else ""
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d %H:%M}"
    return (
        dollars(to_micros(value))
        if str(label).endswith("_usd") and isinstance(value, float) and math.isfinite(value)
        else printable(value, _CELL)
    )
