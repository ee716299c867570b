"""What runs differ in: the axes of a grid, the groups of a summary.

An axis is the name of a variable of the template, of a parameter of the model, or of a fact of the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .errors import InvalidRequestError
from .run import Run

#: Facts of a row that can be an axis, beside variables and parameters.
FACTS = ("model", "name", "prompt", "prompt_template", "state", "take", "tags", "image_urls")


def value(run: Run, axis: str) -> str:
    """What a run has on an axis, as text; "" if it has nothing there. A variable goes before a parameter."""
    if axis in run.variables:
        return run.variables[axis]
    if axis in run.parameters:
        return str(run.parameters[axis])
    found = getattr(run, axis) if axis in FACTS else ""
    return ", ".join(found) if isinstance(found, tuple) else str(found)


def names(runs: Iterable[Run]) -> list[str]:
    """The axes along which these runs differ, variables first; those that they share are none."""
    runs = list(runs)
    known = dict.fromkeys(name for run in runs for name in run.variables)
    known |= dict.fromkeys(name for run in runs for name in run.parameters)
    varying = [name for name in (*known, "prompt_template") if len({value(run, name) for run in runs}) > 1]
    # Without any variable it is the prompts that differ.
    return varying or (["prompt"] if len({run.prompt for run in runs}) > 1 else [])


def values(runs: Iterable[Run], axis: str) -> list[str]:
    """What there is on an axis, in the order of the runs."""
    return list(dict.fromkeys(value(run, axis) for run in runs))


def check(runs: Sequence[Run], axis: str) -> None:
    """Raise InvalidRequestError unless some of the runs have something on that axis."""
    known = {*FACTS, *(name for run in runs for name in (*run.variables, *run.parameters))}
    if axis not in known:
        allowed = ", ".join(sorted(known))
        raise InvalidRequestError(
            f"These runs have no {axis!r:.60}", field="axis", value=axis, allowed=allowed
        )
