"""The commands of ``%apixo``: read the words, call the session, say what came of it."""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from apixo_nb import text
from apixo_nb.core import credentials as keys
from apixo_nb.core import settings
from apixo_nb.errors import ApixoError, AuthenticationError, ConfigurationError, InvalidRequestError
from apixo_nb.experiments import cell_options as options
from apixo_nb.ledger.unfinished import pending_line
from apixo_nb.text import dollars, printable

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from apixo_nb.core.records import Run
    from apixo_nb.session.session import Session

#: Word -> kind of export, see `export.export`.
_KINDS = {"--excel": "excel", "--site": "site", "--imagefolder": "imagefolder", "--embed": "embed"}
_TRACKERS = ("--mlflow", "--wandb")

EXPORT_RULE = (
    "%apixo export FILE.csv, FILE.jsonl, FILE.parquet, FILE.html, FILE.png or FILE.zip; "
    "FILE.csv --excel for spreadsheets; FOLDER --site, --imagefolder or --embed; "
    "--mlflow [ADDRESS] or --wandb [FOLDER]"
)


def export_lines(session: Session, line: str) -> list[str]:
    """Write all runs where the rest of the line says; a name with blanks stands in quotes.

    Raises
    ------
    InvalidRequestError
        It says so in no way that is known.
    ApixoError
        It cannot be written.
    """
    words = parted(line)
    flags = [word for word in words if word.startswith("--")]
    names = [word for word in words if word not in flags]
    known = not flags or flags[0] in (*_KINDS, *_TRACKERS)
    fewest = 0 if flags and flags[0] in _TRACKERS else 1
    if not known or len(flags) > 1 or not fewest <= len(names) <= 1:
        problem = f"Which file is {' '.join(words)!r:.60}?" if words else "Where shall the runs be written?"
        raise InvalidRequestError(problem, field="export", allowed=EXPORT_RULE)
    flag = flags[0] if flags else ""
    if flag == "--mlflow":
        return session.to_mlflow(tracking_uri=names[0] if names else None).lines()
    if flag == "--wandb":
        return session.to_wandb(folder=names[0] if names else ".").lines()
    written = session.write(names[0], _KINDS.get(flag))
    return [f"Written: {written.path}", *written.notes]


def import_lines(session: Session, line: str) -> list[str]:
    """Merge the bundle or folder that the line names into the ledger; raises as `export_lines` does."""
    words = parted(line)
    if len(words) != 1 or words[0].startswith("--"):
        allowed = "%apixo import FILE.zip, or a folder of pictures with their .json files"
        problem = f"Which file is {' '.join(words)!r:.60}?" if words else "What shall be brought in?"
        raise InvalidRequestError(problem, field="import", allowed=allowed)
    return session.import_bundle(words[0]).lines()


def parted(line: str, *, posix: bool = os.name == "posix") -> list[str]:
    """The words of a line. What stands in quotes is one word; on Windows a backslash is a part of it."""
    try:
        words = shlex.split(line, posix=posix)
    except ValueError:  # an open quote stays what it is
        return line.split()
    return words if posix else [_unquoted(word) for word in words]


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word


def say(*lines: str) -> None:
    """Print for a person."""
    print("\n".join(lines))  # noqa: T201 - what the magics say


def carry_out(line: str, shell: InteractiveShell | None) -> Any:
    """Carry out the line after ``%apixo``; its value is shown by the cell.

    Raises
    ------
    InvalidRequestError
        Names the word and what is allowed.
    """
    words = line.split()
    if words[:1] in (["export"], ["import"]):  # blanks in the name of a file are its own
        words = line.split(maxsplit=1)
    command, rest = (words[0], words[1:]) if words else ("help", [])
    if command not in options.COMMANDS:
        near = difflib.get_close_matches(command, options.COMMANDS, n=1)
        raise InvalidRequestError(
            f"Unknown command {command!r:.80}",
            next_step=f"Did you mean {near[0]}?" if near else "Pictures are made by %%apixo, with two signs.",
            field="command",
            value=command,
            allowed=", ".join(options.COMMANDS),
        )
    return _ACTIONS[command](rest, shell)


