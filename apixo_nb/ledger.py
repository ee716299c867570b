"""The ledger: every run a row, written before the money is spent.

A database by SQLAlchemy Core; one SQLite file by default. It is small and written some five times a task, so
safety comes before speed. On SQLite: a rollback journal (TRUNCATE), because people copy ``ledger.db`` while a
kernel runs and keep it on network homes, where a write-ahead log loses rows; ``synchronous=FULL``; and every
write transaction begins IMMEDIATE, as a deferred one fails at once, without waiting, when two kernels write.
Pictures are not in here, only their names and hashes.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from .errors import LedgerError, printable
from .run import FAILED, PLANNED, SCHEMA_VERSION, SUBMITTED, SUCCESS, UNKNOWN, Image, Run
from .spec import FINAL_STATES

_BUSY_MS = 10_000  # how long a write waits for another kernel's
_LOCK = 0x41_70_69_78_6F  # the number of our advisory lock on PostgreSQL: "Apixo"


class _UtcDateTime(sa.TypeDecorator[datetime]):
    """A UTC time. SQLite has no time zones, so it gets naive UTC, and gives it back aware."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_metadata = sa.MetaData()

_runs = sa.Table(
    "runs",
    _metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("task_id", sa.Text, index=True),
    sa.Column("created_at", _UtcDateTime, nullable=False, index=True),
    sa.Column("submitted_at", _UtcDateTime),
    sa.Column("finished_at", _UtcDateTime),
    sa.Column("expires_at", _UtcDateTime),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("prompt_template", sa.Text, nullable=False),
    sa.Column("variables", sa.JSON, nullable=False),
    sa.Column("aspect_ratio", sa.Text, nullable=False),
    sa.Column("num_images", sa.Integer, nullable=False),
    sa.Column("parameters", sa.JSON, nullable=False),
    sa.Column("image_urls", sa.JSON, nullable=False),
    sa.Column("request_type", sa.Text, nullable=False),
    sa.Column("callback_url", sa.Text),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("cost_time_ms", sa.BigInteger),
    sa.Column("wait_ms", sa.BigInteger),
    sa.Column("unit_price_micros", sa.BigInteger, nullable=False),
    sa.Column("cost_micros", sa.BigInteger),
    sa.Column("fail_code", sa.Text, nullable=False),
    sa.Column("fail_msg", sa.Text, nullable=False),
    sa.Column("result_urls", sa.JSON, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("rating", sa.Integer),
    sa.Column("sandbox", sa.Boolean, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, index=True),
    sa.Column("take", sa.Integer, nullable=False),
    sa.Column("raw", sa.Text, nullable=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
)

_images = sa.Table(
    "images",
    _metadata,
    sa.Column("run_id", sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("file", sa.Text, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("bytes", sa.BigInteger),
    sa.Column("width", sa.Integer),
    sa.Column("height", sa.Integer),
    sa.Column("format", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
)

_meta = sa.Table(
    "meta",
    _metadata,
    sa.Column("key", sa.String(50), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

_RUN_COLUMNS = frozenset(column.name for column in _runs.columns)


class Ledger:
    """Runs and their pictures in a database. Safe to use from several threads and processes.

    Attributes
    ----------
    shown_place : str
        Where it is, without a password.

    Parameters
    ----------
    place : Path or str
        A file for SQLite, or a SQLAlchemy URL.
    aside : Path, optional
        The file that takes taskIds while the database cannot; default: beside a SQLite file.

    Raises
    ------
    LedgerError
        From every method: the database cannot be opened, read or written; the message says why.
    """

    def __init__(self, place: Path | str, aside: Path | None = None) -> None:
        self.shown_place = str(place) if isinstance(place, Path) else _without_password(place)
        self._aside = aside or (place.with_name("ledger-tasks.jsonl") if isinstance(place, Path) else None)
        try:
            with self._explained():
                self._engine = _engine(place)
            self._prepare()
        except (ImportError, ValueError) as error:  # no driver for such a URL; a port that is no number
            step = "APIXO_LEDGER takes an SQLAlchemy URL whose driver is installed."
            text = f"The ledger {self.shown_place} cannot be used: {type(error).__name__}"
            raise LedgerError(text, next_step=step) from None
        except OSError as error:
            raise LedgerError(
                f"The folder of the ledger {self.shown_place} cannot be made: {error.strerror}",
                next_step="Set APIXO_HOME to a folder you may write to. Nothing was sent.",
            ) from None

    def _prepare(self) -> None:
        try:
            with self._writing() as connection:
                _one_at_a_time(connection)
                _metadata.create_all(connection)
                _check_version(connection)
            self.merge_aside()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def add(self, run: Run) -> Run:
        """Write a new row; one without a take gets the next: one more than this request has."""
        with self._writing() as connection:
            _one_at_a_time(connection)
            same = sa.and_(_runs.c.digest == run.digest, _runs.c.sandbox == run.sandbox)
            last = connection.scalar(sa.select(sa.func.max(_runs.c.take)).where(same))
            numbered = run.but(take=run.take or (last or 0) + 1)
            connection.execute(_runs.insert().values(**_row(numbered)))
        return numbered

    def update(self, run_id: str, **changes: Any) -> None:
        """Change some columns of a row. A final state stands: another one is not written over it."""
        row = _runs.c.run_id == run_id
        if "state" in changes:
            row &= _runs.c.state.not_in(FINAL_STATES) | (_runs.c.state == changes["state"])
        with self._writing() as connection:
            connection.execute(_runs.update().where(row).values(**changes))

    def keep_task(self, run_id: str, task_id: str, submitted_at: datetime) -> None:
        """Write the taskId of a run that was just bought; into a file beside, if the database refuses.

        What is paid for must not hang on another program's lock. The file is merged by `merge_aside`.
        """
        try:
            self.update(run_id, state=SUBMITTED, task_id=task_id, submitted_at=submitted_at)
        except LedgerError as refused:
            if self._aside is None or not _append(
                self._aside, {"run_id": run_id, "task_id": task_id, "at": submitted_at.isoformat()}
            ):
                # The last place that keeps it is the message.
                text = f"The paid task {task_id} could be written nowhere: {refused.message}"
                step = "Note the task id: Client().wait(task_id) fetches its result."
                raise LedgerError(text, task_id=task_id, maybe_billed=True, next_step=step) from None

    def merge_aside(self) -> None:
        """Take taskIds that had to be written beside into their rows."""
        if self._aside is None:
            return
        # Renamed first: what another process appends from now on goes into a new file.
        with suppress(FileNotFoundError):  # there is none, or another kernel was quicker
            self._aside.rename(self._aside.with_name(f"{self._aside.stem}-{secrets.token_hex(4)}.merging"))
        for part in sorted(self._aside.parent.glob(f"{self._aside.stem}-*.merging")):
            with self._writing() as connection:
                for run_id, task_id, submitted_at in _kept(part):
                    if connection.scalar(sa.select(_runs.c.run_id).where(_runs.c.run_id == run_id)) is None:
                        # A row of another ledger, which this home had for a while: kept for it.
                        kept = {"run_id": run_id, "task_id": task_id, "at": submitted_at.isoformat()}
                        _append(self._aside, kept)
                        continue
                    row = (_runs.c.run_id == run_id) & _runs.c.task_id.is_(None)
                    state = sa.case((_runs.c.state.in_(FINAL_STATES), _runs.c.state), else_=SUBMITTED)
                    bought = {"task_id": task_id, "submitted_at": submitted_at, "state": state}
                    connection.execute(_runs.update().where(row).values(**bought))
            part.unlink(missing_ok=True)

    def put_image(self, run_id: str, image: Image) -> None:
        """Write what is known of one picture, in place of what was known before."""
        key = sa.and_(_images.c.run_id == run_id, _images.c.index == image.index)
        with self._writing() as connection:
            _one_at_a_time(connection)
            connection.execute(_images.delete().where(key))
            connection.execute(_images.insert().values(run_id=run_id, **image.model_dump()))

    def get(self, run_id: str) -> Run | None:
        """One run, or None."""
        found = self._select(_runs.c.run_id == run_id)
        return found[0] if found else None

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        return self._select(sa.true())

    def draws(self, planned: Run) -> list[Run]:
        """All runs of the same request, oldest first; those of the sandbox and real ones never mix."""
        return self._select((_runs.c.digest == planned.digest) & (_runs.c.sandbox == planned.sandbox))

    def unfinished(self) -> list[Run]:
        """Runs that still want something: a task whose end was not seen, or a picture not on disk."""
        ended = (PLANNED, FAILED, UNKNOWN, SUCCESS)
        candidates = self._select(sa.or_(_runs.c.state.not_in(ended), _runs.c.state == SUCCESS))
        return [run for run in candidates if run.is_open or run.missing or _unread(run)]

    def _select(self, condition: sa.ColumnElement[bool]) -> list[Run]:
        rows = sa.select(_runs).where(condition).order_by(_runs.c.created_at, _runs.c.run_id)
        pictures = sa.select(_images).join(_runs).where(condition).order_by(_images.c.index)
        with self._reading() as connection:
            images: dict[str, list[Image]] = {}
            for found in connection.execute(pictures).mappings():
                images.setdefault(found["run_id"], []).append(Image.model_validate(dict(found)))
            return [_run(row, images.get(row["run_id"], [])) for row in connection.execute(rows).mappings()]

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        reader = self._engine.execution_options(apixo_reading=True)
        with self._explained(), reader.begin() as connection:
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            raise _explain(error, self.shown_place) from None


def _unread(run: Run) -> bool:
    return run.state == SUCCESS and not run.result_urls and bool(run.task_id)


def _row(run: Run) -> dict[str, Any]:
    # JSON columns take lists, the rest is as it is; what a Run derives is stored too, for people who query.
    values = run.model_dump(exclude={"images"})
    derived = {"mode": run.mode, "aspect_ratio": run.aspect_ratio, "num_images": run.num_images}
    return {**values, **derived}


def _run(row: Any, images: list[Image]) -> Run:
    known = {name: value for name, value in row.items() if name in Run.model_fields}
    return Run.model_validate({**known, "images": tuple(images)})


def _engine(place: Path | str) -> sa.Engine:
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        url = sa.URL.create("sqlite", database=str(place))
    else:
        url = sa.make_url(place)
    engine = sa.create_engine(url, pool_pre_ping=True)  # a server may have restarted since
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _one_at_a_time(connection: sa.Connection) -> None:
    """Let no other kernel in until this transaction ends. On SQLite, BEGIN IMMEDIATE has done so already."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver shall not begin transactions; _begin_sqlite does
    for pragma in (
        "journal_mode=TRUNCATE",
        "synchronous=FULL",
        f"busy_timeout={_BUSY_MS}",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    reading = connection.get_execution_options().get("apixo_reading")
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _check_version(connection: sa.Connection) -> None:
    found = connection.scalar(sa.select(_meta.c.value).where(_meta.c.key == "schema_version"))
    if found is None:
        connection.execute(_meta.insert().values(key="schema_version", value=str(SCHEMA_VERSION)))
    elif not found.isdecimal():
        raise LedgerError(
            f"The ledger's schema version is {printable(repr(found), 40)}, which is none",
            next_step="It is damaged, or no ledger: set APIXO_HOME to another folder. Nothing was sent.",
        )
    elif int(found) > SCHEMA_VERSION:
        raise LedgerError(
            f"The ledger was written by a newer apixo_nb (its schema is {found}, ours is {SCHEMA_VERSION})",
            next_step="Update apixo_nb, or set APIXO_HOME to another folder. Nothing was sent.",
        )


_CAUSES = (
    ("locked", "another program keeps it locked", "Close the program that holds it, then try again."),
    ("readonly", "it is read-only", "Set APIXO_HOME to a folder you may write to."),
    ("unable to open", "it cannot be opened", "Set APIXO_HOME to a folder you may write to."),
    ("full", "the disk is full", "Make room, then try again."),
    ("disk i/o", "the disk reports an error", "Check the disk, then try again."),
    ("not a database", "it is not a ledger, or is damaged", "Move the file away; a new one is made."),
    ("malformed", "it is damaged", "Move the file away; a new one is made."),
)


def _explain(error: Exception, place: str) -> LedgerError:
    said = str(getattr(error, "orig", None) or error)
    for mark, cause, step in _CAUSES:
        if mark in said.casefold():
            return LedgerError(f"The ledger {place} cannot be used: {cause}", next_step=step)
    text = f"The ledger {place} cannot be used: {type(error).__name__}: {printable(said)}"
    return LedgerError(text, next_step="Check APIXO_LEDGER and its database. Nothing more was sent.")


def _without_password(place: str) -> str:
    try:
        return sa.make_url(place).render_as_string(hide_password=True)
    except (sa.exc.ArgumentError, ValueError):
        return "at the address given"


def _append(path: Path, line: dict[str, str]) -> bool:
    """Add a line, durably; False where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    return True


def _kept(path: Path) -> list[tuple[str, str, datetime]]:
    """Run id, task id and time of each whole line; one that a crash has torn is left out."""
    found = []
    with suppress(OSError):  # another kernel was quicker
        for line in path.read_text("utf-8", "replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):
                kept = json.loads(line)
                found.append((str(kept["run_id"]), str(kept["task_id"]), datetime.fromisoformat(kept["at"])))
    return found
