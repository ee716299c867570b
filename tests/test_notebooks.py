"""The notebooks of the project, run by everything that runs notebooks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import papermill
import pytest

from apixo_nb.formats import read_excel_csv
from apixo_nb.frame import read_csv

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def test_notebooks_are_committed_without_outputs() -> None:
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")], path.name


@pytest.fixture
def quickstart(tmp_path: Path) -> Path:
    copy = tmp_path / "quickstart.ipynb"
    copy.write_bytes((NOTEBOOKS / "quickstart.ipynb").read_bytes())
    return copy


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart notebook, run once by nbconvert; its tests only look at it."""
    folder = tmp_path_factory.mktemp("executed")
    copy = folder / "quickstart.ipynb"
    copy.write_bytes((NOTEBOOKS / "quickstart.ipynb").read_bytes())
    ours = {"APIXO_HOME": str(folder / "home"), "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
    theirs = {name: text for name, text in os.environ.items() if not name.startswith("APIXO_")}
    nbconvert(copy, "notebook", "--execute", "--inplace", env=theirs | ours)
    return copy


def nbconvert(notebook: Path, kind: str, *options: str, env: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-m", "nbconvert", "--to", kind, *options, notebook.name]
    subprocess.run(command, cwd=notebook.parent, check=True, capture_output=True, timeout=100, env=env)
    suffix = {"html": ".html", "markdown": ".md", "notebook": ".ipynb"}[kind]
    return notebook.with_suffix(suffix).read_text("utf-8")


def test_quickstart_runs_under_nbconvert_and_reads_well_as_html_and_markdown(executed: Path) -> None:
    page = nbconvert(executed, "html")
    assert page.count("data:image/webp") == 5
    assert "Change the prompt" in page
    text = nbconvert(executed, "markdown")
    assert "SANDBOX" in text
    assert len(read_csv(executed.parent / "experiments.csv")) == 4


def test_quickstart_saves_thumbnails_not_originals(executed: Path) -> None:
    originals = sum(path.stat().st_size for path in (executed.parent / "home" / "images").glob("*.png"))
    assert executed.stat().st_size < 120_000 < originals
    assert "application/vnd.jupyter.widget" not in executed.read_text("utf-8")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:papermill", "ignore::ResourceWarning")
def test_quickstart_runs_under_papermill(quickstart: Path) -> None:
    done = papermill.execute_notebook(
        str(quickstart),
        str(quickstart.with_name("out.ipynb")),
        cwd=str(quickstart.parent),
        progress_bar=False,
    )
    assert done.metadata.papermill.exception is None


def test_links_in_the_executed_notebook_lead_to_files(executed: Path) -> None:
    cells = nbformat.read(executed, as_version=4).cells
    pages = [
        output.data.get("text/html", "")
        for cell in cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    links = re.findall(r'href="([^"]+\.png)"', "".join(pages))
    assert len(links) == 5
    assert all((executed.parent / link).is_file() for link in links)


def test_panel_notebook_says_what_it_needs_where_nobody_can_click(tmp_path: Path) -> None:
    copy = tmp_path / "panel.ipynb"
    copy.write_bytes((NOTEBOOKS / "panel.ipynb").read_bytes())
    nbconvert(copy, "notebook", "--execute", "--inplace")
    page = nbconvert(copy, "html")
    assert "open the notebook in JupyterLab, Notebook 7 or Voila" in page
    assert "widget" not in nbformat.read(copy, as_version=4).metadata
    assert "application/vnd.jupyter.widget" not in copy.read_text("utf-8")


def test_experiments_notebook_makes_compares_and_exports(tmp_path: Path) -> None:
    copy = tmp_path / "experiments.ipynb"
    copy.write_bytes((NOTEBOOKS / "experiments.ipynb").read_bytes())
    nbconvert(copy, "notebook", "--execute", "--inplace")
    page = nbconvert(copy, "html")
    assert "12 of 12 done" in page
    assert "2 of 2 done" in page
    assert copy.stat().st_size < 400_000
    with zipfile.ZipFile(tmp_path / "foxes.zip") as bundle:
        assert sum(name.endswith(".png") for name in bundle.namelist()) == 14
    exact, safe = read_csv(tmp_path / "foxes.csv"), read_excel_csv(tmp_path / "foxes-excel.csv")
    assert list(exact["prompt"]) == list(safe["prompt"])
    assert set(exact["aspect_ratio"]) == {"1:1", "3:2"}
    assert (tmp_path / "foxes.png").stat().st_size > 10_000
    assert len(list((tmp_path / "foxes-report" / "pictures").iterdir())) >= 24
