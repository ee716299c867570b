"""A process that was paused and taken for dead sends nothing, and what waits in one is bought by no other."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apixo_nb.core.process import STALE
from apixo_nb.core.request import make_request
from apixo_nb.errors import BudgetError
from apixo_nb.ledger.unfinished import pending_line
from apixo_nb.sandbox import Fault, Sandbox
from apixo_nb.session.replay import Decision
from apixo_nb.session.session import Session
from tests.support import sandboxes
from tests.support.commands import printed
from tests.support.processes import another_kernel
from tests.support.waiting import PATIENCE_S, wait_for

clock, sandbox, session = sandboxes.clock, sandboxes.sandbox, sandboxes.session

#: Buys a picture on "another machine", and stops itself as SIGSTOP does, where it is told to.
PROGRAM = """
import signal, sys, threading, time
from apixo_nb.core import process
process.this_place = lambda: ("far", "far", "far")
from apixo_nb.engine import runner
from apixo_nb.ledger.leases import Leases
begin, end, slept_s = Leases.begin_submit, Leases.end_submit, [0.0]
runner.since_boot_s = lambda: time.monotonic() + slept_s[0]

def pause(where):
    if where == sys.argv[1] and not slept_s[0]:
        slept_s[0] = 600.0
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # it goes no step further

def begin_submit(self, run_id):
    pause("row written")
    bought_at = begin(self, run_id)
    pause("about to send")
    return bought_at

def end_submit(self, run_id):
    end(self, run_id)
    pause("refused")

Leases.begin_submit, Leases.end_submit = begin_submit, end_submit
import apixo_nb
try:
    apixo_nb.generate("a fox")
except apixo_nb.errors.ApixoError as error:
    print(error)
"""


@contextlib.contextmanager
def paused_kernel(where: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        stat = Path(f"/proc/{running.pid}/stat")
        wait_for(lambda: stat.read_text("utf-8").rpartition(")")[2].split()[0] == "T", "it to be paused")
        try:
            yield running
        finally:
            running.kill()


def decision(session: Session) -> Decision:
    [decided] = session.decide([session.plan(make_request("a fox"))], leave=True)
    return decided


@pytest.mark.parametrize("where", ["row written", "about to send", "refused"])
def test_kernel_that_was_paused_and_taken_over_sends_nothing(session: Session, sandbox: Sandbox, where: str):
    if where == "refused":
        sandbox.faults.add(Fault("submit", "refuse", status=429, retry_after=0.1, times=1))
    seconds = 0.0
    session.ledger.leases.monotonic = lambda: seconds
    with paused_kernel(where) as paused:
        sent = sandbox.account.submits
        [theirs] = session.ledger.runs()
        assert theirs.state == ("submitting" if where == "about to send" else "planned")
        assert decision(session).action == "follow"
        seconds += STALE.total_seconds() + 1
        lost = session.lost()
        assert len(lost) == (where == "about to send")
        for run in lost:
            printed(f"settle {run.run_id} free")
        bought = decision(session)
        assert bought.action == "buy"
        made = session.carry_out(bought).wait()
        paused.send_signal(signal.SIGCONT)
        said, _ = paused.communicate(timeout=PATIENCE_S)
    assert f"Run {theirs.run_id} was taken over by another kernel" in said
    assert "Nothing was sent" in said
    assert len(said.strip().splitlines()) == 2
    assert (sandbox.account.submits, len(sandbox.account.accepted)) == (sent + 1, 1)
    after = session.ledger.get(theirs.run_id)
    assert after is not None
    assert (after.state, after.task_id) == ("failed" if lost else "planned", None)
    assert made.task_id == sandbox.account.accepted[0]


def test_kernel_that_was_paused_and_not_taken_over_goes_on(session: Session, sandbox: Sandbox):
    with paused_kernel("about to send") as paused:
        paused.send_signal(signal.SIGCONT)
        assert paused.communicate(timeout=PATIENCE_S)[0] == ""
    assert [run.state for run in session.ledger.runs()] == ["success"]
    assert sandbox.account.submits == 1


def refuse(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault("submit", "refuse", status=429, retry_after=60, times="always"))


def waits(session: Session, sandbox: Sandbox) -> bool:
    return bool(sandbox.account.submits) and [run.state for run in session.ledger.runs()] == ["planned"]


def test_kernel_killed_while_a_refused_submit_waits_leaves_nothing_in_doubt(
    session: Session, sandbox: Sandbox
):
    refuse(sandbox)
    with another_kernel("a fox") as kernel:
        wait_for(lambda: waits(session, sandbox), "the refused submit to wait")
        kernel.send_signal(signal.SIGKILL)
        kernel.wait(PATIENCE_S)
    assert pending_line(session.ledger_file(), sandbox=True) == ""
    assert "without an answer" not in printed("resume")
    assert session.lost() == []
    sandbox.faults.clear()
    session.ledger.set_budget("total", sandbox=True, limit_micros=350_000)
    again = decision(session)
    assert again.action == "buy"
    assert session.carry_out(again).wait().state == "success"
    assert len(sandbox.account.accepted) == 1


def test_what_waits_in_another_kernel_to_be_sent_again_is_neither_bought_here_nor_its_sum_free(
    session: Session, sandbox: Sandbox
):
    refuse(sandbox)
    early = decision(session)
    session.ledger.set_budget("total", sandbox=True, limit_micros=700_000 - 1)
    with another_kernel("a fox") as kernel:
        wait_for(lambda: waits(session, sandbox), "the refused submit to wait")
        [theirs] = session.ledger.runs()
        assert (decision(session).action, decision(session).run.run_id) == ("follow", theirs.run_id)
        follower = session.carry_out(early)  # it was decided before the other kernel began
        wait_for(lambda: follower.run.run_id == theirs.run_id, "the other kernel's run to be followed")
        follower.stop()
        with pytest.raises(BudgetError):
            session.begin("another fox")
        assert sandbox.account.submits == 1
        kernel.kill()


def test_what_a_dead_kernel_had_planned_is_not_reserved(session: Session, sandbox: Sandbox):
    refuse(sandbox)
    session.ledger.set_budget("total", sandbox=True, limit_micros=350_000)
    with another_kernel("a fox") as kernel:
        wait_for(lambda: waits(session, sandbox), "the refused submit to wait")
        kernel.send_signal(signal.SIGKILL)
        kernel.wait(PATIENCE_S)
    sandbox.faults.clear()
    assert session.begin("another fox").wait().state == "success"
