"""The last results as Markdown: ``python -m tests.benchmarks.report`` puts them into README.md here.

It reads ``build/bench/*.json``, as the benchmarks wrote them, and changes nothing but the part of the page
below its mark.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tests.benchmarks.__main__ import BENCHMARKS
from tests.benchmarks.table import FOLDER, short

PAGE = Path(__file__).with_name("README.md")
MARK = "<!-- below: python -m tests.benchmarks.report -->"


def main() -> None:
    """Write the page anew, with every result there is."""
    paths = [FOLDER / f"{name}.json" for name in BENCHMARKS]
    results = [json.loads(path.read_text("utf-8")) for path in paths if path.is_file()]
    said = PAGE.read_text("utf-8").partition(MARK)[0]
    parts = [f"{said}{MARK}\n", *(section(result) for result in results)]
    PAGE.write_text("\n".join(parts), encoding="utf-8")


def section(result: dict[str, Any]) -> str:
    """One benchmark: its table, and when, where and with what it was measured."""
    heads = ("what", "peer", "theirs", "ours", "unit", "ratio", "")
    rows = [heads, ("---", "---", "---:", "---:", "---", "---:", "---"), *map(_row, result["lines"])]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    system = f"{result['system']}, {result['cores']} cores, Python {result['python']}"
    measured = f"{result['measured_at'][:10]}, {system}, load before {result['load_before']}; {versions}."
    return f"## {result['name']}\n\n{table}\n\n{measured}\n"


def _row(line: dict[str, Any]) -> tuple[str, ...]:
    ratio = line["ratio"]
    shown = "-" if ratio is None or math.isnan(ratio) else f"{ratio:.2f}"
    figures = (short(line["theirs"]), short(line["ours"]), line["unit"], shown)
    return (line["what"], line["peer"], *figures, line["note"].replace("|", "/"))


if __name__ == "__main__":
    main()
