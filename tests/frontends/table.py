"""What was tried where, as a table: `python -m tests.frontends.table` writes it into README.md.

With two arguments, a session's name and pytest's XML, it keeps that result and the versions it was had with.
"""

from __future__ import annotations

import json
import platform
import sys
import xml.etree.ElementTree as ET
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "build" / "frontends"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->"
KERNEL = ("ipykernel", "ipython", "pandas")
#: Of which packages the versions tell something, by the beginning of a session's name.
TELLING = {
    "oldest": (*KERNEL, "pydantic", "sqlalchemy", "pillow", "httpx2", "ipywidgets", "anywidget", "nbconvert"),
    "python": (*KERNEL, "nbconvert", "papermill"),
    "ipykernel": KERNEL,
    "nbclassic": ("nbclassic", "ipywidgets", "anywidget", "ipykernel"),
    "runners": ("nbclient", "nbconvert", "jupytext"),
    "marimo": ("marimo",),
}


def main(arguments: list[str]) -> int:
    """Keep one result, or write the table; the exit code is 1 if a test of the session failed."""
    if arguments:
        return keep(*arguments)
    readme = HERE / "README.md"
    before, _, rest = readme.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}{table()}{END}{after}", "utf-8")
    return 0


def keep(name: str, xml: str) -> int:
    """Write build/frontends/NAME.json."""
    cases = list(ET.parse(xml).getroot().iter("testcase"))  # our own file
    failed = [
        case.get("name")
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    versions = {"Python": platform.python_version()}
    for package in TELLING[name.partition("-")[0]]:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    facts = {
        "versions": versions,
        "passed": len(cases) - len(failed) - skipped,
        "failed": failed,
        "skipped": skipped,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=1))
    return 1 if failed or not cases else 0


def table() -> str:
    """One line a session."""
    lines = ["| session | with | result |", "|---|---|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        facts = json.loads(path.read_text())
        with_ = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
        parts = [f"{facts['passed']} passed"]
        parts += [f"{facts['skipped']} skipped"] if facts["skipped"] else []
        parts += [f"failed: {', '.join(facts['failed'])}"] if facts["failed"] else []
        lines.append(f"| {path.stem} | {with_} | {'; '.join(parts)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
