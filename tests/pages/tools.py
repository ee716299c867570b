"""The browser harness itself: if these fail, look at tests/support/browser.py first."""

import asyncio

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Error as PlaywrightError

from tests.support.accessibility import serious_violations
from tests.support.browser import OpenHtml, OpenNotebook, OpenVoila, WatchedPage

pytestmark = pytest.mark.browser

HTML = "from IPython.display import HTML\nHTML('<b id=hello>hello</b>')"

WIDGETS = """
import anywidget
import ipywidgets
import traitlets

class Counter(anywidget.AnyWidget):
    _esm = '''
    export default {
        render({ model, el }) {
            const button = document.createElement("button");
            button.textContent = "Count";
            button.onclick = () => { model.set("count", model.get("count") + 1); model.save_changes(); };
            el.append(button);
        },
    };
    '''
    count = traitlets.Int(0).tag(sync=True)

said = ipywidgets.Label("nothing yet")
button = ipywidgets.Button(description="Press")
button.on_click(lambda _: setattr(said, "value", "pressed"))
counter = Counter()
counter.observe(lambda change: setattr(said, "value", f"counted to {change.new}"), "count")
ipywidgets.VBox([button, counter, said])
"""


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


# --- Jupyter Notebook 7 and Voila ---


def use_widgets(shown: WatchedPage):
    """Press a button of ipywidgets, and one of a small anywidget: the kernel answers both."""
    page = shown.page
    page.get_by_role("button", name="Press").click()
    page.get_by_text("pressed", exact=True).wait_for()
    page.get_by_role("button", name="Count").click()
    page.get_by_role("button", name="Count").click()
    page.get_by_text("counted to 2", exact=True).wait_for()


@pytest.mark.parametrize("front_end", ["open_notebook", "open_notebook7"])
def test_widgets_work_in_notebooks(front_end: str, request: pytest.FixtureRequest):
    notebook = request.getfixturevalue(front_end)([WIDGETS, "said.value"])
    notebook.run_all()
    use_widgets(notebook)
    notebook.run_cell(1)
    assert notebook.outputs(1)[0]["data"]["text/plain"] == "'counted to 2'"
    notebook.screenshot(f"smoke-widgets-{front_end}")
    assert (notebook.blocked, notebook.errors) == ([], [])


def test_widgets_work_in_voila(open_voila: OpenVoila):
    app = open_voila([WIDGETS])
    use_widgets(app)
    app.screenshot("smoke-widgets-voila")
    assert (app.blocked, app.errors) == ([], [])


def test_cells_of_notebook_7_run_and_can_be_read_saved_and_opened_again(open_notebook7: OpenNotebook):
    notebook = open_notebook7(["known = 'known' in globals(); known", HTML], size=(1000, 700))
    notebook.run_all()
    assert len(notebook.outputs()) == 2
    notebook.restart_kernel()
    notebook.run_cell(0)
    assert notebook.save().cells[0].outputs == notebook.outputs(0)
    notebook.set_theme("JupyterLab Dark")
    notebook.reload()
    assert notebook.page.locator("b", has_text="hello").is_visible()
    assert notebook.outputs(0)[0]["data"]["text/plain"] == "False"
    assert (notebook.blocked, notebook.errors) == ([], [])


@pytest.mark.parametrize("front_end", ["open_notebook", "open_notebook7", "open_voila"])
def test_a_notebook_can_have_an_environment_and_a_file_of_its_own(
    front_end: str, request: pytest.FixtureRequest, tmp_path
):
    source = tmp_path / "given.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("import os\nprint(os.environ.get('COLOUR'))")]), source)
    before = source.read_bytes()
    for colour in ("grey green", None):
        opened = request.getfixturevalue(front_end)(source, env={"COLOUR": colour} if colour else None)
        if front_end != "open_voila":
            opened.run_all()
        opened.page.get_by_text(str(colour), exact=True).wait_for()
    assert source.read_bytes() == before


# --- axe-core ---

BARRIERS = """<!doctype html><html lang="en"><title>Barriers</title><main>
<h1>Buttons</h1>
<section id="good"><button>Save</button><label>Name <input></label></section>
<section id="bad"><button><svg viewBox="0 0 9 9"><path d="M0 0h9v9z"/></svg></button></section>
</main></html>"""


def test_axe_finds_a_button_without_a_name_and_nothing_in_good_markup(open_html: OpenHtml, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(BARRIERS)
    opened = open_html(page)
    assert serious_violations(opened.page, "#good") == []
    for selector in ("#bad", "html", "section"):
        [found] = serious_violations(opened.page, selector)
        assert found.startswith("button-name at ['#bad > button']: Fix any of")
    assert (opened.blocked, opened.errors) == ([], [])


def test_axe_does_not_pass_over_a_selector_that_matches_nothing(open_html: OpenHtml, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(BARRIERS)
    with pytest.raises(PlaywrightError, match="No elements found"):
        serious_violations(open_html(page).page, "#missing")


@pytest.mark.parametrize("front_end", ["open_notebook", "open_notebook7", "open_voila"])
def test_axe_works_on_pages_of_front_ends(front_end: str, request: pytest.FixtureRequest):
    markup = "from IPython.display import HTML\nHTML('<div id=mine><button></button></div>')"
    opened = request.getfixturevalue(front_end)([markup])
    if front_end != "open_voila":
        opened.run_all()
    [found] = serious_violations(opened.page, "#mine")
    assert found.startswith("button-name at ")
    assert (opened.blocked, opened.errors) == ([], [])
