"""Runs and pictures as rows: written, read and counted within a transaction of the ledger's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from apixo_nb.core.records import (
    CHOICE,
    FAILED,
    PLANNED,
    STORED,
    SUBMITTED,
    SUCCESS,
    UNKNOWN,
    HistoryRow,
    Image,
    Run,
    make_line,
)
from apixo_nb.errors import LedgerError

from .schema import images, missing_pictures, runs

_MOST_AT_ONCE = 500  # values in one statement; databases have a limit

# How a run stands, in SQL: the rules of `Run.is_unanswered` and `Run.at_stake_micros`. `unfinished` has them
# in plain SQL, as it must do without SQLAlchemy.
UNANSWERED = (runs.c.state == UNKNOWN) & runs.c.cost_micros.is_(None)
AT_STAKE_MICROS = sa.case(
    (runs.c.cost_micros.is_(None) & (runs.c.state != PLANNED), runs.c.num_images * runs.c.unit_price_micros),
    else_=0,
)

#: Planned and leased: on its way to be sent. The sum of such runs is reserved, though nothing is at stake.
_ON_ITS_WAY = (runs.c.state == PLANNED) & runs.c.owner.is_not(None)
RESERVED_MICROS = sa.case((_ON_ITS_WAY, runs.c.num_images * runs.c.unit_price_micros), else_=0)

_RUN = tuple(column for column in runs.c if column.name in Run.model_fields)


def row_of(run: Run) -> dict[str, Any]:
    """The columns of a run."""
    # JSON columns take lists, the rest is as it is; what a Run derives is stored too, for people who query.
    values = run.model_dump(exclude={"images"})
    derived = {"mode": run.mode, "aspect_ratio": run.aspect_ratio, "num_images": run.num_images}
    return {**values, **derived}


def run_of(row: Any, pictures: Sequence[Image] = ()) -> Run:
    """The run of a row."""
    return Run.model_validate({**row, "images": tuple(pictures)})


def read_runs(connection: sa.Connection, wanted: sa.Select[Any]) -> list[Run]:
    """The runs that a selection of `runs` gives, in its order, with their pictures."""
    # A ledger may have 100,000 rows: little is done for each, and what a Run does not know is not read.
    rows = _dicts(connection.execute(wanted.with_only_columns(*_RUN)))
    found: dict[str, Sequence[Image]] = {}
    for part in parts([row["run_id"] for row in rows]):
        found |= {run_id: pictures for run_id, (_, pictures) in _images_of(connection, part).items()}
    return [run_of(row, found.get(row["run_id"], ())) for row in rows]


def read_lines(connection: sa.Connection, run_ids: Sequence[str], *, pictures: bool) -> list[HistoryRow]:
    """The runs of some ids, in their order, for a table; with pictures, or the names of files only."""
    read = _images_of if pictures else _files_of
    found = read(connection, run_ids)
    wanted = sa.select(*(runs.c[name] for name in STORED)).where(runs.c.run_id.in_(run_ids))
    known = {row[0]: row for row in connection.execute(wanted).all()}
    none: tuple[Any, Any] = ((), ())
    return [make_line((*known[each], *found.get(each, none))) for each in run_ids if each in known]


def _files_of(
    connection: sa.Connection, run_ids: Sequence[str]
) -> dict[str, tuple[Sequence[str], Sequence[Image]]]:
    stored = sa.select(images.c.run_id, images.c.file).where(images.c.run_id.in_(run_ids))
    found: dict[str, list[str]] = {}
    for run_id, file in connection.execute(stored.order_by(images.c.index)).all():
        if file:
            found.setdefault(run_id, []).append(file)
    return {run_id: (files, ()) for run_id, files in found.items()}


def _images_of(
    connection: sa.Connection, run_ids: Sequence[str]
) -> dict[str, tuple[Sequence[str], Sequence[Image]]]:
    found: dict[str, list[Image]] = {}
    stored = sa.select(images).where(images.c.run_id.in_(run_ids))
    for row in _dicts(connection.execute(stored.order_by(images.c.index))):
        found.setdefault(row["run_id"], []).append(Image.model_validate(row))
    return {
        run_id: ([image.file for image in pictures if image.file], pictures)
        for run_id, pictures in found.items()
    }


def _dicts(result: sa.CursorResult[Any]) -> list[dict[str, Any]]:
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result.all()]


def check_new(connection: sa.Connection, run_id: str) -> None:
    """Raise LedgerError if a run has a row already: its row is written once, and then it is bought once."""
    if connection.scalar(sa.select(runs.c.run_id).where(runs.c.run_id == run_id)) is not None:
        step = "Nothing was sent. Plan it anew to ask for another variation."
        raise LedgerError(f"Run {run_id} is in the ledger already", run_id=run_id, next_step=step)


def same_place(run: Run) -> sa.ColumnElement[bool]:
    """Of the runs of one request, those of the same cell and place; else those of the same take."""
    if not run.cell_id:
        return runs.c.take == run.take
    return (
        (runs.c.cell_id == run.cell_id)
        & (runs.c.cell_position == run.cell_position)
        & ((runs.c.rerun_of != "") == bool(run.rerun_of))
    )


def next_take(connection: sa.Connection, same: sa.ColumnElement[bool]) -> int:
    """The number of the next variation of a request: what failed, or was never sent, has none."""
    return 1 + (connection.scalar(sa.select(sa.func.max(runs.c.take)).where(same & _is_variation())) or 0)


def _is_variation() -> sa.ColumnElement[bool]:
    # One without an answer counts too, until a person has said how it ended.
    return runs.c.state.not_in((FAILED, PLANNED, UNKNOWN)) | UNANSWERED | _ON_ITS_WAY


def competing_run(connection: sa.Connection, same_place: sa.ColumnElement[bool]) -> Run | None:
    """The run of the same request and place that another kernel or thread has asked for already, or None."""
    asked = same_place & _is_variation()
    row = connection.execute(sa.select(runs).where(asked).limit(1)).mappings().first()
    return None if row is None else run_of(row)


def parts(run_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """So many ids as one statement takes."""
    for at in range(0, len(run_ids), _MOST_AT_ONCE):
        yield run_ids[at : at + _MOST_AT_ONCE]


def insert(connection: sa.Connection, run: Run, owner: str | None = None) -> None:
    """Write a whole row with its pictures, leased to `owner`."""
    connection.execute(runs.insert().values(**row_of(run), owner=owner))
    for image in run.images:
        put_picture(connection, run.run_id, image)
    count_missing(connection, run.run_id)


def is_there(connection: sa.Connection, run_id: str) -> bool:
    """Whether a run has a row."""
    return connection.scalar(sa.select(runs.c.run_id).where(runs.c.run_id == run_id)) is not None


def put_task(
    connection: sa.Connection, run_id: str, task: tuple[str, datetime], whole: Run | None, owner: str | None
) -> bool:
    """Write the task of a run, its id and when it was submitted, into its row, whatever became of that.

    A row that is gone is written as `whole`, leased to `owner`. One that was resolved, or ended, without a
    task is open again, and charged: only a success stands. False if it has another task, or is gone for good.
    """
    task_id, submitted_at = task
    row = connection.execute(sa.select(runs.c.task_id, runs.c.state).where(runs.c.run_id == run_id)).first()
    if row is None:
        if whole is not None:
            insert(connection, whole, owner)
        return whole is not None
    if row.task_id is not None:
        return bool(row.task_id == task_id)
    values: dict[str, Any] = {"task_id": task_id, "submitted_at": submitted_at}
    if row.state != SUCCESS:
        values |= {"state": SUBMITTED, "cost_micros": None, "fail_code": "", "fail_msg": ""}
        values |= {"finished_at": None}
    connection.execute(runs.update().where(runs.c.run_id == run_id).values(**values))
    return True


def catch_up(connection: sa.Connection, run: Run, live: Collection[str]) -> bool:
    """Bring a row up to what is known from elsewhere, see `Ledger.catch_up`; True if that said anything new.

    `live` are the ids of the owners whose processes live. A row of another task is left as it is, and so is
    one that is open: what was paid for ends by the service's word, or a person's. Nothing is forgotten.
    """
    row = connection.execute(sa.select(runs).where(runs.c.run_id == run.run_id)).mappings().first()
    if row is None or row["owner"] in live:
        return False
    known = run_of(row)
    another = known.task_id and run.task_id and known.task_id != run.task_id
    if another or not known.is_final:
        return False
    new = [merge_picture(connection, run.run_id, image) for image in run.images]
    count_missing(connection, run.run_id)
    return any(new)


def count_missing(connection: sa.Connection, run_id: str) -> None:
    """Bring the column `missing` of a run up to date."""
    row = connection.execute(
        sa.select(runs.c.state, runs.c.result_urls).where(runs.c.run_id == run_id)
    ).first()
    if row is not None:
        stored = (images.c.run_id == run_id) & (images.c.file != "")
        on_disk = connection.scalar(sa.select(sa.func.count()).where(stored)) or 0
        missing = missing_pictures(row.result_urls, on_disk) if row.state == SUCCESS else 0
        connection.execute(runs.update().where(runs.c.run_id == run_id).values(missing=missing))


# --- pictures ---------------------------------------------------------------------------------------


def put_picture(connection: sa.Connection, run_id: str, image: Image) -> None:
    """Write what is known of a picture; a person's choice stands, and so does the file that it once had."""
    columns = image.model_dump(exclude={"index", *CHOICE})
    if not image.file and connection.scalar(sa.select(images.c.file).where(_picture(run_id, image))):
        return  # its name and hash stand: the file may be on a drive that is away
    if not connection.execute(images.update().where(_picture(run_id, image)).values(**columns)).rowcount:
        connection.execute(images.insert().values(run_id=run_id, **image.model_dump()))
        if image.rating is not None:
            keep_best(connection, run_id)


