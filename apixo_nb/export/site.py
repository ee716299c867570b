"""Runs as a page with separate picture files: it opens from the disk, for a thousand cells as for ten.

The page needs no kernel, no server and no network. Pictures are read when they come into sight. Its script, a
file of its own, adds a filter and a close look; without it the page is the same, all of it readable.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from apixo_nb.analysis.pivot import Cell, Layout, Slide, marks, totals, why_none
from apixo_nb.core.files import IMAGE_SUFFIXES, checked_target, new_file, new_folder
from apixo_nb.core.formatting import facts
from apixo_nb.core.records import Image, Run, utc_now
from apixo_nb.errors import ApixoError
from apixo_nb.storage.originals import Images
from apixo_nb.storage.thumbnails import GONE, THUMBNAIL_PX, in_threads, scaled
from apixo_nb.text import bare_address, printable

from .page import common_name, render_page, section_values

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
