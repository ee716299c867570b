"""``apixo-nb`` on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .errors import ApixoError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 it failed and said why, 2 unusable arguments."""
    parser = argparse.ArgumentParser(
        prog="apixo-nb", description="Paid AI pictures in Jupyter, kept and counted."
    )
    parser.add_argument("--version", action="version", version=f"apixo-nb {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("status", help="where requests go, what the ledger holds and what was spent")
    export = commands.add_parser("export", help="write all runs to a CSV file")
    export.add_argument("file")
    commands.add_parser(
        "sandbox",
        help="serve an imitation of APIXO on this machine; see `apixo-nb sandbox --help`",
        add_help=False,
    )
    given, rest = parser.parse_known_args(arguments)
    if rest and given.command != "sandbox":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return _run(given, rest)
    except ApixoError as error:
        print(error, file=sys.stderr)
        return 1


def _run(given: argparse.Namespace, rest: Sequence[str]) -> int:
    if given.command == "sandbox":
        from .sandbox.__main__ import main as serve

        return serve(list(rest))
    from .shared import current
    from .status import status_lines

    if given.command == "export":
        print(current().export_csv(given.file))
    else:
        print("\n".join(status_lines(current())))
    return 0
