"""Notebooks in JupyterLab whose pages are checked when a test ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.support.browser import NotebookPage, OpenNotebook, Source

START = "%load_ext apixo_nb\n%apixo sandbox"


@pytest.fixture
def clean(open_notebook: OpenNotebook) -> Iterator[OpenNotebook]:
    """Opens notebooks, and checks at the end that no page spoke to the outside or complained."""
    opened: list[NotebookPage] = []

    def open_one(source: Source) -> NotebookPage:
        opened.append(open_notebook(source))
        return opened[-1]

    yield open_one
    assert [page.blocked for page in opened] == [[] for _ in opened]
    assert [page.errors for page in opened] == [[] for _ in opened]


def pictures(page: Page) -> list[int]:
    """Natural widths of all pictures in outputs; 0 is a broken one."""
    script = "images => images.map(image => image.complete ? image.naturalWidth : 0)"
    widths: list[int] = page.locator(".jp-OutputArea img").evaluate_all(script)
    return widths
