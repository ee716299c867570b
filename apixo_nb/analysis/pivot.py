"""Runs laid out by what they differ in: rows and columns of cells, each a stack of pictures, best first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from apixo_nb.core.formatting import at_stake_micros, remark_of, seconds, spent_micros, spent_text
from apixo_nb.core.records import BEST, FAILED, SUCCESS, Image, Run
from apixo_nb.errors import InvalidRequestError
from apixo_nb.text import dollars, printable, redacted

#: Facts of a row that can be an axis, beside variables and parameters.
FACTS = ("model", "name", "prompt", "prompt_template", "state", "take", "tags", "image_urls")


def axis_value(run: Run, axis: str) -> str:
    """What a run has on an axis, as text; "" if it has nothing there. A variable goes before a parameter."""
    if axis in run.variables:
        return run.variables[axis]
    if axis in run.parameters:
        return str(run.parameters[axis])
    found = getattr(run, axis) if axis in FACTS else ""
    return ", ".join(found) if isinstance(found, tuple) else str(found)


def axis_names(runs: Iterable[Run]) -> list[str]:
    """The axes along which these runs differ, variables first; those that they share are none."""
    runs = list(runs)
    known = dict.fromkeys(name for run in runs for name in run.variables)
    known |= dict.fromkeys(name for run in runs for name in run.parameters)
    varying = [
        name for name in (*known, "prompt_template") if len({axis_value(run, name) for run in runs}) > 1
    ]
    # Without any variable it is the prompts that differ.
    return varying or (["prompt"] if len({run.prompt for run in runs}) > 1 else [])


def axis_values(runs: Iterable[Run], axis: str) -> list[str]:
    """What there is on an axis, in the order of the runs."""
    return list(dict.fromkeys(axis_value(run, axis) for run in runs))


def check_axis(runs: Sequence[Run], axis: str) -> None:
    """Raise InvalidRequestError unless some of the runs have something on that axis."""
    known = {*FACTS, *(name for run in runs for name in (*run.variables, *run.parameters))}
    if axis not in known:
        allowed = ", ".join(sorted(known))
        raise InvalidRequestError(
            f"These runs have no {axis!r:.60}", field="axis", value=axis, allowed=allowed
        )


_SECTIONS = 8  # tables, unless they were asked for
_WIDE = 6  # columns; more of them go down the page, if the other axis has fewer
_MOST_CELLS = 20_000  # a page of more, most of them empty, helps nobody
_SPARSE = 4  # a table with fewer than one cell in so many filled, is no table
_SMALL = 40  # cells; so small a table may be sparse


class Slide(NamedTuple):
    """One place of a stack: a picture, or a run that has none (`image` is None)."""

    run: Run
    image: Image | None


@dataclass(frozen=True, slots=True)
class Cell:
    """All runs that have the same values on all axes.

    Attributes
    ----------
    key : tuple of str
        Its values, in the order of `Layout.axes`.
    label : str
        They with their names, in one line.
    runs : tuple of Run
        In the order they were given.
    """

    key: tuple[str, ...]
    label: str
    runs: tuple[Run, ...]

    @property
    def winner(self) -> Slide | None:
        """The picture that was starred, or else the best rated one; None if nobody has chosen."""
        chosen = [slide for slide in self._pictures() if _merit(slide) > (False, 0)]
        return max(chosen, key=_merit, default=None)  # the first of equals

    def slides(self) -> list[Slide]:
        """The stack: the winner, then what is on disk, then what has no picture."""
        rest = [*self._pictures(), *(Slide(run, None) for run in self.runs if _lacks(run))]
        first = [self.winner] if self.winner else []
        for slide in first:
            rest.remove(slide)
        return [*first, *sorted(rest, key=lambda slide: not _is_here(slide))]

    def _pictures(self) -> list[Slide]:
        return [Slide(run, image) for run in self.runs for image in run.images]

    @property
    def caption(self) -> str:
        """How many takes there are, how they ended, and what they took: one line."""
        failed = sum(run.state == FAILED for run in self.runs)
        unfinished = sum(not run.is_final for run in self.runs)
        lines = [
            _count(len(self.runs), "take"),
            f"{failed} failed" if failed else "",
            f"{unfinished} not finished" if unfinished else "",
            _mean_time(self.runs),
            money(self.runs),
            best(self.runs),
        ]
        return " · ".join(line for line in lines if line)


class Row(NamedTuple):
    """One row of a table; a cell that no run has is None."""

    label: str
    cells: tuple[Cell | None, ...]


class Section(NamedTuple):
    """One table: the values of the axes that are neither across nor down are the same in all of it."""

    label: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Runs in tables.

    Attributes
    ----------
    x, y : str
        The axes across and down. Without `y` each section is one row, which may be wrapped.
    axes : tuple of str
        All axes: `x`, `y`, and those that part the sections.
    """

    x: str
    y: str
    axes: tuple[str, ...]
    sections: tuple[Section, ...]

    @property
    def cells(self) -> list[Cell]:
        """All cells that have runs."""
        return [cell for section in self.sections for row in section.rows for cell in row.cells if cell]

    @property
    def runs(self) -> list[Run]:
        """All runs, cell by cell."""
        return [run for cell in self.cells for run in cell.runs]

    @property
    def title(self) -> str:
        """What is across and down, in words."""
        named = " \u00d7 ".join(printable(axis, 40) for axis in self.axes)
        return named or "Takes of one request"


