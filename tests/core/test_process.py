"""Whether the process that works on a run still lives; asked of real processes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from apixo_nb.core.process import STALE, ProcessIdentity, process_start, this_process
from apixo_nb.ledger.ledger import Ledger
from tests.support.factories import a_run
from tests.support.processes import in_processes

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc to look at")


BEATING = timedelta(0)


@contextlib.contextmanager
def process(program: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that has said something, and waits."""
    code = f"import sys\n{program}\nprint('here', flush=True)\nsys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-S", "-c", code], text=True, **pipes) as running:  # type: ignore[call-overload]
        try:
            assert running.stdout.readline() == "here\n"
            yield running
        finally:
            running.kill()


def owner_of(pid: int) -> ProcessIdentity:
    return here(pid=pid, started=process_start(pid) or "")


def here(**facts: Any) -> ProcessIdentity:
    """A process of this machine."""
    return dataclasses.replace(this_process(), **facts)


def test_this_process_is_alive_whatever_its_heartbeat():
    assert this_process().is_alive(BEATING)
    assert this_process().is_alive(timedelta(days=365))
    assert this_process().is_alive(timedelta(days=-365))


def test_each_ledger_that_is_open_is_an_owner_of_its_own():
    one, another = this_process(), this_process()
    assert one.id != another.id
    assert (one.host, one.pid, one.started) == (another.host, another.pid, another.started)


def test_process_is_alive_until_it_has_ended():
    with process() as running:
        owner = owner_of(running.pid)
        assert owner.is_alive(BEATING)
    assert not owner.is_alive(BEATING)


def test_number_that_was_given_to_another_process_is_not_the_old_one():
    assert not here(pid=os.getpid(), started="boot/1").is_alive(BEATING)
    assert not here(pid=os.getpid(), started="").is_alive(BEATING)


def test_number_of_no_process_is_dead():
    assert process_start(2**22 + 1) is None
    assert not here(pid=2**22 + 1, started="").is_alive(BEATING)


@needs_proc
def test_killed_process_that_nobody_has_waited_for_is_dead():
    with process() as running:
        owner = owner_of(running.pid)
        running.kill()
        os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{running.pid}/stat").exists()
        assert not owner.is_alive(BEATING)


@needs_proc
@pytest.mark.parametrize("name", [") Z (", "a b) Z 1", "\\n)", "((("])
def test_process_may_have_any_name(name: str):
    with process(f"open('/proc/self/comm', 'w').write('{name}')") as running:
        plain = process_start(running.pid)
        assert owner_of(running.pid).is_alive(BEATING)
        assert plain is not None
        assert plain.rpartition("/")[2].isdecimal()


OTHERS = [{"machine_id": "another"}, {"boot_id": "another"}, {"pid_namespace": "another"}]
DOUBTS = [{"boot_id": ""}, {"pid_namespace": ""}]


@pytest.mark.parametrize("doubt", [*OTHERS, *DOUBTS])
def test_process_that_may_be_of_another_machine_is_alive_while_its_heartbeat_is_young(doubt: dict[str, str]):
    for pid in (os.getpid(), 2**22 + 1):
        elsewhere = here(pid=pid, **doubt)
        assert elsewhere.is_alive(timedelta(0))
        assert elsewhere.is_alive(STALE - timedelta(seconds=1))
        assert not elsewhere.is_alive(STALE + timedelta(seconds=1))


def test_name_of_a_machine_says_nothing():
    assert here(host="renamed").is_alive(timedelta(days=1))
    assert not here(host="renamed", pid=2**22 + 1).is_alive(BEATING)


def fork(_number: int, place: str) -> Iterator[object]:
    """Own a run, fork, and tell who owns what the child has written, taken and let go of."""
    ledger = Ledger(Path(place))
    mine = ledger.add(a_run("mine"))
    yield None
    reading, writing = os.pipe()
    if not os.fork():
        child = Ledger(Path(place))
        told = [ledger.leases.claim(mine.run_id) is None, ledger.leases.held_elsewhere() == {mine.run_id}]
        ledger.add(a_run("the child's"))
        told.append(ledger.leases.holder is not None and ledger.leases.holder.pid == os.getpid())
        ledger.close()
        told.append(child.leases.held_elsewhere() == {mine.run_id})
        os.write(writing, b"".join(b"y" if each else b"n" for each in told))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        of_the_child = pipe.read()
    os.wait()
    yield [of_the_child, sorted(ledger.leases.held_elsewhere())]


def test_after_a_fork_the_child_is_another_owner_and_leaves_its_parents_runs(tmp_path: Path):
    assert in_processes(fork, 1, str(tmp_path / "ledger.db")) == [["yyyy", []]]


def forget(_number: int, place: str) -> Iterator[object]:
    """Own a run, fork, and end the child as a program ends that has never used its ledger."""
    ledger = Ledger(Path(place))
    mine = ledger.add(a_run("mine"))
    yield None
    if not os.fork():
        ledger.close()
        os._exit(0)
    os.wait()
    with contextlib.closing(Ledger(Path(place))) as other:
        yield sorted(other.leases.held_elsewhere()) == [mine.run_id]


def test_child_that_closes_what_it_inherited_lets_go_of_nothing(tmp_path: Path):
    assert in_processes(forget, 1, str(tmp_path / "ledger.db")) == [True]
