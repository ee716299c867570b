"""``%%apixo`` in a real JupyterLab, in a real browser."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import expect

from apixo_nb.core.records import Run
from apixo_nb.ledger.ledger import Ledger
from tests.support import jupyterlab
from tests.support.browser import NotebookPage, OpenNotebook
from tests.support.jupyterlab import START, pictures

clean = jupyterlab.clean


pytestmark = pytest.mark.browser


def test_a_cell_shows_its_state_and_then_its_pictures(clean: OpenNotebook) -> None:
    notebook = clean([START, "%%apixo --ar 3:2 -n 2\na cozy café <b>with</b> neon lights"])
    notebook.run_cell(0)
    notebook.start_run_cell(1)
    output = notebook.page.locator(".jp-Cell").nth(1).locator(".jp-OutputArea")
    expect(output).to_contain_text("Waiting", timeout=30_000)
    expect(output.get_by_role("button", name="Cancel")).to_be_visible()
    expect(output.locator("img").first).to_be_visible(timeout=30_000)
    notebook.wait_finished()
    assert pictures(notebook.page) == [384, 384]
    expect(output).to_contain_text("a cozy café <b>with</b> neon lights")
    expect(output.get_by_role("button")).to_have_count(0)
    notebook.screenshot("lab-cell")


def test_cancel_is_heard_while_its_own_cell_runs(clean: OpenNotebook) -> None:
    notebook = clean([START, "%%apixo\n[never] a task without an end", "'the next cell'"])
    notebook.run_cell(0)
    notebook.start_run_cell(1)
    cancel = notebook.page.get_by_role("button", name="Cancel", exact=True)
    cancel.click(timeout=30_000)
    notebook.wait_finished()
    error = notebook.outputs(1)[-1]
    assert error["ename"] == "RunCancelledError"
    assert "%apixo resume" in error["evalue"]
    notebook.run_cell(2)
    assert notebook.outputs(2)[0]["data"]["text/plain"] == "'the next cell'"


def test_stop_ends_the_cell_and_the_kernel_lives(clean: OpenNotebook) -> None:
    notebook = clean([START, "%%apixo\n[never] x", "1 + 1"])
    notebook.run_cell(0)
    notebook.start_run_cell(1)
    expect(notebook.page.locator(".jp-OutputArea").nth(1)).to_contain_text("Waiting", timeout=30_000)
    notebook.interrupt()
    notebook.wait_finished()
    assert notebook.outputs(1)[-1]["ename"] in ("CancelledError", "KeyboardInterrupt")
    assert "%apixo resume" in notebook.outputs(1)[-1]["traceback"][1]
    notebook.run_cell(2)
    assert notebook.outputs(2)[0]["data"]["text/plain"] == "2"


def test_a_sweep_is_one_line_with_a_bar_and_cancel_and_then_a_gallery(clean: OpenNotebook) -> None:
    cell = "%%apixo --set style=oil,ink --ar 1:1,3:2 --repeat 2 --yes -o made\n[seconds:2] a {style} fox"
    stopped = "%%apixo --set x=quick,[never] -o left\n{x}"
    notebook = clean([START, cell, stopped, "len(left.runs), made.done"])
    notebook.run_cell(0)
    notebook.start_run_cell(1)
    output = notebook.page.locator(".jp-Cell").nth(1).locator(".jp-OutputArea")
    expect(output).to_contain_text("of 8 done", timeout=30_000)
    expect(output.get_by_role("button", name="Cancel")).to_be_visible()
    notebook.screenshot("lab-sweep-under-way")
    notebook.wait_finished()
    expect(output).to_contain_text("8 of 8 done")
    assert pictures(notebook.page) == [160] * 8
    notebook.screenshot("lab-sweep")
    notebook.start_run_cell(2)
    waiting = notebook.page.locator(".jp-Cell").nth(2).locator(".jp-OutputArea")
    expect(waiting).to_contain_text("1 of 2 done", timeout=30_000)
    waiting.get_by_role("button", name="Cancel", exact=True).click(timeout=30_000)
    notebook.wait_finished()
    expect(waiting).to_contain_text("1 of 2 done · 1 stopped")
    notebook.run_cell(3)
    assert notebook.outputs(3)[0]["data"]["text/plain"] == "(2, True)"


def test_run_all_goes_through_cells_in_order(clean: OpenNotebook) -> None:
    notebook = clean([START, "%%apixo -o a\nfirst", "%%apixo -o b\nsecond", "a.state, b.state"])
    notebook.run_all()
    assert notebook.outputs(3)[0]["data"]["text/plain"] == "('success', 'success')"


def test_the_saved_notebook_holds_light_html_and_no_widgets(clean: OpenNotebook) -> None:
    notebook = clean([START, "%%apixo -n 4\nx"])
    notebook.run_all()
    saved = json.dumps(notebook.save())
    assert "widget-view" not in saved
    assert saved.count("data:image/webp") == 4
    assert len(saved) < 4 * 40_000


def test_a_click_on_a_thumbnail_opens_the_original(clean: OpenNotebook) -> None:
    notebook = clean([START, "%%apixo\nx"])
    notebook.run_all()
    notebook.page.locator(".jp-OutputArea a:has(img)").first.click()
    original = notebook.page.locator(".jp-ImageViewer img")
    expect(original).to_be_visible(timeout=30_000)
    assert original.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1024


def test_tab_offers_ratios(clean: OpenNotebook) -> None:
    notebook = clean([START, "%%apixo --ar "])
    notebook.run_cell(0)
    editor = notebook.page.locator(".jp-Cell .cm-content").nth(1)
    editor.click()
    notebook.page.keyboard.press("End")
    notebook.page.keyboard.press("Tab")
    expect(notebook.page.locator(".jp-Completer-item")).to_contain_text(["1:1", "2:3", "3:2"], timeout=30_000)


def test_originals_stay_beside_the_notebook(clean: OpenNotebook) -> None:
    notebook = clean([START, "%%apixo\nx"])
    notebook.run_all()
    folder: Path = notebook.path.parent / "apixo-runs" / "images"
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".png"]


# --- a request belongs to the cell that asks for it ---


def ledger_rows(notebook: NotebookPage) -> list[Run]:
    with closing(Ledger(notebook.path.parent / "apixo-runs" / "ledger.db")) as ledger:
        return ledger.runs()


def test_run_all_twice_and_in_a_new_kernel_buys_once_for_each_cell(clean: OpenNotebook) -> None:
    notebook = clean([START, "%%apixo\na fox", "%%apixo -n 2\na hen", "%%apixo\na fox"])
    notebook.run_all()
    bought = ledger_rows(notebook)
    notebook.run_all()
    notebook.restart_kernel()
    notebook.run_all()
    assert ledger_rows(notebook) == bought
    cells = notebook.save().cells
    assert [run.cell_id for run in bought] == [cell.id for cell in cells[1:]]
    assert {run.notebook for run in bought} == {str(notebook.path)}
    for number, run in enumerate(bought, 1):
        output = notebook.page.locator(".jp-Cell").nth(number).locator(".jp-OutputArea")
        expect(output).to_contain_text("shown again at $0")
        assert run.run_id in json.dumps(notebook.outputs(number))
    notebook.screenshot("lab-replay")


def test_stop_and_run_again_is_one_task(clean: OpenNotebook) -> None:
    notebook = clean([START, "%%apixo\n[seconds:8] x"])
    notebook.run_cell(0)
    notebook.start_run_cell(1)
    expect(notebook.page.locator(".jp-OutputArea").nth(1)).to_contain_text("Waiting", timeout=30_000)
    notebook.interrupt()
    notebook.wait_finished()
    notebook.run_cell(1)
    assert "taken up again at $0" in json.dumps(notebook.outputs(1))
    [run] = ledger_rows(notebook)
    assert (run.state, run.missing) == ("success", 0)


def test_a_notebook_whose_file_keeps_no_ids_is_opened_again_and_buys_nothing(clean: OpenNotebook) -> None:
    old = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, [START, *["%%apixo\na fox"] * 2])])
    old.nbformat_minor = 4
    for cell in old.cells:
        del cell["id"]
    notebook = clean(old)
    notebook.run_all()
    bought = ledger_rows(notebook)
    notebook.save()
    notebook.restart_kernel()
    notebook.reload()
    notebook.run_all()
    assert (ledger_rows(notebook), len(bought)) == (bought, 2)
