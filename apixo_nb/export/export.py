"""Runs to a file or a folder: which kind it is to be, and who writes it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from apixo_nb.core import checks
from apixo_nb.core.files import EXPORT_KINDS, SUFFIXES, Written, checked_folder, checked_target, new_folder
from apixo_nb.core.records import HistoryRow, Image, Run, checked_runs
from apixo_nb.errors import ApixoError
from apixo_nb.ledger.query import Query, query_of
from apixo_nb.storage.originals import Images, check_any, left_out
from apixo_nb.text import bare_address, printable, redacted, to_usd


class Stored(Protocol):
    """All runs of a ledger."""

    def runs(self) -> list[Run]:
        """As records."""
        ...

    def lines(self, query: Query) -> Iterator[HistoryRow]:
        """For a table: those that a query asks for."""
        ...


def export(
    runs: Iterable[Run] | Stored,
    path: str | os.PathLike[str],
    kind: str | None,
    images: Images,
    shown_path: Callable[[str], str],
) -> Written:
    """Write runs to a file or folder, whole or not at all; returns where, and what there is to say of it.

    Parameters
    ----------
    runs : iterable of Run, or one, or a ledger, which means all of its runs
    path : path
        Its end tells the kind: .csv (exact CSV, as a name without an end), .jsonl, .parquet, .html, .zip, or
        .png, .webp, .jpg for a contact sheet.
    kind : one of `files.EXPORT_KINDS`, optional
        Said in place of the end; "excel" is the CSV that spreadsheets leave alone, "bundle" the ZIP that
        `importer.import_bundle` reads, "site" a page with its pictures beside it, in a folder or beside an
        .html file; see `site.write_site`. "imagefolder" and "embed" are folders: pictures with a
        ``metadata.jsonl``, and copies of the pictures that hold their own parameters.
    images : Images
        The originals: for the small pictures of a report, and for all that holds pictures.
    shown_path : function
        The path of a picture, as the table shows it, from its name.

    Raises
    ------
    ApixoError
        The file cannot be written, or its name tells no kind; InvalidRequestError for another kind, and for
        what is no run.
    """
    kind = _kind(path, kind)
    if kind in ("csv", "excel", "jsonl", "parquet"):
        return Written(_table(kind, runs, path, shown_path))
    chosen = checked_runs(runs)
    if kind in ("bundle", "imagefolder", "embed"):
        return _with_pictures(kind, chosen, path, images)
    if kind in ("sheet", "site"):
        return Written(_laid_out(kind, chosen, path, images))
    from .pages import write_report

    return Written(write_report(chosen, path, images))


def _table(
    kind: str, runs: Iterable[Run] | Stored, path: str | os.PathLike[str], shown_path: Callable[[str], str]
) -> Path:
    from apixo_nb.analysis import formats, frame

    writers = {
        "csv": formats.write_csv,
        "excel": formats.write_excel_csv,
        "jsonl": formats.write_jsonl,
        "parquet": formats.write_parquet,
    }
    # A ledger may have 100,000 rows: they go into the table without being records.
    rows = runs.lines(query_of()) if hasattr(runs, "lines") else checked_runs(runs)
    return writers[kind](frame.history_frame(rows, shown_path), path)


def _laid_out(kind: str, runs: list[Run], path: str | os.PathLike[str], images: Images) -> Path:
    from apixo_nb.analysis.pivot import lay_out

    from .contact_sheet import write_sheet
    from .pages import write_site

    return (write_sheet if kind == "sheet" else write_site)(lay_out(runs), path, images)


def _with_pictures(kind: str, runs: list[Run], path: str | os.PathLike[str], images: Images) -> Written:
    from .bundle import write_bundle
    from .embed import write_copies

    writers = {"bundle": write_bundle, "imagefolder": write_imagefolder, "embed": write_copies}
    once = {run.run_id: run for run in runs}  # a picture has one name, however often its run is given
    return writers[kind](list(once.values()), path, images)


def _kind(path: object, kind: object) -> str:
    if kind is None:
        kind = _kind_of(path)
    message = f"The kind of an export cannot be {printable(repr(kind), 80)}"
    kind = checks.one_of(kind, "kind", EXPORT_KINDS, message=message)
    if kind in SUFFIXES:
        checked_target(path, kind)
    return kind


def _kind_of(path: object) -> str:
    known = {suffix: kind for kind, suffixes in SUFFIXES.items() if kind != "excel" for suffix in suffixes}
    suffix = Path(path).suffix.casefold() if isinstance(path, (str, os.PathLike)) else ""
    if suffix in known or not suffix:
        return known.get(suffix, "csv")
    text = f"The table could not be written to {printable(path, 80)}: no kind of file is known by that end"
    step = (
        "Give a file that ends in .csv, .jsonl, .parquet, .html, .zip or .png; --excel makes .csv for Excel."
    )
    raise ApixoError(text, next_step=step)


# --- a folder for Hugging Face's datasets -----------------------------------------------------------

METADATA = "metadata.jsonl"


def write_imagefolder(runs: Sequence[Run], path: str | os.PathLike[str], images: Images) -> Written:
    """Write a Hugging Face ImageFolder: every picture of these runs that is on disk, and its line.

    Raises
    ------
    ApixoError
        The folder cannot be written (see `files.new_folder`), or there is no picture.
    """
    target = checked_folder(path, images.folder)
    stored, gone = images.stored(runs)
    check_any(stored)
    with new_folder(target, images.folder) as folder:
        for _, image in stored:
            shutil.copyfile(images.path(image), folder / image.file)
        with (folder / METADATA).open("wb") as file:
            file.writelines(_line(run, image) for run, image in stored)
    return Written(target, tuple(left_out(gone)))


def _line(run: Run, image: Image) -> bytes:
    # Escaped, as some readers part lines at other signs than the line feed.
    return json.dumps(row(run, image)).encode("ascii") + b"\n"


def row(run: Run, image: Image) -> dict[str, Any]:
    """One line: the columns of the table, and those of the picture; ``file_name`` comes first.

    Names as in `frame.COLUMNS`, but for ``rating``, ``note`` and ``tags``: they are the picture's here, and
    the run's are ``run_rating``, ``run_note`` and ``run_tags``. ``variables`` and ``parameters`` are JSON in
    a text, as their names change from line to line. Addresses have no query, as it may be a key.
    """
    dumped = run.model_dump(mode="json")
    shown = (
        "run_id",
        "task_id",
        "created_at",
        "model",
        "prompt_template",
        "request_type",
        "state",
        "wait_ms",
    )
    return {
        "file_name": image.file,
        "prompt": run.prompt,
        **{name: dumped[name] for name in shown},
        "index": image.index,
        "mode": run.mode,
        "variables": json.dumps(run.variables, ensure_ascii=False),
        "parameters": json.dumps(run.parameters, ensure_ascii=False),
        "aspect_ratio": run.aspect_ratio,
        "num_images": run.num_images,
        "image_urls": [bare_address(url) for url in run.image_urls],
        "costTime": run.cost_time_ms,
        "cost_usd": None if run.cost_micros is None else to_usd(run.cost_micros),
        "unit_price_usd": to_usd(run.unit_price_micros),
        "fail_code": run.fail_code,
        "fail_msg": redacted(run.fail_msg, run.callback_url),
        "result_urls": [bare_address(url) for url in run.result_urls],
        "url": bare_address(image.url),
        **{name: getattr(image, name) for name in ("width", "height", "format", "bytes", "sha256")},
        **image.choice,
        "run_rating": run.rating,
        "run_note": run.note,
        "run_tags": list(run.tags),
        "name": run.name,
        "take": run.take,
        **{name: dumped[name] for name in ("expires_at", "sandbox", "schema_version")},
    }
