"""What runs have cost, by the price on their rows. Integer micro-dollars inside, so sums are exact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .errors import dollars
from .run import PLANNED, Run


def spent_micros(runs: Sequence[Run]) -> int:
    """The sum of the runs whose cost is known."""
    return sum(run.cost_micros or 0 for run in runs)


def at_stake_micros(runs: Sequence[Run]) -> int:
    """The price of the runs that may have been charged, or may still be: nobody knows their end."""
    return sum(run.price_micros for run in runs if run.cost_micros is None and run.state != PLANNED)


def spent_text(runs: Sequence[Run]) -> str:
    """Both sums in one line; a range while something is at stake."""
    stake = at_stake_micros(runs)
    more = f", and up to {dollars(stake / 1e6)} more for runs whose end is not known" if stake else ""
    paid = ", none of it paid: this is the sandbox" if runs and runs[0].sandbox else ""
    return f"{dollars(spent_micros(runs) / 1e6)} by list price{more}{paid}"


def count_text(runs: Sequence[Run]) -> str:
    """How many runs there are, in all and in each state."""
    states = Counter(run.state for run in runs)
    return f"{len(runs)}" + "".join(f", {count} {state}" for state, count in sorted(states.items()))
