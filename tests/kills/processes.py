"""The service, the fork server whose programs are killed, a home in which they work, and what was counted."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from apixo_nb import sandbox
from apixo_nb.core.records import FAILED, PLANNED, SUBMITTING, SUCCESS, UNKNOWN, Run
from apixo_nb.ledger.budgets import TOTAL
from apixo_nb.ledger.ledger import Ledger
from tests.kills.checker import Account, Evidence, Task, violations

ROOT = Path(__file__).parents[2]
PATIENCE_S = 90.0  # a guard against whatever hangs, not a measure of anything

#: What a program asks for: a prompt, and how many pictures of it.
Request = tuple[str, int]


# --- the service ---------------------------------------------------------------------------------------


class ServiceProcess:
    """The service in another process, and its account as it stands."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.process = _program(folder, "service", str(folder))
        self.base_url, self.picture_url = json.loads(_line(self.process)).values()
        self._tasks = _Lines(folder / "tasks.jsonl")
        self._requests = _Lines(folder / "requests.jsonl")
        self._pictures: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self.process)

    def wait_until_idle(self) -> None:
        """Return when what dead clients have sent has had its effect."""
        for _ in range(2):  # asked twice: what had arrived before the first answer is begun by the second
            self.balance_micros()
        wait_for(lambda: not self._pending(), "the service to finish its submits")

    def _pending(self) -> set[int]:
        posts = self._requests.read()
        return {line["post"] for line in posts if "post" in line} - {
            line["end"] for line in posts if "end" in line
        }

    def account(self, prompts: Collection[str], at_s: float | None = None) -> Account:
        """What the service knows of these requests; `at_s` is the Unix time at which tasks are looked at."""
        at_ms = int(1000 * (time.time() if at_s is None else at_s))
        accepted = [sandbox.Task(**line) for line in self._tasks.read()]
        tasks = [
            Task(
                task.task_id,
                task.request,
                task.price_micros,
                task.state(at_ms),
                tuple(task.result_urls(self.picture_url)),
            )
            for task in accepted
            if task.prompt in prompts
        ]
        posts = self._requests.read()
        refused = {line["end"] for line in posts if 400 <= line.get("status", 0) < 500}
        came = (line for line in posts if "post" in line and line["post"] not in refused)
        sent = Counter(line["prompt"] for line in came if line["prompt"] in prompts)
        # The service takes no money for a task that fails.
        bill = sum(task.price_micros for task in tasks if task.state != FAILED)
        return Account(tasks, sent, bill)

    def bill_micros(self) -> int:
        """All that was ever charged, as the balance says."""
        return 1_000_000_000_000 - self.balance_micros()

    def balance_micros(self) -> int:
        """What the service says is left."""
        answer = json.loads(self._get(self.base_url + "/apikeys/current-balance"))
        return round(1_000_000 * answer["data"])

    def picture(self, url: str) -> bytes:
        """What the picture host serves."""
        if url not in self._pictures:
            self._pictures[url] = self._get(url)
        return self._pictures[url]

    def _get(self, url: str) -> bytes:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("GET", urlsplit(url).path, headers={"Authorization": "Bearer service"})
            return connection.getresponse().read()


class _Lines:
    """A file of JSON lines that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._lines: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """All whole lines so far."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                whole, _, _torn = file.read().rpartition(b"\n")
            self._offset += len(whole) + bool(whole)
            self._lines += [json.loads(line) for line in whole.splitlines()]
        return self._lines


def _program(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    with (folder / "stderr.txt").open("a", encoding="utf-8") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.kills.programs", *arguments],
            cwd=ROOT,
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "a program of the harness has died: see stderr.txt"
    return line


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def environment(folder: Path) -> dict[str, str]:
    """The environment of every process here: nothing of the person's own settings, keys or notebooks."""
    ours = {
        "APIXO_API_KEY": "test-key",
        "APIXO_FIRST_POLL": "0.05",
        "APIXO_POLL_INTERVAL": "0.05",
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CONFIG_HOME": str(folder / "config"),
    }
    return {name: text for name, text in os.environ.items() if not name.startswith("APIXO_")} | ours


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; a guard ends it, not a measure."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


class ForkServer:
    """Starts programs and kills them; see `tests.kills.programs`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._process = _program(folder, "fork-server")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._process)

    def run_and_kill(self, program: str, **command: Any) -> dict[str, Any]:
        """Run one program and kill it; returns when it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"program": program, **command}) + "\n")
        self._process.stdin.flush()
        outcome: dict[str, Any] = json.loads(_line(self._process))
        return outcome


# --- what a kill leaves ------------------------------------------------------------------------------


