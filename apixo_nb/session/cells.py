"""Which cell asks, and which stored runs the executions of this process have claimed.

A cell is known by the id that the front end sends with an execution; what it asked for is kept on the rows of
the ledger, so it is the same cell in every kernel. Where no id is sent (nbclient, papermill, a terminal),
each execution counts as a cell of its own; where the id lasts no longer than the window (VS Code), a cell is
known as long as this process lives. What those have claimed is remembered here, in the process.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # the extension loads this module, and nothing heavy with it
    from IPython.core.interactiveshell import InteractiveShell

    from apixo_nb.core.records import Run
    from apixo_nb.engine.job import Job

# VS Code sends the address of the cell in the open window: numbers that are given out anew at each opening.
_OF_A_WINDOW = "vscode-notebook-cell:"


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
    """

    cell_id: str = ""
    window_id: str = ""
    asked: Counter[Asked] = field(default_factory=Counter)

    @classmethod
    def named(cls, sent: object) -> CellExecution:
        """The execution of a cell whose id was sent like this."""
        if not isinstance(sent, str) or not 0 < len(sent) <= _MOST_ID:
            return cls()
        return cls(window_id=sent) if sent.startswith(_OF_A_WINDOW) else cls(cell_id=sent)


_MOST_ID = 500  # characters; nbformat allows 64


@dataclass(eq=False, slots=True)
class Claim:
    """A run that a cell without a lasting id has asked for; `place`: what for, and the how many-th."""

    by: CellExecution
    place: tuple[Asked, int]
    job: Job


class CellTracker:
    """The executions of this process, and their claims."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: list[Claim] = []
        self._current: CellExecution | None = None
        self._depth = 0
        self._shell: InteractiveShell | None = None

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
            self._current, self._depth = CellExecution.named(sent), 1

    def forget(self) -> None:
        """Hear of cells no more."""
        shell, self._shell = self._shell, None
        self._current, self._depth = None, 0
        if shell is not None:
            for event, callback in (("pre_run_cell", self.begin), ("post_run_cell", self.end)):
                if callback in shell.events.callbacks[event]:
                    shell.events.unregister(event, callback)

    def begin(self, info: Any) -> None:
        """For ``pre_run_cell``. A cell that runs code as a cell (``%run``) is still the same cell."""
        self._depth += 1
        if self._depth == 1:
            self._current = CellExecution.named(getattr(info, "cell_id", None))

    def end(self, result: Any) -> None:
        """For ``post_run_cell``: an execution that failed, or was stopped, gives its claims back."""
        self._depth = max(0, self._depth - 1)
        ended, self._current = self._current, self._current if self._depth else None
        if ended is not None and not self._depth:
            self._settle(ended, shown=bool(getattr(result, "success", True)))

    def current(self) -> CellExecution:
        """The execution that is under way; a callback between cells counts as one of its own."""
        return self._current or CellExecution()

    # --- claims ---

    def claim(self, by: CellExecution, place: tuple[Asked, int], job: Job) -> None:
        """A cell without a lasting id has got this run; nobody else of its kind gets it."""
        with self._lock:
            self._claims.append(Claim(by, place, job))
        if by is not self._current:  # no end of a cell will tell whether it was shown
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
