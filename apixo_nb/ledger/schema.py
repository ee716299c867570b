"""The tables of the ledger, and the steps that bring an older ledger to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from apixo_nb.core.models import FINAL_STATES
from apixo_nb.core.records import PLANNED, PROCESSING, SCHEMA_VERSION, SUBMITTING, UNKNOWN


class UtcDateTime(sa.TypeDecorator[datetime]):
    """A UTC time. SQLite has no time zones, so it gets naive UTC, and gives it back aware."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """To the database."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: sa.Dialect) -> datetime | None:
        """And back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def database_now(connection: sa.Connection) -> sa.ColumnElement[datetime]:
    """The time by the database's clock. SQLite has none of its own: it is that of this host, in ms."""
    if connection.dialect.name == "sqlite":
        return sa.func.strftime("%Y-%m-%d %H:%M:%f000", "now", type_=UtcDateTime)
    return sa.func.clock_timestamp(type_=UtcDateTime)  # now() would be when the transaction began to wait


metadata = sa.MetaData()

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.String(64), primary_key=True),
    sa.Column("task_id", sa.Text, index=True),
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
    sa.Column("submitted_at", UtcDateTime),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("expires_at", UtcDateTime),
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
    # Since version 2.
    sa.Column("notebook", sa.Text, nullable=False, server_default=""),
    # Who works on it, see `owners`; nobody once it has come to rest.
    sa.Column("owner", sa.String(32)),
    # Since version 5: changes whenever another process takes the run over.
    sa.Column("lease_token", sa.BigInteger, nullable=False, server_default="0"),
    # Result pictures of a success that are not on disk; so that they are found without reading all rows.
    sa.Column("missing", sa.Integer, nullable=False, server_default="0", index=True),
    # Since version 5: the cell that has it, what it was made anew of, APIXO's word, when it was bought.
    sa.Column("cell_id", sa.Text, nullable=False, server_default=""),
    sa.Column("cell_position", sa.Integer, nullable=False, server_default="0"),
    sa.Column("rerun_of", sa.String(64), nullable=False, server_default=""),
    sa.Column("service_state", sa.Text, nullable=False, server_default=""),
    sa.Column("bought_at", UtcDateTime),
    # Since version 4: how many there are of a service, without reading all rows. The time comes first, or
    # SQLite takes it for the better index of a request's draws, and reads nearly all rows.
    sa.Index("ix_runs_made", "created_at", "sandbox"),
)

images = sa.Table(
    "images",
    metadata,
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
    # Since version 3: what a person says of it.
    sa.Column("rating", sa.Integer),
    sa.Column("starred", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("note", sa.Text, nullable=False, server_default=""),
    sa.Column("tags", sa.JSON, nullable=False, server_default="[]"),
)

# Since version 3: which of two pictures a person found better, not knowing what they were.
votes = sa.Table(
    "votes",
    metadata,
    sa.Column("vote_id", sa.String(32), primary_key=True),
    sa.Column("voted_at", UtcDateTime, nullable=False, index=True),
    sa.Column("ballot", sa.Text, nullable=False),
    sa.Column("left_run", sa.String(64), nullable=False),
    sa.Column("left_index", sa.Integer, nullable=False),
    sa.Column("right_run", sa.String(64), nullable=False),
    sa.Column("right_index", sa.Integer, nullable=False),
    sa.Column("outcome", sa.String(8), nullable=False),
)

owners = sa.Table(
    "owners",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("started", sa.Text, nullable=False),
    sa.Column("heartbeat_at", UtcDateTime, nullable=False),
    # Since version 5: where its number can be looked up; see `core.process`.
    sa.Column("machine_id", sa.Text, nullable=False, server_default=""),
    sa.Column("boot_id", sa.Text, nullable=False, server_default=""),
    sa.Column("pid_namespace", sa.Text, nullable=False, server_default=""),
)

budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("scope", sa.String(400), primary_key=True),
    sa.Column("sandbox", sa.Boolean, primary_key=True),
    sa.Column("limit_micros", sa.BigInteger, nullable=False),
    sa.Column("set_at", UtcDateTime, nullable=False),
    # Since version 5: the time zone of a day's budget, by its name; "" is that of whoever looks.
    sa.Column("zone", sa.String(64), nullable=False, server_default=""),
)

