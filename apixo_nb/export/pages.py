"""Runs as HTML pages: a report in one file, and a site with its pictures beside it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from apixo_nb.analysis.pivot import Cell, Layout, Section, Slide, marks, totals, why_none
from apixo_nb.core.files import IMAGE_SUFFIXES, checked_target, new_file, new_folder
from apixo_nb.core.formatting import FAILED_NOTE, cost, facts, remark_of, render, seconds, spent_text
from apixo_nb.core.records import BEST, FAILED, Image, Run, utc_now
from apixo_nb.errors import ApixoError
from apixo_nb.storage.originals import GONE, THUMBNAIL_PX, Images, Thumbnail, in_threads, number_text, scaled
from apixo_nb.text import bare_address, dollars, printable, redacted


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


_LONG = 1500  # characters of a prompt; a longer one scrolls on the screen, and is whole on paper


def write_report(runs: Sequence[Run], path: str | os.PathLike[str], images: Images) -> Path:
    """Write a page of these runs: small pictures that link to the originals, and all that the ledger knows.

    Nothing is fetched when it is opened. The address of a callback and the queries of signed addresses are
    left out; prompts and notes are shown as text.

    Raises
    ------
    ApixoError
        The file cannot be written.
    """
    target = checked_target(path, "html")
    page = report_html(runs, images, target.parent, utc_now())
    with new_file(target, "html") as file:
        file.write(page.encode("utf-8", "replace"))
    return target


def report_html(runs: Sequence[Run], images: Images, folder: Path, made: datetime) -> str:
    """The page, for a file in `folder`, where relative links to the originals start."""
    # Asked for at once, so that the pictures of many runs are made side by side.
    thumbnails = iter(images.thumbnails([(r, i) for r in runs for i in r.images], start=folder, prompt=200))
    cards = [_card(number, run, thumbnails) for number, run in enumerate(runs, 1)]
    return render_page(
        "report.html",
        runs,
        title=common_name(runs) or "Pictures and their prompts",
        made=made,
        states=sorted(Counter(printable(run.state, 40) for run in runs).items()),
        summary=_summary(runs),
        cards=cards,
    )


# --- head -------------------------------------------------------------------------------------------


def _summary(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Names and values of what is said of all runs together."""
    real, sandbox = [run for run in runs if not run.sandbox], [run for run in runs if run.sandbox]
    on_disk, came = sum(len(run.files) for run in runs), sum(len(run.result_urls) for run in runs)
    days = sorted(f"{run.created_at:%Y-%m-%d}" for run in runs)
    lines = [
        ("Runs", str(len(runs))),
        ("Pictures", f"{on_disk} on disk" + (f", of {came}" if came != on_disk else "")),
        ("Made", " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""),
        ("Spent", spent_text(real) if real or not sandbox else ""),
        ("Sandbox" if real else "Spent", spent_text(sandbox) if sandbox else ""),
    ]
    return [(name, value) for name, value in lines if value]


# --- one run ----------------------------------------------------------------------------------------


def _card(number: int, run: Run, thumbnails: Iterator[Thumbnail]) -> dict[str, Any]:
    run = run.replace(
        fail_code=redacted(run.fail_code, run.callback_url), fail_msg=redacted(run.fail_msg, run.callback_url)
    )
    pictures = [_picture(run, image, next(thumbnails)) for image in run.images]
    known = {image.index for image in run.images}
    missing = [index + 1 for index in range(len(run.result_urls)) if index not in known]
    return {
        "number": number,
        "run": run,
        "made": time_text(run.created_at),
        "pictures": pictures,
        "missing": missing,
        "remark": remark_of(run),
        "long": len(run.prompt) > _LONG,
        "template": run.prompt_template if run.prompt_template not in ("", run.prompt) else "",
        "references": [_address(url) for url in run.image_urls],
        "cost": cost(run),
        "facts": _facts(run),
    }


def _facts(run: Run) -> list[tuple[str, str]]:
    """Names and values of the figures of a run: all parameters, times, price, ids."""
    labels = {parameter.wire: parameter.help for parameter in run.spec.parameters} if run.spec else {}
    given = [(labels.get(wire, wire).capitalize(), str(value)) for wire, value in run.parameters.items()]
    lines = [
        ("Rating", _rating(run.rating)),
        ("Model", run.model),
        *given,
        ("Request type", run.request_type),
        ("Task time", _milliseconds(run.cost_time_ms, "costTime ")),
        ("Waited", _milliseconds(run.wait_ms)),
        ("Price a picture", dollars(run.unit_price_micros)),
        ("Take", str(run.take) if run.take else ""),
        ("Run", run.run_id),
        ("Task", run.task_id or ""),
        ("Addresses end", time_text(run.expires_at)["shown"] if run.expires_at else ""),
    ]
    return [(name, value) for name, value in lines if value]


def _milliseconds(value: int | None, name: str = "") -> str:
    return "" if value is None else f"{seconds(value / 1000)} ({name}{value} ms)"


def _rating(rating: int | None) -> str:
    return "" if rating is None else f"{rating} of {BEST}"


# --- its pictures -----------------------------------------------------------------------------------


def _picture(run: Run, image: Image, thumbnail: Thumbnail) -> dict[str, Any]:
    facts = [
        f"{image.width} \u00d7 {image.height}" if image.width and image.height else "",
        printable(image.format, 20),
        _size(image.bytes),
    ]
    return {
        "thumbnail": thumbnail,
        "name": number_text(run, image),
        "facts": " · ".join(fact for fact in facts if fact),
        "problem": _problem(run, image, thumbnail),
        "choice": " · ".join(
            text for text in ("★ starred" if image.starred else "", _rating(image.rating)) if text
        ),
        "tags": image.tags,
        "note": image.note,
    }


def _size(count: int | None) -> str:
    """A number of bytes for people: 812 kB, 2.1 MB."""
    if not count:
        return ""
    return f"{max(count / 1e3, 1):.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def _problem(run: Run, image: Image, thumbnail: Thumbnail) -> str:
    if not image.file:
        why = printable(redacted(image.error, run.callback_url))
        return f"Not on disk: {why}" if why else "Not on disk"
    return thumbnail.problem


def _address(url: str) -> dict[str, str]:
    """An address to show, without what may be keys; a link where it is whole."""
    bare = bare_address(url)
    if not bare:
        return {"shown": "an address that cannot be read", "link": ""}
    whole = bare == url and url.partition(":")[0] in ("http", "https")
    return {"shown": bare if bare == url else f"{bare} (the rest is left out)", "link": bare if whole else ""}


PICTURES = "pictures"  # the folder of the previews and originals
_STATIC = Path(__file__).parent / "static"
_ASSETS = ("site.css", "site.js")
_FOLDED = 80  # characters of an axis's value; the whole is one click away
_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,79}", re.ASCII)


