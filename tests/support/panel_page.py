"""The panel in a notebook of a real JupyterLab, as its tests use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.browser import NotebookPage, OpenNotebook

START = "%load_ext apixo_nb\n%apixo sandbox"
PATIENCE_MS = 30_000

expect.set_options(timeout=PATIENCE_MS)


class PanelPage:
    """A notebook whose second cell shows the panel."""

    def __init__(self, notebook: NotebookPage) -> None:
        self.notebook = notebook
        self.page: Page = notebook.page
        self.root: Locator = self.page.locator(".apx-panel")
        self.prompt: Locator = self.root.get_by_label("Prompt", exact=True)
        self.cards: Locator = self.root.locator(".apx-card")
        self.lightbox: Locator = self.root.get_by_role("dialog", name="Picture")

    def show(self) -> PanelPage:
        self.notebook.run_cell(0)
        self.notebook.run_cell(1)
        expect(self.prompt).to_be_visible()
        return self

    def generate(self, prompt: str) -> None:
        self.prompt.fill(prompt)
        # The key has tests of its own. JupyterLab may draw a cell anew between pressing and letting go of the
        # button: then nothing was clicked and nothing is sent, and a person clicks again, as here.
        self.button("Generate").click()
        try:
            expect(self.cards.first).to_contain_text(prompt, timeout=10_000)
        except AssertionError:
            expect(self.button("Sending")).to_have_count(0)
            if not self.card(prompt).count():
                self.button("Generate").click()
            expect(self.cards.first).to_contain_text(prompt)
            expect(self.card(prompt)).to_have_count(1)

    def card(self, prompt: str) -> Locator:
        return self.cards.filter(has_text=prompt)

    def button(self, name: str) -> Locator:
        return self.root.get_by_role("button", name=name)

    def open_history(self) -> None:
        self.root.get_by_role("tab", name="History").click()

    def rows(self) -> Locator:
        return self.root.locator(".apx-history-table tbody tr[data-run]")

    @property
    def folder(self) -> Path:
        return self.notebook.path.parent


OpenPanel = Callable[..., PanelPage]


@pytest.fixture
def open_panel(open_notebook: OpenNotebook) -> Iterator[OpenPanel]:
    """Opens notebooks with a panel; at the end no page may have spoken to the outside, or complained."""
    opened: list[NotebookPage] = []

    def open_one(*cells: str, size: tuple[int, int] = (1280, 900)) -> PanelPage:
        opened.append(open_notebook([START, "%apixo panel", *cells], size=size))
        return PanelPage(opened[-1])

    yield open_one
    assert [page.blocked for page in opened] == [[] for _ in opened]
    assert [page.errors for page in opened] == [[] for _ in opened]
