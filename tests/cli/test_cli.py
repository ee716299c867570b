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

import pexpect
import pytest

import apixo_nb
from apixo_nb.analysis import formats as frame
from apixo_nb.cli import GROUPS, SHELLS, command_parsers, in_terminal, main, parser
from apixo_nb.core.files import EXPORT_KINDS
from apixo_nb.core.records import Run, new_run
from apixo_nb.core.request import make_request
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.notebook.commands import COMMANDS, KINDS
from apixo_nb.sandbox import Sandbox
from apixo_nb.session.session import Session
from tests.support.factories import KEY

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
        return ledger.add(bought.replace(cost_micros=350_000))


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


def test_a_command_that_is_nearly_one_is_named(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["exprot"])
    assert "did you mean export?" in capsys.readouterr().err


def test_help_tells_every_command_in_one_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    for name in command_parsers(parser()):
        assert len([line for line in shown.splitlines() if line.startswith(f"  {name} ")]) == 1
    assert max(map(len, shown.splitlines())) <= 100
    assert all(f" {code} " in shown for code in (0, 1, 2, 130, 141))


@pytest.mark.parametrize("command", sorted(command_parsers(parser())))
def test_each_command_has_a_help_of_its_own(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert f"usage: apixo-nb {command}" in capsys.readouterr().out


def test_as_a_module_it_is_the_same_program():
    script = Path(sys.executable).with_name("apixo-nb")
    called = subprocess.run(
        [script, "--help"], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert run("--help").stdout == called.stdout


# --- what stands in the ledger ----------------------------------------------------------------------


@pytest.fixture
def made(service: Sandbox) -> Run:  # noqa: ARG001 - it is running
    """A run with its picture on disk."""
    return apixo_nb.generate("a fox\x1b[31m\n🦊", name="foxes")


@pytest.mark.parametrize(
    ("file", "kind", "found"),
    [
        ("runs.csv", None, "runs.csv"),
        ("runs.csv", "excel", "runs.csv"),
        ("runs.jsonl", None, "runs.jsonl"),
        ("runs.parquet", None, "runs.parquet"),
        ("runs.html", None, "runs.html"),
        ("runs.zip", None, "runs.zip"),
        ("runs.png", None, "runs.png"),
        ("folder", "site", "folder/index.html"),
        ("folder", "imagefolder", "folder/metadata.jsonl"),
        ("folder", "embed", "folder"),
    ],
)
@pytest.mark.usefixtures("made")
def test_export_writes_every_kind(
    file: str, kind: str | None, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["export", str(tmp_path / file), *(["--kind", kind] if kind else [])]) == 0
    assert Path(capsys.readouterr().out.strip()).exists()
    assert (tmp_path / found).exists()


def test_kinds_are_those_of_exports_and_the_trackers():
    assert set(KINDS) == {*EXPORT_KINDS, "mlflow", "wandb"}


@pytest.mark.usefixtures("made")
def test_a_flag_says_the_kind_as_in_a_notebook(tmp_path: Path):
    assert main(["export", str(tmp_path / "excel.csv"), "--excel"]) == 0
    assert main(["export", str(tmp_path / "kind.csv"), "--kind", "excel"]) == 0
    assert (tmp_path / "excel.csv").read_bytes() == (tmp_path / "kind.csv").read_bytes()


@pytest.mark.parametrize("library", ["mlflow", "wandb"])
@pytest.mark.usefixtures("made")
def test_export_to_a_tracker_says_which_library_it_needs(
    library: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any
):
    monkeypatch.setitem(sys.modules, library, None)
    assert main(["export", f"--{library}"]) == 1
    assert f"apixo-nb[{library}]" in capsys.readouterr().err


def test_import_brings_an_export_into_another_ledger(
    made: Run, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
):
    assert main(["export", str(tmp_path / "all.zip")]) == 0
    monkeypatch.setenv("APIXO_HOME", str(tmp_path / "elsewhere"))
    done = run("import", str(tmp_path / "all.zip"))
    assert (done.returncode, done.stderr) == (0, "")
    assert made.run_id in run("history").stdout
    capsys.readouterr()


def test_history_shows_runs_and_no_prompt_steers_the_terminal(made: Run, capsys: pytest.CaptureFixture[str]):
    assert main(["history"]) == 0
    shown = capsys.readouterr().out
    assert made.run_id in shown
    assert "a fox\\u001b[31m 🦊" in shown
    assert "\x1b" not in shown


def test_an_empty_ledger_has_no_table(capsys: pytest.CaptureFixture[str]):
    assert main(["history"]) == 0
    assert capsys.readouterr().out == "No runs yet.\n"


@pytest.mark.usefixtures("made")
def test_spend_and_budget_are_those_of_the_notebook(capsys: pytest.CaptureFixture[str]):
    assert main(["spend", "day"]) == 0
    assert "in all: $0.35" in capsys.readouterr().out
    assert main(["budget", "5.00", "--day"]) == 0
    assert main(["budget"]) == 0
    assert capsys.readouterr().out.count("$5.00") == 2


def test_doctor_ends_with_code_1_when_something_is_wrong(made: Run, capsys: pytest.CaptureFixture[str]):
    assert main(["doctor"]) == 0
    apixo_nb.session.session.current().images.path(made.images[0]).unlink()
    assert main(["doctor"]) == 1
    assert "`apixo-nb rescue` downloads it again" in capsys.readouterr().out


def test_rescue_downloads_what_is_gone(made: Run, capsys: pytest.CaptureFixture[str]):
    file = apixo_nb.session.session.current().images.path(made.images[0])
    file.unlink()
    assert main(["rescue"]) == 0
    assert "1 picture downloaded" in capsys.readouterr().out
    assert file.exists()


def test_resume_and_settle_take_up_a_lost_submit(service: Sandbox, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(apixo_nb.ApixoError) as lost:
        apixo_nb.generate("[lost] a fox")
    run_id = str(lost.value.run_id)
    assert main(["resume"]) == 0
    assert "  apixo-nb settle RUN paid " in capsys.readouterr().out
    assert main(["settle", run_id, "paid"]) == 0
    assert f"Run {run_id} counts as $0.35" in capsys.readouterr().out
    assert len(service.account.accepted) == 1


def test_version_names_what_it_works_with(capsys: pytest.CaptureFixture[str]):
    assert main(["version"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"apixo-nb {apixo_nb.__version__}"
    assert {"Python", "ipython", "pandas"} <= {line.split()[0] for line in rest}


# --- ends ---------------------------------------------------------------------------------------------


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(service: Sandbox):
    with Session() as session:
        job = session.begin("[never] a fox", timeout_s=0.2)
        with pytest.raises(apixo_nb.ApixoError):
            job.wait()
    command = [sys.executable, "-u", "-m", "apixo_nb", "resume", job.run.run_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert any("Waiting" in line for line in program.stdout)
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=PATIENCE_S)
    assert program.returncode == 130
    assert said.startswith("Stopped.\nStopped waiting for run ")
    assert "`apixo-nb resume` fetches what it made" in said
    assert "Traceback" not in said
    assert len(service.account.accepted) == 1


@pytest.mark.parametrize("arguments", [["status"], ["--help"], ["export", "--help"], ["history"]], ids=str)
@pytest.mark.usefixtures("stored")
def test_a_reader_that_goes_away_is_no_complaint(arguments: list[str]):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "apixo_nb", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        command, env=buffered, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=PATIENCE_S
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    "command", ["status", "history", "spend", "doctor", "balance", "resume", "rescue", "version"]
)
@pytest.mark.usefixtures("made")
def test_no_command_shows_the_key(command: str, monkeypatch: Any, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    assert main([command]) == 0
    printed = capsys.readouterr()
    assert printed.out != ""
    assert KEY not in printed.out + printed.err


def test_a_missing_key_names_the_ways_of_a_terminal(capsys: pytest.CaptureFixture[str]):
    assert main(["balance"]) == 1
    said = capsys.readouterr().err
    assert "`apixo-nb login`" in said
    assert "`apixo-nb demo`" in said
    assert "%apixo" not in said


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("`%apixo resume` waits", "`apixo-nb resume` waits"),
        ("%apixo settle RUN paid", "apixo-nb settle RUN paid"),
        ("See %apixo help.", "See apixo-nb --help."),
        ("%%apixo resume", "%%apixo resume"),
        ("%apixo panel", "%apixo panel"),
        ("%apixo resumes", "%apixo resumes"),
    ],
)
def test_commands_are_named_as_one_types_them_here(said: str, meant: str):
    assert in_terminal(said) == meant


def test_every_command_that_is_renamed_is_there():
    here = set(command_parsers(parser()))
    assert here == {name for names in GROUPS.values() for name in names}
    assert set(COMMANDS) - {"help", "panel", "wait", "config"} <= here


# --- demo ---------------------------------------------------------------------------------------------


#: What must not reach the demo: it has no business with anybody's key, service or ledger.
REAL = {
    "APIXO_API_KEY": KEY,
    "APIXO_BASE_URL": "http://127.0.0.1:9/",
    "APIXO_LEDGER": "sqlite:////nowhere/x.db",
}


def test_demo_makes_pictures_without_key_or_notebook_and_shows_them_again(tmp_path: Path):
    folder = tmp_path / "demo"
    first = in_a_terminal("demo", str(folder), columns=60, **REAL)
    assert first.count(" success ") == 2
    again = run("demo", str(folder), **REAL)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.count("shown again at $0") == 2
    pictures = list((folder / "images").glob("*.png"))
    assert len(pictures) == 3
    assert all(str(picture) in first for picture in pictures)
    table = frame.read_csv(folder / "experiments.csv")
    assert table["sandbox"].all()
    assert table["num_images"].tolist() == [1, 2]
    assert KEY not in first + again.stdout
    assert not (tmp_path / "home").exists()

    # Its line of progress is rewritten in place: it is never wrapped, and nothing of it stays.
    on_the_way = first.partition("\r✓")[0].splitlines()[2:]
    assert any("Waiting" in line for line in on_the_way)
    assert max(map(len, on_the_way)) < 60
    assert first.count("\r✓ SANDBOX") == 2


def in_a_terminal(*arguments: str, columns: int, **environment: str) -> str:
    """Everything that a person at a terminal of that width sees, up to the end of the command."""
    told = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES")}
    child: pexpect.spawn = pexpect.spawn(
        sys.executable,
        ["-m", "apixo_nb", *arguments],
        env={**told, **environment},
        dimensions=(24, columns),
        encoding="utf-8",
        timeout=PATIENCE_S,
    )
    shown = str(child.read())
    child.close()
    assert child.exitstatus == 0
    return shown


def test_demo_where_nothing_can_be_written_says_so_in_two_lines(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    done = run("demo", str(tmp_path / "file"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2


# --- completion ---------------------------------------------------------------------------------------

#: Calls the function that completes, as bash does on Tab.
TAB = """
source /dev/stdin <<< "$SCRIPT"
read -r _ _ _ _ function _ <<< "$(complete -p apixo-nb)"
COMP_WORDS=(apixo-nb "$@"); COMP_CWORD=$#
"$function" apixo-nb "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def completed() -> dict[str, str]:
    return {shell: run("completion", shell).stdout for shell in SHELLS}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ex"], {"export"}),
        (["export", "--kind", "p"], {"parquet"}),
        (["export", "run"], {"runs.csv"}),
        (["spend", ""], {"state", "day", "tag"}),
        (["budget", "--d"], {"--day"}),
        (["settle", "20261125-120000-12345678", ""], {"paid", "free"}),
        (["sandbox", "--ba"], {"--balance"}),
        (["completion", ""], set(SHELLS)),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_bash_completes(words: list[str], offered: set[str], completed: dict[str, str], tmp_path: Path):
    (tmp_path / "runs.csv").touch()
    done = subprocess.run(
        ["bash", "--norc", "-c", TAB, "bash", *words],
        env={**os.environ, "SCRIPT": completed["bash"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    assert (set(done.stdout.split()), done.stderr) == (offered, "")


def test_fish_completes(completed: dict[str, str]):
    script = f"{completed['fish']}\ncomplete -C 'apixo-nb ex'; complete -C 'apixo-nb settle x '"
    done = subprocess.run(["fish", "--no-config"], input=script, capture_output=True, text=True, check=True)
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == {"export", "paid", "free"}


def test_zsh_can_read_its_script(completed: dict[str, str]):
    subprocess.run(["zsh", "--no-rcs", "-n"], input=completed["zsh"], text=True, check=True)


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command(shell: str, completed: dict[str, str]):
    assert all(command in completed[shell] for command in command_parsers(parser()))


def test_completion_without_its_library_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: Any
):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "apixo-nb[completion]" in capsys.readouterr().err


# --- the sandbox as a program -------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "arguments",
    [("login", KEY), (KEY,), ("status", "--key", KEY), ("spend", KEY), ("export", "--kind", KEY)],
    ids=len,
)
def test_key_that_is_typed_on_the_line_is_not_repeated(arguments: tuple[str, ...]):
    done = run(*arguments)
    assert done.returncode != 0
    assert KEY not in done.stdout + done.stderr