class _Files(NamedTuple):
    """Where a picture lies, from the page; "" for what is not there."""

    preview: str
    original: str


def write_site(
    layout: Layout, path: str | os.PathLike[str], images: Images, *, originals: bool = True, title: str = ""
) -> Path:
    """Write a page of runs with its pictures beside it, and return the path of the page.

    Nothing is fetched when it is opened. The address of a callback, and users and queries of other addresses,
    are left out; the texts of people and servers are shown as text.

    Parameters
    ----------
    path : path
        A folder, for ``index.html`` and all that belongs to it; or the name of an .html file, beside which
        ``NAME_files`` holds the rest. A folder takes the place of an earlier site only.
    originals : bool
        Whether copies of the originals, byte for byte, lie beside their previews (WebP, up to 384 pixels).

    Raises
    ------
    ApixoError
        It cannot be written, or the folder holds something else; what was there is as it was.
    """
    given: object = path
    if not isinstance(given, (str, os.PathLike)) or "\0" in str(given) or not str(given):
        raise ApixoError(
            f"The report could not be written to {printable(path, 80)}, which is no name of a folder",
            next_step="Give the name of a new folder, or of a file that ends in .html.",
        )
    if Path(path).suffix.casefold() not in (".html", ".htm"):
        with new_folder(path, images.folder) as folder:
            page = _write_parts(layout, folder, "", images, originals=originals, title=title)
            (folder / "index.html").write_bytes(page)
        return Path(path).expanduser() / "index.html"
    target = checked_target(path, "html")
    beside = f"{target.stem}_files"
    with new_folder(target.parent / beside, images.folder) as folder:
        page = _write_parts(layout, folder, f"{quote(beside)}/", images, originals=originals, title=title)
    with new_file(target, "html") as file:
        file.write(page)
    return target


def _write_parts(
    layout: Layout, folder: Path, prefix: str, images: Images, *, originals: bool, title: str
) -> bytes:
    """Write all but the page, and return the page."""
    for name in _ASSETS:
        shutil.copyfile(_STATIC / name, folder / name)
    (folder / PICTURES).mkdir()
    wanted = {(run.run_id, image.index): (run, image) for run in layout.runs for image in run.images}

    def put(picture: tuple[Run, Image]) -> _Files:
        return _put(*picture, images, folder / PICTURES, f"{prefix}{PICTURES}/", originals=originals)

    files = dict(zip(wanted, in_threads(put, wanted.values()), strict=True))
    return _page(layout, files, prefix, title).encode("utf-8", "replace")