def cell_help() -> str:
    """What ``%%apixo?`` shows."""
    return options.parser().format_help()


def line_help() -> str:
    """What ``%apixo?`` shows."""
    width = max(map(len, options.COMMANDS))
    return "\n".join(
        ["%apixo COMMAND:", *(f"  {name:<{width}}  {text}" for name, text in options.COMMANDS.items())]
    )


def _session() -> Session:
    from apixo_nb.session.session import current

    return current()


def _nothing_after(command: str, words: list[str]) -> None:
    if words:
        what = " ".join(words)
        raise InvalidRequestError(
            f"%apixo {command} takes nothing after it, not {what!r:.60}", field=command, value=what
        )


def _help(_words: list[str], _shell: InteractiveShell | None) -> None:
    say(cell_help(), "", line_help())


# --- key and settings -------------------------------------------------------------------------------


def _login(words: list[str], _shell: InteractiveShell | None) -> None:
    from apixo_nb.session.session import reset

    if words:
        step = "It may now stand in the notebook and its history: remove it there, or make a new key."
        raise ConfigurationError("%apixo login takes no key on the line", next_step=step)
    key = keys.asked_key()
    say("Trying the key ...")
    left = _balance_of(key, _session().settings)
    stored = _stored(key)
    reset()
    say(f"The key is stored {stored.source}. {left}")
    if os.environ.get(keys.KEY_VARIABLE):
        say(f"But {keys.KEY_VARIABLE} is set too, and goes first until it is removed.")


def _stored(key: keys.ApiKey) -> keys.ApiKey:
    """Store the key. Stop while a keyring asks for its password leaves no frame behind that holds the key."""
    with contextlib.suppress(KeyboardInterrupt):
        return keys.store_key(key)
    raise KeyboardInterrupt


def _balance_of(key: keys.ApiKey, settings: settings.Apixo) -> str:
    """What the key is good for, in a sentence; raises AuthenticationError if APIXO refuses it."""
    from apixo_nb.client.client import Client

    try:
        with Client(key, base_url=settings.base_url) as client:
            return f"${client.balance():.2f} left."
    except AuthenticationError:
        raise
    except ApixoError as error:
        return f"It could not be tried: {error.message}."


def _logout(words: list[str], _shell: InteractiveShell | None) -> None:
    from apixo_nb.session.session import reset

    _nothing_after("logout", words)
    keys.forget_key()
    reset()
    say("The stored key is removed. A key in the environment stays until Jupyter restarts.")


def _sandbox(words: list[str], _shell: InteractiveShell | None) -> None:
    wanted = {(): True, ("on",): True, ("off",): False}.get(tuple(words))
    if wanted is None:
        raise InvalidRequestError(
            f"%apixo sandbox is on or off, not {' '.join(words)!r:.60}",
            field="sandbox",
            value=" ".join(words),
            allowed="on, off",
        )
    settings.settings().sandbox = wanted
    if not wanted:
        say("Sandbox off: runs go to APIXO and cost money.")
        return
    _session().service.sandbox()
    say(
        "Sandbox on: an imitation of APIXO on this machine. Nothing leaves it and nothing is paid;",
        "its pictures and rows are marked SANDBOX. `%apixo sandbox off` goes back.",
    )
    if line := pending_line(_session().ledger_file(), sandbox=True):
        say(line)


def _config(words: list[str], _shell: InteractiveShell | None) -> None:
    _nothing_after("config", words)
    values = settings.settings().trait_values(config=True)
    width = max(map(len, values))
    shown = {name: text.without_secrets(value) for name, value in sorted(values.items())}
    say(*(f"Apixo.{name:<{width}} = {text}" for name, text in shown.items()))


