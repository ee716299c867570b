"""The commands of ``%apixo``: one table for the magic, the command line, their help and their completion."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apixo_nb.core.files import EXPORT_KINDS
from apixo_nb.core.settings import settings
from apixo_nb.errors import InvalidRequestError
from apixo_nb.experiments.cell_options import parser as cell_parser
from apixo_nb.ledger.unfinished import pending_line
from apixo_nb.text import without_secrets

from . import maintenance
from .command_line import Argument, Command, Context, LineParser, Message, Option, say, split_words

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def carry_out(line: str, shell: InteractiveShell | None) -> Any:
    """Carry out the line after ``%apixo``; its value is shown by the cell.

    Raises
    ------
    InvalidRequestError
        Names the word and what is allowed.
    """
    name, *rest = line.split(maxsplit=1) or ["help"]
    if name not in COMMANDS:
        raise _unknown(name)
    words = split_words("".join(rest))
    if words in (["--help"], ["-h"]):
        say(LineParser(COMMANDS[name]).format_help())
        return None
    parser = LineParser(COMMANDS[name], words)
    return _shown(COMMANDS[name].run(parser.parse_args(words), Context(parser.error, shell)))


def _shown(result: Any) -> Any:
    """Print what is text; the rest is the value of the cell."""
    if isinstance(result, Message):
        say(*([f"Written: {result.path}"] if result.path else []), *result.lines)
    elif isinstance(result, list):
        if result:
            say(*result)
    else:
        return result
    return None


def _unknown(name: str) -> InvalidRequestError:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return InvalidRequestError(
        f"Unknown command {name!r:.80}",
        next_step=f"Did you mean {near[0]}?" if near else "Pictures are made by %%apixo, with two signs.",
        field="command",
        value=name,
        allowed=", ".join(COMMANDS),
    )


def cell_help() -> str:
    """What ``%%apixo?`` shows."""
    return cell_parser().format_help()


def line_help() -> str:
    """What ``%apixo?`` shows."""
    width = max(map(len, COMMANDS))
    lines = (f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items())
    return "\n".join(["%apixo COMMAND:", *lines, "", "`%apixo COMMAND --help` says more about one."])


def _help(_args: argparse.Namespace, _context: Context) -> list[str]:
    return [cell_help(), "", line_help()]


# --- settings and runs ------------------------------------------------------------------------------


def _sandbox(args: argparse.Namespace, context: Context) -> list[str]:
    settings().sandbox = args.switch == "on"
    if args.switch == "off":
        return ["Sandbox off: runs go to APIXO and cost money."]
    context.session.service.sandbox()
    line = pending_line(context.session.ledger_file(), sandbox=True)
    return [
        "Sandbox on: an imitation of APIXO on this machine. Nothing leaves it and nothing is paid;",
        "its pictures and rows are marked SANDBOX. `%apixo sandbox off` goes back.",
        *([line] if line else []),
    ]


def _config(_args: argparse.Namespace, _context: Context) -> list[str]:
    values = settings().trait_values(config=True)
    width = max(map(len, values))
    return [f"Apixo.{name:<{width}} = {without_secrets(value)}" for name, value in sorted(values.items())]


def _status(_args: argparse.Namespace, context: Context) -> list[str]:
    from apixo_nb.session.maintenance import status_lines

    return status_lines(context.session)


def _history(args: argparse.Namespace, context: Context) -> Any:
    from apixo_nb.analysis.frame import brief
    from apixo_nb.experiments.accessor import register

    if not args.number.isdecimal() or int(args.number) < 1:
        context.refuse("how many runs is a whole number, 1 or more")
    register()
    return brief(context.session.history().tail(int(args.number)))


def _panel(_args: argparse.Namespace, _context: Context) -> Any:
    from apixo_nb.widgets.panel import panel

    return panel()


def _wait(_args: argparse.Namespace, _context: Context) -> list[str]:
    from apixo_nb.display.live import wait

    runs = wait()
    return [f"{len(runs)} run(s) have ended." if runs else "No cell runs in the background."]


# --- files ------------------------------------------------------------------------------------------

_FILES = (
    "%apixo export FILE.csv, FILE.jsonl, FILE.parquet, FILE.html, FILE.png or FILE.zip; "
    "FILE.csv --excel for spreadsheets; FOLDER --site, --imagefolder or --embed; "
    "--mlflow [ADDRESS] or --wandb [FOLDER]"
)

KINDS = (*EXPORT_KINDS, "mlflow", "wandb")

_KINDS_TOLD = """\
kinds:
  csv          exact: every text comes back as it was (.csv)
  excel        CSV in which a spreadsheet takes nothing for a formula or a number
  jsonl        JSON Lines (.jsonl)
  parquet      needs `pip install 'apixo-nb[parquet]'` (.parquet)
  html         one page with small pictures in it (.html)
  bundle       all runs and originals, for `%apixo import` (.zip)
  sheet        a contact sheet, one large picture (.png, .webp, .jpg)
  site         a folder: a page with its pictures beside it
  imagefolder  a folder that Hugging Face's datasets read
  embed        a folder: copies of the pictures that hold their parameters
  mlflow       pushes to MLflow; needs `pip install 'apixo-nb[mlflow]'`
  wandb        writes an offline run of Weights & Biases; needs `pip install 'apixo-nb[wandb]'`"""


def _export(args: argparse.Namespace, context: Context) -> Any:
    if args.kind == "mlflow":
        return context.session.to_mlflow(tracking_uri=args.file).lines()
    if args.kind == "wandb":
        return context.session.to_wandb(folder=args.file or ".").lines()
    if args.file is None:
        context.refuse("which file? Its end tells the kind, such as runs.csv")
    written = context.session.write(args.file, args.kind)
    return Message(written.notes, path=written.path)


def _no_target(words: Sequence[str]) -> InvalidRequestError:
    problem = f"Which file is {' '.join(words)!r:.60}?" if words else "Where shall the runs be written?"
    return InvalidRequestError(problem, field="export", allowed=_FILES)


def _import(args: argparse.Namespace, context: Context) -> list[str]:
    return context.session.import_bundle(args.file).lines()


def _no_source(words: Sequence[str]) -> InvalidRequestError:
    problem = f"Which file is {' '.join(words)!r:.60}?" if words else "What shall be brought in?"
    allowed = "%apixo import FILE.zip, or a folder of pictures with their .json files"
    return InvalidRequestError(problem, field="import", allowed=allowed)


# --- the table --------------------------------------------------------------------------------------

#: Name -> command, in the order of the help.
COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command(
            "login",
            "store an API key; it is asked for, never typed on the line",
            maintenance.login,
            refusal=maintenance.key_on_the_line,
        ),
        Command("logout", "remove the stored key", maintenance.logout),
        Command("status", "where requests go, which key, what the ledger holds and what was spent", _status),
        Command("balance", "US dollars left for the key, beside what the ledger says", maintenance.balance),
        Command(
            "spend",
            "what was spent by state, day and tag; %apixo spend day shows one",
            maintenance.spend,
            (Argument("by", "these tables alone", choices=maintenance.GROUPS, nargs="*"),),
            refusal=maintenance.unknown_group,
        ),
        Command(
            "budget",
            "show or set what may be spent; %apixo budget 5.00 --day caps a day, off ends it",
            maintenance.budget,
            (
                Argument("sum", "a sum in US dollars such as 5.00, or off", "SUM"),
                Option("--total", "scope", "for ever (default)", "total"),
                Option("--day", "scope", "each day", "day"),
                Option("--notebook", "scope", "each notebook", "notebook"),
            ),
            allowed="%apixo budget SUM or off, then --total (default), --day or --notebook",
        ),
        Command(
            "history",
            "the last runs as a table; %apixo history 50 shows more",
            _history,
            (Argument("number", "how many runs (10)", "N", default="10"),),
            problem="How many runs is {!r:.40}?",
            allowed="1, 2, 3 ...",
        ),
        Command(
            "resume",
            "bring unfinished runs to their end, download what is missing; costs nothing",
            maintenance.resume,
            (
                Argument("run", "this run alone", "RUN"),
                Argument("task", "the task that a lost submit became", "TASK"),
            ),
            allowed="%apixo resume, or with a run, or with a run and the task that it became",
        ),
        Command(
            "settle",
            "say how a submit without an answer ended: %apixo settle RUN paid (or free)",
            maintenance.settle,
            (
                Argument("run", "the id of the run", "RUN", nargs=None),
                Argument("end", "whether it was charged", choices=("paid", "free"), nargs=None),
            ),
            allowed="%apixo settle RUN paid, or %apixo settle RUN free",
        ),
        Command(
            "rescue",
            "download every picture that is not on disk before its address ends; costs nothing",
            maintenance.rescue,
        ),
        Command(
            "doctor",
            "compare ledger and pictures; %apixo doctor --rebuild mends the ledger",
            maintenance.doctor,
            (
                Option(
                    "--rebuild",
                    "rebuild",
                    "make the rows anew that are missing, from what lies beside the pictures",
                    "yes",
                ),
                Option(
                    "--accept", "accept", "buy though pictures here have no rows; it is remembered", "yes"
                ),
            ),
            allowed="nothing, --rebuild or --accept",
        ),
        Command("panel", "a form to click, live cards of all runs, and the history", _panel),
        Command("wait", "wait for the cells that were run with --bg", _wait),
        Command(
            "export",
            "write all runs to a file or folder: CSV, JSON Lines, Parquet, HTML, ZIP and more",
            _export,
            (
                Argument(
                    "file",
                    "the end of its name tells the kind; for mlflow its address, for wandb a folder",
                    "FILE",
                ),
                Option(
                    "--kind",
                    "kind",
                    "the kind, if it is another; see below",
                    metavar="KIND",
                    choices=KINDS,
                ),
                *(
                    Option(f"--{kind}", "kind", f"the same as --kind {kind}", kind)
                    for kind in ("excel", "site", "imagefolder", "embed", "mlflow", "wandb")
                ),
            ),
            epilog=_KINDS_TOLD,
            refusal=_no_target,
        ),
        Command(
            "import",
            "merge a ZIP of `export`, or a folder of pictures with their facts, into the ledger",
            _import,
            (Argument("file", "a .zip, or a folder of pictures with their .json files", "FILE", nargs=None),),
            refusal=_no_source,
        ),
        Command(
            "sandbox",
            "work without key and cost on this machine; %apixo sandbox off ends it",
            _sandbox,
            (
                Argument(
                    "switch", "whether it is the sandbox that draws (on)", choices=("on", "off"), default="on"
                ),
            ),
            problem="%apixo sandbox is on or off, not {!r:.60}",
            allowed="on, off",
        ),
        Command("config", "the settings; change one with %config Apixo.NAME = VALUE", _config),
        Command("help", "this page", _help),
    )
}
