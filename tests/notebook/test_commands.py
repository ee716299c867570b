"""The commands of ``%apixo`` in an IPython shell: what each says, and how a wrong word is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from apixo_nb.core.records import Run
from apixo_nb.core.settings import settings
from apixo_nb.errors import (
    ApixoError,
    BudgetError,
    CostLimitError,
    InvalidRequestError,
    NotFoundError,
    SubmitUnknownError,
)
from apixo_nb.notebook.commands import COMMANDS
from apixo_nb.sandbox import Sandbox
from apixo_nb.session import session as shared
from apixo_nb.session.session import Session
from tests.support import factories, sandboxes
from tests.support.factories import a_run
from tests.support.processes import in_processes, run_cell
from tests.support.waiting import wait_for

clock, sandbox, session = sandboxes.clock, sandboxes.sandbox, sandboxes.session

Apixo = Callable[[str], str]


@pytest.fixture(scope="module")
def ipython(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteractiveShell]:
    """The one IPython shell of this module, without history and without a terminal."""
    quiet = Config()
    quiet.HistoryManager.enabled = False
    folder = str(tmp_path_factory.mktemp("ipython"))
    made = InteractiveShell.instance(config=quiet, ipython_dir=folder, user_module=ModuleType("cells"))
    yield made
    made.restore_sys_module_state()
    InteractiveShell.clear_instance()


@pytest.fixture
def cell(
    ipython: InteractiveShell,
    session: Session,  # noqa: ARG001 - the environment is set before the extension looks at it
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Apixo]:
    """Runs a cell as a person does; returns what it prints, or raises what it raises."""
    monkeypatch.chdir(tmp_path)
    ipython.run_line_magic("load_ext", "apixo_nb")

    def run(source: str) -> str:
        capsys.readouterr()
        result = ipython.run_cell(source)
        error = result.error_before_exec or result.error_in_exec
        said = capsys.readouterr().out
        if error is not None:
            raise error
        return said

    yield run
    ipython.run_line_magic("unload_ext", "apixo_nb")


@pytest.fixture
def apixo(cell: Apixo) -> Apixo:
    """Runs ``%apixo`` with what follows it."""
    return lambda line: cell(f"%apixo {line}")


def lost(session: Session, cell: Apixo, prompt: str = "[lost] a fox") -> Run:
    """A run whose submit was accepted and never answered."""
    with pytest.raises(SubmitUnknownError):
        cell(f"%%apixo\n{prompt}")
    return session.ledger.runs()[-1]


# --- wrong words ------------------------------------------------------------------------------------

WRONG = [
    ("balance now", "balance", "now", ""),
    ("status x", "status", "x", ""),
    ("spend week", "spend", "week", "state, day, tag"),
    ("budget much", "budget", "much", "a sum in US dollars such as 5.00, or off"),
    ("budget -1", "budget", "-1", "a sum in US dollars such as 5.00, or off"),
    ("budget nan", "budget", "nan", "a sum in US dollars such as 5.00, or off"),
    ("budget inf", "budget", "inf", "a sum in US dollars such as 5.00, or off"),
    ("budget 5 --week", "budget", "5 --week", "%apixo budget SUM or off, then --total (default), --day or"),
    ("budget 5 6", "budget", "5 6", "%apixo budget SUM or off"),
    ("budget --day", "budget", "--day", "%apixo budget SUM or off"),
    ("budget 5 --day --total", "budget", "5 --day --total", "%apixo budget SUM or off"),
    ("history none", "history", "none", "1, 2, 3 ..."),
    ("history 0", "history", "0", "1, 2, 3 ..."),
    ("resume a b c", "resume", "a b c", "%apixo resume, or with a run"),
    ("resume nobody", "run_id", "nobody", ""),
    ("resume nobody task_1", "run_id", "nobody", ""),
    ("settle", "settle", "", "%apixo settle RUN paid, or %apixo settle RUN free"),
    ("settle nobody", "settle", "nobody", "%apixo settle RUN paid"),
    ("settle nobody maybe", "settle", "nobody maybe", "%apixo settle RUN paid"),
    ("settle nobody paid", "run_id", "nobody", ""),
    ("rescue all", "rescue", "all", ""),
    ("doctor --all", "doctor", "--all", "nothing, --rebuild or --accept"),
    ("wait x", "wait", "x", ""),
    ("logout x", "logout", "x", ""),
    ("config x", "config", "x", ""),
    ("sandbox maybe", "sandbox", "maybe", "on, off"),
    ("export", "export", "", "%apixo export FILE.csv"),
    ("export a.csv b.csv", "export", "", "%apixo export FILE.csv"),
    (
        "export --excel",
        "export",
        "",
        "%apixo export FILE.csv, FILE.jsonl, FILE.parquet, FILE.html, FILE.png or FILE.zip",
    ),
    (
        "export a.csv --exel",
        "export",
        "",
        "%apixo export FILE.csv, FILE.jsonl, FILE.parquet, FILE.html, FILE.png or FILE.zip",
    ),
    ("panel open", "panel", "open", ""),
    ("resuem", "command", "resuem", "login, logout, status, balance, spend, budget"),
]


@pytest.mark.parametrize("row", WRONG, ids=lambda row: row[0])
def test_wrong_word_is_named_with_what_is_allowed(
    apixo: Apixo, session: Session, sandbox: Sandbox, row: tuple[str, str, str, str]
):
    line, field, value, allowed = row
    with pytest.raises(InvalidRequestError) as refused:
        apixo(line)
    assert (refused.value.field, refused.value.value) == (field, value)
    assert refused.value.allowed.startswith(allowed)
    assert len(str(refused.value).splitlines()) == 2
    assert refused.value.advice.endswith("Nothing was sent.")
    assert (session.ledger.runs(), sandbox.account.submits) == ([], 0)


def test_word_that_is_nearly_a_command_is_guessed(apixo: Apixo):
    with pytest.raises(InvalidRequestError, match="Did you mean settle"):
        apixo("setle")


def test_every_command_is_in_the_help(apixo: Apixo):
    for line in ("", "help"):
        said = apixo(line)
        assert all(f"  {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_of_its_own(apixo: Apixo, sandbox: Sandbox, name: str):
    assert apixo(f"{name} --help").startswith(f"usage: %apixo {name}")
    assert sandbox.account.submits == 0


# --- money ------------------------------------------------------------------------------------------


def test_budget_in_all_its_forms(apixo: Apixo, monkeypatch: pytest.MonkeyPatch):
    assert apixo("budget") == "SANDBOX · No budget is set.\n"
    assert apixo("budget 5.00") == "SANDBOX · $5.00 in total: $0.00 spent, $5.00 left\n"
    assert apixo("budget $4") == "SANDBOX · $4.00 in total: $0.00 spent, $4.00 left\n"
    assert "SANDBOX · $2.00 for today: $0.00 spent, $2.00 left" in apixo("budget 2 --day").splitlines()
    assert "SANDBOX · $3.00 in total: $0.00 spent, $3.00 left" in apixo("budget --total 3").splitlines()
    monkeypatch.setattr(shared.current().settings, "notebook", "/notes/foxes.ipynb")
    assert "SANDBOX · $1.00 for foxes.ipynb: $0.00 spent, $1.00 left" in apixo("budget 1 --notebook")
    assert len(apixo("budget").splitlines()) == 3
    apixo("budget off --notebook")
    apixo("budget off --day")
    assert apixo("budget off") == "SANDBOX · No budget is set.\n"


def test_cell_above_the_budget_is_refused_in_two_lines_that_name_it(
    apixo: Apixo, cell: Apixo, sandbox: Sandbox, session: Session
):
    apixo("budget 0.70")
    with pytest.raises(ApixoError) as refused:
        cell("%%apixo\na\n---\nb\n---\nc")
    headline, advice = str(refused.value).splitlines()
    assert headline == (
        "This would cost $1.05 and pass the budget of $0.70 in total: $0.00 spent, $0.70 left"
    )
    assert advice.startswith("Nothing was sent. `%apixo budget`")
    assert (sandbox.account.submits, session.ledger.runs()) == (0, [])
    assert "$0.70 spent, $0.00 left" in (cell("%%apixo\na\n---\nb") and apixo("budget"))


def test_max_cost_of_a_cell_binds_although_the_budget_would_not(apixo: Apixo, cell: Apixo, sandbox: Sandbox):
    apixo("budget 10")
    with pytest.raises(ApixoError, match=r"above the limit of \$0\.30"):
        cell("%%apixo --max-cost 0.30\na")
    assert sandbox.account.submits == 0


# --- submits without an answer ----------------------------------------------------------------------


def test_resume_says_what_is_at_stake_and_how_to_settle_it(apixo: Apixo, cell: Apixo, session: Session):
    run = lost(session, cell)
    said = apixo("resume").splitlines()
    assert said[0] == "1 submit(s) without an answer, up to $0.35 at stake; they are not sent again:"
    assert said[1] == f"  run {run.run_id}: [lost] a fox"
    assert any(line.startswith("  %apixo settle RUN paid") for line in said)


def test_lost_submit_adopts_the_task_that_it_became(
    apixo: Apixo, cell: Apixo, session: Session, sandbox: Sandbox
):
    run = lost(session, cell)
    [task_id] = sandbox.account.accepted
    said = apixo(f"resume {run.run_id} {task_id}")
    [found] = session.ledger.runs()
    assert (found.state, found.task_id, found.missing, found.cost_micros) == ("success", task_id, 0, 350_000)
    assert found.files[0] in said
    assert "Nothing to resume" in apixo("resume")
    assert in_processes(run_cell, 1, "[lost] a fox") == [
        [run.run_id, *found.files]
    ]  # another kernel shows it
    assert sandbox.account.submits == 1


def test_task_that_apixo_does_not_know_is_not_adopted(apixo: Apixo, cell: Apixo, session: Session):
    run = lost(session, cell)
    with pytest.raises(NotFoundError):
        apixo(f"resume {run.run_id} task_0123456789abcdef")
    assert [(found.state, found.task_id) for found in session.ledger.runs()] == [("unknown", None)]


def test_task_of_another_run_is_not_adopted(apixo: Apixo, cell: Apixo, session: Session):
    cell("%%apixo\na cat")
    [other] = session.ledger.runs()
    run = lost(session, cell)
    with pytest.raises(InvalidRequestError, match=f"is that of run {other.run_id} already") as refused:
        apixo(f"resume {run.run_id} {other.task_id}")
    assert (refused.value.field, refused.value.value) == ("task_id", other.task_id)
    assert session.run(run.run_id) == run


@pytest.mark.parametrize("words", ["resume {} task_1", "settle {} paid", "settle {} free"])
@pytest.mark.parametrize("state", ["success", "processing", "failed", "planned"])
def test_run_whose_submit_was_answered_is_neither_adopted_nor_settled(
    apixo: Apixo, session: Session, words: str, state: str
):
    run = a_run(state=state, task_id=None if state == "planned" else "task_9")
    session.ledger.insert(run)
    with pytest.raises(InvalidRequestError, match="its submit was answered") as refused:
        apixo(words.format(run.run_id))
    assert (refused.value.field, refused.value.allowed) == ("run_id", "a run that is unknown")
    assert session.ledger.runs() == [run]


def test_settled_as_free_costs_nothing_and_the_cell_buys_it_anew(
    apixo: Apixo, cell: Apixo, session: Session, sandbox: Sandbox
):
    run = lost(session, cell, "[lost:500] a fox")
    assert apixo(f"settle {run.run_id} free") == f"Run {run.run_id} counts as $0.00, and is settled.\n"
    [found] = session.ledger.runs()
    assert (found.state, found.cost_micros) == ("failed", 0)
    assert found.fail_msg.startswith("Settled by hand: not charged. ")
    assert "Nothing to resume" in apixo("resume")
    with pytest.raises(SubmitUnknownError):
        cell("%%apixo\n[lost:500] a fox")
    assert sandbox.account.submits == 2


def test_settled_as_paid_is_spent_and_the_cell_buys_another(
    apixo: Apixo, cell: Apixo, session: Session, sandbox: Sandbox
):
    run = lost(session, cell)
    assert apixo(f"settle {run.run_id} paid") == f"Run {run.run_id} counts as $0.35, and is settled.\n"
    [found] = session.ledger.runs()
    assert (found.cost_micros, found.task_id) == (350_000, None)
    assert found.fail_msg.startswith("Settled by hand: charged. ")
    assert "Nothing to resume" in apixo("resume")
    assert "in all: $0.35 by list price, none of it paid" in apixo("spend")
    with pytest.raises(SubmitUnknownError):
        cell("%%apixo\n[lost] a fox")
    assert sandbox.account.submits == 2


def test_settled_run_can_be_settled_otherwise_while_it_has_no_task(
    apixo: Apixo, cell: Apixo, session: Session
):
    run = lost(session, cell)
    apixo(f"settle {run.run_id} paid")
    apixo(f"settle {run.run_id} free")
    assert session.run(run.run_id).cost_micros == 0


# --- the rest ---------------------------------------------------------------------------------------


def test_resume_brings_what_is_unfinished_to_its_end(apixo: Apixo, session: Session, sandbox: Sandbox):
    session.ledger.insert(factories.with_task(session, "[seconds:0.2] a fox"))
    said = apixo("resume")
    [run] = session.ledger.runs()
    assert (run.state, run.missing) == ("success", 0)
    assert run.files[0] in said
    assert apixo("resume") == "Nothing to resume: every task has ended, and its pictures are on disk.\n"
    assert sandbox.account.submits == 1


def test_history_shows_as_many_rows_as_asked_for(cell: Apixo, session: Session):
    for number in range(12):
        session.ledger.insert(a_run(f"fox {number}", state="planned"))
    assert "(10, " in cell("print((_ := get_ipython().run_line_magic('apixo', 'history')).shape)")
    assert "(3, " in cell("print((_ := get_ipython().run_line_magic('apixo', 'history 3')).shape)")
    assert "(12, " in cell("print((_ := get_ipython().run_line_magic('apixo', 'history 50')).shape)")


def test_export_names_the_file_it_has_written(apixo: Apixo, session: Session, tmp_path: Path):
    session.ledger.insert(a_run("fox", state="planned"))
    assert apixo("export runs.csv") == "Written: runs.csv\n"
    assert (tmp_path / "runs.csv").read_text("utf-8").startswith('"run_id"')


@pytest.mark.parametrize(
    ("line", "begins"),
    [
        ("runs.jsonl", b'{"run_id"'),
        ("runs.parquet", b"PAR1"),
        ("runs.html", b"<!DOCTYPE html>"),
        ("runs.csv --excel", b'\xef\xbb\xbf"run_id"'),
        ('--excel "my runs.csv"', b'\xef\xbb\xbf"run_id"'),
    ],
)
def test_export_goes_by_the_end_of_the_name(
    apixo: Apixo, session: Session, tmp_path: Path, line: str, begins: bytes
):
    session.ledger.insert(a_run("fox", state="planned"))
    said = apixo(f"export {line}")
    assert (tmp_path / said.removeprefix("Written: ").strip()).read_bytes().startswith(begins)


@pytest.mark.parametrize("line", ["runs.pdf", "runs.xlsx --excel", "runs.html --excel"])
def test_export_to_another_kind_of_file_says_what_can_be(apixo: Apixo, tmp_path: Path, line: str):
    with pytest.raises(ApixoError, match=r"could not be written.*\n.*\.csv"):
        apixo(f"export {line}")
    assert not list(tmp_path.glob("runs*"))


def test_panel_is_a_sentence_where_nobody_can_click(apixo: Apixo, sandbox: Sandbox):
    assert "The panel is a form in the notebook: open the notebook in JupyterLab" in apixo("panel")
    assert sandbox.account.submits == 0


def test_wait_without_a_cell_in_the_background_says_so(apixo: Apixo):
    assert apixo("wait") == "No cell runs in the background.\n"


def test_wait_ends_with_the_cells_in_the_background(apixo: Apixo, cell: Apixo, session: Session):
    cell("%%apixo --bg\n[seconds:0.3] a fox")
    assert apixo("wait").endswith("1 run(s) have ended.\n")
    wait_for(lambda: not session.busy, "the run to be let go")
    assert [run.state for run in session.ledger.runs()] == ["success"]


def test_config_shows_every_setting_and_no_secret(apixo: Apixo, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared.current().settings, "home", "elsewhere")
    said = apixo("config")
    assert all(f"Apixo.{name} " in said for name in ("base_url", "home", "timeout", "replay"))
    assert "test-key" not in said


# --- where runs are kept ----------------------------------------------------------------------------

MOVED = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in ("%load_ext apixo_nb", "%apixo budget 1", "%cd -q below", "%config Apixo.poll_interval = 0.1",
             "%apixo budget", "%config Apixo.home = 'other'", "%apixo budget"):
    shell.run_cell(cell)
"""