# --- looking back -----------------------------------------------------------------------------------


def _status(words: list[str], _shell: InteractiveShell | None) -> None:
    from apixo_nb.session.maintenance import status_lines

    _nothing_after("status", words)
    say(*status_lines(_session()))


def _history(words: list[str], _shell: InteractiveShell | None) -> Any:
    from apixo_nb.analysis.frame import brief
    from apixo_nb.experiments.accessor import register

    number = _whole_number(" ".join(words)) if words else 10
    register()
    return brief(_session().history().tail(number))


def _whole_number(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise InvalidRequestError(
        f"How many runs is {text!r:.40}?", field="history", value=text, allowed="1, 2, 3 ..."
    )


def _export(words: list[str], _shell: InteractiveShell | None) -> None:

    say(*export_lines(_session(), "".join(words)))


def _import(words: list[str], _shell: InteractiveShell | None) -> None:

    say(*import_lines(_session(), "".join(words)))


# --- money ------------------------------------------------------------------------------------------


def _balance(words: list[str], _shell: InteractiveShell | None) -> None:
    from apixo_nb.session.maintenance import compare_balance

    _nothing_after("balance", words)
    session = _session()
    usd = session.balance()
    compared = compare_balance(session, usd)
    say(f"{_mark(session)}${usd:.2f} left", *([compared] if compared else []))


def _spend(words: list[str], _shell: InteractiveShell | None) -> None:
    from apixo_nb.core.formatting import GROUPS, spend_lines

    unknown = [word for word in words if word not in GROUPS]
    if unknown:
        raise InvalidRequestError(
            f"Spend by {unknown[0]!r:.60}?", field="spend", value=unknown[0], allowed=", ".join(GROUPS)
        )
    session = _session()
    say(_mark(session) + "by list price", "", *spend_lines(session.runs(), words or GROUPS))


_SCOPES = {"--total": "total", "--day": "day", "--notebook": "notebook"}


def _budget(words: list[str], _shell: InteractiveShell | None) -> None:
    from apixo_nb.session.maintenance import budgets, set_budget

    flags = [word for word in words if word.startswith("--")]
    sums = [word for word in words if not word.startswith("--")]
    unknown = [flag for flag in flags if flag not in _SCOPES]
    if unknown or len(flags) > 1 or len(sums) > 1 or (flags and not sums):
        given = " ".join(words)
        allowed = "%apixo budget SUM or off, then --total (default), --day or --notebook"
        raise InvalidRequestError(
            f"%apixo budget cannot be {given!r:.60}", field="budget", value=given, allowed=allowed
        )
    session = _session()
    if sums:
        set_budget(session, _sum(sums[0]), _SCOPES[flags[0]] if flags else "total")
    caps = budgets(session)
    say(*(f"{_mark(session)}{cap}" for cap in caps) if caps else (f"{_mark(session)}No budget is set.",))


def _sum(text: str) -> float | None:
    if text == "off":
        return None
    try:
        number = float(text.removeprefix("$"))
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise InvalidRequestError(
            f"The budget cannot be {text!r:.60}",
            field="budget",
            value=text,
            allowed="a sum in US dollars such as 5.00, or off",
        )
    return number


# --- unfinished business ----------------------------------------------------------------------------


def _resume(words: list[str], shell: InteractiveShell | None) -> None:
    from apixo_nb.display.live import Watch

    if len(words) > 2:
        given = " ".join(words)
        allowed = "%apixo resume, or with a run, or with a run and the task that it became"
        raise InvalidRequestError(
            f"%apixo resume cannot be {given!r:.60}", field="resume", value=given, allowed=allowed
        )
    session = _session()
    if len(words) == 2:
        from apixo_nb.session.maintenance import adopt

        adopt(session, *words)
    jobs = session.resume(words[0] if words else None)
    others = [] if words else session.elsewhere()
    if others:
        say(f"{len(others)} run(s) are in the hands of another kernel or program, and are left to it.")
    lost = [] if words else session.lost()
    if lost:
        say(*lost_lines(lost))
    if jobs:
        Watch(session, jobs, shell).block()
    elif not lost and not others:
        say("Nothing to resume: every task has ended, and its pictures are on disk.")


def lost_lines(lost: list[Run]) -> list[str]:
    """Submits without an answer: what is at stake, and what to do."""
    stake = dollars(sum(run.price_micros for run in lost) / 1e6)
    return [
        f"{len(lost)} submit(s) without an answer, up to {stake} at stake; they are not sent again:",
        *(f"  run {run.run_id}: {printable(run.prompt, 60)}" for run in lost),
        "Compare `%apixo balance`, or look for the task in APIXO's console. Then one of:",
        "  %apixo resume RUN TASK       it became this task: its pictures are fetched",
        "  %apixo settle RUN paid       it was charged, and is lost",
        "  %apixo settle RUN free       it was never charged; the cell then buys it anew",
    ]


def _settle(words: list[str], _shell: InteractiveShell | None) -> None:
    from apixo_nb.session.maintenance import settle

    if len(words) != 2 or words[1] not in ("paid", "free"):
        given = " ".join(words)
        raise InvalidRequestError(
            f"%apixo settle cannot be {given!r:.60}",
            field="settle",
            value=given,
            allowed="%apixo settle RUN paid, or %apixo settle RUN free",
        )
    run = settle(_session(), words[0], paid=words[1] == "paid")
    say(f"Run {run.run_id} counts as {dollars((run.cost_micros or 0) / 1e6)}, and is settled.")


def _rescue(words: list[str], shell: InteractiveShell | None) -> None:
    from apixo_nb.display.live import Watch
    from apixo_nb.session.maintenance import rescue, rescued_lines

    _nothing_after("rescue", words)
    session = _session()
    jobs = rescue(session)
    if not jobs:
        say("Nothing to rescue: every picture that was made is on disk.")
        return
    before = sum(len(job.run.files) for job in jobs)
    with contextlib.suppress(ApixoError):  # said below, for each picture
        Watch(session, jobs, shell).block()
    say(*rescued_lines(before, [job.run for job in jobs]))


def _doctor(words: list[str], _shell: InteractiveShell | None) -> None:
    from apixo_nb.session.maintenance import examine, rebuild

    if words not in ([], ["--rebuild"]):
        given = " ".join(words)
        raise InvalidRequestError(
            f"%apixo doctor cannot be {given!r:.60}",
            field="doctor",
            value=given,
            allowed="nothing, or --rebuild",
        )
    session = _session()
    if words:
        say(*rebuild(session), "")
    say(*examine(session).lines())


def _panel(words: list[str], _shell: InteractiveShell | None) -> Any:
    from apixo_nb.widgets.panel import panel

    _nothing_after("panel", words)
    return panel()


def _wait(words: list[str], _shell: InteractiveShell | None) -> None:
    from apixo_nb.display.live import wait

    _nothing_after("wait", words)
    runs = wait()
    say(f"{len(runs)} run(s) have ended." if runs else "No cell runs in the background.")


def _mark(session: Session) -> str:
    return "SANDBOX · " if session.is_sandbox else ""


_ACTIONS: dict[str, Callable[[list[str], InteractiveShell | None], Any]] = {
    "login": _login,
    "logout": _logout,
    "status": _status,
    "balance": _balance,
    "spend": _spend,
    "budget": _budget,
    "history": _history,
    "resume": _resume,
    "settle": _settle,
    "rescue": _rescue,
    "doctor": _doctor,
    "panel": _panel,
    "wait": _wait,
    "export": _export,
    "import": _import,
    "sandbox": _sandbox,
    "config": _config,
    "help": _help,
}
