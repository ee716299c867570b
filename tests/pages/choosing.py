"""Choosing between pictures in a real JupyterLab: a grid to pick winners in, and blind votes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.support.accessibility import serious_violations
from tests.support.browser import NotebookPage, OpenNotebook

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)

MAKE = """\
%load_ext apixo_nb
%apixo sandbox
import apixo_nb
from apixo_nb.core.request import make_request
from apixo_nb.session.session import current
jobs = []
for style in ("ink", "oil"):
    for ratio in ("1:1", "3:2"):
        request = make_request(f"a fox, {style}", aspect_ratio=ratio, num_images=2)
        run = current().plan(request, prompt_template="a fox, {style}", variables={"style": style})
        jobs.append(current().start(run))
runs = [job.wait() for job in jobs]"""

OpenClean = Callable[..., NotebookPage]


@pytest.fixture
def clean(open_notebook: OpenNotebook) -> Iterator[OpenClean]:
    """Opens notebooks, and checks at the end that no page spoke to the outside or complained."""
    opened: list[NotebookPage] = []

    def open_one(*cells: str) -> NotebookPage:
        opened.append(open_notebook([MAKE, *cells], size=(1280, 1000)))
        opened[-1].run_all(timeout_s=100)
        return opened[-1]

    yield open_one
    assert [page.blocked for page in opened] == [[] for _ in opened]
    assert [page.errors for page in opened] == [[] for _ in opened]


def shown(notebook: NotebookPage, cell: int) -> Locator:
    return notebook.page.locator(".jp-Cell").nth(cell)


GRID = "from apixo_nb.experiments.review import grid\ngrid(runs, x='style', y='aspect_ratio')"


def test_winner_of_a_cell_is_picked_in_the_grid_and_stays_in_the_notebook(clean: OpenClean) -> None:
    notebook = clean(GRID)
    grid = shown(notebook, 1).locator(".apx-grid")
    expect(grid.locator("thead th")).to_have_text(["ink", "oil"])
    cells = grid.locator(".apx-cell")
    expect(cells).to_have_count(4)
    first = cells.first
    expect(first).to_contain_text("1 of 2")
    first.get_by_role("button", name="Next picture").click()
    expect(first).to_contain_text("2 of 2")
    first.get_by_role("button", name="Pick as winner").click()
    expect(first.get_by_role("button", name="Winner: picture 2 of 2")).to_have_attribute(
        "aria-pressed", "true"
    )
    first.get_by_role("button", name="Previous picture").click()
    first.get_by_role("button", name="Pick as winner").click()
    expect(first.get_by_role("button", name="Winner: picture 1 of 2")).to_be_visible()
    first.locator(".apx-thumb").click()
    box = shown(notebook, 1).get_by_role("dialog", name="Picture")
    expect(box.locator(".apx-full")).to_have_js_property("naturalWidth", 1024)
    box.get_by_label("5 of 5").check()
    expect(box).to_contain_text("Rated 5 of 5.")
    notebook.page.keyboard.press("Escape")
    notebook.screenshot("grid-live")
    assert serious_violations(notebook.page, ".apx-panel") == []
    lasting = shown(notebook, 1).locator(".apixo-nb-lasting")
    expect(lasting).to_be_hidden()
    expect(lasting).to_contain_text("★")  # written over once the stars were given
    saved = json.dumps(notebook.save())
    assert len(saved) < 400_000
    outputs = [output.data for output in notebook.notebook().cells[1].outputs]
    assert len(outputs) == 2
    assert "★" in outputs[1]["text/html"]


VOTE = "ballot = apixo_nb.vote(runs, by='style')\nballot"
RESULTS = (
    "list(ballot.results()['wins']), len(ballot), open(ballot.preferences('p.jsonl')).read().count(chr(10))"
)


def test_votes_are_blind_by_keyboard_undone_and_counted(clean: OpenClean) -> None:
    notebook = clean(VOTE)
    page = notebook.page
    ballot = shown(notebook, 1).locator(".apx-ballot")
    question = shown(notebook, 1).locator(".apx-question")
    expect(question).to_contain_text("Pair 1 of 8")
    expect(ballot.locator("img")).to_have_count(2)
    page.wait_for_function(
        "Array.from(document.querySelectorAll('.apx-pair img')).every(image => image.naturalWidth > 0)"
    )
    text = shown(notebook, 1).locator(".apx-panel").inner_html()
    assert "a fox" not in text
    assert ">ink<" not in text
    notebook.screenshot("vote")
    ballot.focus()
    page.keyboard.press("ArrowLeft")
    expect(question).to_contain_text("Pair 2 of 8")
    page.keyboard.press("ArrowRight")
    expect(question).to_contain_text("Pair 3 of 8")
    page.keyboard.press("u")
    expect(question).to_contain_text("Pair 2 of 8")
    page.keyboard.press("ArrowDown")
    expect(question).to_contain_text("Pair 3 of 8")
    assert serious_violations(page, ".apx-panel") == []
    ballot.get_by_role("button", name="Show results").click()
    counted = shown(notebook, 1).locator(".apx-counted tbody tr")
    expect(counted).to_have_count(2)
    expect(counted.first).to_contain_text("75 %")
    notebook.screenshot("vote-results")
    expect(shown(notebook, 1).locator(".apixo-nb-lasting")).to_contain_text("win rate")


def test_ballot_goes_on_where_it_was_left_and_is_a_table(clean: OpenClean) -> None:
    notebook = clean(VOTE, RESULTS)
    ballot = shown(notebook, 1).locator(".apx-ballot")
    expect(shown(notebook, 1).locator(".apx-question")).to_contain_text("Pair 1 of 8")
    ballot.focus()
    for number in range(2, 9):
        notebook.page.keyboard.press("ArrowLeft")
        expect(shown(notebook, 1).locator(".apx-question")).to_contain_text(f"Pair {number} of 8")
    notebook.run_cell(1)
    expect(shown(notebook, 1).locator(".apx-question")).to_contain_text("Pair 8 of 8")
    shown(notebook, 1).locator(".apx-ballot").focus()
    notebook.page.keyboard.press("ArrowRight")
    expect(shown(notebook, 1).locator(".apx-question")).to_contain_text("All 8 pairs are voted on.")
    notebook.run_cell(2)
    wins, left, lines = eval(notebook.outputs(2)[-1]["data"]["text/plain"])
    assert (sum(wins), left, lines) == (8, 0, 8)
