"""Cells that return at once: their pictures come later, in their own output, and ``wait`` waits for them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from apixo_nb.sandbox import Sandbox, SandboxOptions
from tests.support.kernels import error_of, execute, kernel, rows, text_of

LOAD = "%load_ext apixo_nb"
PICTURE = "data:image/webp"

pytestmark = pytest.mark.usefixtures("service")


class Clock:
    """The sandbox's clock: real time, and whatever a test adds to it."""

    ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sandbox(clock: Clock) -> Iterator[Sandbox]:
    """What `service` serves; tasks of 1000 seconds end when a test says so."""
    with Sandbox(SandboxOptions(seconds=0.1, picture_scale=0.25), clock=clock) as running:
        yield running


def card_of(cell: nbformat.NotebookNode) -> str:
    """The HTML of the one output of a cell."""
    (output,) = [output for output in cell.outputs if "data" in output]
    return str(output.data["text/html"])


def error_free(messages: list[dict[str, Any]]) -> bool:
    return all(message["msg_type"] != "error" for message in messages)


def test_a_background_cell_returns_at_once_and_binds_a_job(tmp_path: Path, service: Sandbox) -> None:
    with kernel(tmp_path) as notebook:
        for outer in ("", "%%time\n"):  # awaited, and blocking
            messages = notebook.run(f"{outer}%%apixo --bg -o fox\n[never] a fox")
            assert error_free(messages)
            assert PICTURE not in str(messages)
            assert notebook.value("type(fox).__name__, fox.done") == "('Job', False)"
            notebook.run("fox.stop()")
            assert notebook.value("fox.done") == "True"
    assert service.account.submits <= 2


def test_later_cells_run_while_a_background_cell_goes_on_and_its_output_becomes_the_card(
    tmp_path: Path, clock: Clock
) -> None:
    with kernel(tmp_path) as notebook:
        background = notebook.start("%%apixo --bg -o foxes\n[seconds:1000] a fox\n---\n[never] another")
        assert error_free(notebook.finish(background))
        messages = notebook.run("%%apixo\na cat")  # bought, made and shown in the meantime
        assert PICTURE in str(messages)
        assert notebook.value("[(type(job).__name__, job.done) for job in foxes]") == str(
            [("Job", False)] * 2
        )
        clock.ahead_s += 1000
        notebook.wait_for(background, PICTURE)  # a message of the first cell, long after its end
        assert notebook.value("[job.done for job in foxes]") == "[True, False]"
    assert [run.state for run in rows() if run.state == "success"] == ["success"] * 2


def test_a_busy_kernel_does_not_hold_up_a_background_cell(tmp_path: Path) -> None:
    cells = [
        LOAD,
        "%%apixo --bg -o fox\na fox",
        "import time\npatience = time.monotonic() + 30",
        "while not fox.done and time.monotonic() < patience: pass",
        "fox.done, fox.run.state, fox.wait().missing",
    ]
    notebook = execute(cells, tmp_path)
    assert text_of(notebook.cells[4]).strip() == "(True, 'success', 0)"


def test_in_a_headless_run_the_background_cells_outputs_hold_their_cards_and_wait_returns_the_runs(
    tmp_path: Path,
) -> None:
    cells = [
        LOAD,
        "import apixo_nb",
        "%%apixo --bg\n[seconds:0.5] a fox",
        "%apixo wait",
        "%%apixo --bg -n 2\n[seconds:0.7] a cat",
        "%%apixo --bg\na dog\n---\na cow",
        "[(run.prompt[-3:], run.state, len(run.files)) for run in apixo_nb.wait()]",
        "apixo_nb.wait()",
        "%apixo wait",
    ]
    notebook = execute(cells, tmp_path)
    fox, cat = card_of(notebook.cells[2]), card_of(notebook.cells[4])
    assert (fox.count(PICTURE), cat.count(PICTURE)) == (1, 2)
    assert ("a fox" in fox, "a cat" in cat, "Waiting" in fox + cat) == (True, True, False)
    assert [PICTURE in output.data["text/html"] for output in notebook.cells[5].outputs] == [True, True]
    assert "1 run(s) have ended" in text_of(notebook.cells[3])
    (value,) = [output for output in notebook.cells[6].outputs if output.output_type == "execute_result"]
    assert value.data["text/plain"] == str(
        [("cat", "success", 2), ("dog", "success", 1), ("cow", "success", 1)]
    )
    assert text_of(notebook.cells[7]).strip() == "[]"
    assert "No cell runs in the background" in text_of(notebook.cells[8])
    assert "widget" not in json.dumps(notebook)