def merge_picture(connection: sa.Connection, run_id: str, image: Image) -> bool:
    """Bring in a picture that is known from elsewhere; True if that said anything new.

    What is known here already stands, the choice as well, unless there is none.
    """
    row = connection.execute(sa.select(images).where(_picture(run_id, image))).mappings().first()
    if row is None:
        put_picture(connection, run_id, image)
        return True
    here = Image.model_validate(dict(row))
    columns = {} if here.file else image.model_dump(exclude={"index", *CHOICE})
    columns |= image.choice if image.is_chosen and not here.is_chosen else {}
    if columns:
        connection.execute(images.update().where(_picture(run_id, image)).values(**columns))
        if columns.get("rating") is not None:
            keep_best(connection, run_id)
    return bool(columns)


def choose(connection: sa.Connection, run_id: str, index: int, choice: dict[str, Any]) -> bool:
    """Write some of what a person says of a picture; False if there is no such picture."""
    key = (images.c.run_id == run_id) & (images.c.index == index)
    if not connection.execute(images.update().where(key).values(**choice)).rowcount:
        return False
    if "rating" in choice:
        keep_best(connection, run_id)
    return True


def keep_best(connection: sa.Connection, run_id: str) -> None:
    """Bring the rating of a run up to date: that of its best picture."""
    best = sa.select(sa.func.max(images.c.rating)).where(images.c.run_id == run_id).scalar_subquery()
    connection.execute(runs.update().where(runs.c.run_id == run_id).values(rating=best))


def _picture(run_id: str, image: Image) -> sa.ColumnElement[bool]:
    return (images.c.run_id == run_id) & (images.c.index == image.index)
