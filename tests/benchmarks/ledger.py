"""How long tables, search and exports of large ledgers take, beside a plain sqlite3 and pandas.read_sql.

``make bench`` prints a table and writes ``build/bench/ledger.json``. Nothing is sent, and nothing of yours is
touched: the ledgers are made up, in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from apixo_nb import rows
from apixo_nb.config import Apixo
from apixo_nb.request import make_request
from apixo_nb.run import Image, Run, new_run
from apixo_nb.search import Query
from apixo_nb.session import Session
from apixo_nb.tables import images, runs

ROOT = Path(__file__).parents[2]
SIZES = (1_000, 10_000, 100_000)
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
STYLES = ("oil", "ink", "cut paper", "gouache", "浮世絵", "photograph")
SUBJECTS = ("a fox in fresh snow", "a paper boat on a puddle", "a lighthouse at dusk", "夜の喫茶店と雨")
PART = 5_000

Step = tuple[str, Callable[[], Any], Callable[[], Any]]


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
    ).but(created_at=at, submitted_at=at, finished_at=at, take=1, task_id=f"task_{number}")
    if chance.random() < 0.1:
        return run.but(
            state="failed", cost_micros=0, fail_code="SensitiveContent", fail_msg="It was refused."
        )
    urls = tuple(f"https://pictures.example/{number}-{index}.png" for index in range(count))
    pictures = tuple(_picture(run.run_id, index, url, chance) for index, url in enumerate(urls))
    best = max((picture.rating or 0 for picture in pictures), default=0)
    return run.but(
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
    for start in range(0, count, PART):
        part = [made_up(number, chance) for number in range(start, min(count, start + PART))]
        pictures = [{"run_id": run.run_id, **image.model_dump()} for run in part for image in run.images]
        with session.ledger._database.writing() as connection:
            connection.execute(runs.insert(), [rows.row_of(run) for run in part])
            connection.execute(images.insert(), pictures)


@contextlib.contextmanager
def ledger_of(count: int) -> Iterator[tuple[Session, Path]]:
    """A session whose ledger has so many rows, and a folder for what is written."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = Apixo(home=str(folder / "home"), base_url="http://127.0.0.1:9/api/v1")
        with Session(settings, key="test-key") as session:
            fill(session, count)
            yield session, folder


# --- what is measured -------------------------------------------------------------------------------


def steps(session: Session, folder: Path) -> list[Step]:
    """Name, ours, and what somebody would write who has sqlite3 and pandas only."""

    def read(query: str) -> pd.DataFrame:
        with contextlib.closing(sqlite3.connect(session.ledger_file())) as connection:
            return pd.read_sql(query, connection)

    def plain() -> pd.DataFrame:
        return read("SELECT * FROM runs ORDER BY created_at")

    def export(name: str, kind: str | None = None) -> Callable[[], Any]:
        return lambda: session.export(folder / name, kind)

    both = 'SELECT * FROM images JOIN runs USING (run_id) ORDER BY created_at, run_id, "index"'
    like = (
        "SELECT * FROM runs WHERE prompt LIKE '%lighthouse%' AND prompt LIKE '%ink%' ORDER BY created_at DESC"
    )
    counts = (
        "SELECT state, count(*) FROM runs GROUP BY state",
        "SELECT name, count(*) FROM runs GROUP BY name",
    )
    return [
        ("history()", session.history, plain),
        ("history(text)", lambda: session.history(text="lighthouse ink"), lambda: read(like)),
        ("images()", session.pictures, lambda: read(both)),
        (
            "find, a page",
            lambda: session.find(Query(text="lighthouse ink")),
            lambda: read(f"{like} LIMIT 50"),
        ),
        ("facets", session.facets, lambda: [read(query) for query in (*counts, "SELECT tags FROM runs")]),
        ("CSV", export("ours.csv"), lambda: plain().to_csv(folder / "plain.csv")),
        ("CSV for Excel", export("excel.csv", "excel"), lambda: plain().to_csv(folder / "plain.csv")),
        (
            "JSON Lines",
            export("ours.jsonl"),
            lambda: plain().to_json(folder / "plain.jsonl", orient="records", lines=True),
        ),
        ("Parquet", export("ours.parquet"), lambda: plain().to_parquet(folder / "plain.parquet")),
    ]


def seconds(call: Callable[[], Any], times: int) -> tuple[float, float]:
    """How long a call takes at its best, by the clock and on the processor."""
    found = []
    for _ in range(times):
        gc.collect()
        began, worked = time.perf_counter(), time.process_time()
        call()
        found.append((time.perf_counter() - began, time.process_time() - worked))
    return min(took for took, _ in found), min(cpu for _, cpu in found)


def measure(count: int, times: int) -> list[dict[str, Any]]:
    """One line for each step, on a ledger of `count` rows."""
    lines = []
    with ledger_of(count) as (session, folder):
        for name, ours, plain in steps(session, folder):
            (took, cpu), (beside, plain_cpu) = seconds(ours, times), seconds(plain, times)
            facts = {"rows": count, "step": name, "seconds": took, "cpu_seconds": cpu}
            lines.append({**facts, "plain_seconds": beside, "plain_cpu_seconds": plain_cpu})
            ratio = took / beside
            say(f"{count:>8,}  {name:<14} {took:>7.2f} s {cpu:>7.2f} s {beside:>7.2f} s {ratio:>8.1f}")
    return lines


def say(line: str) -> None:
    """Print, at once."""
    print(line, flush=True)  # noqa: T201 - a program prints


def main() -> None:
    """Measure all sizes, print as it goes, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=int, nargs="*", default=SIZES, help="sizes of ledgers (default: %(default)s)"
    )
    parser.add_argument("--times", type=int, default=2, help="measure so often, and keep the best")
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "bench" / "ledger.json")
    asked = parser.parse_args()
    say(f"{'rows':>8}  {'step':<14} {'ours':>9} {'its CPU':>9} {'plain':>9} {'ratio':>8}")
    lines = [line for count in asked.rows for line in measure(count, asked.times)]
    asked.to.parent.mkdir(parents=True, exist_ok=True)
    asked.to.write_text(json.dumps(lines, indent=1), encoding="utf-8")
    say(f"Written: {asked.to}")


if __name__ == "__main__":
    main()