def _put(run: Run, image: Image, images: Images, folder: Path, prefix: str, *, originals: bool) -> _Files:
    """Write the preview of a picture, and copy its original."""
    stem = f"{_stem(run.run_id)}-{image.index + 1}"
    webp = images.small(run.run_id, image, THUMBNAIL_PX)
    if not webp:
        return _Files("", "")
    preview = f"{stem}.small.webp"
    (folder / preview).write_bytes(webp)
    if not originals or not image.file:
        return _Files(prefix + preview, "")
    name = stem + IMAGE_SUFFIXES.get(image.format, Path(image.file).suffix if _is_plain(image.file) else "")
    shutil.copyfile(images.path(image), folder / name)
    return _Files(prefix + preview, prefix + name)


def _stem(run_id: str) -> str:
    """A run's id, where it is a file's name on all systems; it may come from somebody else's ledger."""
    return (
        run_id
        if _NAME.fullmatch(run_id)
        else hashlib.sha256(run_id.encode("utf-8", "replace")).hexdigest()[:20]
    )


def _is_plain(file: str) -> bool:
    return Path(file).suffix.casefold() in IMAGE_SUFFIXES.values()


# --- the page ---------------------------------------------------------------------------------------


def _page(layout: Layout, files: Mapping[tuple[str, int], _Files], prefix: str, title: str) -> str:
    runs = layout.runs
    return render_page(
        "site.html",
        runs,
        title=title or common_name(runs) or layout.title,
        made=utc_now(),
        axes=layout.title,
        prefix=prefix,
        summary=totals(runs),
        states=sorted({printable(run.state, 40) for run in runs}),
        across=printable(layout.x, 40),
        down=printable(layout.y, 40),
        count=len(layout.cells),
        sections=[
            section_values(section, _FOLDED, lambda cell: _cell(cell, files)) for section in layout.sections
        ],
    )


def _cell(cell: Cell, files: Mapping[tuple[str, int], _Files]) -> dict[str, Any]:
    winner = cell.winner
    panes = [_pane(cell, slide, files, is_winner=slide == winner) for slide in cell.slides()]
    images = [image for run in cell.runs for image in run.images]
    return {
        "label": cell.label or "Takes of one request",
        "caption": cell.caption,
        "panes": panes,
        "states": "|".join(sorted({printable(run.state, 40) for run in cell.runs})),
        "rating": max((image.rating or 0 for image in images), default=0),
        "starred": any(image.starred for image in images),
        "runs": [_about(run) for run in cell.runs],
    }


def _pane(
    cell: Cell, slide: Slide, files: Mapping[tuple[str, int], _Files], *, is_winner: bool
) -> dict[str, Any]:
    run, image = slide
    found = files.get((run.run_id, image.index), _Files("", "")) if image else _Files("", "")
    why = "" if found.preview else GONE
    if image is None or (not image.file and not found.preview):
        why = why_none(slide)
    width, height = scaled(image, THUMBNAIL_PX) if image else (1, 1)
    index = image.index + 1 if image else 0
    return {
        "preview": found.preview,
        "original": found.original or found.preview,
        "alt": f"{cell.label}{': ' if cell.label else ''}{printable(run.prompt, 160)}",
        "width": width,
        "height": height,
        "why": why,
        "address": _living(run, image) if image and why else "",
        "marks": marks(slide),
        "winner": is_winner,
        "note": image.note if image else "",
        "tags": image.tags if image else (),
        "about": f"run-{run.run_id}",
        "name": f"take {run.take}, picture {index}" if run.take and index else "",
    }


def _living(run: Run, image: Image) -> str:
    """The address of a picture that did not come, while it lives; never one with a signature."""
    alive = run.expires_at is not None and run.expires_at > datetime.now(UTC)
    whole = bare_address(image.url) == image.url and image.url.partition(":")[0] in ("http", "https")
    return image.url if alive and whole else ""


def _about(run: Run) -> dict[str, Any]:
    return {
        "id": f"run-{run.run_id}",
        "prompt": run.prompt,
        "facts": " · ".join(facts(run)),
        "state": printable(run.state, 40),
        "made": f"{run.created_at:%Y-%m-%d %H:%M} UTC",
        "note": run.note,
        "sandbox": run.sandbox,
        "references": _addresses(run.image_urls),
    }


def _addresses(urls: Sequence[str]) -> list[str]:
    return [bare_address(url) or "an address that cannot be read" for url in urls]