balances = sa.Table(
    "balances",
    metadata,
    sa.Column("seen_at", UtcDateTime, primary_key=True),
    sa.Column("sandbox", sa.Boolean, primary_key=True),
    sa.Column("micros", sa.BigInteger, nullable=False),
)

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.String(50), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

migrations = sa.Table(
    "migrations",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("applied_at", UtcDateTime, nullable=False),
)

# Since version 4, on SQLite only: the runs whose texts are not in the index of texts yet, or have changed
# since; see `search`. Triggers write it, whatever program it is that writes a run: all that a purchase pays.
unsearched = sa.Table("unsearched", sa.MetaData(), sa.Column("run_id", sa.String(64), primary_key=True))

#: What is searched of a run; its task id may be missing, its tags are a list.
RUN_TEXTS = (
    "prompt",
    "prompt_template",
    "name",
    "note",
    "run_id",
    "fail_code",
    "fail_msg",
    "task_id",
    "tags",
)
_PICTURE_TEXTS = ("note", "tags")


def watch_texts(connection: sa.Connection) -> None:
    """Have SQLite note in `unsearched` whose texts change; a ledger on another database does without."""
    if connection.dialect.name != "sqlite":
        return
    unsearched.create(connection)
    some = "new.note <> '' OR new.tags <> '[]'"
    for name, event, condition, row in (
        ("new_run", "INSERT ON runs", "1", "new"),
        ("changed_run", *_change("runs", RUN_TEXTS), "new"),
        ("new_picture", "INSERT ON images", some, "new"),
        ("changed_picture", *_change("images", _PICTURE_TEXTS), "new"),
        ("gone_picture", "DELETE ON images", "1", "old"),
    ):
        # Not OR IGNORE: a statement of another program that says OR ABORT would say so in here as well.
        connection.exec_driver_sql(
            f"CREATE TRIGGER {name} AFTER {event} WHEN ({condition}) AND {row}.run_id NOT IN unsearched "  # noqa: S608
            f"BEGIN INSERT INTO unsearched VALUES ({row}.run_id); END"
        )


def _change(table: str, columns: tuple[str, ...]) -> tuple[str, str]:
    """When such columns of a table change, and not only are written."""
    changed = " OR ".join(f"old.{column} IS NOT new.{column}" for column in columns)
    return f"UPDATE OF {', '.join(columns)} ON {table}", changed


#: States that say that no task is known; a row with a task is in none of them.
WITHOUT_TASK = (PLANNED, SUBMITTING, UNKNOWN)


def hold_states(connection: sa.Connection) -> None:
    """Have the database refuse a row that has a task and says that it has none, whoever writes it."""
    words = ", ".join(f"'{state}'" for state in WITHOUT_TASK)
    if connection.dialect.name != "sqlite":
        rule = f"CHECK (task_id IS NULL OR state NOT IN ({words}))"
        connection.exec_driver_sql(f"ALTER TABLE runs ADD CONSTRAINT ck_runs_task_state {rule}")
        return
    # Triggers, as SQLite adds no constraint to a table that is there.
    for name, event in (("new_state", "INSERT"), ("changed_state", "UPDATE OF state, task_id")):
        connection.exec_driver_sql(
            f"CREATE TRIGGER {name} BEFORE {event} ON runs "
            f"WHEN new.task_id IS NOT NULL AND new.state IN ({words}) "
            "BEGIN SELECT RAISE(ABORT, 'a run with a task is not planned, submitting or unknown'); END"
        )


# --- older ledgers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Migration:
    """A step that makes a ledger of `version` from the one before; a new ledger needs none."""

    version: int
    name: str
    carry_out: Callable[[sa.Connection], None]


