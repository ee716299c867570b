"""Runs and pictures as pandas DataFrames: their columns, dtypes and units."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from operator import attrgetter
from typing import Any

import pandas as pd

from apixo_nb.core.records import HistoryRow, Image, Run
from apixo_nb.text import printable, to_usd

TIME = "datetime64[us, UTC]"

#: Column -> dtype of the table; one row a run. `object` columns hold lists or dicts, JSON in CSV.
COLUMNS: dict[str, str] = {
    "run_id": "str",
    "task_id": "str",
    "created_at": TIME,
    "model": "str",
    "mode": "str",
    "prompt": "str",
    "prompt_template": "str",
    "variables": "object",
    "aspect_ratio": "str",
    "num_images": "int64",
    "image_urls": "object",
    "request_type": "str",
    "state": "str",
    "costTime": "Int64",
    "wait_ms": "Int64",
    "cost_usd": "Float64",
    "unit_price_usd": "float64",
    "fail_code": "str",
    "fail_msg": "str",
    "result_urls": "object",
    "files": "object",
    "expires_at": TIME,
    "name": "str",
    "tags": "object",
    "note": "str",
    "rating": "Int64",
    "sandbox": "bool",
    "schema_version": "int64",
}

#: The same of the table of pictures; one row a picture.
IMAGE_COLUMNS: dict[str, str] = {
    "run_id": "str",
    "index": "int64",
    "file": "str",
    "url": "str",
    "rating": "Int64",
    "starred": "bool",
    "note": "str",
    "tags": "object",
    "sha256": "str",
    "bytes": "Int64",
    "width": "Int64",
    "height": "Int64",
    "format": "str",
    "error": "str",
    "prompt": "str",
    "variables": "object",
    "aspect_ratio": "str",
    "model": "str",
    "created_at": TIME,
    "cost_usd": "Float64",
    "name": "str",
    "state": "str",
    "sandbox": "bool",
    "expires_at": TIME,
}

#: Of both; a column that stands in both is of one kind.
KINDS = {**COLUMNS, **IMAGE_COLUMNS}

_PART = 1_000  # rows of a large ledger that are in memory as records at a time
_PROMPT_CHARACTERS = 40
_OF_IMAGE = tuple(column for column in IMAGE_COLUMNS if column in Image.model_fields)


def history_frame(runs: Iterable[Run | HistoryRow], file_path: Callable[[str], str]) -> pd.DataFrame:
    """One row a run, oldest first.

    Times are UTC; ``costTime`` (APIXO's own field) and ``wait_ms`` are milliseconds; ``cost_usd`` and
    ``unit_price_usd`` are US dollars, an estimate from the price in force, empty until a run has ended.
    Absent text is "", absent numbers and times are missing. ``variables`` holds dicts; ``image_urls``,
    ``result_urls``, ``files`` and ``tags`` hold lists.
    """
    # Column by column: with 100,000 rows that is several times as fast as row by row.
    made: dict[str, Callable[[Run | HistoryRow], Any]] = {
        "task_id": lambda run: run.task_id or "",
        "image_urls": lambda run: list(run.image_urls),
        "result_urls": lambda run: list(run.result_urls),
        "files": lambda run: [file_path(name) for name in run.files],
        "tags": lambda run: list(run.tags),
        "costTime": attrgetter("cost_time_ms"),
        "cost_usd": lambda run: _usd(run.cost_micros),
        "unit_price_usd": lambda run: to_usd(run.unit_price_micros),
    }
    return _table(runs, {column: made.get(column) or attrgetter(column) for column in COLUMNS}, COLUMNS)


def images_frame(runs: Iterable[Run | HistoryRow], file_path: Callable[[str], str]) -> pd.DataFrame:
    """One row a picture, in the order of the runs; those included that are not on disk, with file "".

    ``index`` counts from 0 within its run. ``rating``, ``starred``, ``note`` and ``tags`` are the picture's
    own; prompt, name, state and the like are its run's. ``cost_usd`` is the picture's share of what its run
    cost, in US dollars; ``width`` and ``height`` are pixels. Else as `history_frame`.
    """
    rows = ((run, image, count) for run in runs for image, count in _pictures(run))
    made: dict[str, Callable[[tuple[Run | HistoryRow, Image, int]], Any]] = {
        "file": lambda row: file_path(row[1].file) if row[1].file else "",
        "tags": lambda row: list(row[1].tags),
        "cost_usd": lambda row: _usd(row[0].cost_micros, row[2]),
    }
    for column in IMAGE_COLUMNS:
        read, part = attrgetter(column), 1 if column in _OF_IMAGE else 0
        made.setdefault(column, lambda row, read=read, part=part: read(row[part]))  # type: ignore[misc]
    return _table(rows, made, IMAGE_COLUMNS)


def _table(
    rows: Iterable[Any], read: Mapping[str, Callable[[Any], Any]], kinds: Mapping[str, str]
) -> pd.DataFrame:
    values: dict[str, list[Any]] = {column: [] for column in kinds}
    rows = iter(rows)
    with _no_collection():
        while part := list(islice(rows, _PART)):
            for column, known in values.items():
                known.extend(map(read[column], part))
        return typed(values, kinds)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the collector from its rounds: nothing of a table is garbage, and they take half of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _pictures(run: Run | HistoryRow) -> Iterator[tuple[Image, int]]:
    """Each picture of a run, also one of which no more than its address is known, and how many there are."""
    known = {image.index: image for image in run.images}
    for index, url in enumerate(run.result_urls):
        known.setdefault(index, Image(index=index, url=url))
    for index in sorted(known):
        yield known[index], len(known)


def _usd(micros: int | None, parts: int = 1) -> float | None:
    return None if micros is None else to_usd(micros / parts)


def typed(values: Mapping[str, list[Any]], kinds: Mapping[str, str]) -> pd.DataFrame:
    """A table of these columns, each of its kind, whatever is in it; times may be ISO 8601."""
    return pd.DataFrame({column: _series(values[column], kind) for column, kind in kinds.items()})


def _series(values: list[Any], kind: str) -> pd.Series[Any]:
    series: pd.Series[Any] = pd.Series(values, dtype="object" if kind == TIME else kind)
    if kind == TIME:
        return pd.to_datetime(series, utc=True, format="ISO8601").astype("datetime64[us, UTC]")
    return series


def brief(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of `history_frame` that fit a screen, by run id."""
    table = table.set_index("run_id")
    table["created_at"] = table["created_at"].dt.floor("s").dt.tz_localize(None)
    table["seconds"] = (table["costTime"] / 1000).round(1)
    table["on disk"] = table["files"].map(len)
    shown = ["created_at", "state", "prompt", "aspect_ratio", "num_images", "on disk", "seconds", "cost_usd"]
    return table[[*shown, "fail_code"]]


def brief_text(table: pd.DataFrame) -> str:
    """A `brief` table for a terminal: no text in it can steer the terminal, and a prompt is cut short."""
    if table.empty:
        return "No runs yet."
    shown = table.reset_index()
    for column in ("run_id", "state", "prompt", "aspect_ratio", "fail_code"):
        shown[column] = [printable(text, _PROMPT_CHARACTERS) for text in shown[column]]
    shown["cost_usd"] = ["" if pd.isna(cost) else f"{cost:.2f}" for cost in shown["cost_usd"]]
    return str(shown.to_string(index=False, na_rep=""))


def kinds_of(columns: Iterable[Any]) -> dict[str, str]:
    """The columns of a table of pictures, or of runs, whichever it is."""
    return IMAGE_COLUMNS if "sha256" in columns else COLUMNS
