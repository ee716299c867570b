"""Which cell asks, and which stored runs the executions of this process have claimed.

A cell is known by the id that the front end sends with an execution; what it asked for is kept on the rows of
the ledger, so it is the same cell in every kernel. Where no id is sent (nbclient, papermill, a terminal),
each execution counts as a cell of its own; where the id is not kept in the notebook's file (VS Code,
consoles, notebooks of a format before 4.5), a cell is known as long as this process lives. What those have
claimed is remembered here, in the process.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections import Counter
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # the extension loads this module, and nothing heavy with it
    from IPython.core.interactiveshell import InteractiveShell

    from apixo_nb.core.records import Run
    from apixo_nb.engine.job import Job

# What a notebook's file can keep as the id of a cell (nbformat 4.5). VS Code sends the address of the cell in
# the open window, with numbers that are given out anew at each opening.
_KEPT_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MOST_ID = 500  # characters
_MINOR = re.compile(rb'"nbformat_minor"\s*:\s*(\d+)')
_ENDS_OF_FILE = 4096  # bytes at the beginning and the end in which a file says its format


class Asked(NamedTuple):
    """What is counted within a cell: draws of one request, and draws made anew of a stored run apart."""

    digest: str
    rerun: bool

    @classmethod
    def of(cls, run: Run) -> Asked:
        """What a planned or stored run is a draw of."""
        return cls(run.digest, bool(run.rerun_of))


@dataclass(eq=False, slots=True)
class CellExecution:
    """One execution of a cell.

    Attributes
    ----------
    cell_id : str
        The cell's lasting id, as it stands in the notebook's file; "" where the front end sends none.
    window_id : str
        An id that is good while the front end's window is open; "" where there is none.
    asked : Counter of Asked
        How often each request was asked for so far.
    failed : bool
        Whether it, or code that it ran as a cell, ended in an error.
    reuses : bool
        Whether the person has said, or could not be asked, that it shows what is stored.
    """

    cell_id: str = ""
    window_id: str = ""
    asked: Counter[Asked] = field(default_factory=Counter)
    failed: bool = False
    reuses: bool = False

    @classmethod
    def named(cls, sent: object) -> CellExecution:
        """The execution of a cell whose id was sent like this."""
        if not isinstance(sent, str) or not 0 < len(sent) <= _MOST_ID:
            return cls()
        kept = _KEPT_ID.fullmatch(sent) and keeps_ids(os.environ.get("JPY_SESSION_NAME", ""))
        return cls(cell_id=sent) if kept else cls(window_id=sent)


@functools.cache  # a cell stays the same while the process lives
def keeps_ids(session_name: str) -> bool:
    """Whether what Jupyter Server calls the session is a notebook whose file keeps the ids of cells.

    Front ends make up other ids at each opening for a notebook of a format before 4.5, for a console and for
    a notebook in a file of text. A file that cannot be read tells nothing: it may not be saved yet.
    """
    if not session_name:
        return True
    path = Path(session_name)
    if path.suffix != ".ipynb":
        return False
    try:
        with path.open("rb") as file:
            ends = file.read(_ENDS_OF_FILE)
            file.seek(max(0, path.stat().st_size - _ENDS_OF_FILE))
            ends += file.read()
    except OSError:
        return True
    found = _MINOR.findall(ends)
    return not found or int(found[-1]) >= 5


# The execution that the code of this context belongs to: also what it left running when it ended.
_execution: ContextVar[CellExecution | None] = ContextVar("apixo_cell_execution", default=None)


@dataclass(eq=False, slots=True)
class _Open:
    """An execution between its two events. `info`: IPython's, None where it began unheard."""

    info: object
    execution: CellExecution
    before: CellExecution | None = None


@dataclass(eq=False, slots=True)
class Claim:
    """A run that a cell without a lasting id has asked for; `place`: what for, and the how many-th."""

    by: CellExecution
    place: tuple[Asked, int]
    job: Job


