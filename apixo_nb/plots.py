"""Two plots that people draw of their runs. matplotlib is an extra, imported when the first one is drawn."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from .errors import ApixoError
from .run import Run
from .text import printable

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
    drawn = _axes(ax)
    known = sorted((run for run in runs if run.cost_micros is not None), key=lambda run: run.created_at)
    for sandbox, label, colour in ((False, "paid", _INK), (True, "sandbox, not paid", _SOFT)):
        some = [run for run in known if run.sandbox == sandbox]
        if some:
            sums = [micros / 1e6 for micros in accumulate(run.cost_micros or 0 for run in some)]
            drawn.step(
                [run.created_at for run in some], sums, where="post", color=colour, marker=".", label=label
            )
            drawn.annotate(
                f"${sums[-1]:,.2f}",
                (some[-1].created_at, sums[-1]),
                xytext=(0, 5),
                textcoords="offset points",
                ha="right",
            )
    drawn.set_title("Spent, by list price")
    drawn.set_ylabel("US dollars")
    drawn.margins(y=0.15)
    return _finished(_along_time(drawn))


def plot_time(
    runs: Iterable[Run], groups: Sequence[tuple[str, Sequence[Run]]], by: str, ax: Axes | None = None
) -> Any:
    """How long tasks took at APIXO, in seconds: a dot a run, a line at the median; by group, or by time."""
    drawn = _axes(ax)
    if groups:
        _rows_of_dots(drawn, groups)
        drawn.set_xlabel("seconds")
        drawn.set_title(f"Time of a task, by {printable(by, _SHOWN)}")
        drawn.set_xlim(left=0)
        if ax is None:
            drawn.figure.set_size_inches(_SIZE[0], max(2.0, 1.1 + 0.4 * len(groups)))
        return _finished(drawn)
    timed = [(run.created_at, run.cost_time_ms / 1000) for run in runs if run.cost_time_ms is not None]
    if timed:
        drawn.plot([at for at, _ in timed], [s for _, s in timed], ".", color=_INK, label="a task")
        middle = statistics.median(s for _, s in timed)
        drawn.axhline(middle, color=_SOFT, linestyle="--", label=f"median {middle:.1f} s")
    drawn.set_ylabel("seconds")
    drawn.set_title("Time of a task")
    drawn.margins(y=0.15)
    return _finished(_along_time(drawn))


def _rows_of_dots(drawn: Any, groups: Sequence[tuple[str, Sequence[Run]]]) -> None:
    for place, (_, runs) in enumerate(groups):
        times = [run.cost_time_ms / 1000 for run in runs if run.cost_time_ms is not None]
        if times:
            drawn.plot(times, [place] * len(times), ".", color=_INK, alpha=0.6)
            drawn.plot(
                [statistics.median(times)], [place], "|", color=_SOFT, markersize=18, markeredgewidth=2
            )
    labels = [f"{printable(label, _SHOWN)} ({len(runs)})" for label, runs in groups]
    drawn.set_yticks(range(len(groups)), labels, fontfamily=_families())
    drawn.set_ylim(len(groups) - 0.5, -0.5)  # the first one on top


def _families() -> list[str]:
    import matplotlib as mpl
    from matplotlib.font_manager import fontManager

    known = set(fontManager.get_font_names())
    return [*mpl.rcParams["font.family"], *(font for font in _MORE_FONTS if font in known)]


def _along_time(drawn: Any) -> Any:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    if drawn.has_data():
        locator = AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call]
        drawn.xaxis.set_major_locator(locator)
        drawn.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    drawn.set_xlabel("UTC")
    drawn.set_ylim(bottom=0)
    return drawn


def _axes(ax: Axes | None) -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        step = "Run `pip install 'apixo-nb[plot]'`, then draw it again."
        raise ApixoError("Plots need matplotlib, which is not installed", next_step=step) from None
    return ax if ax is not None else plt.subplots(figsize=_SIZE, layout="constrained")[1]


def _finished(drawn: Any) -> Any:
    # Labels are people's words: a $ is a dollar in them, and no formula.
    for text in (drawn.title, drawn.xaxis.label, drawn.yaxis.label, *drawn.texts, *drawn.get_yticklabels()):
        text.set_parse_math(False)
    if not drawn.has_data():
        drawn.text(0.5, 0.5, "nothing to draw yet", ha="center", transform=drawn.transAxes)
    elif drawn.get_legend_handles_labels()[1]:
        drawn.legend(frameon=False)
    drawn.grid(visible=True, alpha=0.25)
    drawn.spines[["top", "right"]].set_visible(False)
    return drawn
