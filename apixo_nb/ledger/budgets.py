"""A cap on spending, kept in the ledger: in total, for a day, or for a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath

from .text import dollars

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
