"""Whether a cell shows what it has, takes up what is open, stops, or buys.

A request belongs to the cell that asks for it. A cell that is run again gets what it has: its starred
variation, else its newest one. A cell that has none yet gets the first that no cell has claimed; only then is
one bought. A run that failed, was never sent, or is settled as not charged, is no variation: it is bought.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from apixo_nb.core.records import FAILED, PLANNED, SUBMITTING, SUCCESS, UNKNOWN, Run
from apixo_nb.engine.job import Job
from apixo_nb.errors import InvalidRequestError, SubmitUnknownError
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.text import dollars, printable, to_usd

from .cells import Asked, CellExecution, CellTracker

MOST_TAKES = 1_000_000

_ROW_S = 10.0  # how long a stopped purchase may take until it is known whether it was sent


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do for one request: `run` is the stored one, or the one to buy.

    "leave": its end is unknown, so it is neither shown nor bought.

    Attributes
    ----------
    planned : Run
        What was asked for.
    once : bool
        Do not buy if another kernel asks for the same meanwhile; follow its run.
    failed : Run or None
        What this purchase is made in place of.
    cell, position : CellExecution or None, int
        Who asks, and the how many-th time for this request within the execution, from 1. None: nobody in
        particular, as when a variation is asked for by its number.
    """

    action: Literal["show", "follow", "buy", "leave"]
    run: Run
    planned: Run
    once: bool = False
    failed: Run | None = None
    cell: CellExecution | None = None
    position: int = 0

    @property
    def note(self) -> str:
        """What to tell the person about it; "" for an ordinary purchase."""
        if self.action == "show":
            return f"The stored result of {_day(self.run)}, shown again at $0. --new buys another."
        if self.action == "follow":
            return f"The task of {_day(self.run)}, taken up again at $0."
        if self.action == "leave":
            return "Left out: it was submitted before, and its answer lost."
        if self.failed is not None:
            word = "failed" if self.failed.state == FAILED else "was not sent"
            price = dollars(self.run.price_micros)
            return f"The run of {_day(self.failed)} {word}; bought now for {price}."
        return ""


def of_cell(planned: Run, own: Sequence[Run], unclaimed: Sequence[Run], *, leave: bool = False) -> Decision:
    """Decide for a cell with a lasting id.

    Parameters
    ----------
    planned : Run
        The row that would be bought.
    own : sequence of Run
        The runs that this cell has at this place.
    unclaimed : sequence of Run
        Runs of the same request that no cell has claimed.
    leave : bool
        Leave out what has an unknown end, in place of raising.

    Raises
    ------
    SubmitUnknownError
        It was submitted before, and its answer lost: buying it again could pay twice.
    """
    found = (
        _preferred(own, planned.notebook) or _first(unclaimed, _is_shown) or _first(unclaimed, is_variation)
    )
    if found is None:
        found = _first([*own, *unclaimed], _is_unanswered)
    return _decision_about(planned, found, own, leave=leave)


def of_execution(planned: Run, slots: Iterable[Sequence[Run]], *, leave: bool = False) -> Decision:
    """Decide for an execution without a cell's id: the first slot that is left is its own.

    `slots`: the runs of the same request that no execution has claimed, those of one cell together.
    """
    numbered = [
        (min(run.take for run in slot if _counts(run)), slot) for slot in slots if any(map(_counts, slot))
    ]
    slot = min(numbered, key=lambda pair: pair[0])[1] if numbered else ()
    return _decision_about(
        planned, _preferred(slot, planned.notebook) or _first(slot, _is_unanswered), (), leave=leave
    )


def by_number(planned: Run, stored: Sequence[Run]) -> Decision:
    """Decide for variation `planned.take` of a request, whoever asks for it and however often."""
    same = [run for run in stored if run.take == planned.take]
    found = _preferred(same, planned.notebook) or _first(same, _is_unanswered)
    return _decision_about(planned, found, same, leave=False)


def offer_new(decisions: Sequence[Decision], ask: Callable[[str], bool | None]) -> list[Decision]:
    """Ask whether to buy anew what would be shown again; a no, or nobody to ask, holds for the whole cell.

    A yes holds for what the question named: what a loop asks for next has a price of its own.
    """
    shown = [each for each in decisions if each.action == "show" and each.cell and not each.cell.reuses]
    if not shown:
        return list(decisions)
    results = "1 stored result" if len(shown) == 1 else f"{len(shown)} stored results"
    price = dollars(sum(each.planned.price_micros for each in shown))
    wanted = ask(f"This cell has {results}. Buy new ones for {price}? [y/N] ")
    if wanted:
        return [_bought_anew(each) if each in shown else each for each in decisions]
    if wanted is None:
        print('Nobody can be asked here (Apixo.rerun = "ask"): stored results are shown at $0.')  # noqa: T201
    for each in shown:
        if each.cell is not None:
            each.cell.reuses = True
    return list(decisions)


