"""The quickstart under what runs and converts notebooks without a page: `nox -s runners`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser
from pypdf import PdfReader

from apixo_nb.analysis.formats import read_csv
from tests.support.notebooks import NOTEBOOKS, nbconvert

BIN = Path(sys.executable).parent
PICTURES = 5  # of the quickstart


@pytest.fixture
def quickstart(tmp_path: Path) -> Path:
    copy = tmp_path / "quickstart.ipynb"
    copy.write_bytes((NOTEBOOKS / "quickstart.ipynb").read_bytes())
    return copy


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart, run once by `jupyter execute`; its tests only look at it."""
    folder = tmp_path_factory.mktemp("executed")
    copy = folder / "quickstart.ipynb"
    copy.write_bytes((NOTEBOOKS / "quickstart.ipynb").read_bytes())
    ours = {"APIXO_HOME": str(folder / "home"), "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
    theirs = {name: text for name, text in os.environ.items() if not name.startswith("APIXO_")}
    run(copy, "jupyter-execute", "--inplace", copy.name, env=theirs | ours)
    return copy


def run(notebook: Path, program: str, *options: str, env: dict[str, str] | None = None) -> None:
    command = [str(BIN / program), *options]
    subprocess.run(command, cwd=notebook.parent, check=True, capture_output=True, timeout=200, env=env)


def pictures(notebook: Path) -> int:
    """How many pictures the outputs of a notebook hold."""
    outputs = [
        output for cell in nbformat.read(notebook, as_version=4).cells for output in cell.get("outputs", [])
    ]
    return sum(output.get("data", {}).get("text/html", "").count("data:image/webp") for output in outputs)


def test_jupyter_execute(executed: Path) -> None:
    assert pictures(executed) == PICTURES
    assert len(read_csv(executed.with_name("experiments.csv"))) == 4


@pytest.mark.parametrize(
    ("kind", "ending"), [("py:percent", ".py"), ("py:light", ".py"), ("md", ".md"), ("md:myst", ".md")]
)
def test_jupytext_brings_every_cell_back(quickstart: Path, kind: str, ending: str) -> None:
    run(quickstart, "jupytext", "--to", kind, quickstart.name)
    text = quickstart.with_suffix(ending)
    run(quickstart, "jupytext", "--to", "ipynb", "--output", "back.ipynb", text.name)
    before, after = (
        [(cell.cell_type, cell.source) for cell in nbformat.read(path, as_version=4).cells]
        for path in (quickstart, quickstart.with_name("back.ipynb"))
    )
    assert after == before


def test_jupytext_runs_a_script_of_cells(quickstart: Path) -> None:
    run(quickstart, "jupytext", "--to", "py:percent", quickstart.name)
    run(quickstart, "jupytext", "--to", "ipynb", "--execute", "--output", "back.ipynb", "quickstart.py")
    assert pictures(quickstart.with_name("back.ipynb")) == PICTURES


def test_html_prints_as_a_pdf_with_its_pictures(executed: Path, browser: Browser) -> None:
    nbconvert(executed, "html", "--template", "lab")
    page = browser.new_page()
    page.goto(executed.with_suffix(".html").as_uri(), wait_until="domcontentloaded")
    page.wait_for_function("Array.from(document.images).every(image => image.complete)")
    printed = executed.with_suffix(".pdf")
    page.pdf(path=printed, print_background=True)
    sheets = PdfReader(printed).pages
    assert sum(image.image is not None for sheet in sheets for image in sheet.images) >= PICTURES
    text = " ".join(sheet.extract_text() for sheet in sheets)
    assert "SANDBOX" in text
    assert "Change the prompt" in text


def test_markdown_has_the_pictures(executed: Path) -> None:
    text = nbconvert(executed, "markdown")
    assert text.count("data:image/webp") == PICTURES
