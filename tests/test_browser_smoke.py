"""The browser harness itself: if these fail, look at tests/browser.py before looking at the package."""

import asyncio

import pytest

from tests.browser import OpenHtml, OpenNotebook

pytestmark = pytest.mark.browser

HTML = "from IPython.display import HTML\nHTML('<b id=hello>hello</b>')"


def test_cells_run_and_their_outputs_can_be_read_and_saved(open_notebook: OpenNotebook):
    notebook = open_notebook(["1 + 1", HTML])
    notebook.run_all()

    number, html = notebook.outputs()
    assert number["data"] == {"text/plain": "2"}
    assert html["data"]["text/html"] == "<b id=hello>hello</b>"
    assert notebook.page.locator("b", has_text="hello").is_visible()
    assert notebook.save().cells[0].outputs == [number]
    assert notebook.screenshot("smoke").stat().st_size > 10_000
    assert notebook.blocked == []
    assert notebook.errors == []


def test_a_running_cell_can_be_watched_and_stopped(open_notebook: OpenNotebook):
    notebook = open_notebook(["import time\nprint('started')\nfor _ in range(600):\n    time.sleep(0.1)"])
    notebook.start_run_all()
    notebook.page.get_by_text("started", exact=True).wait_for()
    assert not notebook.finished()
    notebook.interrupt()
    notebook.wait_finished(timeout_s=10)
    assert notebook.outputs(0)[-1]["ename"] == "KeyboardInterrupt"


def test_the_kernel_forgets_at_a_restart_and_the_page_remembers_after_a_reload(open_notebook: OpenNotebook):
    notebook = open_notebook(["known = 'known' in globals(); known"])
    notebook.run_all()
    notebook.restart_kernel()
    notebook.run_cell(0)
    notebook.save()
    notebook.reload()
    assert notebook.outputs(0)[0]["data"]["text/plain"] == "False"


def test_a_theme_lasts_for_one_notebook(open_notebook: OpenNotebook):
    dark = open_notebook(["1"])
    dark.set_theme("JupyterLab Dark")
    light = open_notebook(["1"], size=(800, 600))
    assert light.page.evaluate("document.body.dataset.jpThemeName") == "JupyterLab Light"
    assert light.page.viewport_size == {"width": 800, "height": 600}


def test_requests_to_elsewhere_are_blocked_and_remembered(open_html: OpenHtml, tmp_path):
    page = tmp_path / "page.html"
    socket = "new WebSocket('wss://example.com/socket')"
    page.write_text(f'<h1>Hello</h1><img src="https://example.com/a.png"><script>{socket}</script>')
    opened = open_html(page)
    opened.screenshot("smoke-html", full_page=True)
    assert sorted(opened.blocked) == ["https://example.com/a.png", "wss://example.com/socket"]


def test_asyncio_run_works_beside_browser_tests(lab):
    """The browser ends with its test, so that no later test finds a loop already running in its thread."""
    assert asyncio.run(asyncio.sleep(0, result=lab.url)) == lab.url
