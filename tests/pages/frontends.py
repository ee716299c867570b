"""The panel's own notebook in each front end that it promises, and what is left where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import OpenNotebook, OpenVoila

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "panel.ipynb"
PATIENCE_MS = 30_000


def use(page: Page) -> None:
    """Make two pictures, look at one at full size, and find the run in the history."""
    panel = page.locator(".apx-panel")
    prompt = panel.get_by_label("Prompt", exact=True)
    prompt.fill("a fox in any front end", timeout=PATIENCE_MS)
    panel.get_by_role("radio", name="2", exact=True).check()
    panel.get_by_role("button", name="Generate").click()
    card = panel.locator(".apx-card")
    expect(card).to_contain_text("Done", timeout=PATIENCE_MS)
    card.locator(".apx-thumb").first.click()
    full = panel.locator(".apx-lightbox .apx-full")
    expect(full).to_have_js_property("naturalWidth", 1024, timeout=PATIENCE_MS)
    page.keyboard.press("Escape")
    panel.get_by_role("tab", name="History").click()
    expect(panel.locator("tr[data-run]")).to_have_count(1, timeout=PATIENCE_MS)
    panel.get_by_role("tab", name="Make").click()


def test_panel_works_in_jupyterlab(open_notebook: OpenNotebook) -> None:
    opened = open_notebook(NOTEBOOK)
    opened.run_all()
    use(opened.page)
    assert (opened.blocked, opened.errors) == ([], [])


def test_panel_works_in_notebook_7(open_notebook7: OpenNotebook) -> None:
    opened = open_notebook7(NOTEBOOK)
    opened.run_all()
    use(opened.page)
    opened.screenshot("panel-notebook7")
    assert (opened.blocked, opened.errors) == ([], [])


def test_panel_works_in_voila(open_voila: OpenVoila) -> None:
    opened = open_voila(NOTEBOOK)
    use(opened.page)
    opened.screenshot("panel-voila")
    assert (opened.blocked, opened.errors) == ([], [])