def _bought_anew(decision: Decision) -> Decision:
    cell_id = decision.cell.cell_id if decision.cell else ""
    position = decision.position if cell_id else 0
    run = decision.planned.replace(cell_id=cell_id, cell_position=position)
    return replace(decision, action="buy", run=run, once=False, failed=None)


def check_take(take: object, *, new: bool, replay: bool | None) -> None:
    """Raise InvalidRequestError unless a variation can be asked for by this number."""
    if not isinstance(take, int) or isinstance(take, bool) or not 1 <= take <= MOST_TAKES:
        raise InvalidRequestError(
            f"take cannot be {printable(repr(take), 60)}",
            field="take",
            value=take,
            allowed=f"a whole number from 1 to {MOST_TAKES:,}",
        )
    if new or replay is False:
        raise InvalidRequestError(
            f"take={take} asks for a variation by its number, and {'new=True' if new else 'replay=False'} "
            "for one that is not there yet",
            field="take",
            value=take,
            allowed="one of the two",
        )


def _decision_about(planned: Run, found: Run | None, own: Sequence[Run], *, leave: bool) -> Decision:
    if found is None:
        failed = max(own, key=lambda run: run.created_at, default=None)
        return Decision("buy", planned, planned, once=True, failed=failed)
    if _is_unanswered(found):
        if leave:
            return Decision("leave", found, planned)
        raise unanswered_error(found)
    return Decision("show" if _is_shown(found) else "follow", found, planned)


def _preferred(runs: Sequence[Run], notebook: str) -> Run | None:
    """The starred variation, else the newest; of several starred ones the newest.

    A copy of a notebook has the same ids of cells: what `notebook` has made itself goes before the other's.
    """
    variations = [run for run in runs if is_variation(run)]
    starred = [run for run in variations if _is_shown(run) and any(image.starred for image in run.images)]
    own_first = lambda run: (run.notebook == notebook, run.take, run.created_at)  # noqa: E731
    return max(starred or variations, key=own_first, default=None)


def _first(runs: Iterable[Run], wanted: Callable[[Run], bool]) -> Run | None:
    return min(filter(wanted, runs), key=lambda run: (run.take, run.created_at), default=None)


def _day(run: Run) -> str:
    return f"{run.created_at:%Y-%m-%d %H:%M} UTC"


def _is_shown(run: Run) -> bool:
    return run.state == SUCCESS and bool(run.result_urls) and not run.missing


def is_variation(run: Run) -> bool:
    """Whether a run has a task that succeeded or still may; or is being submitted at this moment."""
    return run.state in (SUCCESS, SUBMITTING) or (
        bool(run.task_id) and run.state not in (FAILED, PLANNED, UNKNOWN)
    )


def _is_unanswered(run: Run) -> bool:
    """Whether its submit's answer was lost, and nobody has said since how it ended."""
    return run.state == UNKNOWN and run.cost_micros is None


def _counts(run: Run) -> bool:
    return is_variation(run) or _is_unanswered(run)


def unanswered_error(run: Run) -> SubmitUnknownError:
    """The error of a request that was submitted before, with an unknown end."""
    return SubmitUnknownError(
        f"This request was submitted on {_day(run)}, and its answer was lost",
        run_id=run.run_id,
        at_stake_usd=to_usd(run.price_micros),
        next_step="It is not bought again by itself: look at `%apixo balance`; --new buys it all the same.",
    )


# --- for all requests of one execution ------------------------------------------------------------------


