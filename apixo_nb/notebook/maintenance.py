"""Commands that look after a session: the account, and what did not end well."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apixo_nb.core import checks, credentials
from apixo_nb.errors import ApixoError, AuthenticationError, ConfigurationError, InvalidRequestError
from apixo_nb.text import dollars, printable, redacted

from .command_line import Context, Message, say

if TYPE_CHECKING:
    from apixo_nb.core.records import Run
    from apixo_nb.core.settings import Apixo
    from apixo_nb.session.session import Session


#: As in `spending.GROUPS`; spelt out, as help shall not wait for that module.
GROUPS = ("state", "day", "tag")


def login(_args: argparse.Namespace, context: Context) -> list[str]:
    """Ask for a key, try it and store it."""
    from apixo_nb.session.session import reset

    key = credentials.asked_key()
    say("Trying the key ...")
    left = _balance_of(key, context.session.settings)
    stored = _stored(key)
    reset()
    said = [f"The key is stored {stored.source}. {left}"]
    if os.environ.get(credentials.KEY_VARIABLE):
        said.append(f"But {credentials.KEY_VARIABLE} is set too, and goes first until it is removed.")
    return said


def key_on_the_line(_words: Sequence[str]) -> ConfigurationError:
    """The error of a login with words after it; it repeats none of them."""
    step = "It may now stand in the notebook and its history: remove it there, or make a new key."
    return ConfigurationError("%apixo login takes no key on the line", next_step=step)


def _stored(key: credentials.ApiKey) -> credentials.ApiKey:
    """Store the key. Stop while a keyring asks for its password leaves no frame behind that holds the key."""
    with contextlib.suppress(KeyboardInterrupt):
        return credentials.store_key(key)
    raise KeyboardInterrupt


def _balance_of(key: credentials.ApiKey, settings: Apixo) -> str:
    """What the key is good for, in a sentence; raises AuthenticationError if APIXO refuses it."""
    from apixo_nb.client.client import Client

    try:
        with Client(key, base_url=settings.base_url) as client:
            return f"${client.balance():.2f} left."
    except AuthenticationError:
        raise
    except ApixoError as error:
        return f"It could not be tried: {error.message}."


def logout(_args: argparse.Namespace, _context: Context) -> list[str]:
    """Remove the stored key."""
    from apixo_nb.session.session import reset

    credentials.forget_key()
    reset()
    return ["The stored key is removed. A key in the environment stays until Jupyter restarts."]


def balance(_args: argparse.Namespace, context: Context) -> list[str]:
    """What is left for the key, and what became of it since it was last compared."""
    from apixo_nb.session.maintenance import compare_balance

    session = context.session
    usd = session.balance()
    compared = compare_balance(session, usd)
    return [f"{_mark(session)}${usd:.2f} left", *([compared] if compared else [])]


def spend(args: argparse.Namespace, context: Context) -> list[str]:
    """What was spent, by each of the groups that are asked for."""
    from apixo_nb.core.formatting import spend_lines

    session = context.session
    return [_mark(session) + "by list price", "", *spend_lines(session.runs(), args.by or GROUPS)]


def unknown_group(words: Sequence[str]) -> InvalidRequestError:
    """The error of a word after `spend` that is no group; it names the first."""
    word = next((word for word in words if word not in GROUPS), "")
    return InvalidRequestError(
        f"Spend by {word!r:.60}?", field="spend", value=word, allowed=", ".join(GROUPS)
    )


def budget(args: argparse.Namespace, context: Context) -> list[str]:
    """Set a budget, or end it, and show those that are set."""
    from apixo_nb.session.maintenance import budgets, set_budget

    if args.scope and args.sum is None:
        context.refuse("a sum is missing, or off")
    session = context.session
    if args.sum is not None:
        set_budget(session, _limit_usd(args.sum), args.scope or "total")
    lines = [str(cap) for cap in budgets(session)] or ["No budget is set."]
    return [f"{_mark(session)}{line}" for line in lines]


def _limit_usd(text: str) -> float | None:
    if text == "off":
        return None
    allowed, message = "a sum in US dollars such as 5.00, or off", f"The budget cannot be {text!r:.60}"
    return checks.read_number(text.removeprefix("$"), "budget", allowed, 0.0, message=message)


def _mark(session: Session) -> str:
    return "SANDBOX · " if session.is_sandbox else ""


def resume(args: argparse.Namespace, context: Context) -> list[str]:
    """Bring unfinished runs to their end, or one of them, or one that became a task which is told."""
    from apixo_nb.display.live import Watch

    session = context.session
    if args.task is not None:
        from apixo_nb.session.maintenance import adopt

        adopt(session, args.run, args.task)
    jobs = session.resume(args.run)
    others = [] if args.run else session.elsewhere()
    if others:
        say(f"{len(others)} run(s) are in the hands of another kernel or program, and are left to it.")
    unresolved = [] if args.run else session.lost()
    if unresolved:
        say(*unresolved_lines(unresolved))
    if jobs:
        Watch(session, jobs, context.shell).block()
    elif not unresolved and not others:
        return ["Nothing to resume: every task has ended, and its pictures are on disk."]
    return []


def unresolved_lines(runs: Sequence[Run]) -> list[str]:
    """Submits without an answer: what is at stake, and what to do."""
    stake = dollars(sum(run.price_micros for run in runs))
    return [
        f"{len(runs)} submit(s) without an answer, up to {stake} at stake; they are not sent again:",
        *(line for run in runs for line in _lines_of_unresolved(run)),
        "Compare `%apixo balance`, or look for the task in APIXO's console. Then one of:",
        "  %apixo resume RUN TASK       it became this task: its pictures are fetched",
        "  %apixo settle RUN paid       it was charged, and is lost",
        "  %apixo settle RUN free       it was never charged; the cell then buys it anew",
    ]


def _lines_of_unresolved(run: Run) -> list[str]:
    """One submit; its answer, if one came, may name the task in a way that was not understood."""
    answer = printable(redacted(run.raw, run.callback_url))
    lines = [f"  run {run.run_id}: {printable(run.prompt, 60)}"]
    return [*lines, f"    its answer was: {answer}"] if answer else lines


def settle(args: argparse.Namespace, context: Context) -> list[str]:
    """Say how a submit without an answer ended."""
    from apixo_nb.session.maintenance import resolve

    run = resolve(context.session, args.run, paid=args.end == "paid")
    return [f"Run {run.run_id} counts as {dollars(run.cost_micros or 0)}, and is settled."]


def rescue(_args: argparse.Namespace, context: Context) -> list[str]:
    """Download every picture that is not on disk."""
    from apixo_nb.display.live import Watch
    from apixo_nb.session.maintenance import (
        count_on_disk,
        downloaded_lines,
        missing_folder_line,
        runs_to_download,
    )

    session = context.session
    if line := missing_folder_line(session):
        say(line)
    runs = runs_to_download(session)
    if not runs:
        return [] if line else ["Nothing to rescue: every picture that was made is on disk."]
    before = count_on_disk(session, runs)
    jobs = [session.follow(run) for run in runs]
    with contextlib.suppress(ApixoError):  # said below, for each picture
        Watch(session, jobs, context.shell).block()
    return downloaded_lines(session, before, [job.run for job in jobs])


def doctor(args: argparse.Namespace, context: Context) -> Message:
    """Compare ledger and pictures; before that, make the rows anew that are missing, or do without them."""
    from apixo_nb.session.maintenance import accept, check, rebuild

    session = context.session
    if args.rebuild and args.accept:
        context.refuse("only one of --rebuild and --accept")
    if args.rebuild:
        say(*rebuild(session), "")
    if args.accept:
        say(accept(session), "")
    report = check(session)
    return Message(report.lines(), ok=not report.wrong)
