"""The invariants of money and pictures, as one function: what a ledger says against what the service knows.

`violations` compares three independent records after a fault: the service's own account (which tasks it has
accepted, at which price), the ledger, and the images folder. It changes nothing, trusts no row, and returns
every contradiction it finds. Its rules:

==============  ==========================================================================================
lost            an accepted task is in no row, and no row of the same request says that it may exist
duplicated      a request was accepted, or sent without a refusal, more often than a person asked for it
unexpected      a row names a task that the service never made, or made for another request
shared          two rows name the same task
state           a row is in no declared state, contradicts its task, or is still open after `resume`
change          a row has vanished, went backwards, or changed after its end
money           a sum of the ledger is no bound of the bill, or a price is not that of the task
budget          what is spent and what is at stake are together more than the cap, or the bill is
picture         a success without its pictures: not on disk, not whole, or not what the host serves
file            a file under a final name without a row, half a picture, or a part file after `resume`
==============  ==========================================================================================
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from apixo_nb.core.records import (
    CANCELLED,
    FAILED,
    PLANNED,
    PROCESSING,
    SUBMITTED,
    SUBMITTING,
    SUCCESS,
    TIMEOUT,
    UNKNOWN,
    Run,
)

DECLARED = (PLANNED, SUBMITTING, SUBMITTED, PROCESSING, SUCCESS, FAILED, UNKNOWN, CANCELLED, TIMEOUT)
#: What may be left once a `resume` has come to its end against a healthy service.
SETTLED = (PLANNED, SUCCESS, FAILED, UNKNOWN)
#: Rows that may stand for a task nobody has the id of.
COVERING = (SUBMITTING, UNKNOWN)


@dataclass(frozen=True, slots=True)
class Task:
    """An accepted task, by the service's own word. `request` is the body of its POST, `urls` its pictures."""

    task_id: str
    request: Mapping[str, Any]
    price_micros: int
    state: str
    urls: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """What was asked for."""
        return str(self.request["input"]["prompt"])


