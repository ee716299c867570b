"""What runs came to, group by group: failures, times, costs and ratings, as tables and as plots.

The groups are the values of variables, parameters or facts of the row, see `pivot`; or days, tags and states.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, product
from typing import TYPE_CHECKING, Any

import pandas as pd

from apixo_nb.core.formatting import GROUPS, at_stake_micros, spent_micros
from apixo_nb.core.records import FAILED, Run
from apixo_nb.errors import ApixoError, InvalidRequestError
from apixo_nb.text import printable, to_usd

from .frame import typed
from .pivot import axis_names, axis_value, check_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = (7.0, 3.6)  # inches
_SHOWN = 40  # characters of a label
#: Fonts that know what the usual one does not; those that a machine has are asked in this order.
_MORE_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei"),
    *("Malgun Gothic", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Arial Unicode MS", "Noto Sans"),
)
_INK, _SOFT = "#1f6feb", "#8b949e"  # tell apart, also without colour vision, and on light and dark


def plot_cost(runs: Iterable[Run], ax: Axes | None = None) -> Any:
    """What was spent up to each moment, in US dollars; the sandbox apart, as it is not paid."""
    axes = _axes(ax)
    known = sorted((run for run in runs if run.cost_micros is not None), key=lambda run: run.created_at)
    for sandbox, label, colour in ((False, "paid", _INK), (True, "sandbox, not paid", _SOFT)):
        some = [run for run in known if run.sandbox == sandbox]
        if some:
            sums = [to_usd(micros) for micros in accumulate(run.cost_micros or 0 for run in some)]
            axes.step(
                [run.created_at for run in some], sums, where="post", color=colour, marker=".", label=label
            )
            axes.annotate(
                f"${sums[-1]:,.2f}",
                (some[-1].created_at, sums[-1]),
                xytext=(0, 5),
                textcoords="offset points",
                ha="right",
            )
    axes.set_title("Spent, by list price")
    axes.set_ylabel("US dollars")
    axes.margins(y=0.15)
    return _finished(_along_time(axes))


def plot_time(
    runs: Iterable[Run], groups: Sequence[tuple[str, Sequence[Run]]], by: str, ax: Axes | None = None
) -> Any:
    """How long tasks took at APIXO, in seconds: a dot a run, a line at the median; by group, or by time."""
    axes = _axes(ax)
    if groups:
        _rows_of_dots(axes, groups)
        axes.set_xlabel("seconds")
        axes.set_title(f"Time of a task, by {printable(by, _SHOWN)}")
        axes.set_xlim(left=0)
        if ax is None:
            axes.figure.set_size_inches(_SIZE[0], max(2.0, 1.1 + 0.4 * len(groups)))
        return _finished(axes)
    timed = [(run.created_at, run.cost_time_ms / 1000) for run in runs if run.cost_time_ms is not None]
    if timed:
        axes.plot([at for at, _ in timed], [s for _, s in timed], ".", color=_INK, label="a task")
        middle = statistics.median(s for _, s in timed)
        axes.axhline(middle, color=_SOFT, linestyle="--", label=f"median {middle:.1f} s")
    axes.set_ylabel("seconds")
    axes.set_title("Time of a task")
    axes.margins(y=0.15)
    return _finished(_along_time(axes))


def _rows_of_dots(axes: Any, groups: Sequence[tuple[str, Sequence[Run]]]) -> None:
    for place, (_, runs) in enumerate(groups):
        times = [run.cost_time_ms / 1000 for run in runs if run.cost_time_ms is not None]
        if times:
            axes.plot(times, [place] * len(times), ".", color=_INK, alpha=0.6)
            axes.plot([statistics.median(times)], [place], "|", color=_SOFT, markersize=18, markeredgewidth=2)
    labels = [f"{printable(label, _SHOWN)} ({len(runs)})" for label, runs in groups]
    axes.set_yticks(range(len(groups)), labels, fontfamily=_families())
    axes.set_ylim(len(groups) - 0.5, -0.5)  # the first one on top


def _families() -> list[str]:
    import matplotlib as mpl
    from matplotlib.font_manager import fontManager

    known = set(fontManager.get_font_names())
    return [*mpl.rcParams["font.family"], *(font for font in _MORE_FONTS if font in known)]


def _along_time(axes: Any) -> Any:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    if axes.has_data():
        locator = AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_xlabel("UTC")
    axes.set_ylim(bottom=0)
    return axes


def _axes(ax: Axes | None) -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        step = "Run `pip install 'apixo-nb[plot]'`, then draw it again."
        raise ApixoError("Plots need matplotlib, which is not installed", next_step=step) from None
    return ax if ax is not None else plt.subplots(figsize=_SIZE, layout="constrained")[1]


def _finished(axes: Any) -> Any:
    # Labels are people's words: a $ is a dollar in them, and no formula.
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts, *axes.get_yticklabels()):
        text.set_parse_math(False)
    if not axes.has_data():
        axes.text(0.5, 0.5, "nothing to draw yet", ha="center", transform=axes.transAxes)
    elif axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False)
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


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
        A variable, a parameter, a fact of the row (see `pivot.FACTS`), "day" (of this machine's time), "tag"
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
    names = axis_names(runs) if by is None else [by] if isinstance(by, str) else list(by)
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
        "spent_usd": [to_usd(spent_micros(members)) for _, members in ranked],
        "at_stake_usd": [to_usd(at_stake_micros(members)) for _, members in ranked],
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
        check_axis(runs, by)
    return lambda run: [axis_value(run, by)]


def pictures(run: Run) -> int:
    """How many pictures of a run came."""
    return max(len(run.result_urls), len(run.images))


def _facts(runs: Sequence[Run]) -> dict[str, Any]:
    times = [run.cost_time_ms for run in runs if run.cost_time_ms is not None]
    ratings = [image.rating for run in runs for image in run.images if image.rating is not None]
    ended, failed = sum(run.is_final for run in runs), sum(run.state == FAILED for run in runs)
    usd, count = to_usd(spent_micros(runs)), sum(map(pictures, runs))
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
