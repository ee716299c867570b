"""The table in files, and back: exact CSV, CSV that spreadsheets leave alone, JSON Lines, Parquet."""

from __future__ import annotations

import csv
import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd

from apixo_nb.core.files import checked_target, new_file
from apixo_nb.errors import ApixoError

from .frame import KINDS, TIME, kinds_of, typed

# Lone surrogates (a path whose bytes are no UTF-8), and Unicode's own line ends, where some part lines.
_ODD = re.compile("[\ud800-\udfff\x85\u2028\u2029]")


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
    for column, kind in KINDS.items():
        if column in written and kind in ("object", TIME):
            known = frame[column]
            written[column] = _times(known) if str(known.dtype) == TIME else [_cell(value) for value in known]
    return written


def _times(known: pd.Series[Any]) -> list[str]:
    """Times of the table's own kind as ISO 8601, "" where there is none; as `_cell`, all at once."""
    texts = known.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(str)
    return ["" if text == "NaT" else text.removesuffix(".000000") + "+00:00" for text in texts.tolist()]


def _cell(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return to_json(value)
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return "" if value is None or pd.isna(value) else pd.Timestamp(value).isoformat()


_to_json = json.JSONEncoder(ensure_ascii=False, default=str).encode
_quoted = json.encoder.encode_basestring


def to_json(value: Any) -> str:
    """A list or a dict as JSON that can be written as UTF-8 in one line, whatever reads it."""
    try:  # nearly all are texts, and these are done in a third of the time
        if type(value) is list:
            text = f"[{', '.join(map(_quoted, value))}]"
        else:
            text = f"{{{', '.join(f'{_quoted(key)}: {_quoted(said)}' for key, said in value.items())}}}"
    except (TypeError, AttributeError):
        text = _to_json(value)
    return json.dumps(value, default=str) if _ODD.search(text) else text


def read_csv(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table of runs or pictures written by `write_csv`: the same values and dtypes again."""
    text = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8", lineterminator="\n")
    return from_text(text)


def from_text(text: pd.DataFrame) -> pd.DataFrame:
    """The table that `as_text` and writing have made texts of."""
    kinds = kinds_of(text)
    frame = pd.DataFrame({column: _column(text[column], kind) for column, kind in kinds.items()})
    return frame.astype(kinds)


def _column(text: pd.Series[str], kind: str) -> Any:
    if kind == "object":
        return [json.loads(value) for value in text]
    if kind == TIME:
        return pd.to_datetime(text.where(text != ""), utc=True, format="ISO8601")
    if kind in ("Int64", "Float64"):
        return pd.to_numeric(text.where(text != ""))
    return text == "True" if kind == "bool" else text


# --- CSV for spreadsheets ---------------------------------------------------------------------------

_MONTHS = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    "sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
# What a spreadsheet takes for a number, a sum, a date, a time or a truth: 007, 1e5, 1,5, 3:2, 5 May.
_ALTERED = re.compile(
    r"true|false|"
    rf"(?=.*\d)(?:[\s\d.,:/%+\-()_'\u2019\u2212$€£¥₩₹年月日時时分秒]|{_MONTHS}|am|pm|[aep]|(?<=\d)t(?=\d))*+",
    re.IGNORECASE | re.DOTALL,
)
_ALTERED_MAX = 60  # characters; a longer text is no number to any spreadsheet, nor quick to look through
_FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"  # and their full-width forms


def write_excel_csv(frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write the table as CSV for Excel and its kin: a BOM, CRLF rows, and texts that stay texts.

    A text that a spreadsheet would take for a formula, a number or a date gets a leading ``'``, as does one
    that begins with ``'``; `read_excel_csv` takes it away again, so nothing is lost.

    Raises
    ------
    ApixoError
        The file cannot be written.
    """
    target = checked_target(path, "excel")
    written = as_text(frame)
    for column in written:
        if KINDS.get(str(column)) != TIME:  # with its zone, no spreadsheet takes a time for more than text
            values = written[column].tolist()
            known = {value: guarded(value) for value in {value for value in values if isinstance(value, str)}}
            written[column] = [known[value] if isinstance(value, str) else value for value in values]
    written.columns = pd.Index([guarded(column) for column in written])
    with new_file(target, "excel") as file:
        written.to_csv(
            file,
            mode="wb",
            index=False,
            encoding="utf-8-sig",
            quoting=csv.QUOTE_NONNUMERIC,  # see `write_csv`
            lineterminator="\r\n",
        )
    return target


def read_excel_csv(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table written by `write_excel_csv`: the same values and dtypes again."""
    text = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    return from_text(text.map(lambda value: value.removeprefix("'")))


def guarded(value: Any) -> Any:
    """A text with ``'`` before it where a spreadsheet would take it for more than text; the rest as it is."""
    return f"'{value}" if isinstance(value, str) and _is_risky(value) else value


def _is_risky(text: str) -> bool:
    if text.startswith(("'", "\t", "\r", "\n")):
        return True
    ink = text.lstrip()
    if ink and unicodedata.category(ink[0]) in ("Cc", "Cf"):  # invisible, and dropped on the way by some
        ink = "".join(char for char in ink if unicodedata.category(char) not in ("Cc", "Cf")).lstrip()
    if ink.startswith(tuple(_FORMULA)):
        return True
    return len(ink) <= _ALTERED_MAX and _ALTERED.fullmatch(ink.rstrip()) is not None


# --- JSON Lines -------------------------------------------------------------------------------------


def write_jsonl(frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write the table as JSON Lines in UTF-8: one object a row, times as ISO 8601, null for what is missing.

    Raises
    ------
    ApixoError
        The file cannot be written.
    """
    target = checked_target(path, "jsonl")
    columns = [_plain_column(frame[column]) for column in frame]
    rows = (dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True))
    with new_file(target, "jsonl") as file:
        file.writelines(f"{to_json(row)}\n".encode() for row in rows)
    return target


def _plain_column(column: pd.Series[Any]) -> list[Any]:
    if (column.dtype.kind in "OmM" and not isinstance(column.dtype, pd.StringDtype)) or column.isna().any():
        return [_plain(value) for value in column.tolist()]
    return column.tolist()


def _plain(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return value
    if pd.isna(value):
        return None
    return value.isoformat() if isinstance(value, pd.Timestamp) else value


def read_jsonl(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table written by `write_jsonl`: the same values and dtypes again."""
    lines = Path(path).read_bytes().decode("utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    kinds = kinds_of(rows[0] if rows else ())
    return typed({column: [row[column] for row in rows] for column in kinds}, kinds)


# --- Parquet ----------------------------------------------------------------------------------------


def write_parquet(frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write the table as Parquet: lists are lists of strings, times are UTC in microseconds.

    ``variables`` is JSON in a string, as a struct would change its type with every template.

    Raises
    ------
    ApixoError
        The file cannot be written, or pyarrow is not installed.
    """
    target = checked_target(path, "parquet")
    arrow, parquet = _pyarrow()
    written = frame.copy()
    if "variables" in written:
        written["variables"] = [to_json(value) for value in frame["variables"]]
    with new_file(target, "parquet") as file:
        schema = arrow.Schema.from_pandas(written, preserve_index=False)
        for position, name in enumerate(schema.names):
            if name in KINDS:
                schema = schema.set(position, arrow.field(name, _arrow_type(arrow, name)))
        table = arrow.Table.from_pandas(written, schema=schema, preserve_index=False)
        parquet.write_table(table, file)
    return target


def read_parquet(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table written by `write_parquet`: the same values and dtypes again."""
    _, parquet = _pyarrow()
    with Path(path).open("rb") as file:
        kinds = kinds_of(parquet.read_schema(file).names)
        values = parquet.read_table(file, columns=list(kinds)).to_pydict()
    return typed({**values, "variables": [json.loads(text) for text in values["variables"]]}, kinds)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        step = "Run `pip install 'apixo-nb[parquet]'`, or choose .csv or .jsonl."
        raise ApixoError("Parquet needs pyarrow, which is not installed", next_step=step) from None
    return pa, pq


def _arrow_type(arrow: Any, column: str) -> Any:
    kinds = {
        "str": arrow.string(),
        "object": arrow.list_(arrow.string()),
        TIME: arrow.timestamp("us", "UTC"),
        "int64": arrow.int64(),
        "Int64": arrow.int64(),
        "float64": arrow.float64(),
        "Float64": arrow.float64(),
        "bool": arrow.bool_(),
    }
    return arrow.string() if column == "variables" else kinds[KINDS[column]]
