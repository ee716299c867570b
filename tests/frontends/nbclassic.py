"""``%%apixo`` and the panel in nbclassic, the notebook as it was before version 7: `nox -s nbclassic`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser, Page, expect

from tests.pages.frontends import NOTEBOOK, use
from tests.support.browser import WatchedPage
from tests.support.notebook_servers import START_S, Server

PATIENCE_MS = 60_000
READY = "window.Jupyter?.notebook?._fully_loaded && Jupyter.notebook.kernel?.is_connected()"
DONE = "Jupyter.notebook.get_cells().every(cell => !cell.element.hasClass('running'))"


class Classic(Server):
    """The classic notebook, as an extension of today's Jupyter server."""

    program = "nbclassic"
    page = "notebooks"

    def options(self) -> list[str]:
        """Without MathJax, which it would fetch from elsewhere."""
        return [*super().options(), "--NotebookApp.enable_mathjax=False"]


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory, lab_env: dict[str, str]) -> Iterator[Classic]:
    with Classic.running(tmp_path_factory.mktemp("nbclassic"), lab_env) as running:
        yield running


def opened(classic: Classic, browser: Browser, notebook: nbformat.NotebookNode, folder: str) -> WatchedPage:
    """The notebook's page, with its kernel connected."""
    path = classic.write(notebook, folder)
    watched = WatchedPage(browser.new_context(viewport={"width": 1280, "height": 900}), classic)
    watched.page.goto(classic.address(path))
    watched.page.wait_for_function(READY, timeout=START_S * 1000)
    return watched


def run(page: Page, *cells: int) -> None:
    """Start cells, the next when the last one has ended.

    *Run All* on a page that was just opened can leave its first anywidget empty, whoever wrote it: while the
    classic notebook loads anywidget, it forgets where the widget was to be shown.
    """
    for cell in cells:
        page.wait_for_function(DONE, timeout=PATIENCE_MS)
        page.evaluate("cell => Jupyter.notebook.execute_cells([cell])", cell)


def test_a_cell_shows_its_state_and_then_its_pictures(classic: Classic, browser: Browser) -> None:
    sources = ["%load_ext apixo_nb\n%apixo sandbox", "%%apixo --ar 3:2 -n 2\na cozy <b>café</b>"]
    watched = opened(classic, browser, new_notebook(cells=[*map(new_code_cell, sources)]), "cell")
    page = watched.page
    run(page, 0, 1)
    output = page.locator(".cell").nth(1).locator(".output")
    expect(output).to_contain_text("Waiting", timeout=PATIENCE_MS)
    expect(output.get_by_role("button", name="Cancel")).to_be_visible()
    expect(output.locator("img")).to_have_count(2, timeout=PATIENCE_MS)
    page.wait_for_function(DONE, timeout=PATIENCE_MS)
    widths = output.locator("img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert widths == [384, 384]
    expect(output).to_contain_text("a cozy <b>café</b>")
    expect(output.get_by_role("button")).to_have_count(0)
    watched.screenshot("nbclassic-cell")
    assert (watched.blocked, watched.errors) == ([], [])


def test_the_panel_works(classic: Classic, browser: Browser) -> None:
    watched = opened(classic, browser, nbformat.read(Path(NOTEBOOK), as_version=4), "panel")
    run(watched.page, 1, 2)
    use(watched.page)
    watched.screenshot("nbclassic-panel", full_page=True)
    assert (watched.blocked, watched.errors) == ([], [])