def _owners_and_budgets(connection: sa.Connection) -> None:
    text, owner, number = (
        column.type.compile(connection.dialect) for column in (runs.c.notebook, runs.c.owner, runs.c.missing)
    )
    for step in (
        f"ALTER TABLE runs ADD COLUMN notebook {text} DEFAULT '' NOT NULL",
        f"ALTER TABLE runs ADD COLUMN owner {owner}",
        f"ALTER TABLE runs ADD COLUMN missing {number} DEFAULT 0 NOT NULL",
        "CREATE INDEX ix_runs_missing ON runs (missing)",
    ):
        connection.exec_driver_sql(step)
    counts = sa.select(images.c.run_id, sa.func.count()).where(images.c.file != "").group_by(images.c.run_id)
    have = {row[0]: row[1] for row in connection.execute(counts)}
    for run_id, urls in connection.execute(
        sa.select(runs.c.run_id, runs.c.result_urls).where(runs.c.state == FINAL_STATES[0])
    ).all():
        missing = missing_pictures(urls, have.get(run_id, 0))
        if missing:
            connection.execute(runs.update().where(runs.c.run_id == run_id).values(missing=missing))


def _choices(connection: sa.Connection) -> None:
    number, yes_or_no, text, words = (
        column.type.compile(connection.dialect)
        for column in (images.c.rating, images.c.starred, images.c.note, images.c.tags)
    )
    no = sa.false().compile(dialect=connection.dialect)
    for column in (
        f"rating {number}",
        f"starred {yes_or_no} DEFAULT {no} NOT NULL",
        f"note {text} DEFAULT '' NOT NULL",
        f"tags {words} DEFAULT '[]' NOT NULL",
    ):
        connection.exec_driver_sql(f"ALTER TABLE images ADD COLUMN {column}")


def _texts(connection: sa.Connection) -> None:
    connection.exec_driver_sql("CREATE INDEX ix_runs_made ON runs (created_at, sandbox)")
    watch_texts(connection)
    if connection.dialect.name == "sqlite":
        connection.execute(unsearched.insert().from_select(["run_id"], sa.select(runs.c.run_id)))


def _cells(connection: sa.Connection) -> None:
    types = {
        name: runs.c[name].type.compile(connection.dialect)
        for name in ("cell_id", "cell_position", "rerun_of", "service_state", "bought_at", "lease_token")
    }
    for name, kind in types.items():
        number = " DEFAULT 0 NOT NULL"
        others = {"cell_position": number, "lease_token": number, "bought_at": ""}
        default = others.get(name, " DEFAULT '' NOT NULL")
        connection.exec_driver_sql(f"ALTER TABLE runs ADD COLUMN {name} {kind}{default}")
    places = (owners.c.machine_id, owners.c.boot_id, owners.c.pid_namespace)
    for column in (budgets.c.zone, *places):
        # A ledger of version 1 has got these tables just now, as they are today.
        here = {each["name"] for each in sa.inspect(connection).get_columns(column.table.name)}
        if column.name not in here:
            kind = column.type.compile(connection.dialect)
            step = f"ALTER TABLE {column.table.name} ADD COLUMN {column.name} {kind} DEFAULT '' NOT NULL"
            connection.exec_driver_sql(step)
    bought = sa.func.coalesce(runs.c.submitted_at, runs.c.created_at)
    connection.execute(runs.update().where(runs.c.state != PLANNED).values(bought_at=bought))
    # Older versions wrote any word of APIXO's as the state, be it one of ours.
    foreign = runs.c.task_id.is_not(None) & runs.c.state.in_(WITHOUT_TASK)
    connection.execute(
        runs.update().where(foreign).values(service_state=runs.c.state, state=PROCESSING, cost_micros=None)
    )
    hold_states(connection)


def missing_pictures(result_urls: object, on_disk: int) -> int:
    """What stands in ``missing`` of a success; one whose result could not be read misses at least one."""
    expected = len(result_urls) if isinstance(result_urls, list | tuple) and result_urls else 1
    return max(0, expected - on_disk)


MIGRATIONS = (
    Migration(2, "owners, budgets and missing pictures", _owners_and_budgets),
    Migration(3, "choices of pictures", _choices),
    Migration(4, "an index of texts", _texts),
    Migration(5, "cells, times of purchase and APIXO's own words", _cells),
)

if MIGRATIONS[-1].version != SCHEMA_VERSION:  # pragma: no cover - a slip of the next author
    raise AssertionError("the last migration makes the current version")
