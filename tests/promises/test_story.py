"""Any story of presses, faults, kills, restarts and resumes leaves ledger, pictures and account at one.

A state machine over the whole of the runner: real sessions, a real sandbox over HTTP with a clock of our own,
and after every step the checker of the kill tests.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import shutil
import sqlite3
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from apixo_nb.client.protocol import RetryPolicy
from apixo_nb.core import credentials
from apixo_nb.core.records import FAILED, PLANNED, Run
from apixo_nb.core.request import make_request
from apixo_nb.core.settings import Apixo
from apixo_nb.engine.job import Job
from apixo_nb.errors import ApixoError, LedgerError
from apixo_nb.ledger.budgets import TOTAL
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.sandbox import Sandbox, SandboxOptions
from apixo_nb.session import cells
from apixo_nb.session.cells import CellTracker
from apixo_nb.session.session import Session
from tests.kills.checker import Account, Evidence, Task, violations

PATIENCE_S = 60.0
LATER_S = 10_000.0
FAULTS = [
    "",
    "[lost]",
    "[lost:502]",
    "[http:400]",
    "[http:402]",
    "[http:503]",
    "[busy:1]",
    "[fail:SensitiveContent]",
    "[fail:RateLimited]",
    "[gone]",
    "[html]",
    "[pictures:2]",
    "[no-cost-time]",
]
#: To choose with, of lists whose length hangs on what happened: hypothesis must see the same choices again.
NUMBERS = st.integers(0, 1000)
#: Cells, by the ids that a front end sends; None: as in a front end that sends none.
CELLS = st.sampled_from([None, None, "x", "y"])
KEY = "sk-test-story-0451"


class Kernel:
    """A session with what a kernel remembers: what its cells have asked for."""

    def __init__(self, home: Path, base_url: str) -> None:
        traits: dict[str, Any] = {"first_poll": 0.01, "poll_interval": 0.05, "home": str(home)}
        self.session = Session(Apixo(base_url=base_url, **traits), key=credentials.ApiKey(KEY, "of the test"))
        self.session.client.retry = RetryPolicy(attempts=3, base_s=0.002, cap_s=0.01)
        self.tracker = CellTracker()
        self.jobs: list[Job] = []

    def press(self, prompt: str, num_images: int, *, new: bool, cell_id: str | None) -> None:
        """What ``%%apixo --bg`` does, in a cell whose id is sent, or None."""
        cells.tracker = self.tracker
        planned = self.session.plan(make_request(prompt, num_images=num_images))
        info = SimpleNamespace(cell_id=cell_id)
        self.tracker.begin(info)
        try:
            [decision] = self.session.decide([planned], new=new)
            self.session.agree([decision], None)
            self.jobs.append(self.session.carry_out(decision, timeout_s=PATIENCE_S))
            self.tracker.end(SimpleNamespace(success=True, info=info))
        except ApixoError:
            self.tracker.end(SimpleNamespace(success=False, info=info))

    def die(self) -> None:
        """As by SIGKILL: from here on nothing of it is written, and its process is gone."""
        ledger = self.session.ledger

        def dead() -> contextlib.AbstractContextManager[Any]:
            raise LedgerError("the process is dead")

        monkey: Any = ledger._database
        monkey.writing = dead
        ledger._tasks.close()
        ledger._tasks._journal = None
        for job in self.jobs:
            job.cancel()
        concurrent.futures.wait([job.ended for job in self.jobs], timeout=PATIENCE_S)
        if ledger.leases.holder is not None:
            with contextlib.closing(sqlite3.connect(self.session.ledger_file(), timeout=PATIENCE_S)) as other:
                other.execute("UPDATE owners SET started = 'gone' WHERE id = ?", [ledger.leases.holder.id])
                other.commit()

    def wait(self, tick: Callable[[], None] = lambda: None) -> None:
        """Until everything it has in hand has come to rest; `tick` is called now and then."""
        deadline = time.monotonic() + PATIENCE_S
        while left := [job for job in self.jobs if not job.ended.done()]:
            assert time.monotonic() < deadline, left
            tick()
            concurrent.futures.wait([job.ended for job in left], timeout=0.2)


class Story(RuleBasedStateMachine):
    """One home, one service, and up to two kernels."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="story-"))
        self.ahead_s = 0.0
        options = SandboxOptions(seconds=600.0, picture_scale=0.05)
        self.sandbox = Sandbox(options, clock=lambda: time.time() + self.ahead_s).start()
        self.kernels = [self.kernel()]
        self.numbers = itertools.count(1)
        self.prompts: list[tuple[str, int]] = []
        self.presses: Counter[tuple[int, str]] = Counter()  # by kernel and prompt
        self.cells: defaultdict[str, set[str]] = defaultdict(set)  # with an id, by prompt
        self.news: Counter[str] = Counter()
        self.cap_micros: int | None = None
        self.before: list[Run] = []
        self.pictures: dict[str, bytes] = {}

    def kernel(self) -> Kernel:
        return Kernel(self.folder, self.sandbox.base_url)

    # --- what people and machines do ---

    @rule(
        fault=st.sampled_from(FAULTS), count=st.sampled_from([1, 2]), which=st.integers(0, 1), cell_id=CELLS
    )
    def ask(self, fault: str, count: int, which: int, cell_id: str | None) -> None:
        prompt = f"fox {next(self.numbers)} {fault}"
        self.prompts.append((prompt, count))
        self.press(which, prompt, count, cell_id)

    @precondition(lambda self: self.prompts)
    @rule(number=NUMBERS, which=st.integers(0, 1), new=st.booleans(), cell_id=CELLS)
    def press_again(self, number: int, which: int, cell_id: str | None, *, new: bool) -> None:
        prompt, count = self.prompts[number % len(self.prompts)]
        self.press(which, prompt, count, cell_id, new=new)

    def press(self, which: int, prompt: str, count: int, cell_id: str | None, *, new: bool = False) -> None:
        kernel = self.kernels[which % len(self.kernels)]
        if cell_id is None:
            self.presses[id(kernel), prompt] += 1
        else:
            self.cells[prompt].add(cell_id)
        self.news[prompt] += new
        kernel.press(prompt, count, new=new, cell_id=cell_id)

    @rule()
    def tasks_end(self) -> None:
        for kernel in self.kernels:
            kernel.wait(self.later)

    def later(self) -> None:
        """All tasks end; those that are still to be accepted, at the next call."""
        self.ahead_s += LATER_S

    @rule(number=NUMBERS)
    def cancel(self, number: int) -> None:
        jobs = [job for kernel in self.kernels for job in kernel.jobs]
        if jobs:
            jobs[number % len(jobs)].cancel()

    @rule(which=st.integers(0, 1), gently=st.booleans())
    def restart(self, which: int, *, gently: bool) -> None:
        kernel = self.kernels.pop(which % len(self.kernels))
        if gently:
            kernel.session.close()
        else:
            kernel.die()
        self.kernels.append(self.kernel())

    @precondition(lambda self: len(self.kernels) == 1)
    @rule()
    def second_kernel(self) -> None:
        self.kernels.append(self.kernel())

    @rule(which=st.integers(0, 1))
    def resume(self, which: int) -> None:
        kernel = self.kernels[which % len(self.kernels)]
        kernel.jobs += kernel.session.resume(timeout_s=PATIENCE_S)

    @rule(room=st.integers(0, 6))
    def set_budget(self, room: int) -> None:
        ledger = self.kernels[0].session.ledger
        for kernel in self.kernels:  # at rest, so that nothing is reserved between the look and the cap
            for job in kernel.jobs:
                job.cancel()
            kernel.wait()
        at_most = sum(
            run.price_micros if run.cost_micros is None else run.cost_micros
            for run in ledger.runs()
            if run.state != PLANNED
        )
        self.cap_micros = max(at_most, self.bill()) + room * 350_000
        ledger.set_budget(TOTAL, sandbox=True, limit_micros=self.cap_micros)

    # --- what must hold ---

    @invariant()
    def nothing_contradicts(self) -> None:
        assert self.violations_found(settled=False) == []

    def violations_found(self, *, settled: bool) -> list[str]:
        earlier = self.account()  # each of its tasks has its row by the time the rows are read
        with contextlib.closing(sqlite3.connect(self.folder / "ledger.db")) as database:
            [[health]] = database.execute("PRAGMA quick_check").fetchall()
        assert health == "ok"
        with contextlib.closing(Ledger(self.folder / "ledger.db")) as ledger:
            rows = ledger.runs()
        later = self.account()  # knows each task that a row names
        found = [
            *self.found(earlier, rows, {"lost", "duplicated", "budget"}, settled=settled),
            *self.found(later, rows, {"unexpected", "shared", "picture", "change"}, settled=settled),
            # These move while kernels are at work.
            *self.found(later, rows, {"file", "money", "state"} if settled else set(), settled=settled),
        ]
        self.before = rows
        return found

    def found(self, account: Account, rows: list[Run], rules: set[str], *, settled: bool) -> list[str]:
        evidence = Evidence(
            account=account,
            rows=rows,
            images=self.folder / "images",
            asked={prompt: self.allowed(prompt) for prompt, _ in self.prompts},
            served=self.picture,
            settled=settled,
            before=tuple(self.before),
            cap_micros=self.cap_micros,
        )
        return [str(each) for each in violations(evidence) if each.rule in rules]

    def account(self) -> Account:
        known = self.sandbox.account
        now_ms = known.now_ms()
        tasks = [
            Task(
                task.task_id,
                task.request,
                task.price_micros,
                task.state(now_ms),
                tuple(task.result_urls(self.sandbox.picture_url)),
            )
            for task in (known.tasks[task_id] for task_id in list(known.accepted))
        ]
        sent = Counter(task.prompt for task in tasks)
        return Account(tasks, sent, sum(task.price_micros for task in tasks if task.state != FAILED))

    def bill(self) -> int:
        return self.account().bill_micros

    def allowed(self, prompt: str) -> int:
        """How often it may be bought: once a cell with an id, else as often as one kernel was asked.

        Besides for each --new, and once more for each task that failed.
        """
        most = max((count for (_, asked), count in self.presses.items() if asked == prompt), default=0)
        failed = sum(
            task.prompt == prompt and task.script.fail is not None
            for task in self.sandbox.account.tasks.values()
        )
        return most + len(self.cells[prompt]) + self.news[prompt] + failed

    def picture(self, url: str) -> bytes:
        if url not in self.pictures:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
                self.pictures[url] = answer.read()
        return self.pictures[url]

    def teardown(self) -> None:
        if not hasattr(self, "kernels"):
            return
        try:
            for kernel in self.kernels:
                kernel.die()
            self.later()
            last = self.kernel()
            for _ in range(2):  # a resume may be repeated
                last.jobs = last.session.resume(timeout_s=PATIENCE_S)
                last.wait()
                assert self.violations_found(settled=True) == []
            submits = self.sandbox.account.submits
            last.session.close()
            assert self.sandbox.account.submits == submits
        finally:
            self.sandbox.stop()
            shutil.rmtree(self.folder, ignore_errors=True)


@pytest.mark.timeout(600)
@pytest.mark.slow
class TestStory(Story.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(
        max_examples=int(os.environ.get("STORIES", "20")),
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