class Home:
    """One ledger with its pictures, what was asked for in it, and how to check it."""

    def __init__(self, folder: Path, service: ServiceProcess, cap_micros: int | None = None) -> None:
        self.folder = folder
        self.service = service
        self.cap_micros = cap_micros
        if cap_micros is not None:
            with contextlib.closing(Ledger(folder / "ledger.db")) as ledger:
                ledger.set_budget(TOTAL, sandbox=True, limit_micros=cap_micros)
        self.asked: Counter[str] = Counter()
        self._before: list[Run] = []
        self._parts: set[Path] = set()
        self._told: set[str] = set()

    @property
    def env(self) -> dict[str, str]:
        """What a process needs to know to work here."""
        return {"APIXO_HOME": str(self.folder), "APIXO_BASE_URL": self.service.base_url}

    def check_leftovers(
        self, requests: Sequence[Request], died_at: float | None = None
    ) -> tuple[list[str], Counter[str]]:
        """Check what a kill has left, before anybody repairs it; also says where it fell.

        `died_at` is the Unix time of the kill, in seconds; default: now.
        """
        with tempfile.TemporaryDirectory() as aside:
            # A copy, journal and all: to open the ledger would be the first step of the repair.
            for path in self.folder.glob("ledger*"):
                shutil.copy(path, aside)
            rows = _rows(Path(aside))
        found = self._check(rows, self.service.account(self.asked), settled=False)
        account = self.service.account(self.asked, died_at)
        where = Counter(self._where(prompt, rows, account) for prompt, _ in requests)
        del where[""]
        return found, where or Counter({"between runs": 1})

    def settled(self) -> list[str]:
        """Check what is there once a resume has ended."""
        rows = _rows(self.folder)
        found = self._check(rows, self.service.account(self.asked), settled=True)
        with contextlib.closing(sqlite3.connect(self.folder / "ledger.db")) as database:
            [[health]] = database.execute("PRAGMA integrity_check").fetchall()
        self._parts = set(self.images.glob("*.part"))
        return found + ([f"integrity: {health}"] if health != "ok" else [])

    @property
    def images(self) -> Path:
        """The folder of the pictures."""
        return self.folder / "images"

    def rows(self) -> list[Run]:
        """The rows as they were last checked."""
        return self._before

    def _check(self, rows: list[Run], account: Account, *, settled: bool) -> list[str]:
        evidence = Evidence(
            account=account,
            rows=rows,
            images=self.images,
            asked=self.asked,
            served=self.service.picture,
            settled=settled,
            before=tuple(self._before),
            cap_micros=self.cap_micros,
        )
        self._before = rows
        found = [str(violation) for violation in violations(evidence)]
        new = [text for text in found if text not in self._told]  # what stays broken is one violation
        self._told.update(new)
        return new

    def _where(self, prompt: str, rows: list[Run], account: Account) -> str:
        """In which step a request was caught; "" if it was not begun, or had come to its end."""
        task = next((task for task in account.tasks if task.prompt == prompt), None)
        run = next((run for run in rows if run.prompt == prompt), None)
        if run is None:
            return "" if task is None else "PAID WITHOUT A ROW"
        if run.state in (PLANNED, SUBMITTING):
            return "row kept, POST not accepted" if task is None else "accepted, taskId not kept"
        if run.state != SUCCESS:
            done = run.is_final or run.state == UNKNOWN
            ended = task is not None and task.state != "processing"
            return "" if done else "task ended, result not kept" if ended else "taskId kept, task goes on"
        return self._picture_step(run)

    def _picture_step(self, run: Run) -> str:
        kept = {image.file for image in run.images if image.file}
        if not run.missing or (run.images and not any(image.file for image in run.images)):
            return ""
        if {path.name for path in self.images.glob(f"{run.run_id}-*") if path.suffix != ".json"} - kept:
            return "picture renamed, row not written"
        if set(self.images.glob("*.part")) - self._parts:
            return "picture half on disk"
        return "between two pictures" if kept else "result kept, no picture begun"


def _rows(home: Path) -> list[Run]:
    with contextlib.closing(Ledger(home / "ledger.db")) as ledger:
        return ledger.runs()


# --- counting ----------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What was done and found."""

    kills: int = 0
    interrupted: int = 0
    in_resume: int = 0
    asked: int = 0
    accepted: int = 0
    rows: int = 0
    unknown: int = 0
    pictures: int = 0
    where: Counter[str] = field(default_factory=Counter)
    by_call: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def add(self, home: Home) -> None:
        """Add a home that is done with."""
        rows = home.rows()
        self.asked += home.asked.total()
        self.accepted += len(home.service.account(home.asked).tasks)
        self.rows += len(rows)
        self.unknown += sum(run.state == UNKNOWN for run in rows)
        self.pictures += sum(len(run.files) for run in rows)

    def rule(self, name: str) -> int:
        """How often a rule was broken."""
        return sum(f"{name}: " in text for text in self.broken)

    def __str__(self) -> str:
        lines = [
            f"kills                 {self.kills}",
            f"  while at work       {self.interrupted}",
            f"  of these in resume  {self.in_resume}",
            f"requests asked for    {self.asked}",
            f"tasks accepted        {self.accepted}",
            f"  lost                {self.rule('lost')}",
            f"  duplicated          {self.rule('duplicated')}",
            f"  unexpected          {self.rule('unexpected')}",
            f"rows                  {self.rows}",
            f"  unknown             {self.unknown}",
            f"pictures on disk      {self.pictures}",
            f"violations            {len(self.broken)}",
            "where the kills fell (requests caught in a step):",
            *(f"  {number:6}  {step}" for step, number in self.where.most_common()),
            *(f"  {number:6}  {call}: {step}" for (call, step), number in sorted(self.by_call.items())),
            *self.notes,
            *self.broken[:20],
        ]
        return "\n".join(lines)
