"""Other processes at work on the same ledger."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from apixo_nb.core.request import make_request
from apixo_nb.errors import ApixoError
from apixo_nb.session import cells
from apixo_nb.session import session as shared
from tests.support.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
Work = Callable[..., Iterator[Any]]


def in_processes(work: Work, count: int, *given: Any) -> list[Any]:
    """What so many processes make of a piece of work, which all begin at the same moment.

    `work` is a generator function of a test module. It gets its number and what is given; what comes before
    its first ``yield`` is preparation, and what it yields next is its outcome. Then its process is gone,
    without a good-bye.
    """
    task = json.dumps([work.__module__, work.__name__, count, given])
    program = "from tests.support.processes import be_crowd; be_crowd()"
    done = subprocess.run(
        [sys.executable, "-c", program, task],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert [outcome["error"] for outcome in outcomes if "error" in outcome] == []
    return [outcome["value"] for outcome in outcomes]


def be_crowd() -> None:
    """In a process of its own: imports everything once, starts no thread, and forks."""
    module, name, count, given = json.loads(sys.argv[1])
    work: Work = getattr(importlib.import_module(module), name)
    sa.create_engine("sqlite://").dispose()
    reading, gun = os.pipe()
    pipes = [_fork(work, number, given, (reading, gun)) for number in range(count)]
    for pipe in pipes:
        os.read(pipe, 1)  # it is ready
    os.close(gun)
    outcomes = []
    for pipe in pipes:
        with os.fdopen(pipe) as file:
            outcomes.append(json.loads(file.read() or '{"error": "it died"}'))
    print(json.dumps(outcomes))  # noqa: T201 - a program that is read by another


def _fork(work: Work, number: int, given: list[Any], start: tuple[int, int]) -> int:
    """A child that waits for the start; returns the pipe on which it speaks."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        return reading
    os.close(start[1])
    try:
        steps = work(number, *given)
        next(steps)
        os.write(writing, b".")
        os.read(start[0], 1)  # ends when nobody holds its other end any more
        outcome = {"value": next(steps)}
    except BaseException:  # noqa: BLE001 - the test is to hear of it
        outcome = {"error": traceback.format_exc()}
        os.write(writing, b".")
    os.write(writing, json.dumps(outcome).encode())
    os._exit(0)


@contextlib.contextmanager
def another_kernel(prompt: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that buys one picture; killed at the end, if it was not before."""
    program = f"import apixo_nb; apixo_nb.generate({prompt!r})"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) as running:
        try:
            yield running
        finally:
            running.kill()


def run_cell_with_id(number: int, prompt: str, cell_ids: list[str]) -> Iterator[Any]:
    """As `run_cell`, in a front end that sends the ids of cells: each process runs the next of these."""
    cells.tracker.begin(SimpleNamespace(cell_id=cell_ids[number % len(cell_ids)]))
    yield from run_cell(number, prompt)


def run_cell(_number: int, prompt: str, decided: str = "early") -> Iterator[Any]:
    """What ``%%apixo`` does; early: it has decided what to buy when the other kernel begins."""
    session = shared.current()
    run = session.plan(make_request(prompt))
    assert session.runner is not None
    decisions = session.decide([run]) if decided == "early" else []
    yield None
    try:
        for decision in decisions or session.decide([run]):
            run = session.carry_out(decision).wait()
        outcome = [run.run_id, *run.files]
    except ApixoError as error:
        outcome = [type(error).__name__]
    session.close()
    yield outcome
