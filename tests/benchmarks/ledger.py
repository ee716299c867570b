"""How long a ledger of 1,000, 100,000 and 1,000,000 rows takes to write, to search and to read.

Beside it the same done by hand with sqlite3 and pandas, and by MLflow and wandb, see `ledger_peers`. Nothing
is sent, and nothing of yours is touched: the ledgers are made up, in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import math
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from apixo_nb.core.records import Image, Run, new_run
from apixo_nb.core.request import make_request
from apixo_nb.core.settings import Apixo
from apixo_nb.ledger import rows
from apixo_nb.ledger import search as lookup
from apixo_nb.ledger.query import Query
from apixo_nb.ledger.schema import images, runs
from apixo_nb.session.session import Session
from tests.benchmarks import ledger_peers
from tests.benchmarks.table import Table, say

SIZES = (1_000, 100_000, 1_000_000)
LARGE = 500_000  # from here on files are left out
TIMES, ENOUGH_S = 3, 2.0  # so often each step is measured, but no more once that took so long
ONE_BY_ONE = 100  # runs that are written as a kernel does it
PICTURES = 2  # of each of them
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
STYLES = ("oil", "ink", "cut paper", "gouache", "浮世絵", "photograph")
SUBJECTS = ("a fox in fresh snow", "a paper boat on a puddle", "a lighthouse at dusk", "夜の喫茶店と雨")
PAGES: dict[str, tuple[str, ...]] = {
    "a page for common words": ("lighthouse", "ink"),
    "a page for a rare word": ("777,",),
    "a page for two letters": ("喫茶",),
    "the newest page": (),
}
PART = 5_000
PATTERN = 20_000  # rows made as the product makes them; more are copies with another id, time and number


# --- a ledger to measure ----------------------------------------------------------------------------


def made_up(number: int, chance: random.Random) -> Run:
    """The run of a number: nine of ten have pictures, some of them are rated."""
    style, count = chance.choice(STYLES), chance.choice((1, 1, 2, 4))
    prompt = f"{chance.choice(SUBJECTS)}, number {number}, in {style}, " + "with soft light and detail " * 6
    request = make_request(prompt, aspect_ratio=chance.choice(("1:1", "2:3", "3:2")), num_images=count)
    at = BEGAN + timedelta(minutes=3 * number)
    run = new_run(
        request,
        unit_price_micros=350_000,
        sandbox=True,
        prompt_template="{subject}, number {number}, in {style}",
        variables={"style": style, "number": str(number)},
        name=f"round {number // 500}",
        tags=tuple(chance.sample(("draft", "client", "final", "夜"), chance.randint(0, 2))),
    ).replace(created_at=at, submitted_at=at, finished_at=at, take=1, task_id=f"task_{number}")
    if chance.random() < 0.1:
        return run.replace(
            state="failed", cost_micros=0, fail_code="SensitiveContent", fail_msg="It was refused."
        )
    urls = tuple(f"https://pictures.example/{number}-{index}.png" for index in range(count))
    pictures = tuple(_picture(run.run_id, index, url, chance) for index, url in enumerate(urls))
    best = max((picture.rating or 0 for picture in pictures), default=0)
    return run.replace(
        state="success",
        cost_micros=run.price_micros,
        cost_time_ms=chance.randint(18_000, 60_000),
        wait_ms=chance.randint(18_000, 62_000),
        result_urls=urls,
        images=pictures,
        expires_at=at + timedelta(days=15),
        rating=best or None,
    )


def _picture(run_id: str, index: int, url: str, chance: random.Random) -> Image:
    return Image(
        index=index,
        url=url,
        file=f"{run_id}-{index + 1}.png",
        sha256=f"{chance.getrandbits(256):064x}",
        bytes=chance.randint(900_000, 2_100_000),
        width=1024,
        height=1024,
        format="PNG",
        rating=chance.choice((None, None, None, 1, 2, 3, 4, 5)),
        starred=chance.random() < 0.02,
    )


def fill(session: Session, count: int) -> None:
    """Write so many rows, many in one transaction."""
    chance = random.Random(20261125)
    made = min(count, PATTERN)
    for start in range(0, made, PART):
        insert(session, [made_up(number, chance) for number in range(start, min(made, start + PART))])
    if count > made:
        copy_rows(session.ledger_file(), made, count)


def insert(session: Session, part: list[Run]) -> None:
    """Write runs with their pictures, in one transaction."""
    pictures = [{"run_id": run.run_id, **image.model_dump()} for run in part for image in run.images]
    with session.ledger._database.writing() as connection:
        connection.execute(runs.insert(), [rows.row_of(run) for run in part])
        connection.execute(images.insert(), pictures)


#: What is not the same in a copy of a run; {k} is the number of the copy, {minutes} how much later it is.
_OTHERWISE = {
    "run_id": "run_id || '-{k}'",
    "task_id": "task_id || '-{k}'",
    "prompt": "replace(prompt, 'number ', 'number {k}-')",
    "digest": "lower(hex(randomblob(32)))",
    **{
        name: f"strftime('%Y-%m-%d %H:%M:%S.000000', {name}, '+{{minutes}} minutes')"
        for name in ("created_at", "submitted_at", "finished_at", "expires_at")
    },
}


def copy_rows(file: Path, made: int, count: int) -> None:
    """Bring a ledger of `made` rows to `count` by copies, without waiting for the disk."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA cache_size=-1000000")
        connection.execute("CREATE TEMP TABLE pattern AS SELECT rowid AS at, run_id FROM runs")
        connection.execute("BEGIN IMMEDIATE")
        for copy in range(1, -(-count // made)):
            most = min(made, count - copy * made)
            some = f"WHERE run_id IN (SELECT run_id FROM pattern WHERE at <= {most})"
            for table in (runs, images):
                names = [column.name for column in table.c]
                said = [_OTHERWISE.get(name, f'"{name}"') for name in names]
                values = ", ".join(said).format(k=copy, minutes=3 * made * copy)
                columns = ", ".join(f'"{name}"' for name in names)
                connection.execute(f"INSERT INTO {table} ({columns}) SELECT {values} FROM {table} {some}")
        connection.execute("COMMIT")


@contextlib.contextmanager
def ledger_of(count: int) -> Iterator[tuple[Session, Path]]:
    """A session whose ledger has so many rows, and a folder for what is written."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = Apixo(home=str(folder / "home"), base_url="http://127.0.0.1:9/api/v1")
        with Session(settings, key="test-key") as session:
            fill(session, count)
            yield session, folder


# --- by hand ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Plain:
    """What somebody would write who has sqlite3 and pandas only, on the same file."""

    file: Path
    folder: Path

    def read(self, query: str, *values: str) -> pd.DataFrame:
        """A table of what a query gives."""
        with contextlib.closing(sqlite3.connect(self.file)) as connection:
            return pd.read_sql(query, connection, params=list(values))

    def whole(self) -> pd.DataFrame:
        """All runs."""
        return self.read("SELECT * FROM runs ORDER BY created_at")

    def pictures(self) -> pd.DataFrame:
        """All pictures, each with its run."""
        return self.read('SELECT * FROM images JOIN runs USING (run_id) ORDER BY created_at, run_id, "index"')

    def page(self, *words: str) -> object:
        """The newest 50 that hold all words in their prompt, and how many there are."""
        where = " AND ".join(["sandbox = 1", *("prompt LIKE ?" for _ in words)])
        like = [f"%{word}%" for word in words]
        count = self.read(f"SELECT count(*) FROM runs WHERE {where}", *like)
        return (
            count,
            self.read(f"SELECT * FROM runs WHERE {where} ORDER BY created_at DESC LIMIT 50", *like),
        )

    def holding(self, *words: str) -> pd.DataFrame:
        """All that hold them."""
        where = " AND ".join("prompt LIKE ?" for _ in words)
        return self.read(
            f"SELECT * FROM runs WHERE {where} ORDER BY created_at", *(f"%{word}%" for word in words)
        )

    def facets(self) -> object:
        """How many of each state and name; and all tags, to be counted."""
        counts = [
            self.read(f"SELECT {name}, count(*) FROM runs WHERE sandbox = 1 GROUP BY {name}")
            for name in ("state", "name")
        ]
        return counts, self.read("SELECT tags FROM runs WHERE sandbox = 1")["tags"].map(json.loads)

    def to_csv(self) -> None:
        """All runs as CSV."""
        self.whole().to_csv(self.folder / "plain.csv")

    def to_jsonl(self) -> None:
        """All runs as JSON Lines."""
        self.whole().to_json(self.folder / "plain.jsonl", orient="records", lines=True)

    def buy(self, planned: list[Run]) -> None:
        """Write runs one by one as a careful script does: each step a transaction that is on the disk."""
        with contextlib.closing(sqlite3.connect(self.file, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=TRUNCATE")
            connection.execute("PRAGMA synchronous=FULL")
            for run in planned:
                row = {
                    name: json.dumps(value) if isinstance(value, (dict, list, tuple)) else value
                    for name, value in rows.row_of(run).items()
                }
                row |= {"created_at": run.created_at.isoformat(" ").removesuffix("+00:00")}
                names = ", ".join(row)
                marks = ", ".join("?" * len(row))
                connection.execute(f"INSERT INTO runs ({names}) VALUES ({marks})", list(row.values()))
                key = (run.run_id,)
                connection.execute(
                    "UPDATE runs SET state = 'submitted', task_id = ? WHERE run_id = ?",
                    (f"t{run.run_id}", *key),
                )
                connection.execute("UPDATE runs SET state = 'processing' WHERE run_id = ?", key)
                connection.execute(
                    "UPDATE runs SET state = 'success', result_urls = ?, raw = ? WHERE run_id = ?",
                    ('["u0", "u1"]', "{}", *key),
                )
                for index in range(PICTURES):
                    connection.execute(
                        'INSERT INTO images (run_id, "index", url, file, sha256, format, error)'
                        " VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (*key, index, f"u{index}", f"{run.run_id}-{index}.png", "ab" * 32, "PNG", ""),
                    )


def buy(session: Session, planned: list[Run]) -> None:
    """Write runs one by one as a kernel does: planned, submitted, seen, ended, and each of the pictures."""
    ledger = session.ledger
    for run in planned:
        ledger.add(run)
        ledger.record_task(
            run.replace(state="submitted", task_id=f"t{run.run_id}", submitted_at=run.created_at)
        )
        ledger.update(run.run_id, state="processing")
        ledger.update(run.run_id, state="success", result_urls=["u0", "u1"], raw="{}")
        for index in range(PICTURES):
            file = f"{run.run_id}-{index}.png"
            ledger.put_image(
                run.run_id, Image(index=index, url=f"u{index}", file=file, sha256="ab" * 32, format="PNG")
            )
        ledger.release(run.run_id)


def some_runs(count: int) -> list[Run]:
    """Planned runs of different requests."""
    return [
        new_run(make_request(f"one more boat, {number}"), unit_price_micros=350_000, sandbox=True)
        for number in range(count)
    ]


# --- what is measured -------------------------------------------------------------------------------


@dataclass(slots=True)
class Measured:
    """The table, and the seconds of each step by size, for how they grow."""

    table: Table
    grown: dict[str, dict[int, float]] = field(default_factory=dict)
    facts: list[dict[str, Any]] = field(default_factory=list)

    def step(self, count: int, what: str, ours: Callable[[], Any], plain: Callable[[], Any]) -> None:
        """Measure the work of both in turn, and keep the least of each."""
        took = theirs = float("inf")
        spent = 0.0
        for _ in range(TIMES):
            once = work(ours), work(plain)
            took, theirs, spent = min(took, once[0]), min(theirs, once[1]), spent + sum(once)
            if spent > ENOUGH_S:
                break
        self.keep(count, what, took, theirs, "sqlite3 + pandas")

    def keep(
        self, count: int, what: str, ours: float, theirs: float, peer: str, *, per: int = 1, note: str = ""
    ) -> None:
        """A line of the table; seconds, of `per` runs."""
        if peer.startswith("sqlite3"):
            self.grown.setdefault(what, {})[count] = ours
        unit, scale = ("ms", 1e3) if per == 1 else ("us/run", 1e6 / per)
        self.table.add(
            f"{count:,} rows: {what}", peer, theirs=theirs * scale, ours=ours * scale, unit=unit, note=note
        )

    def growth(self) -> dict[str, list[float]]:
        """The exponents: 1 is linear, 0 does not grow. Smallest to largest size, in steps."""
        said = {}
        for what, found in self.grown.items():
            sizes = sorted(found)
            said[what] = [
                round(math.log(found[large] / found[small]) / math.log(large / small), 2)
                for small, large in pairwise(sizes)
            ]
            if len(sizes) > 1:
                steps = ", ".join(
                    f"{small:,} to {large:,}: {exponent}"
                    for (small, large), exponent in zip(pairwise(sizes), said[what], strict=True)
                )
                say(f"growth of {what}: rows^x with x = {steps}")
        return said


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes by the clock."""
    gc.collect()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def work(call: Callable[[], Any]) -> float:
    """How many seconds of the processor a call takes: reading is that, and other programs do not count."""
    gc.collect()
    began = time.process_time()
    call()
    return time.process_time() - began


def measure(count: int, measured: Measured) -> None:
    """All steps on a ledger of `count` rows."""
    began, worked = time.perf_counter(), time.process_time()
    with ledger_of(count) as (session, folder):
        file = session.ledger_file()
        fact = {"rows": count, "filled_s": time.perf_counter() - began, "bytes": file.stat().st_size}
        fact["filled_cpu_s"] = time.process_time() - worked
        say("{rows:,} rows made in {filled_s:.1f} s (CPU {filled_cpu_s:.1f}), {bytes:,} bytes".format(**fact))
        fact["first_search_cpu_s"] = work(lambda: session.find(Query(text="lighthouse ink")))
        fact["indexed_cpu_s"] = fact["first_search_cpu_s"] + work(lambda: index(session))
        fact["indexed_bytes"] = file.stat().st_size
        say("searches: CPU {first_search_cpu_s:.2f} s for the first".format(**fact))
        say("indexed: after {indexed_cpu_s:.1f} s, then {indexed_bytes:,} bytes".format(**fact))
        measured.facts.append(fact)
        plain = Plain(file, folder)
        for what, words in PAGES.items():
            ours = functools.partial(session.find, Query(text=" ".join(words)))
            measured.step(count, what, ours, functools.partial(plain.page, *words))
        measured.step(count, "facets", session.facets, plain.facets)
        measured.step(
            count,
            "history(text)",
            lambda: session.history(text="lighthouse ink"),
            lambda: plain.holding("lighthouse", "ink"),
        )
        write_some(count, session, plain, measured)
        measured.step(count, "history()", session.history, plain.whole)
        if count < LARGE:
            files(count, session, folder, plain, measured)


def index(session: Session) -> None:
    """Take all texts into the index, as so many searches would."""
    while lookup._are_many(session.ledger._database):
        lookup.refresh(session.ledger._database)


def write_some(count: int, session: Session, plain: Plain, measured: Measured) -> None:
    """Rows as a kernel writes them."""
    for_us, for_them = some_runs(ONE_BY_ONE), some_runs(ONE_BY_ONE)
    ours, theirs = seconds(lambda: buy(session, for_us)), seconds(lambda: plain.buy(for_them))
    measured.keep(
        count,
        "one run after another",
        ours,
        theirs,
        "sqlite3, same safety",
        per=ONE_BY_ONE,
        note="6 commits, ours 7",
    )


def files(count: int, session: Session, folder: Path, plain: Plain, measured: Measured) -> None:
    """Pictures, and tables as files."""
    measured.step(count, "images()", session.pictures, plain.pictures)
    for what, kind, end, theirs in (
        ("CSV", "csv", "csv", plain.to_csv),
        ("CSV for Excel", "excel", "csv", plain.to_csv),
        ("JSON Lines", "jsonl", "jsonl", plain.to_jsonl),
    ):
        ours = functools.partial(session.export, folder / f"ours-{kind}.{end}", kind)
        measured.step(count, what, ours, theirs)


def main() -> None:
    """Measure all sizes, print as it goes, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=SIZES, help="sizes (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="1,000 rows, and few of the peers'")
    parser.add_argument("--no-peers", action="store_true", help="sqlite3 and pandas only")
    asked = parser.parse_args()
    measured = Measured(Table("ledger", ("mlflow-skinny", "wandb")))
    for count in (SIZES[0],) if asked.quick else asked.rows:
        measure(count, measured)
    if not asked.no_peers:
        ledger_peers.measure(measured, 50 if asked.quick else 1_000, 2 if asked.quick else 10)
    growth = measured.growth()
    measured.table.write(growth=growth, ledgers=measured.facts)


if __name__ == "__main__":
    main()
