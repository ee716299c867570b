"""``apixo-nb`` in a terminal: a process of its own, its output and its exit code."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import apixo_nb
from apixo_nb import frame
from apixo_nb.cli import main
from apixo_nb.ledger import Ledger
from apixo_nb.request import make_request
from apixo_nb.run import Run, new_run
from tests.conftest import KEY

PATIENCE_S = 60


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "apixo_nb", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


@pytest.fixture
def stored(tmp_path: Path) -> Run:
    """A run in the ledger that the environment names."""
    with contextlib.closing(Ledger(tmp_path / "home" / "ledger.db")) as ledger:
        bought = new_run(make_request("a fox\r\n🦊"), unit_price_micros=350_000, sandbox=False)
        return ledger.add(bought.but(cost_micros=350_000))


def test_version_is_the_packages():
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"apixo-nb {apixo_nb.__version__}\n")


@pytest.mark.usefixtures("stored")
def test_status_says_where_and_how_much_and_hides_the_key(tmp_path: Path):
    done = run("status", APIXO_API_KEY=KEY)
    assert (done.returncode, done.stderr) == (0, "")
    assert "https://api.apixo.ai/api/v1" in done.stdout
    assert "in APIXO_API_KEY" in done.stdout
    assert str(tmp_path / "home" / "ledger.db") in done.stdout
    assert "spent     $0.35" in done.stdout
    assert KEY not in done.stdout


def test_export_writes_the_ledger(stored: Run, tmp_path: Path):
    done = run("export", str(tmp_path / "runs.csv"))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'runs.csv'}\n")
    [row] = frame.read_csv(tmp_path / "runs.csv").to_dict("records")
    assert (row["run_id"], row["prompt"]) == (stored.run_id, "a fox\r\n🦊")


@pytest.mark.usefixtures("stored")
def test_export_to_a_folder_says_why_in_two_lines_and_fails(tmp_path: Path):
    done = run("export", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 2
    assert "could not be written" in done.stderr


def test_unusable_setting_is_named_without_a_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: Any):
    monkeypatch.setenv("APIXO_BASE_URL", "http://api.example")
    assert main(["status"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("APIXO_BASE_URL is ")
    assert (printed.out, len(printed.err.splitlines())) == ("", 2)


@pytest.mark.parametrize(
    "arguments", [[], ["paint"], ["status", "--all"], ["export"], ["export", "a", "b"]], ids=str
)
def test_unusable_arguments_end_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: apixo-nb" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("status", "export", "sandbox"))


def test_sandbox_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(["sandbox", "--help"])
    assert left.value.code == 0
    assert "--balance" in capsys.readouterr().out


@contextlib.contextmanager
def served(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A sandbox in a process of its own, and the base URL it printed first."""
    command = [sys.executable, "-m", "apixo_nb", "sandbox", "--seconds", "0.1", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            name, _, url = program.stdout.readline().strip().partition("=")
            assert name == "base_url"
            yield program, url
        finally:
            program.kill()


def test_sandbox_serves_at_the_address_it_prints():
    with served("--balance", "7", "--key", KEY) as (_, base_url):
        request = urllib.request.Request(
            f"{base_url}/apikeys/current-balance", headers={"Authorization": f"Bearer {KEY}"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            assert json.load(answer) == {"code": 200, "message": "success", "data": 7.0}


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_sandbox_ends_well_when_told_to(name: str):
    with served() as (program, _):
        program.send_signal(getattr(signal, name))
        _, complaints = program.communicate(timeout=PATIENCE_S)
    assert (program.returncode, complaints) == (0, "")


def test_sandbox_on_a_taken_port_says_so_and_fails():
    with served() as (_, base_url):
        port = base_url.split(":")[2].split("/")[0]
        done = run("sandbox", "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot start" in done.stderr