def lay_out(runs: Iterable[Run], x: str | None = None, y: str | None = None) -> Layout:
    """Lay runs out along what they differ in.

    Parameters
    ----------
    runs : iterable of Run
    x, y : str, optional
        The axes across and down; see `axes` for what can be one. Default: those along which the runs differ.
        Further ones part the runs into sections, each a table of its own.

    Raises
    ------
    InvalidRequestError
        No run has such an axis, both are the same, or nearly all cells would be empty.
    """
    runs = list({run.run_id: run for run in runs}.values())
    for axis in (x, y):
        if axis is not None:
            _check(runs, axis)
    if x is not None and x == y:
        raise InvalidRequestError(f"{x!r:.60} cannot be both across and down", field="y", value=y)
    across, down, rest = _chosen(runs, x, y)
    named = [axis for axis in (across, down, *rest) if axis]
    if x is None and y is None and down and _is_sparse(runs, across, down, rest):
        return Layout("", "", tuple(named), (_flow(runs, named, named),))
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(axis_value(run, axis) for axis in rest), []).append(run)
    if x is None and y is None and len(groups) > _SECTIONS:  # a ledger of this and that is no experiment
        return Layout("", "", ("prompt",), (_flow(runs, ["prompt"], ["prompt"]),))
    sizes = [_size(group, across, down) for group in groups.values()]
    if sum(sizes) > _MOST_CELLS:
        raise InvalidRequestError(
            f"These axes make {sum(sizes):,} cells, and there are {len(runs):,} runs",
            field="x",
            value=f"{across}, {down}",
            allowed="axes with fewer values",
        )
    sections = [_section(group, across, down, rest, named) for group in groups.values()]
    return Layout(across, down, tuple(named), tuple(sections))


def _check(runs: Sequence[Run], axis: object) -> None:
    if not isinstance(axis, str):
        text = f"An axis is the name of what runs differ in, not {printable(repr(axis), 60)}"
        raise InvalidRequestError(text, field="axis", value=axis)
    if runs:
        check_axis(runs, axis)


def _chosen(runs: list[Run], x: str | None, y: str | None) -> tuple[str, str, list[str]]:
    """The axes across and down, "" for none, and the others along which the runs differ."""
    # How many pictures a task makes parts no pictures: they are one stack. Who wants it can name it.
    counts = {run.spec.count for run in runs if run.spec}
    free = [name for name in axis_names(runs) if name not in {x, y, *counts}]
    across = x or (free.pop(0) if free else "")
    down = y or (free.pop(0) if free else "")
    if x is None and y is None and down:
        wide, high = (len(axis_values(runs, axis)) for axis in (across, down))
        # Long texts are easier to read at the left, and a page scrolls down more easily than sideways.
        if wide > max(_WIDE, high) and down not in ("prompt", "prompt_template"):
            across, down = down, across
    if not across:
        across, down = down, ""
    return across, down, free


def _size(runs: list[Run], across: str, down: str) -> int:
    wide = len(axis_values(runs, across)) if across else 1
    return wide * (len(axis_values(runs, down)) if down else 1)


