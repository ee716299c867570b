"""``make bench``: every benchmark, one after the other, each in a process of its own.

``python -m tests.benchmarks polling weight`` runs some of them. Each prints its table and writes
``build/bench/NAME.json``; README.md beside this file says what they measure and holds the last results.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from tests.benchmarks.table import ROOT

BENCHMARKS = ("imports", "weight", "polling", "makespan", "responsive", "client", "ledger")


def main() -> int:
    """Run those that are asked for; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "name", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)} (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all of them work")
    asked = parser.parse_args()
    if unknown := set(asked.name) - set(BENCHMARKS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    failed = [name for name in asked.name or BENCHMARKS if not _run(name, quick=asked.quick)]
    if failed:
        sys.stderr.write(f"Failed: {', '.join(failed)}\n")
    return 1 if failed else 0


def _run(name: str, *, quick: bool) -> bool:
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *(["--quick"] if quick else [])]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
