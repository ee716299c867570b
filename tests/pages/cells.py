"""``%%apixo`` in a real JupyterLab: how cells look, whatever they say, in each theme and in the README."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support import jupyterlab
from tests.support.browser import SCREENSHOTS, OpenNotebook
from tests.support.jupyterlab import START, pictures

pytestmark = pytest.mark.browser

clean = jupyterlab.clean


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_cards_fit_the_theme(clean: OpenNotebook, theme: str) -> None:
    notebook = clean(
        [START, "%%apixo --ar 2:3 -n 4 --tag forest --name trees\na forest", "%%apixo --dry-run\nx"]
    )
    notebook.set_theme(theme)
    notebook.run_all()
    assert pictures(notebook.page) == [256] * 4
    notebook.screenshot(f"lab-{theme.rsplit(maxsplit=1)[-1].lower()}")


def test_dollars_and_formulas_in_a_prompt_are_not_set_as_mathematics(clean: OpenNotebook) -> None:
    prompt = "a $5 note beside a $10 note, \\(x\\)"
    notebook = clean(
        [START, f"%%apixo --raw\n{prompt}", "from IPython.display import HTML\nHTML('<p>$x$</p>')"]
    )
    for cell in range(3):
        notebook.run_cell(cell)
    cells = notebook.page.locator(".jp-Cell")
    expect(cells.nth(2).locator("mjx-container")).to_have_count(1)  # so it is at work
    expect(cells.nth(1).locator(".jp-OutputArea")).to_contain_text(prompt)
    expect(cells.nth(1).locator("mjx-container")).to_have_count(0)


def test_the_picture_of_the_readme(clean: OpenNotebook) -> None:
    """`make pictures` puts this screenshot into the README."""
    columns = '["prompt", "state", "aspect_ratio", "num_images", "costTime", "cost_usd"]'
    table = f"import apixo_nb\n\ntable = apixo_nb.history()\ntable[{columns}]"
    notebook = clean([START, "%%apixo --ar 3:2 -n 2\na cozy cyberpunk cafe with neon lights", table])
    notebook.page.set_viewport_size({"width": 1100, "height": 820})
    notebook.run_all()
    panel = notebook.page.locator(".jp-NotebookPanel-notebook")
    panel.screenshot(path=SCREENSHOTS / "readme.png")
    assert pictures(notebook.page) == [384, 384]