def _is_sparse(runs: list[Run], across: str, down: str, rest: list[str]) -> bool:
    """Whether most of the tables would be holes, as where each run has a prompt of its own."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(axis_value(run, axis) for axis in rest), []).append(run)
    size = sum(_size(group, across, down) for group in groups.values())
    filled = len({tuple(axis_value(run, axis) for axis in (across, down, *rest)) for run in runs})
    lonely = len(groups) > _SMALL and filled < 2 * len(groups)
    return lonely or (size > _SMALL and filled * _SPARSE < size)


def _section(runs: list[Run], across: str, down: str, rest: Sequence[str], named: Sequence[str]) -> Section:
    if not down:
        return _flow(runs, [across] if across else [], named)._replace(label=_label(runs[0], rest))
    cells = _cells(runs, named)
    columns, lines = axis_values(runs, across), axis_values(runs, down)
    apart = tuple(axis_value(runs[0], axis) for axis in rest)
    rows = [Row(line, tuple(cells.get((column, line, *apart)) for column in columns)) for line in lines]
    return Section(_label(runs[0], rest), tuple(columns), tuple(rows))


def _flow(runs: list[Run], shown: Sequence[str], named: Sequence[str]) -> Section:
    """One row of all cells, each under its own heading."""
    cells = list(_cells(runs, named).values())
    alone = len(shown) == 1
    labels = [cell.key[named.index(shown[0])] if alone else _label(cell.runs[0], shown) for cell in cells]
    return Section("", tuple(labels), (Row("", tuple(cells)),) if cells else ())


def _cells(runs: Iterable[Run], named: Sequence[str]) -> dict[tuple[str, ...], Cell]:
    stacks: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        stacks.setdefault(tuple(axis_value(run, axis) for axis in named), []).append(run)
    return {key: Cell(key, _label(stack[0], named), tuple(stack)) for key, stack in stacks.items()}


def _label(run: Run, named: Sequence[str]) -> str:
    return " · ".join(f"{printable(axis, 40)}: {printable(axis_value(run, axis), 200)}" for axis in named)


# --- what is said of a cell and of a slide ----------------------------------------------------------


def _merit(slide: Slide) -> tuple[bool, int]:
    return (slide.image.starred, slide.image.rating or 0) if slide.image else (False, 0)


def _is_here(slide: Slide) -> bool:
    return bool(slide.image and slide.image.file)


def _lacks(run: Run) -> bool:
    """Whether there is something to say of a run beside its pictures."""
    return not run.images or (run.state == SUCCESS and len(run.result_urls) > len(run.images))


def why_none(slide: Slide) -> str:
    """Why a slide has no picture, in one line without anybody's secrets."""
    run = slide.run
    if slide.image is not None:
        why = printable(redacted(slide.image.error, run.callback_url))
        return f"Not on disk: {why}" if why else "Not on disk"
    texts = {name: redacted(getattr(run, name), run.callback_url) for name in ("fail_code", "fail_msg")}
    return remark_of(run.replace(**texts)) or "No picture came"


def marks(slide: Slide) -> str:
    """What a person said of a picture: its star and its rating."""
    image = slide.image
    if image is None:
        return ""
    return " ".join(text for text in ("★" if image.starred else "", rating(image.rating)) if text)


def rating(value: int | None) -> str:
    """A rating in words, or ""."""
    return "" if value is None else f"{value} of {BEST}"


def best(runs: Iterable[Run]) -> str:
    """The stars and the best rating among pictures."""
    images = [image for run in runs for image in run.images]
    stars = sum(image.starred for image in images)
    top = max((image.rating for image in images if image.rating is not None), default=None)
    starred = "★" + (f" {stars}" if stars > 1 else "") if stars else ""
    return " · ".join(text for text in (starred, f"best {rating(top)}" if top is not None else "") if text)


def money(runs: Sequence[Run]) -> str:
    """What runs cost, and what they may have cost more."""
    spent, stake = spent_micros(runs), at_stake_micros(runs)
    known = dollars(spent) if spent or not stake else ""
    more = f"up to {dollars(stake)}{' more' if spent else ''}" if stake else ""
    paid = "not paid" if any(run.sandbox for run in runs) and (spent or stake) else ""
    return ", ".join(text for text in (known, more, paid) if text)


def totals(runs: Sequence[Run]) -> list[str]:
    """All runs together: how many, their pictures, failures and costs; sandbox and real sums apart."""
    real, sandbox = [run for run in runs if not run.sandbox], [run for run in runs if run.sandbox]
    failed = sum(run.state == FAILED for run in runs)
    lines = [
        _count(len(runs), "run"),
        f"{_count(sum(len(run.files) for run in runs), 'picture')} on disk",
        f"{failed} failed" if failed else "",
        spent_text(real) if real else "",
        spent_text(sandbox) if sandbox else "",
    ]
    return [line for line in lines if line]


def _mean_time(runs: Iterable[Run]) -> str:
    times = [run.cost_time_ms / 1000 for run in runs if run.cost_time_ms is not None]
    if not times:
        return ""
    return f"{'mean ' if len(times) > 1 else ''}{seconds(sum(times) / len(times))}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")