class CellTracker:
    """The executions of this process, and their claims.

    Attributes
    ----------
    deciding : RLock
        Held from a decision until it is carried out: of two threads of a cell, each gets its own variation.
    """

    def __init__(self) -> None:
        self.make_locks()
        self._claims: list[Claim] = []
        self._open: list[_Open] = []
        self._shell: InteractiveShell | None = None

    def make_locks(self) -> None:
        """Have locks that nobody holds; again in a process that is forked."""
        self._lock = threading.Lock()
        self.deciding = threading.RLock()

    # --- events of IPython ---

    def watch(self, shell: InteractiveShell) -> None:
        """Hear of the cells of a shell; a second time changes nothing."""
        if self._shell is shell:
            return
        self.forget()
        self._shell = shell
        shell.events.register("pre_run_cell", self.begin)
        shell.events.register("post_run_cell", self.end)
        if (sent := _sent_id(shell)) is not None:  # the cell that is running just now began unheard
            self._enter(None, CellExecution.named(sent))

    def forget(self) -> None:
        """Hear of cells no more."""
        shell, self._shell = self._shell, None
        self._open.clear()
        _execution.set(None)
        if shell is not None:
            for event, callback in (("pre_run_cell", self.begin), ("post_run_cell", self.end)):
                if callback in shell.events.callbacks[event]:
                    shell.events.unregister(event, callback)

    def begin(self, info: Any) -> None:
        """For ``pre_run_cell``. A cell that runs code as a cell (``%%capture``) is still the same cell."""
        outer = _execution.get()
        if outer is None:
            self._open[:] = [each for each in self._open if each.info is not None]  # that one is long over
        self._enter(info, outer or CellExecution.named(getattr(info, "cell_id", None)))

    def _enter(self, info: object, execution: CellExecution) -> None:
        self._open.append(_Open(info, execution, _execution.get()))
        _execution.set(execution)

    def end(self, result: Any) -> None:
        """For ``post_run_cell``: an execution that failed, or was stopped, gives its claims back.

        It comes for an empty cell as well, which never began; and without a result for one cut off.
        """
        infos = (None,) if result is None else (result.info, None)
        at = next((each for info in infos for each in self._open if each.info is info), None)
        if result is None and at is None and self._open:
            at = self._open[-1]
        if at is None:
            return
        self._open.remove(at)
        ended = at.execution
        if _execution.get() is ended:  # an awaited cell had a context of its own
            _execution.set(at.before)
        ended.failed |= result is None or not result.success
        if not self._is_open(ended):
            self._settle(ended, shown=not ended.failed)

    def current(self) -> CellExecution:
        """The execution that is under way, or that has left a task running; else one of its own."""
        return _execution.get() or (self._open[-1].execution if self._open else CellExecution())

    def _is_open(self, execution: CellExecution) -> bool:
        return any(each.execution is execution for each in self._open)

    # --- claims ---

    def claim(self, by: CellExecution, place: tuple[Asked, int], job: Job) -> None:
        """A cell without a lasting id has got this run; nobody else of its kind gets it."""
        with self._lock:
            self._claims.append(Claim(by, place, job))
        if not self._is_open(by):  # no end of a cell will tell whether it was shown
            self._settle(by, shown=True)

    def claimed(self) -> set[str]:
        """Ids of the runs that cells without a lasting id have."""
        with self._lock:
            return {claim.job.run.run_id for claim in self._claims}

    def claimed_by(self, cell: CellExecution, place: tuple[Asked, int]) -> set[str]:
        """Ids of the runs that earlier executions of the same cell claimed at this place."""
        with self._lock:
            return {
                claim.job.run.run_id  # as it is now: another kernel may have been quicker to ask for it
                for claim in self._claims
                if cell.window_id and claim.by.window_id == cell.window_id and claim.place == place
            }

    def release(self, jobs: Iterable[Job]) -> None:
        """Give claims back: the next execution that asks for these requests gets these runs again."""
        for job in jobs:
            job.ended.add_done_callback(functools.partial(self._drop, job))

    def _settle(self, ended: CellExecution, *, shown: bool) -> None:
        if ended.window_id:
            return
        with self._lock:
            mine = [claim.job for claim in self._claims if claim.by is ended]
        for job in mine:
            if shown:  # what still runs is claimed until it has ended without its pictures
                job.ended.add_done_callback(functools.partial(self._keep_if_shown, job))
            else:
                self._drop(job)

    def _keep_if_shown(self, job: Job, _ended: object = None) -> None:
        if job.run.state != "success" or job.run.missing:
            self._drop(job)

    def _drop(self, job: Job, _ended: object = None) -> None:
        with self._lock:
            self._claims[:] = [claim for claim in self._claims if claim.job is not job]


def _sent_id(shell: InteractiveShell) -> object:
    """The id sent with the cell that is running: "" if none was sent, None if no cell runs in a kernel."""
    kernel = getattr(shell, "kernel", None)
    parent = kernel.get_parent() if kernel is not None else {}
    if parent.get("header", {}).get("msg_type") != "execute_request":
        return None
    return parent.get("metadata", {}).get("cellId", "")


#: One for each process, as there is one IPython.
tracker = CellTracker()
