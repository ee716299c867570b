"""Commands about what did not end well: resume, settle, rescue, doctor."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apixo_nb.errors import ApixoError
from apixo_nb.text import dollars, printable, redacted

from .command_line import Context, Message, say

if TYPE_CHECKING:
    from apixo_nb.core.records import Run


def resume(args: argparse.Namespace, context: Context) -> list[str]:
    """Bring unfinished runs to their end, or one of them, or one that became a task which is told."""
    from apixo_nb.display.live import Watch

    session = context.session
    if args.task is not None:
        from apixo_nb.session.recovery import adopt

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
    from apixo_nb.session.recovery import resolve

    run = resolve(context.session, args.run, paid=args.end == "paid")
    return [f"Run {run.run_id} counts as {dollars(run.cost_micros or 0)}, and is settled."]


def rescue(_args: argparse.Namespace, context: Context) -> list[str]:
    """Download every picture that is not on disk."""
    from apixo_nb.display.live import Watch
    from apixo_nb.session.recovery import download_missing, downloaded_lines

    session = context.session
    jobs = download_missing(session)
    if not jobs:
        return ["Nothing to rescue: every picture that was made is on disk."]
    before = sum(len(job.run.files) for job in jobs)
    with contextlib.suppress(ApixoError):  # said below, for each picture
        Watch(session, jobs, context.shell).block()
    return downloaded_lines(before, [job.run for job in jobs])


def doctor(args: argparse.Namespace, context: Context) -> Message:
    """Compare ledger and pictures; before that, make the rows anew that are missing, if asked for."""
    from apixo_nb.session.doctor import check, rebuild

    session = context.session
    if args.rebuild:
        say(*rebuild(session), "")
    report = check(session)
    return Message(report.lines(), ok=not report.wrong)
