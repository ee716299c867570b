"""Whether a cell shows what is stored, waits for what is open, stops, or buys.

Within one kernel, the k-th draw of the same request (model, prompt, parameters, references) is take k. What
the ledger holds for take k decides, so Run All after a restart or a crash buys nothing that was asked for
already, and Shift+Enter again buys another draw. A run that failed, was never sent or has an unknown end was
no draw: the next press is the same take again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from apixo_nb.core.records import FAILED, PLANNED, SUBMITTING, SUCCESS, UNKNOWN, Run
from apixo_nb.errors import SubmitUnknownError
from apixo_nb.text import to_usd


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do for one request: `run` is the stored one, or the one to buy, with its take.

    "leave": its submit has no answer, so it is neither shown nor bought. `once`: not if another kernel asks
    for the same take meanwhile.
    """

    action: Literal["show", "follow", "buy", "leave"]
    run: Run
    once: bool = False

    @property
    def note(self) -> str:
        """What to tell the person about it; "" for an ordinary purchase."""
        if self.action == "show":
            return f"The stored result of {_day(self.run)}, shown again at $0. --new buys another."
        if self.action == "follow":
            return f"The task of {_day(self.run)}, taken up again at $0."
        if self.action == "leave":
            return "Left out: it was submitted before, and its answer lost."
        return ""


def decide_all(
    planned: Iterable[Run],
    stored: Callable[[Run], list[Run]],
    drawn: Collection[str],
    *,
    buy: bool,
    leave: bool = False,
) -> list[Decision]:
    """Decide on the requests of one cell; identical ones are draws of their own.

    Parameters
    ----------
    planned : iterable of Run
        The rows that would be bought.
    stored : callable
        Gives all rows of the same request, oldest first.
    drawn : collection of str
        Ids of the runs that this kernel has bought or shown.
    buy : bool
        Buy in any case: ``--new``, or replay is off.
    leave : bool
        Leave out what has an unknown end, and go on with the others, in place of raising.

    Raises
    ------
    SubmitUnknownError
        One was submitted before, and its answer lost: buying it again could pay twice.
    """
    found: list[Decision] = []
    known: dict[str, list[Run]] = {}
    ahead: Counter[str] = Counter()  # draws of the same request that stand before it in the cell
    for run in planned:
        if run.digest not in known:
            known[run.digest] = stored(run)
        found.append(_decide(run, known[run.digest], drawn, ahead[run.digest], buy=buy, leave=leave))
        ahead[run.digest] += 1
    return found


def _decide(
    planned: Run, stored: Sequence[Run], drawn: Collection[str], ahead: int, *, buy: bool, leave: bool
) -> Decision:
    first = 1 + sum(run.run_id in drawn and _is_draw(run) for run in stored)
    if buy:
        if any(run.take >= first and _is_draw(run) for run in stored):
            first = 1 + max(run.take for run in stored)
        return Decision("buy", planned.replace(take=first + ahead))
    take = first + ahead
    same = [run for run in stored if run.take == take]
    draw = next((run for run in same if _is_draw(run)), None)
    if draw is not None:
        return Decision("show" if draw.state == SUCCESS and not draw.missing else "follow", draw)
    for run in same:
        if run.is_unanswered:
            if leave:
                return Decision("leave", run)
            raise unanswered_error(run)
    return Decision("buy", planned.replace(take=take), once=True)


def _day(run: Run) -> str:
    return f"{run.created_at:%Y-%m-%d %H:%M} UTC"


def _is_draw(run: Run) -> bool:
    """Whether a run has a task that succeeded or still may; or is being submitted at this moment."""
    return run.state in (SUCCESS, SUBMITTING) or (
        bool(run.task_id) and run.state not in (FAILED, PLANNED, UNKNOWN)
    )


def unanswered_error(run: Run) -> SubmitUnknownError:
    """The error of a request that was submitted before, with an unknown end."""
    return SubmitUnknownError(
        f"This request was submitted on {_day(run)}, and its answer was lost",
        run_id=run.run_id,
        at_stake_usd=to_usd(run.price_micros),
        next_step="It is not bought again by itself: look at `%apixo balance`; --new buys it all the same.",
    )
