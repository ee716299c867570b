"""Runs side by side, as lasting HTML: pictures, what differs between the prompts word by word, parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .cards import comparison
from .difference import Kind
from .display import remark_of, render
from .errors import InvalidRequestError
from .gallery import best_first, small
from .originals import Images
from .records import Records
from .run import Image, Run
from .scrub import bare_address
from .shown import Shown
from .text import printable

MOST = 4  # more do not stand side by side on a screen
_WIDTHS_PX = {2: 360, 3: 260, 4: 200}  # of a column

#: Facts that always differ, so that they say nothing about the runs.
_OWN = ("Made", "Run")


def compare(records: Records, which: Iterable[object]) -> Shown:
    """2 to 4 runs side by side.

    Parameters
    ----------
    records : Records
        The session that knows them.
    which : iterable
        Runs, ids of runs, or rows of a table (each with a ``run_id``); a row of the table of pictures stands
        for that picture alone.

    Raises
    ------
    InvalidRequestError
        There are fewer or more, or one of them is no run of the ledger.
    """
    found = [_resolved(records, one) for one in which]
    if not 2 <= len(found) <= MOST:
        text = f"{len(found)} run{'s' * (len(found) != 1)} cannot be compared"
        raise InvalidRequestError(text, field="runs", value=len(found), allowed=f"2 to {MOST}")
    return compared(found, records.images)


def compared(found: Sequence[tuple[Run, Sequence[Image]]], images: Images) -> Shown:
    """Runs with those of their pictures that are to be seen."""
    runs, px = [run for run, _ in found], _WIDTHS_PX[len(found)]
    told = comparison(runs)
    parameters = [_parameter(**one) for one in told["parameters"]]
    columns = [_column(run, pictures, images, px) for run, pictures in found]
    html = render("comparison.html", columns=columns, prompts=told["prompts"], parameters=parameters, px=px)
    return Shown(html, _text(runs, told["prompts"], parameters))


def _resolved(records: Records, one: object) -> tuple[Run, Sequence[Image]]:
    if isinstance(one, Run):
        run = records.ledger.get(one.run_id) or one  # it may have been rated since
        return run, best_first(run.images)
    if isinstance(one, str):
        run = records.run(one)
        return run, best_first(run.images)
    row = _row(one)
    if not isinstance(row.get("run_id"), str):
        text = f"This is no run: {printable(repr(one), 80)}"
        raise InvalidRequestError(text, field="runs", value=one, allowed="runs, ids of runs, rows of a table")
    run = records.run(row["run_id"])
    if "index" in row and "sha256" in row:
        return run, [image for image in run.images if image.index == row["index"]]
    return run, best_first(run.images)


def _row(one: object) -> Mapping[str, Any]:
    """A row of a table as a dict: of ``iloc``, ``iterrows``, ``itertuples`` or ``to_dict``."""
    if isinstance(one, Mapping):
        return one
    made = getattr(one, "_asdict", None) or getattr(one, "to_dict", None)
    found = made() if made is not None and not isinstance(one, type) else {}
    return found if isinstance(found, Mapping) else {}


def _column(run: Run, pictures: Sequence[Image], images: Images, px: int) -> dict[str, Any]:
    side = px if len(pictures) < 2 else px // 2 - 4
    return {
        "pictures": list(small([(run, image) for image in pictures], images, side)),
        "remark": remark_of(run),
        "sandbox": run.sandbox,
    }


def _parameter(label: str, values: Sequence[str], *, differs: bool) -> dict[str, Any]:
    if label == "References":  # their queries may be keys, and this stays in the notebook
        values = ["\n".join(bare_address(url) for url in value.split("\n")) for value in values]
        values = [value or "none" for value in values]
    return {"label": label, "values": list(values), "differs": differs and label not in _OWN}


# --- as text ----------------------------------------------------------------------------------------

_SIGNS = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}


def _text(
    runs: Sequence[Run], prompts: Sequence[Sequence[tuple[Kind, str]]], parameters: Sequence[dict[str, Any]]
) -> str:
    lines = [
        f"{number}. run {run.run_id}: "
        + printable("".join(_SIGNS[kind].format(piece) for kind, piece in pieces), 600)
        for number, (run, pieces) in enumerate(zip(runs, prompts, strict=True), 1)
    ]
    differing = [one for one in parameters if one["differs"]]
    return "\n".join(
        [*lines, *(f"{one['label']}: {printable(' | '.join(one['values']), 300)}" for one in differing)]
    )
