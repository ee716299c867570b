"""Runs as a pandas DataFrame, and that as CSV and back, exactly. Other files are in `formats.py`.

pandas is imported by these two alone.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .target import checked_target, new_file

if TYPE_CHECKING:
    from .run import Run

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


# Lone surrogates (a path whose bytes are no UTF-8), and Unicode's own line ends, where some part lines.
_ODD = re.compile("[\ud800-\udfff\x85\u2028\u2029]")


def history_frame(runs: Iterable[Run], file_path: Callable[[str], str]) -> pd.DataFrame:
    """One row a run, oldest first.

    Times are UTC; ``costTime`` (APIXO's own field) and ``wait_ms`` are milliseconds; ``cost_usd`` and
    ``unit_price_usd`` are US dollars, an estimate from the price in force, empty until a run has ended.
    Absent text is "", absent numbers and times are missing. ``variables`` holds dicts; ``image_urls``,
    ``result_urls``, ``files`` and ``tags`` hold lists.
    """
    rows = [_row(run, file_path) for run in runs]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(COLUMNS)


def _row(run: Run, file_path: Callable[[str], str]) -> dict[str, Any]:
    named = {column: getattr(run, column) for column in COLUMNS if hasattr(run, column)}
    return {
        **named,
        "task_id": run.task_id or "",
        "image_urls": list(run.image_urls),
        "result_urls": list(run.result_urls),
        "files": [file_path(name) for name in run.files],
        "tags": list(run.tags),
        "costTime": run.cost_time_ms,
        "cost_usd": None if run.cost_micros is None else run.cost_micros / 1e6,
        "unit_price_usd": run.unit_price_micros / 1e6,
    }


def brief(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of `history_frame` that fit a screen, by run id."""
    table = table.set_index("run_id")
    table["created_at"] = table["created_at"].dt.floor("s").dt.tz_localize(None)
    table["seconds"] = (table["costTime"] / 1000).round(1)
    table["on disk"] = table["files"].map(len)
    shown = ["created_at", "state", "prompt", "aspect_ratio", "num_images", "on disk", "seconds", "cost_usd"]
    return table[[*shown, "fail_code"]]


def write_csv(frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write the table as UTF-8 CSV, exactly: everything but numbers is quoted, nothing is altered.

    Read it back with `read_csv`, or with
    ``pandas.read_csv(path, keep_default_na=False, dtype={"prompt": str, ...})``, so that prompts such as
    ``NA``, ``007`` and ``=1+1`` stay what they are. Lists and dicts are written as JSON, times as ISO 8601.
    A spreadsheet would alter such prompts: `formats.write_excel_csv` is the dialect for it.

    Raises
    ------
    ApixoError
        The file cannot be written.
    """
    target = checked_target(path, "csv")
    written = as_text(frame)
    with new_file(target, "csv") as file:
        # QUOTE_NONNUMERIC, as a bare carriage return in an unquoted text would split its row.
        written.to_csv(
            file,
            mode="wb",
            index=False,
            encoding="utf-8",
            quoting=csv.QUOTE_NONNUMERIC,
            lineterminator="\n",
        )
    return target


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with lists and dicts as JSON, times as ISO 8601, and "" for what is missing of them."""
    written = frame.copy()
    for column, kind in COLUMNS.items():
        if column in written and kind in ("object", TIME):
            written[column] = [_cell(value) for value in frame[column]]
    return written


def _cell(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return to_json(value)
    return "" if value is None or pd.isna(value) else pd.Timestamp(value).isoformat()


def to_json(value: Any) -> str:
    """A list or a dict as JSON that can be written as UTF-8 in one line, whatever reads it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return json.dumps(value, default=str) if _ODD.search(text) else text


def read_csv(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table written by `write_csv`: the same values and dtypes again."""
    text = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8", lineterminator="\n")
    return from_text(text)


def from_text(text: pd.DataFrame) -> pd.DataFrame:
    """The table that `as_text` and writing have made texts of."""
    frame = pd.DataFrame({column: _column(text[column], kind) for column, kind in COLUMNS.items()})
    return frame.astype(COLUMNS)


def _column(text: pd.Series[str], kind: str) -> Any:
    if kind == "object":
        return [json.loads(value) for value in text]
    if kind == TIME:
        return pd.to_datetime(text.where(text != ""), utc=True, format="ISO8601")
    if kind in ("Int64", "Float64"):
        return pd.to_numeric(text.where(text != ""))
    return text == "True" if kind == "bool" else text
