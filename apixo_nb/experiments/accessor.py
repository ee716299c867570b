"""``df.apixo``: pictures, sums, plots and files of whatever rows of a table somebody has before them.

It works on every DataFrame with a column (or an index) ``run_id``: `history`, `images`, and any slice, filter
or merge of them. The rows say which runs are meant, and in which order; what is told of the runs comes from
the ledger. Exports write the table itself, own columns included.

pandas knows it once `register` was called, which whatever hands a table to a person does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from IPython.display import display

from apixo_nb.analysis.formats import write_csv, write_excel_csv, write_jsonl, write_parquet
from apixo_nb.analysis.summary import labels_by, plot_cost, plot_time, spending, summary
from apixo_nb.core import checks
from apixo_nb.core.formatting import GROUPS, HtmlResult, plan_summary, sentence_html
from apixo_nb.core.records import Run
from apixo_nb.display.cards import MOST_COMPARED, Picture
from apixo_nb.display.gallery import gallery, shown_columns, thumbs
from apixo_nb.errors import ApixoError, InvalidRequestError
from apixo_nb.session.session import Session, current
from apixo_nb.text import printable

from .review import compare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 10_000  # pictures in one output; a notebook is no place for more

#: What tells a table of pictures from one of runs whose index was made a column of that name.
_OF_PICTURES = {"sha256", "url", "file", "starred"}


class Table:
    """The accessor of a table; see the module. `of` says where its runs are, if not in the shared session."""

    def __init__(self, table: pd.DataFrame, session: Session | None = None) -> None:
        columns = [*table.columns, *table.index.names]
        if columns.count("run_id") != 1:
            text = "has several columns run_id" if "run_id" in columns else "has no column run_id"
            raise AttributeError(
                f"df.apixo is for tables of runs and pictures, and this one {text}: "
                "begin with apixo_nb.history() or apixo_nb.images()"
            )
        self._table = table
        self._given = session

    def __repr__(self) -> str:
        runs = len(set(self._ids()))
        return f"<df.apixo: {len(self._table)} rows of {runs} run{'s' * (runs != 1)}>"

    def of(self, session: Session) -> Table:
        """The same table, whose runs are in the ledger of this session."""
        return Table(self._table, session)

    @property
    def _session(self) -> Session:
        return self._given or current()

    # --- what is in it ---

    def runs(self) -> list[Run]:
        """The runs of the rows, each once, in the order of the rows.

        Raises
        ------
        ApixoError
            Some are not in this ledger.
        """
        wanted = list(dict.fromkeys(run_id for run_id in self._ids() if isinstance(run_id, str)))
        found = {run.run_id: run for run in self._session.ledger.some(wanted)}
        if missing := [run_id for run_id in wanted if run_id not in found]:
            shown = printable(missing[0], 60)
            raise ApixoError(
                f"{len(missing)} of these {len(wanted)} runs are not in this ledger, such as {shown}",
                next_step="`df.apixo.of(session)` asks the ledger of another session.",
            )
        return [found[run_id] for run_id in wanted]

    def _ids(self) -> list[Any]:
        in_columns = "run_id" in self._table.columns
        column = self._table["run_id"] if in_columns else self._table.index.get_level_values("run_id")
        return list(column.tolist())

    def _pictures(self, runs: Sequence[Run]) -> list[list[Picture]]:
        """The pictures of each row: the one that it is about, or all of its run."""
        known = {run.run_id: run for run in runs}
        rows = [known.get(run_id) for run_id in self._ids()]
        if not {"index"} <= set(self._table.columns) or _OF_PICTURES.isdisjoint(self._table.columns):
            return [[(run, image) for image in run.images] if run else [] for run in rows]
        at = self._table["index"].tolist()
        return [
            [(run, image) for image in run.images if image.index == index] if run else []
            for run, index in zip(rows, at, strict=True)
        ]

    # --- to look at ---

    def gallery(self, limit: int = 100) -> HtmlResult:
        """The pictures of these rows as lasting HTML, small (some 6 kB each); `limit` at most."""
        checks.whole(limit, "limit", 1, _MOST)
        runs = self.runs()
        pictures = list(
            {
                (run.run_id, image.index): (run, image) for row in self._pictures(runs) for run, image in row
            }.values()
        )
        seen = {run.run_id for run, _ in pictures}
        return gallery(pictures, [run for run in runs if run.run_id not in seen], self._session.images, limit)

    def compare(self) -> HtmlResult:
        """These 2 to 4 rows side by side; see `apixo_nb.compare`."""
        if not 2 <= len(self._table) <= MOST_COMPARED:
            allowed = f"2 to {MOST_COMPARED} rows, e.g. df.head(2).apixo.compare()"
            text = f"{len(self._table)} rows cannot be compared"
            raise InvalidRequestError(text, field="rows", value=len(self._table), allowed=allowed)
        table = self._table if "run_id" in self._table.columns else self._table.reset_index()
        return compare(self._session, table.to_dict("records"))

    def thumbs(self, columns: Sequence[Any] | None = None, limit: int = 100) -> HtmlResult:
        """The table with a small picture in each row, some 3 kB each; every text in it is shown as text.

        Parameters
        ----------
        columns : list, optional
            Which columns to show; default: the brief ones, and all of your own.
        limit : int
            How many rows at most, from the first on.
        """
        checks.whole(limit, "limit", 1, _MOST)
        chosen = shown_columns(self._table) if columns is None else list(columns)
        for label in chosen:
            if list(self._table.columns).count(label) != 1:
                text = f"The table has not one column {printable(repr(label), 60)}"
                raise InvalidRequestError(text, field="columns", value=label, allowed="names of its columns")
        part = Table(self._table.head(limit), self._given)
        pictures = part._pictures(part.runs())
        more = len(self._table) - len(part._table)
        return thumbs(part._table, pictures, self._session.images, chosen, more)

    def grid(self, x: str | None = None, y: str | None = None) -> Any:
        """The runs of these rows as a grid; see `grid.grid`."""
        from .review import grid

        return grid(self.runs(), x=x, y=y)

    # --- figures ---

    def summary(self, by: str | Sequence[str] | None = None) -> pd.DataFrame:
        """Failures, times, cost and ratings of these runs, group by group; see `summary.summary`."""
        return summary(self.runs(), by)

    def spend(self, by: str = "tag") -> pd.DataFrame:
        """What these runs have cost: by "tag", "day", "state", any axis or any column of this table.

        See `summary.spending` for the columns. Each run counts once in each of its groups, however many
        rows it has.
        """
        runs = self.runs()
        if by in self._table.columns and by not in GROUPS and by != "run_id":
            groups: dict[Any, list[str]] = {}
            for run_id, value in zip(self._ids(), self._table[by].tolist(), strict=True):
                groups.setdefault(run_id, []).extend(_labels(value))
            return spending(runs, by, lambda run: groups[run.run_id])
        if by == "run_id":
            return spending(runs, by, lambda run: [run.run_id])
        return spending(runs, by)

    def plot_cost(self, ax: Axes | None = None) -> Any:
        """What was spent up to each moment, in US dollars. Needs matplotlib; returns its Axes."""
        return plot_cost(self.runs(), ax)

    def plot_time(self, by: str | None = None, ax: Axes | None = None) -> Any:
        """How long the tasks took, in seconds: along the time, or by a variable, parameter, tag or day."""
        runs = self.runs()
        groups: dict[str, list[Run]] = {}
        if by is not None:
            labels = labels_by(runs, by)
            for run in runs:
                for label in labels(run):
                    groups.setdefault(label, []).append(run)
        return plot_time(runs, list(groups.items()), by or "", ax)

    # --- again ---

    def rerun(self, i: int, *, max_cost_usd: float | None = None, timeout_s: float | None = None) -> Run:
        """Buy the request of a row anew, wait for it, and return the new `Run`: another row.

        It costs what the request costs now, which is said, and every budget holds. A cell that is run again
        gets the run that it has bought so, at $0.

        Parameters
        ----------
        i : int
            The position of the row, from 0; -1 is the last.
        max_cost_usd : float, optional
            Refuse to start above it.
        timeout_s : float, optional
            Give up waiting after so many seconds; the task is kept and can be resumed.

        Raises
        ------
        ApixoError
            As `apixo_nb.generate`.
        """
        checks.timeout(timeout_s)
        at = checks.whole(i, "i", -len(self._table), len(self._table) - 1)
        [old] = Table(self._table.iloc[[at]], self._given).runs()
        session = self._session
        [decision] = session.offer_new([session.decide_rerun(old)])
        session.agree([decision], max_cost_usd)
        said = f"Another variation of run {old.run_id}: {decision.note or plan_summary([decision.run])}"
        display(HtmlResult(sentence_html(said), said))
        return session.carry_out(decision, timeout_s).wait()

    # --- to files ---

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write this table as CSV, exactly; see `formats.write_csv`."""
        return write_csv(self._table, path)

    def to_excel_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write this table as CSV that spreadsheets leave alone; see `formats.write_excel_csv`."""
        return write_excel_csv(self._table, path)

    def to_jsonl(self, path: str | os.PathLike[str]) -> Path:
        """Write this table as JSON Lines; see `formats.write_jsonl`."""
        return write_jsonl(self._table, path)

    def to_parquet(self, path: str | os.PathLike[str]) -> Path:
        """Write this table as Parquet; see `formats.write_parquet`."""
        return write_parquet(self._table, path)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write the runs of these rows as a page to keep or send; see `report.write_report`."""
        return self._session.export(path, "html", self.runs())


def _labels(value: Any) -> list[str]:
    """The groups of a row by what a column says there; a list counts in each of its values."""
    if isinstance(value, (list, tuple, set)):
        return [str(each) for each in value] or ["(none)"]
    if not isinstance(value, (str, dict)) and pd.isna(value) is True:
        return ["(none)"]
    return [str(value)]


def register() -> None:
    """Let every DataFrame have its ``df.apixo``; a second time changes nothing."""
    if not hasattr(pd.DataFrame, "apixo"):  # pandas would warn of a second one
        pd.api.extensions.register_dataframe_accessor("apixo")(_table)  # type: ignore[type-var]


def _table(table: pd.DataFrame) -> Any:
    # Looks `Table` up each time: once autoreload has loaded this module anew, the new one is used.
    return Table(table)
