"""A cap on spending, kept in the ledger: in total, for a day, or for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

import sqlalchemy as sa

from apixo_nb.core.records import PLANNED, Run
from apixo_nb.errors import BudgetError
from apixo_nb.text import dollars

from .schema import budgets, runs

TOTAL, DAY = "total", "day"
_NOTEBOOK = "notebook:"


@dataclass(frozen=True, slots=True)
class Budget:
    """A cap, and what counts against it. Money is integer micro-dollars.

    Attributes
    ----------
    scope : str
        "total", "day" (each day from midnight of this machine's time zone) or "notebook:" and its name.
    sandbox : bool
        Runs of the sandbox count against budgets of the sandbox, real ones against real ones.
    limit_micros, spent_micros : int
    at_stake_micros : int
        The price of runs in flight, and of those whose end nobody knows: all of it may be charged.
    """

    scope: str
    sandbox: bool
    limit_micros: int
    spent_micros: int = 0
    at_stake_micros: int = 0

    @property
    def left_micros(self) -> int:
        """What may still be asked for; below zero where the cap was lowered since."""
        return self.limit_micros - self.spent_micros - self.at_stake_micros

    @property
    def notebook(self) -> str | None:
        """The notebook it is for, or None."""
        return self.scope.removeprefix(_NOTEBOOK) if self.scope.startswith(_NOTEBOOK) else None

    @property
    def name(self) -> str:
        """The scope in words."""
        if self.notebook is not None:
            return f"for {PurePath(self.notebook).name}"
        return "for today" if self.scope == DAY else "in total"

    def __str__(self) -> str:
        stake = f", {dollars(self.at_stake_micros / 1e6)} at stake" if self.at_stake_micros else ""
        spent = f"{dollars(self.spent_micros / 1e6)} spent{stake}"
        return f"{dollars(self.limit_micros / 1e6)} {self.name}: {spent}, {self._left()}"

    def _left(self) -> str:
        left = self.left_micros
        return f"{dollars(left / 1e6)} left" if left >= 0 else f"{dollars(-left / 1e6)} over"


def notebook_scope(notebook: str) -> str:
    """The scope of a notebook's budget."""
    return _NOTEBOOK + notebook


def day_start() -> datetime:
    """The last midnight of this machine's time zone, in UTC."""
    return datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)


_PRICE = runs.c.num_images * runs.c.unit_price_micros


def _counts(scope: str, *, sandbox: bool) -> sa.ColumnElement[bool]:
    """Which runs count against a budget."""
    which = runs.c.sandbox == sandbox
    if scope == DAY:
        return which & (runs.c.created_at >= day_start())
    return which if scope == TOTAL else which & (sa.literal(scope) == notebook_scope("") + runs.c.notebook)


def budget_now(connection: sa.Connection, row: Any) -> Budget:
    """A row of the table of budgets, with what counts against it at this moment."""
    open_price = sa.case((runs.c.cost_micros.is_(None) & (runs.c.state != PLANNED), _PRICE), else_=0)
    sums = sa.select(sa.func.sum(runs.c.cost_micros), sa.func.sum(open_price))
    spent, at_stake = connection.execute(sums.where(_counts(row.scope, sandbox=row.sandbox))).one()
    return Budget(row.scope, row.sandbox, row.limit_micros, int(spent or 0), int(at_stake or 0))


def check(connection: sa.Connection, planned: Sequence[Run]) -> None:
    """Raise BudgetError if these runs together would pass a cap."""
    for sandbox in {run.sandbox for run in planned}:
        for row in connection.execute(sa.select(budgets).where(budgets.c.sandbox == sandbox)).all():
            notebook = row.scope not in (TOTAL, DAY)
            price = sum(
                run.price_micros
                for run in planned
                if run.sandbox == sandbox and (not notebook or notebook_scope(run.notebook) == row.scope)
            )
            budget = budget_now(connection, row)
            if price > max(0, budget.left_micros):
                raise BudgetError(
                    f"This would cost {dollars(price / 1e6)} and pass the budget of {budget}",
                    next_step="Nothing was sent. `%apixo budget` shows it, `%apixo budget SUM` sets another.",
                )
