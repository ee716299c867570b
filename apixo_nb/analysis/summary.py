"""What runs came to, group by group: failures, times, costs and ratings.

The groups are the values of variables, parameters or facts of the row, see `axes`; or days, tags and states.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

import pandas as pd

from . import axes
from .errors import InvalidRequestError
from .frame import typed
from .run import FAILED, Run
from .spend import GROUPS, at_stake_micros, spent_micros
from .text import printable

#: Column -> dtype of a summary, after the columns of its groups.
SUMMARY: dict[str, str] = {
    "runs": "int64",
    "pictures": "int64",
    "ended": "int64",
    "failed": "int64",
    "failure_rate": "Float64",
    "costTime_mean": "Float64",
    "costTime_median": "Float64",
    "costTime_std": "Float64",
    "cost_usd": "float64",
    "picture_usd": "Float64",
    "rated": "int64",
    "rating_mean": "Float64",
    "rating_std": "Float64",
}

#: The same of what was spent.
SPENT: dict[str, str] = {
    "runs": "int64",
    "pictures": "int64",
    "spent_usd": "float64",
    "at_stake_usd": "float64",
}

Labels = Callable[[Run], Sequence[str]]


def summary(runs: Iterable[Run], by: str | Sequence[str] | None = None) -> pd.DataFrame:
    """One row for each group of runs, in the order in which the groups come up.

    Parameters
    ----------
    runs : iterable of Run
    by : str, or list of str
        A variable, a parameter, a fact of the row (see `axes.FACTS`), "day" (of this machine's time), "tag"
        or "state"; several make a group of each combination. Default: what the runs differ in.
        A run with several tags counts in each of them.

    Returns
    -------
    DataFrame
        A text column for each of `by`, then

        =================  =================================================================================
        runs, pictures     how many; pictures are those that came, on disk or not
        ended, failed      how many runs have ended, and how many of these have failed
        failure_rate       failed / ended, 0 to 1; missing where none has ended
        costTime_mean      milliseconds at APIXO of the runs that tell, as are costTime_median and
                           costTime_std (the spread: sample standard deviation, missing for fewer than two)
        cost_usd           US dollars, what is known of it
        picture_usd        US dollars a picture; missing without pictures
        rated              how many pictures have a rating
        rating_mean        of these, 1 to 5; rating_std is its spread
        =================  =================================================================================

    Raises
    ------
    InvalidRequestError
        The runs know nothing of that name.
    """
    runs = list(runs)
    names = axes.names(runs) if by is None else [by] if isinstance(by, str) else list(by)
    readers = [labels_by(runs, name) for name in names]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        for key in product(*(reader(run) for reader in readers)):
            groups.setdefault(key, []).append(run)
    columns = {name: [key[at] for key in groups] for at, name in enumerate(names)}
    facts = [_facts(members) for members in groups.values()]
    values = columns | {name: [each[name] for each in facts] for name in SUMMARY}
    return typed(values, dict.fromkeys(names, "str") | SUMMARY)


def spending(runs: Iterable[Run], by: str, labels: Labels | None = None) -> pd.DataFrame:
    """What each group of runs has cost, a row each, by its name.

    Columns: `by`, ``runs``, ``pictures``, ``spent_usd`` (by list price, of the runs whose cost is known) and
    ``at_stake_usd`` (of those whose end is not known, and which may be charged), both US dollars.
    A run that belongs to several groups, as by its tags, counts in each of them.

    Parameters
    ----------
    labels : function, optional
        The groups of a run, in place of those of `by`.
    """
    runs = list(runs)
    labels = labels or labels_by(runs, by)
    groups: dict[str, list[Run]] = {}
    for run in runs:
        for label in dict.fromkeys(labels(run)):
            groups.setdefault(label, []).append(run)
    ranked = sorted(groups.items())
    values: dict[str, list[Any]] = {
        by: [label for label, _ in ranked],
        "runs": [len(members) for _, members in ranked],
        "pictures": [sum(map(pictures, members)) for _, members in ranked],
        "spent_usd": [spent_micros(members) / 1e6 for _, members in ranked],
        "at_stake_usd": [at_stake_micros(members) / 1e6 for _, members in ranked],
    }
    return typed(values, {by: "str"} | SPENT)


def labels_by(runs: Sequence[Run], by: str) -> Labels:
    """The function that tells the groups of a run; raises InvalidRequestError where no run has any."""
    given: object = by
    if not isinstance(given, str) or by in SUMMARY or by in SPENT:
        text = f"There are no groups by {printable(repr(by), 60)}"
        raise InvalidRequestError(
            text, field="by", value=by, allowed="a variable, a parameter, day, tag, state"
        )
    if by in GROUPS and not any(by in run.variables for run in runs):
        return GROUPS[by]
    if runs:  # nothing is wrong with a table that has no rows
        axes.check(runs, by)
    return lambda run: [axes.value(run, by)]


def pictures(run: Run) -> int:
    """How many pictures of a run came."""
    return max(len(run.result_urls), len(run.images))


def _facts(runs: Sequence[Run]) -> dict[str, Any]:
    times = [run.cost_time_ms for run in runs if run.cost_time_ms is not None]
    ratings = [image.rating for run in runs for image in run.images if image.rating is not None]
    ended, failed = sum(run.is_final for run in runs), sum(run.state == FAILED for run in runs)
    usd, count = spent_micros(runs) / 1e6, sum(map(pictures, runs))
    return {
        "runs": len(runs),
        "pictures": count,
        "ended": ended,
        "failed": failed,
        "failure_rate": failed / ended if ended else None,
        "costTime_mean": _mean(times),
        "costTime_median": float(statistics.median(times)) if times else None,
        "costTime_std": _spread(times),
        "cost_usd": usd,
        "picture_usd": usd / count if count else None,
        "rated": len(ratings),
        "rating_mean": _mean(ratings),
        "rating_std": _spread(ratings),
    }


def _mean(values: Sequence[int]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _spread(values: Sequence[int]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
