"""What HTML pages of runs have in common: title, time, marks and notes around whatever their template shows.

There are two. A report is one file: a card for each run, with its pictures inside. A site is a folder: the
runs laid out as a grid, with pictures, style and script in files beside the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from apixo_nb.analysis.pivot import Cell, Section
from apixo_nb.core.formatting import render
from apixo_nb.core.records import FAILED, Run
from apixo_nb.core.spending import FAILED_NOTE
from apixo_nb.text import printable


def render_page(template: str, runs: Sequence[Run], *, title: str, made: datetime, **values: Any) -> str:
    """A template that extends page.html; the values are escaped."""
    return render(
        template,
        title=title,
        made=time_text(made),
        sandbox=bool(runs) and all(run.sandbox for run in runs),
        note=FAILED_NOTE if any(run.state == FAILED and run.task_id for run in runs) else "",
        **values,
    )


def common_name(runs: Sequence[Run]) -> str:
    """The name that all runs bear; "" if there is none."""
    names = {run.name for run in runs}
    return names.pop() if len(names) == 1 else ""


def time_text(when: datetime) -> dict[str, str]:
    """A time in UTC, for a ``time`` element: `iso` for programs, `shown` for people."""
    return {"iso": when.isoformat(timespec="seconds"), "shown": f"{when:%Y-%m-%d %H:%M} UTC"}


def section_values(section: Section, characters: int, show: Callable[[Cell], Any]) -> dict[str, Any]:
    """A section of a grid for a template; `show` makes the values of a cell, and labels are folded."""
    rows = [
        {
            "label": folded(row.label, characters),
            "cells": [show(cell) if cell else None for cell in row.cells],
        }
        for row in section.rows
    ]
    columns = [folded(column, characters) for column in section.columns]
    return {"label": section.label, "columns": columns, "rows": rows}


def folded(value: str, characters: int) -> dict[str, str]:
    """A value of an axis: `short` is its beginning; `whole` is "" where that is all of it."""
    return {
        "short": printable(value, characters) or "(none)",
        "whole": value if len(value) > characters else "",
    }
