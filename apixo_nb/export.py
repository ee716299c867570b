"""Runs to a file: which kind it is to be, and who writes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import ApixoError, InvalidRequestError
from .originals import Images
from .run import Run
from .target import SUFFIXES, checked_target
from .text import printable


def export(
    runs: Iterable[Run],
    path: str | os.PathLike[str],
    kind: str | None,
    images: Images,
    shown_path: Callable[[str], str],
) -> Path:
    """Write runs to a file, whole or not at all, and return its path.

    Parameters
    ----------
    runs : iterable of Run, or one
    path : path
        Its end tells the kind: .csv (exact CSV, as a name without an end), .jsonl, .parquet or .html.
    kind : "csv", "excel", "jsonl", "parquet" or "html", optional
        Said in place of the end; "excel" is the CSV that spreadsheets leave alone.
    images : Images
        The originals, for the small pictures of a report.
    shown_path : function
        The path of a picture, as the table shows it, from its name.

    Raises
    ------
    ApixoError
        The file cannot be written, or its name tells no kind; InvalidRequestError for another kind, and for
        what is no run.
    """
    kind = _kind(path, kind)
    chosen = _checked(runs)
    if kind == "html":
        from .report import write_report

        return write_report(chosen, path, images)
    from . import formats, frame

    writers = {
        "csv": frame.write_csv,
        "excel": formats.write_excel_csv,
        "jsonl": formats.write_jsonl,
        "parquet": formats.write_parquet,
    }
    return writers[kind](frame.history_frame(chosen, shown_path), path)


def _kind(path: object, kind: object) -> str:
    if kind is None:
        kind = _kind_of(path)
    if not isinstance(kind, str) or kind not in SUFFIXES:
        message = f"The kind of an export cannot be {printable(repr(kind), 80)}"
        raise InvalidRequestError(message, field="kind", value=kind, allowed=", ".join(SUFFIXES))
    checked_target(path, kind)
    return kind


def _kind_of(path: object) -> str:
    known = {suffix: kind for kind, suffixes in SUFFIXES.items() if kind != "excel" for suffix in suffixes}
    suffix = Path(path).suffix.casefold() if isinstance(path, (str, os.PathLike)) else ""
    if suffix in known or not suffix:
        return known.get(suffix, "csv")
    text = f"The table could not be written to {printable(path, 80)}: no kind of file is known by that end"
    step = (
        "Give the name of a file that ends in .csv, .jsonl, .parquet or .html; --excel makes .csv for Excel."
    )
    raise ApixoError(text, next_step=step)


def _checked(runs: object) -> list[Run]:
    chosen: list[Run] = []
    for run in runs if isinstance(runs, Iterable) and not isinstance(runs, Run) else [runs]:
        if not isinstance(run, Run):
            message = f"This is no run: {printable(repr(run), 80)}"
            raise InvalidRequestError(message, field="runs", value=run, allowed="a list of Run")
        chosen.append(run)
    return chosen