@dataclass(frozen=True, slots=True)
class Account:
    """What the service knows. `sent` counts, for each prompt, the POSTs that came and were not refused."""

    tasks: Sequence[Task]
    sent: Counter[str]
    bill_micros: int


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule, and how."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is looked at.

    Attributes
    ----------
    asked : mapping
        How many variations of each prompt a person asked for: one for each cell, however often it is run and
        in whichever kernel, and one for each ``--new`` or call in a script.
    served : callable
        The bytes that the picture host sends for a URL.
    settled : bool
        Whether a `resume` has ended against the healthy service; without it, these are the leftovers of a
        kill, in which open rows and part files are right, and half pictures under a final name are not.
    before : sequence of Run
        The rows of an earlier look.
    cap_micros : int or None
        The budget of this ledger, if it has one.
    """

    account: Account
    rows: Sequence[Run]
    images: Path
    asked: Mapping[str, int]
    served: Callable[[str], bytes]
    settled: bool = True
    before: Sequence[Run] = ()
    cap_micros: int | None = None
    tasks: Mapping[str, Task] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", {task.task_id: task for task in self.account.tasks})

    def task_of(self, run: Run) -> Task | None:
        """The task that a row names, if the service knows it."""
        return self.tasks.get(run.task_id or "")


def violations(evidence: Evidence) -> list[Violation]:
    """Every contradiction between account, ledger and folder; an empty list is what all tests want."""
    rules: dict[str, Callable[[Evidence], Iterator[str]]] = {
        "lost": _lost,
        "duplicated": _duplicated,
        "unexpected": _unexpected,
        "shared": _shared,
        "state": _state,
        "change": _change,
        "money": _money,
        "budget": _budget,
        "picture": _picture,
        "file": _file,
    }
    return [Violation(name, text) for name, rule in rules.items() for text in rule(evidence)]


# --- tasks and rows ----------------------------------------------------------------------------------


def _lost(evidence: Evidence) -> Iterator[str]:
    named = {run.task_id for run in evidence.rows}
    covering = [run for run in evidence.rows if run.task_id is None and run.state in COVERING]
    for task in evidence.account.tasks:
        if task.task_id in named:
            continue
        cover = next((run for run in covering if _same_request(run, task)), None)
        if cover is None:
            yield f"task {task.task_id} ({task.prompt!r}) is in no row, and no row says that it may exist"
        else:
            covering.remove(cover)  # one row stands for one task
    rows = Counter(run.prompt for run in evidence.rows if run.state != PLANNED)
    for prompt, times in evidence.account.sent.items():
        if times > rows[prompt]:
            yield f"{prompt!r} was sent {times} times, and {rows[prompt]} rows say so"


def _duplicated(evidence: Evidence) -> Iterator[str]:
    accepted = Counter(task.prompt for task in evidence.account.tasks)
    for what, counts in (("accepted", accepted), ("sent", evidence.account.sent)):
        for prompt, times in counts.items():
            if times > evidence.asked.get(prompt, 0):
                yield f"{prompt!r} was {what} {times} times, asked for {evidence.asked.get(prompt, 0)} times"


def _unexpected(evidence: Evidence) -> Iterator[str]:
    for run in evidence.rows:
        task = evidence.task_of(run)
        if run.task_id is not None and task is None:
            yield f"run {run.run_id} names task {run.task_id}, which the service never made"
        elif task is not None and not _same_request(run, task):
            yield f"run {run.run_id} names task {run.task_id}, which was made for {task.prompt!r}"


def _shared(evidence: Evidence) -> Iterator[str]:
    named = Counter(run.task_id for run in evidence.rows if run.task_id is not None)
    yield from (f"task {task_id} is in {count} rows" for task_id, count in named.items() if count > 1)


def _same_request(run: Run, task: Task) -> bool:
    return run.request.body() == task.request


def _state(evidence: Evidence) -> Iterator[str]:
    legal = SETTLED if evidence.settled else DECLARED
    for run in evidence.rows:
        task = evidence.task_of(run)
        if run.state not in legal:
            yield f"run {run.run_id} is {run.state!r}{' after resume' * evidence.settled}"
        if run.is_final and task is not None and run.state != task.state:
            yield f"run {run.run_id} is {run.state!r}, its task {task.state!r}"
        if run.state == SUCCESS and run.task_id is None:
            yield f"run {run.run_id} is a success without a task"


#: How far a run has come. A word of APIXO's counts as processing; we may stop waiting and begin again.
_RANKS = {PLANNED: 0, SUBMITTING: 0, UNKNOWN: 1, SUBMITTED: 2, SUCCESS: 4, FAILED: 4}
_WAITING = 3


def _change(evidence: Evidence) -> Iterator[str]:
    now = {run.run_id: run for run in evidence.rows}
    for old in evidence.before:
        new = now.get(old.run_id)
        if new is None:
            yield f"run {old.run_id} ({old.state!r}) has vanished"
            continue
        if old.is_final and new.state != old.state:
            yield f"run {old.run_id} was {old.state!r} and is {new.state!r}"
        elif _RANKS.get(new.state, _WAITING) < _RANKS.get(old.state, _WAITING):
            yield f"run {old.run_id} went back from {old.state!r} to {new.state!r}"
        if old.task_id not in (None, new.task_id):
            yield f"run {old.run_id} had task {old.task_id} and has {new.task_id}"
        if _kept(old) - _kept(new):
            yield f"run {old.run_id} has lost or changed a picture that was on disk"


def _kept(run: Run) -> set[tuple[int, str, str]]:
    return {(image.index, image.file, image.sha256) for image in run.images if image.file}


def _money(evidence: Evidence) -> Iterator[str]:
    spent = sum(run.cost_micros or 0 for run in evidence.rows if run.state == SUCCESS)
    stake = sum(run.price_micros for run in evidence.rows if run.state not in (SUCCESS, PLANNED))
    bill = evidence.account.bill_micros
    if not spent <= bill <= spent + stake:
        yield f"the bill is {bill}, the ledger says {spent} to {spent + stake} micro-dollars"
    if not any(run.state in COVERING or run.is_open for run in evidence.rows) and spent != bill:
        yield f"nothing is uncertain, yet the bill is {bill} and the ledger says {spent} micro-dollars"
    for run in evidence.rows:
        task = evidence.task_of(run)
        if task is not None and run.price_micros != task.price_micros:
            yield f"run {run.run_id} has the price {run.price_micros}, its task {task.price_micros}"
        if run.state == SUCCESS and run.cost_micros != run.price_micros:
            yield f"run {run.run_id} cost {run.cost_micros}, at a price of {run.price_micros}"
        if run.state == FAILED and run.cost_micros != 0:
            yield f"run {run.run_id} failed and cost {run.cost_micros}"
        if run.state in COVERING and run.cost_micros is not None:
            yield f"run {run.run_id} is {run.state!r} and says it cost {run.cost_micros}"


def _budget(evidence: Evidence) -> Iterator[str]:
    if evidence.cap_micros is None:
        return
    spent = sum(run.cost_micros or 0 for run in evidence.rows)
    uncertain = [run for run in evidence.rows if run.cost_micros is None and run.state != PLANNED]
    at_most = max(spent + sum(run.price_micros for run in uncertain), evidence.account.bill_micros)
    if at_most > evidence.cap_micros:
        yield f"up to {at_most} micro-dollars under a cap of {evidence.cap_micros}"


# --- pictures and files ------------------------------------------------------------------------------


def _picture(evidence: Evidence) -> Iterator[str]:
    for run in evidence.rows:
        task = evidence.task_of(run)
        if task is not None and run.result_urls and run.result_urls != task.urls:
            yield f"run {run.run_id} has other picture addresses than its task"
        known = {image.index: image for image in run.images}
        if len(known) != len(run.images):
            yield f"run {run.run_id} has a picture twice"
        if run.state == SUCCESS and evidence.settled:
            if task is not None and len(run.result_urls) != len(task.urls):
                yield f"run {run.run_id} has {len(run.result_urls)} of {len(task.urls)} addresses"
            for index in range(len(run.result_urls)):
                if index not in known or not (known[index].file or known[index].error):
                    yield f"picture {index + 1} of run {run.run_id} is neither on disk nor said to be missing"
        for image in run.images:
            if image.file:
                wrong = _wrong(evidence, run, image)
                yield from [f"picture {image.index + 1} of run {run.run_id} {wrong}"] if wrong else []


def _wrong(evidence: Evidence, run: Run, image: Any) -> str:
    """What is wrong with a picture that its row calls good, or ""."""
    path = evidence.images / image.file
    if not path.is_file():
        return "is not on disk"
    data = path.read_bytes()
    if (image.bytes, image.sha256) != (len(data), hashlib.sha256(data).hexdigest()):
        return "is not what its row says"
    if data != evidence.served(run.result_urls[image.index]):
        return "is not what the host serves"
    return "" if _opens(data) else "cannot be opened"


def _opens(data: bytes) -> bool:
    try:
        with Pillow.open(io.BytesIO(data)) as picture:
            picture.load()
    except Exception:  # noqa: BLE001 - decoders raise anything
        return False
    return True


def _file(evidence: Evidence) -> Iterator[str]:
    """Names in the folder that no row explains."""
    named = [image.file for run in evidence.rows for image in run.images if image.file]
    yield from (f"{name} is in several rows" for name, count in Counter(named).items() if count > 1)
    explained = {*named, *(str(Path(name).with_suffix(".json")) for name in named), *_aside(evidence)}
    for path in sorted(evidence.images.iterdir()) if evidence.images.is_dir() else ():
        if path.name in explained:
            continue
        if evidence.settled:
            yield f"{path.name} is in no row"
        elif not path.name.endswith(".part"):
            yield from _half(evidence, path)


def _aside(evidence: Evidence) -> Iterator[str]:
    """Bytes that came for a picture and are none are kept, as they may have been paid for."""
    for run in evidence.rows:
        whole = {image.index for image in run.images if image.file} if evidence.settled else ()
        for index in range(len(run.result_urls)):
            if index not in whole:
                yield f"{run.run_id}-{index + 1}.unreadable"


def _half(evidence: Evidence, path: Path) -> Iterator[str]:
    """After a kill, a file with a final name must be whole, though its row does not say so yet."""
    run_id, _, number = path.stem.rpartition("-")
    run = next((run for run in evidence.rows if run.run_id == run_id), None)
    index = int(number) - 1 if number.isdecimal() else -1
    if run is None or not 0 <= index < len(run.result_urls):
        yield f"{path.name} belongs to no row"
    elif path.suffix != ".json" and path.read_bytes() != evidence.served(run.result_urls[index]):
        yield f"{path.name} is half a picture, or another one"
