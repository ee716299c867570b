"""Faults put into the package on purpose, each a mistake that somebody could make. The checker must see them.

Each function changes the package in the process that calls it: a program of `tests.kills.programs`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from apixo_nb.client import client as api
from apixo_nb.client import download, transport
from apixo_nb.core import files
from apixo_nb.core.records import Run, utc_now
from apixo_nb.engine.recorder import Downloader
from apixo_nb.errors import SubmitUnknownError
from apixo_nb.ledger import budgets, rows
from apixo_nb.ledger.leases import Leases
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.ledger.schema import runs
from apixo_nb.session import replay
from apixo_nb.session.cells import CellTracker
from apixo_nb.session.session import Session


def resend_after_a_lost_answer() -> None:
    """A submit without an answer is sent again."""
    original = api.AsyncClient.submit_once

    async def submit_once(self: api.AsyncClient, *args: Any, **options: Any) -> Any:
        try:
            return await original(self, *args, **options)
        except SubmitUnknownError:
            return await original(self, *args, **options)

    api.AsyncClient.submit_once = submit_once  # type: ignore[method-assign]


def row_after_the_post() -> None:
    """The row is written once the taskId is known."""
    add, record_task = Ledger.add, Ledger.record_task
    late: dict[str, Run] = {}

    def add_later(_self: Ledger, run: Run, **_options: Any) -> Run:
        late[run.run_id] = run.replace(take=1)
        return late[run.run_id]

    def record_both(self: Ledger, run: Run) -> bool:
        add(self, late[run.run_id])
        return record_task(self, run)

    Ledger.journal_task = lambda *_args: None  # type: ignore[method-assign]
    Ledger.add, Ledger.record_task = add_later, record_both  # type: ignore[method-assign, assignment]
    Leases.begin_submit = lambda *_args: utc_now()  # type: ignore[method-assign]  # there is no row to ask


def task_id_is_dropped() -> None:
    """The taskId is not written."""
    Ledger.journal_task = lambda *_args: None  # type: ignore[method-assign]
    Ledger.record_task = lambda *_args: True  # type: ignore[method-assign]


def final_name_before_the_check() -> None:
    """A picture gets its name first, and is looked at afterwards."""
    settle = download._settle

    def named_first(part: Path, target: Path, limits: files.Limits) -> Any:
        final = target.with_suffix(".png")
        part.replace(final)
        return settle(final, final, limits)

    download._settle = named_first


def no_part_file() -> None:
    """A picture is written under its final name from the first byte on."""
    original = download.download_once

    async def download_once(client: Any, url: str, target: Path, limits: files.Limits, *more: Any) -> Any:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_suffix(".png").open("wb", buffering=0) as file:
            async with client.stream("GET", url) as response:
                async for chunk in response.aiter_bytes():
                    file.write(chunk)
        return await original(client, url, target, limits, *more)

    setattr(transport, "download_once", download_once)  # noqa: B010 - it is imported there, not offered


def pictures_are_not_looked_at() -> None:
    """Whatever arrives is a picture."""
    download.verify = lambda *_args: ((1, 1), "PNG")  # type: ignore[attr-defined]


def part_files_stay() -> None:
    """What a killed process was downloading is left where it is."""
    unlink = Path.unlink

    def keep_parts(self: Path, *args: Any, **options: Any) -> None:
        if self.suffix != ".part":
            unlink(self, *args, **options)

    Path.unlink = keep_parts  # type: ignore[method-assign]


def pictures_are_fetched_once_only() -> None:
    """A resume does not look for pictures that are missing."""

    async def download_nothing(*_args: Any) -> bool:
        return True

    Downloader.try_download = download_nothing  # type: ignore[method-assign, assignment]


def resume_forgets_the_dead() -> None:
    """The submits of dead processes stay `submitting` for ever."""
    Leases.mark_abandoned = lambda _self: None  # type: ignore[method-assign, assignment]


def resume_buys_what_was_lost() -> None:
    """A resume submits again what has no answer."""
    original = Session.resume

    def resume(self: Session, *args: Any, **options: Any) -> Any:
        jobs = original(self, *args, **options)
        return jobs + [self.begin(run.prompt, num_images=run.num_images) for run in self.lost()]

    Session.resume = resume  # type: ignore[method-assign]


def replay_does_not_look() -> None:
    """A cell that is run again buys, whatever the ledger holds: neither the reader nor the writer looks."""
    add = Ledger.add
    Ledger.draws = lambda *_args: []  # type: ignore[method-assign]
    Ledger.add = lambda self, run, **_options: add(self, run)  # type: ignore[method-assign]


def cell_ignores_what_it_has() -> None:
    """A cell that a front end knows by its id buys, whatever it or nobody has."""
    replay.of_cell = lambda planned, *_runs, **_options: replay.Decision("buy", planned, planned)


def claims_are_never_given_back() -> None:
    """What a cell without an id had when it failed is another's for ever."""
    CellTracker._drop = lambda *_args: None  # type: ignore[method-assign]


def competing_runs_are_told_by_their_take() -> None:
    """Of two kernels that run one cell at once, the later one looks for a take, which has no number yet."""
    rows.same_place = lambda run: runs.c.take == run.take


def cost_is_forgotten() -> None:
    """A success says nothing of its cost."""
    update = Ledger.update

    def without_cost(self: Ledger, run_id: str, **changes: Any) -> None:
        changes.pop("cost_micros", None)
        with contextlib.suppress(KeyError):
            update(self, run_id, **changes)

    Ledger.update = without_cost  # type: ignore[method-assign]


def budget_is_not_looked_at() -> None:
    """A budget is written down, and that is all."""
    budgets.check = lambda *_args: None
