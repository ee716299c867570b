"""Budgets in the database: what counts against each, asked within the transaction that reserves a sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from .budget import DAY, TOTAL, Budget, day_start, notebook_scope
from .errors import BudgetError
from .run import PLANNED, Run
from .tables import budgets, runs
from .text import dollars

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