class Replay:
    """Decides for the requests of a cell, from the ledger and from what is in flight in this process.

    Parameters
    ----------
    ledger : Ledger
    jobs : sequence of Job
        The runs in flight here; also those that have no row yet.
    tracker : CellTracker
        Knows which cell asks.
    """

    def __init__(self, ledger: Ledger, jobs: Sequence[Job], tracker: CellTracker) -> None:
        self._ledger = ledger
        self._jobs = jobs
        self._tracker = tracker
        self._had = tracker.claimed()  # ids of runs that are another's, or another request's of this cell

    def decide_all(self, planned: Iterable[Run], *, buy: bool, leave: bool) -> list[Decision]:
        """Decide on the requests of one cell, in their order; identical ones are variations of their own.

        `buy`: buy in any case. `leave`: leave out what has an unknown end, in place of raising.

        Raises
        ------
        SubmitUnknownError
            One was submitted before, and its answer lost.
        """
        cell = self._tracker.current()
        stored: dict[str, list[Run]] = {}
        ahead: Counter[Asked] = Counter()  # of the same kind, earlier in this cell
        found: list[Decision] = []
        for run in planned:
            asked = Asked.of(run)
            ahead[asked] += 1
            position = cell.asked[asked] + ahead[asked]
            if run.digest not in stored:
                stored[run.digest] = self._stored(run)
            here = run.replace(cell_id=cell.cell_id, cell_position=position if cell.cell_id else 0)
            if buy:
                decision = Decision("buy", here, run)
            else:
                decision = self._decide(here, stored[run.digest], cell, position, leave=leave)
            found.append(replace(decision, planned=run, cell=cell, position=position))
            self._had.add(decision.run.run_id)
            if decision.action == "buy":  # the next one of the same request gets the next number
                stored[run.digest].append(decision.run.replace(state=SUBMITTING))
        return found

    def decide_by_number(self, planned: Run) -> Decision:
        """Decide on variation ``planned.take`` of a request."""
        return by_number(planned, self._stored(planned))

    def _decide(
        self, planned: Run, known: Sequence[Run], cell: CellExecution, position: int, *, leave: bool
    ) -> Decision:
        asked = Asked.of(planned)
        same = [row for row in known if Asked.of(row) == asked]
        if cell.cell_id:
            own = [row for row in same if (row.cell_id, row.cell_position) == (cell.cell_id, position)]
            # What is made anew of a stored run is never another stored one.
            free = [row for row in same if not (asked.rerun or row.cell_id or self._is_had([row]))]
            return of_cell(planned, own, free, leave=leave)
        mine = self._tracker.claimed_by(cell, (asked, position))
        own = [row for row in same if row.run_id in mine]
        if any(map(_counts, own)):
            return of_cell(planned, own, (), leave=leave)
        slots = [slot for slot in _slots(same) if not self._is_had(slot)]
        decision = of_execution(planned, slots, leave=leave)
        if decision.action != "buy":
            return decision
        # By number, so that of two kernels that run the same notebook at once only one buys.
        last = max((row.take for row in known if _counts(row)), default=0)
        return replace(decision, run=planned.replace(take=last + 1))

    def _is_had(self, runs: Sequence[Run]) -> bool:
        return any(run.run_id in self._had for run in runs)

    def _stored(self, planned: Run) -> list[Run]:
        """All runs of the same request, those included that wait for a slot here and have no row yet."""
        of_request = [job for job in self._jobs if _same_request(job.run, planned)]
        _wait_until_sent_or_not(of_request)
        rows = self._on_their_way(self._ledger.draws(planned))
        known = {run.run_id for run in rows}
        # On their way to be submitted, as far as another execution of the same cell is concerned.
        waiting = [job.run for job in of_request if job.run.run_id not in known and not job.ended.done()]
        never = {job.run.run_id for job in of_request if job.stopped and not job.posted}
        return [
            run.replace(state=PLANNED) if run.run_id in never and not run.task_id else run
            for run in [*rows, *(run.replace(state=SUBMITTING) for run in waiting)]
        ]

    def _on_their_way(self, rows: list[Run]) -> list[Run]:
        """What waits in a living process to be sent, or to be sent again, counts as being submitted."""
        if not any(run.state == PLANNED for run in rows):
            return rows
        held = self._ledger.leases.held()
        return [
            run.replace(state=SUBMITTING) if run.state == PLANNED and run.run_id in held else run
            for run in rows
        ]


def _same_request(run: Run, planned: Run) -> bool:
    return (run.digest, run.sandbox) == (planned.digest, planned.sandbox)


def _wait_until_sent_or_not(jobs: Sequence[Job]) -> None:
    """Of what was stopped a moment ago, wait until it is known whether its submit still leaves."""
    deadline = time.monotonic() + _ROW_S
    undecided = [job for job in jobs if job.stopped]
    while any(not (job.posted or job.ended.done()) for job in undecided) and time.monotonic() < deadline:
        time.sleep(0.01)


def _slots(runs: Iterable[Run]) -> list[list[Run]]:
    """What an execution without a cell's id can get: the runs of one cell and place together."""
    found: dict[object, list[Run]] = {}
    for run in runs:
        key = (run.cell_id, run.cell_position) if run.cell_id else run.run_id
        found.setdefault(key, []).append(run)
    return list(found.values())
