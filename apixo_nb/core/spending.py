"""What runs cost: sums, a table by day, tag and state, and how both fit the balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from apixo_nb.text import dollars, printable, to_micros

from .records import FAILED, Run


def spent_micros(runs: Iterable[Run]) -> int:
    """The sum of the runs whose cost is known."""
    return sum(run.cost_micros or 0 for run in runs)


def at_stake_micros(runs: Iterable[Run]) -> int:
    """The price of the runs that may have been charged, or may still be: nobody knows their end."""
    return sum(run.at_stake_micros for run in runs)


def spent_text(runs: Sequence[Run]) -> str:
    """Both sums in one line; a range while something is at stake."""
    stake = at_stake_micros(runs)
    more = f", and up to {dollars(stake)} more for runs whose end is not known" if stake else ""
    paid = ", none of it paid: this is the sandbox" if runs and runs[0].sandbox else ""
    return f"{dollars(spent_micros(runs))} by list price{more}{paid}"


def count_text(runs: Sequence[Run]) -> str:
    """How many runs there are, in all and in each state."""
    states = Counter(run.state for run in runs)
    shown = (f", {count} {printable(state, 40)}" for state, count in sorted(states.items()))
    return f"{len(runs)}" + "".join(shown)


# --- by day, tag and state --------------------------------------------------------------------------

#: How runs are grouped; a run with several tags counts in each.
GROUPS: dict[str, Callable[[Run], Sequence[str]]] = {
    "state": lambda run: [run.state],
    "day": lambda run: [f"{run.created_at.astimezone():%Y-%m-%d}"],
    "tag": lambda run: run.tags or ["(no tag)"],
}

FAILED_NOTE = "Failed tasks are counted as $0.00; APIXO's pages do not say whether they are charged."


def spend_lines(runs: Sequence[Run], by: Iterable[str] = GROUPS) -> list[str]:
    """A table for each grouping: its runs, what they cost, and what more they may have cost."""
    lines = []
    for name in by:
        groups: dict[str, list[Run]] = {}
        for run in runs:
            for label in GROUPS[name](run):
                groups.setdefault(label, []).append(run)
        lines += _table(name, groups)
    lines.append(f"in all: {spent_text(runs)}")
    if any(run.state == FAILED and run.task_id for run in runs):
        lines.append(FAILED_NOTE)
    return lines


def _table(name: str, groups: dict[str, list[Run]]) -> list[str]:
    rows = [
        (
            printable(label, 40),
            str(len(members)),
            dollars(spent_micros(members)),
            dollars(stake) if (stake := at_stake_micros(members)) else "",
        )
        for label, members in sorted(groups.items())
    ]
    table = [(name, "runs", "spent", "at stake"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    return [
        *(
            f"{label:<{widths[0]}}  {runs:>{widths[1]}}  {spent:>{widths[2]}}  {stake:>{widths[3]}}".rstrip()
            for label, runs, spent, stake in table
        ),
        "",
    ]


# --- against the balance ----------------------------------------------------------------------------


def balance_text(usd: float, before: tuple[datetime, float] | None, since: Sequence[Run]) -> str:
    """What changed since the balance was last looked at, and what the ledger says of that time.

    Parameters
    ----------
    usd : float
        The balance now, in US dollars.
    before : time and US dollars, optional
        The balance before.
    since : list of Run
        The runs made since then, of the same service.
    """
    if before is None:
        return ""
    seen_at, was = before
    change = to_micros(was) - to_micros(usd)
    moved = (
        f"fell by {dollars(change)}"
        if change > 0
        else f"rose by {dollars(-change)}"
        if change
        else "is the same"
    )
    spent, stake = spent_micros(since), at_stake_micros(since)
    expected = dollars(spent) if not stake else f"{dollars(spent)} to {dollars(spent + stake)}"
    fits = spent - 1 <= change <= spent + stake + 1  # a balance is rounded
    verdict = (
        ""
        if fits
        else " They differ: by another program, a top-up, a charge for a failed task or another price."
    )
    when = f"{seen_at.astimezone():%Y-%m-%d %H:%M}"
    return f"Since {when} it {moved}; the ledger's runs of that time cost {expected}.{verdict}"
