"""What every benchmark says: lines of a table, printed as they come, kept as JSON with what they ran on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "bench"


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison; everything in it was measured in the same run.

    Attributes
    ----------
    what : str
        The work, with its size: "1,000 tasks, CPU per task".
    peer : str
        Who else does it.
    theirs, ours : float
        In `unit`; less is better. NaN where it could not be measured, and `note` says why.
    unit : str
    note : str
    """

    what: str
    peer: str
    theirs: float
    ours: float
    unit: str
    note: str = ""

    @property
    def ratio(self) -> float:
        """Ours over theirs: below 1 is better than the peer; NaN where there is none."""
        return self.ours / self.theirs if self.theirs else float("nan")

    def __str__(self) -> str:
        """Show one row of the table."""
        figures = f"{short(self.theirs):>10} {short(self.ours):>10} {self.unit:<10} {self.ratio:>7.2f}"
        return f"{self.what:<44} {self.peer:<24} {figures}  {self.note}".rstrip()


class Table:
    """Lines of one benchmark, kept in ``build/bench/NAME.json``."""

    def __init__(self, name: str, packages: Iterable[str] = ()) -> None:
        self.name = name
        self.packages = sorted({*packages, "httpx2", "ipython", "pandas", "sqlalchemy"})
        self.lines: list[Line] = []
        say(f"\n{name}\n{'what':<44} {'peer':<24} {'theirs':>10} {'ours':>10} {'unit':<10} {'ratio':>7}")

    def add(self, what: str, peer: str, *, theirs: float, ours: float, unit: str, note: str = "") -> None:
        """Print a line, and keep it."""
        self.lines.append(Line(what, peer, theirs, ours, unit, note))
        say(str(self.lines[-1]))

    def write(self, **more: Any) -> Path:
        """Write the lines, and the machine and versions they were measured with.

        Parameters
        ----------
        **more
            Whatever else the benchmark wants to keep, as JSON can hold it: curves, settings, raw samples.
        """
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = FOLDER / f"{self.name}.json"
        lines = [{**asdict(line), "ratio": line.ratio} for line in self.lines]
        facts = {"name": self.name, **machine(), "versions": versions(self.packages), "lines": lines, **more}
        path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        say(f"Written: {path.relative_to(ROOT)}")
        return path


def machine() -> dict[str, Any]:
    """What it ran on, and how busy that was."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def versions(names: Iterable[str]) -> dict[str, str | None]:
    """The versions of packages; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def short(figure: float) -> str:
    """Three digits that matter, with the thousands apart."""
    if figure != figure:  # noqa: PLR0124 - NaN
        return "-"
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def say(line: str) -> None:
    """Print, at once."""
    print(line, flush=True)  # noqa: T201 - a program prints