def test_nbconvert_saves_the_card_of_a_background_cell(tmp_path: Path) -> None:
    cells = [LOAD, "%%apixo --bg\n[seconds:0.5] a fox", "1 + 1", "%apixo wait"]
    source = tmp_path / "fox.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), source
    )
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", str(source)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=100)
    executed = nbformat.read(source, as_version=4)
    assert PICTURE in card_of(executed.cells[1])
    assert "1 run(s) have ended" in text_of(executed.cells[3])


def test_an_error_of_a_background_run_is_raised_by_wait_after_all_have_ended(tmp_path: Path) -> None:
    cells = [
        LOAD,
        "%%apixo --bg -o jobs\n[fail:SensitiveContent] a fox\n---\n[seconds:0.6] a cat",
        "'still here'",
        "%apixo wait",
        "[job.done for job in jobs], jobs[1].run.state",
    ]
    notebook = execute(cells, tmp_path, allow_errors=True)
    kinds = [[output.output_type for output in cell.outputs] for cell in notebook.cells]
    assert "error" not in kinds[1] + kinds[2]
    assert kinds[3][-1] == "error"
    assert notebook.cells[3].outputs[-1].ename == "TaskFailedError"
    assert text_of(notebook.cells[4]).strip() == "([True, True], 'success')"
    assert "SensitiveContent" in str(notebook.cells[1].outputs[0].data["text/html"])
    assert PICTURE in str(notebook.cells[1].outputs[1].data["text/html"])


def test_stop_ends_the_waiting_and_not_the_runs(tmp_path: Path, service: Sandbox, clock: Clock) -> None:
    with kernel(tmp_path) as notebook:
        notebook.run("import apixo_nb")
        notebook.run("%%apixo --bg -o fox\n[seconds:1000] a fox")
        waiting = notebook.start("print('Now it waits')\napixo_nb.wait()")
        notebook.wait_for(waiting, "Now it waits")
        notebook.interrupt()
        assert error_of(notebook.finish(waiting))["ename"] == "KeyboardInterrupt"
        assert notebook.value("fox.stopped, fox.done") == "(False, False)"
        clock.ahead_s += 1000
        assert notebook.value("[run.state for run in apixo_nb.wait()]") == "['success']"
    assert [run.state for run in rows()] == ["success"]
    assert service.account.submits == 1


def test_stop_of_another_cell_leaves_a_background_run_alone(tmp_path: Path, clock: Clock) -> None:
    with kernel(tmp_path) as notebook:
        notebook.run("%%apixo --bg -o fox\n[seconds:1000] a fox")
        waiting = notebook.start("%%apixo\n[never] a cat")
        notebook.wait_for(waiting, "Waiting")
        notebook.interrupt()
        notebook.finish(waiting)
        clock.ahead_s += 1000
        assert notebook.value("fox.wait().state") == "'success'"
    assert [run.state for run in rows()] == ["success", "cancelled"]


def test_a_kernel_that_ends_leaves_its_background_run_to_be_resumed(
    tmp_path: Path, service: Sandbox, clock: Clock
) -> None:
    execute([LOAD, "%%apixo --bg\n[seconds:1000] a fox", wait_until_accepted()], tmp_path)
    clock.ahead_s += 1000
    notebook = execute([LOAD, "%apixo resume"], tmp_path)
    assert PICTURE in card_of(notebook.cells[1])
    assert ([run.state for run in rows()], service.account.submits) == (["success"], 1)


def wait_until_accepted() -> str:
    """A cell that ends once the service has taken the run."""
    return (
        "import time\nfrom apixo_nb.session.session import current\n"
        "while not any(run.task_id for run in current().runs()): time.sleep(0.02)"
    )