def test_ledger_and_budget_stay_when_the_notebook_changes_its_folder(
    service: Sandbox,  # noqa: ARG001 - it is where the environment says
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delenv("APIXO_HOME")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    below = tmp_path / "below" / "apixo-runs"
    below.mkdir(parents=True)
    (below / "ledger.db").touch()
    done = subprocess.run([sys.executable, "-c", MOVED], cwd=tmp_path, capture_output=True, check=True)
    said = done.stdout.decode().splitlines()
    home = tmp_path / "apixo-runs"
    assert f"apixo_nb: runs are kept in {home}; the ledger in {below} is not used." in said
    assert sum("$1.00 in total" in line for line in said) == 2
    assert f"apixo_nb: runs and budgets are kept in {tmp_path / 'below' / 'other'} from now on." in said
    assert "No budget is set." in said[-1]
    assert (home / "ledger.db").is_file()


# --- what stands in front of every purchase ---------------------------------------------------------

DOORS = [
    "%%apixo\na fox",
    "%%apixo -n 4\na fox",
    "%%apixo --new\na cat",
    "%%apixo --bg\na fox",
    "%%apixo\na fox\n---\nan owl",
    "%%apixo --repeat 3\na fox",
    "%%apixo --ar 1:1,3:2\na fox",
    "apixo_nb.generate('a fox')",
    "apixo_nb.generate('a cat', new=True)",
    "await apixo_nb.agenerate('a fox')",
    "apixo_nb.sweep('{a}', a=['a fox', 'an owl'])",
    "apixo_nb.history().apixo.rerun(0)",
]


@pytest.mark.parametrize("door", DOORS)
def test_no_door_buys_above_the_sum_where_there_is_nobody_to_ask(
    cell: Apixo, session: Session, sandbox: Sandbox, door: str
):
    session.begin("a cat").wait()
    cell("import apixo_nb")
    settings().ask_above_usd = 0.1
    with pytest.raises(CostLimitError, match=r"there is nobody to ask here\n.*Nothing was sent\."):
        cell(door)
    assert (sandbox.account.submits, len(shared.current().ledger.runs())) == (1, 1)


@pytest.mark.parametrize("door", DOORS)
def test_no_door_passes_a_budget(cell: Apixo, apixo: Apixo, session: Session, sandbox: Sandbox, door: str):
    session.begin("a cat").wait()
    cell("import apixo_nb")
    apixo("budget 0.40")
    with pytest.raises(BudgetError):
        cell(door)
    assert (sandbox.account.submits, len(session.ledger.runs())) == (1, 1)
