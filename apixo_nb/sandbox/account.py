"""How a sandbox is set up, and its account: key, balance, tasks, and all requests that came in.

It belongs to the sandbox's thread; the counters, lists and tasks may be read from any other.
"""

from __future__ import annotations

import hmac
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from apixo_nb.core.models import ModelSpec
from apixo_nb.sandbox.faults import Fault
from apixo_nb.sandbox.tasks import Json, Task, append_to_journal, read_journal

REMEMBERED_REQUESTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """How a sandbox is set up.

    Parameters
    ----------
    seconds
        Typical duration of a task; each takes 0.7 to 1.3 times as long, fixed by its taskId. The real
        service takes about 30 s, so ``seconds / 30`` is also the scale of the callback delays.
    balance_usd
        What the account holds before its first task.
    key
        The only API key accepted; None accepts any that is not empty.
    port, picture_port
        Where API and picture host listen on 127.0.0.1; 0 takes a free port.
    journal
        File of JSON lines, one for each accepted task. A sandbox started on it again knows them all.
    picture_scale
        Size of the pictures; at 1.0 the short side has 1024 pixels.
    faults
        Rules that say which requests meet which trouble; more can be added while it runs, see `faults`.
    hosts
        Names beside those of this machine under which requests may come in, such as that of a container, and
        to which callbacks may go.
    """

    seconds: float = 3.0
    balance_usd: float = 100.0
    key: str | None = None
    port: int = 0
    picture_port: int = 0
    journal: Path | None = None
    picture_scale: float = 1.0
    faults: tuple[Fault, ...] = ()
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it arrived: which secrets came along, never what they were.

    `kind` is submit, status, balance, picture, or other; `path` is without its query.
    `authorised` says that the key was right, and is always False on the picture host.
    """

    kind: str
    method: str
    path: str
    authorised: bool
    has_authorization: bool
    has_cookie: bool


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt at a callback: the HTTP status it met, None if there was no answer."""

    task_id: str
    status: int | None


class Account:
    """The account behind a sandbox.

    Attributes
    ----------
    accepted
        taskIds in order of acceptance; each is a billed task.
    submits, polls, downloads
        Requests that reached these endpoints, answered well or not.
    tasks
        Every task ever accepted, by taskId, those of the journal included.
    requests
        The last requests that came in, oldest first.
    deliveries
        Every attempt at a callback.
    """

    def __init__(self, options: SandboxOptions, clock: Callable[[], float] = time.time) -> None:
        self._options = options
        self._clock = clock
        self._charged_micros = 0
        self._refundable: list[Task] = []
        self._busy_answers: Counter[str] = Counter()
        self.accepted: list[str] = []
        self.tasks: dict[str, Task] = {}
        self.requests: deque[Seen] = deque(maxlen=REMEMBERED_REQUESTS)
        self.deliveries: list[Delivery] = []
        self.submits = self.polls = self.downloads = 0
        if options.journal is not None:
            for task in read_journal(options.journal):
                self._keep(task)

    def now_ms(self) -> int:
        """The account's clock, in Unix milliseconds."""
        return int(1000 * self._clock())

    def knows(self, authorization: str) -> bool:
        """Whether this Authorization header carries the key, or any key where none was set."""
        scheme, _, key = authorization.partition(" ")
        if scheme.casefold() != "bearer" or not key.strip():
            return False
        expected = key if self._options.key is None else self._options.key
        return hmac.compare_digest(key.strip().encode(), expected.strip().encode())

    def note(self, seen: Seen) -> None:
        """Count a request and remember that it came."""
        self.requests.append(seen)
        self.submits += (seen.kind, seen.method) == ("submit", "POST")
        self.polls += seen.kind == "status"
        self.downloads += seen.kind == "picture"

    def is_busy(self, prompt: str, times: int) -> bool:
        """Whether this submit is one of the first `times` of its prompt."""
        if self._busy_answers[prompt] >= times:
            return False
        self._busy_answers[prompt] += 1
        return True

    def accept(self, spec: ModelSpec, request: Json) -> Task:
        """Take on a checked request: journalled on disk and charged when this returns."""
        task = Task.accept(spec, request, self.now_ms(), self._options.seconds)
        if self._options.journal is not None:
            append_to_journal(self._options.journal, task)
        self._keep(task)
        return task

    @property
    def balance_micros(self) -> int:
        """What is left, in millionths of a dollar.

        A task is charged when it is accepted, for the pictures asked for, and refunded when it fails.
        The refund is the sandbox's choice: APIXO's pages do not say how failed tasks are billed.
        """
        now_ms = self.now_ms()
        refunded = sum(task.price_micros for task in self._refundable if task.state(now_ms) == "failed")
        return round(1_000_000 * self._options.balance_usd) - self._charged_micros + refunded

    def _keep(self, task: Task) -> None:
        self.tasks[task.task_id] = task
        self.accepted.append(task.task_id)
        self._charged_micros += task.price_micros
        if task.script.fail is not None:
            self._refundable.append(task)
