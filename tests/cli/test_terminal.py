"""``%%apixo`` in terminal IPython: text in place of widgets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from apixo_nb.sandbox import Sandbox


@pytest.fixture
def terminal(service: Sandbox, tmp_path: Path) -> Iterator[pexpect.spawn]:  # noqa: ARG001 - it is running
    """A real IPython on a real pseudo-terminal, working against a quick sandbox."""
    arguments = ["-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor"]
    child = pexpect.spawn(sys.executable, arguments, cwd=str(tmp_path), encoding="utf-8", timeout=60)
    child.setwinsize(40, 160)
    child.expect_exact("In [1]:")
    child.sendline("%load_ext apixo_nb")
    child.expect_exact("In [2]:")
    yield child
    child.close(force=True)


def test_a_cell_shows_its_progress_and_then_the_files(terminal: pexpect.spawn, tmp_path: Path) -> None:
    terminal.sendline("%%apixo -o run\n[seconds:1] a quiet harbour\n\n")
    terminal.expect_exact("Waiting")
    terminal.expect_exact("✓ SANDBOX · 1:1 · 1 picture")
    terminal.expect_exact(".png")
    terminal.sendline("run.state")
    terminal.expect_exact("'success'")
    assert len(list((tmp_path / "home" / "images").glob("*.png"))) == 1


def test_ctrl_c_says_how_to_resume(terminal: pexpect.spawn) -> None:
    terminal.sendline("%%apixo\n[never] x\n\n")
    terminal.expect_exact("Waiting")
    terminal.sendintr()
    terminal.expect_exact("Stopped waiting for run")
    terminal.expect_exact("`%apixo resume`")
    terminal.sendline("1 + 1")
    terminal.expect_exact("2")


def test_an_error_is_two_lines(terminal: pexpect.spawn) -> None:
    terminal.sendline("%%apixo --ar 5:4\nx\n\n")
    terminal.expect_exact("InvalidRequestError")
    terminal.expect_exact("Allowed: 1:1, 2:3, 3:2. Nothing was sent.")
    terminal.expect_exact("In [")
    assert "Traceback" not in terminal.before


def test_a_sweep_is_one_line_then_a_summary(terminal: pexpect.spawn) -> None:
    terminal.sendline("%%apixo --set x=a,b,[fail:Timeout] -o made\n[seconds:1] {x}\n\n")
    terminal.expect_exact("Sweep: ")
    terminal.expect_exact("of 3 done")
    terminal.expect_exact("2 of 3 done · 1 failed")
    terminal.expect_exact("x=[fail:Timeout]")
    terminal.sendline("len(made.failed)")
    terminal.expect_exact("1")
