"""Runs as one HTML page to keep, send or print: it opens from the disk, without kernel, server or network."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from apixo_nb.core.files import checked_target, new_file
from apixo_nb.core.formatting import cost, remark_of, seconds
from apixo_nb.core.records import BEST, Image, Run, utc_now
from apixo_nb.core.spending import spent_text
from apixo_nb.storage.originals import Images
from apixo_nb.storage.thumbnails import Thumbnail, number_text
from apixo_nb.text import bare_address, dollars, printable, redacted

from .page import common_name, render_page, time_text

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
