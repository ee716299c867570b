"""The notebooks of the project, run by everything that runs notebooks."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

import nbformat
import papermill
import pytest

from apixo_nb.analysis.formats import read_csv, read_excel_csv
from apixo_nb.core.records import Run
from apixo_nb.sandbox import SandboxOptions
from apixo_nb.sandbox.account import Account
from tests.support.kernels import rows, text_of
from tests.support.notebooks import NOTEBOOKS, nbconvert


def test_notebooks_are_committed_without_outputs() -> None:
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")], path.name


def test_sums_of_money_in_texts_are_not_taken_for_formulas() -> None:
    for path in NOTEBOOKS.glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            # What stands between two signs is mathematics for JupyterLab, but not in code.
            text = re.sub(r"```.*?```|`[^`]*`", "", cell.source, flags=re.DOTALL)
            assert cell.cell_type != "markdown" or text.count("$") < 2, (path.name, cell.source)


@pytest.fixture
def quickstart(tmp_path: Path) -> Path:
    copy = tmp_path / "quickstart.ipynb"
    copy.write_bytes((NOTEBOOKS / "quickstart.ipynb").read_bytes())
    return copy


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart notebook, run once by nbconvert; its tests only look at it."""
    return run_once("quickstart.ipynb", tmp_path_factory.mktemp("executed"))


def run_once(name: str, folder: Path) -> Path:
    """A notebook of ours, run by nbconvert in `folder`; for fixtures that outlive a test."""
    copy = folder / name
    copy.write_bytes((NOTEBOOKS / name).read_bytes())
    ours = {"APIXO_HOME": str(folder / "home"), "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
    theirs = {name: text for name, text in os.environ.items() if not name.startswith("APIXO_")}
    nbconvert(copy, "notebook", "--execute", "--inplace", env=theirs | ours)
    return copy


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


# --- the tour, and the one for those who have code already -------------------------------------------


def account(home: Path) -> Account:
    """What the service of a notebook knows, from its journal."""
    return Account(SandboxOptions(journal=home / "sandbox.jsonl"))


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the migrate notebook was run, once, by nbconvert."""
    return run_once("migrate.ipynb", tmp_path_factory.mktemp("migrated")).parent


@pytest.fixture
def migrated_rows(migrated: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The rows that the migrate notebook has left."""
    monkeypatch.setenv("APIXO_HOME", str(migrated / "home"))
    return rows()


@pytest.fixture
def migrated_cells(migrated: Path) -> list[str]:
    """What the code cells of the migrate notebook have put out, as text."""
    cells = nbformat.read(migrated / "migrate.ipynb", as_version=4).cells
    return [text_of(cell) for cell in cells if cell.cell_type == "code"]


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:papermill", "ignore::ResourceWarning")
def test_the_tour_shows_each_thing_it_speaks_of_and_its_rows_are_the_account(tmp_path: Path) -> None:
    out = tmp_path / "offline.ipynb"
    done = papermill.execute_notebook(
        str(NOTEBOOKS / "offline.ipynb"), str(out), cwd=str(tmp_path), progress_bar=False
    )
    assert done.metadata.papermill.exception is None
    text = "\n".join(text_of(cell) for cell in done.cells if cell.cell_type == "code")
    for shown in (
        "Dry run",
        "submitted|processing",
        "1 run.s. have ended",
        "SensitiveContent",
        "4 of 4 done",
    ):
        assert re.search(shown, text), shown
    made = rows()
    assert [run.state for run in made].count("success") == len(made) - 1 == 6
    service = account(tmp_path / "home")
    assert sorted(service.accepted) == sorted(run.task_id or "" for run in made)
    assert 100_000_000 - service.balance_micros == sum(run.cost_micros or 0 for run in made) == 7 * 350_000
    assert len(read_csv(tmp_path / "tour.csv")) == 7
    assert (tmp_path / "tour.html").read_text("utf-8").count("data:image/webp") == 7
    assert out.stat().st_size < 200_000
    assert "application/vnd.jupyter.widget" not in out.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_other_code_has_made_is_in_the_account_and_what_ours_has_in_the_rows_too(
    migrated: Path, migrated_rows: list[Run], migrated_cells: list[str]
) -> None:
    service = account(migrated / "home")
    known = {run.task_id for run in migrated_rows if run.task_id}
    fetched = {path.stem for path in (migrated / "old").glob("task_*.png")}
    scripts = set(service.accepted) - known - fetched
    assert (len(fetched), len(scripts)) == (2, 2)
    assert known | fetched | scripts == set(service.accepted)
    assert [run.state for run in migrated_rows].count("success") == 7
    spent, left = sum(run.cost_micros or 0 for run in migrated_rows), service.balance_micros
    assert 100_000_000 - left - spent == (2 * 1 + 2 * 2) * 350_000
    assert f"${left / 1e6:.2f} left" in migrated_cells[-1]
    assert f"the ledger's runs of that time cost ${spent / 1e6:.2f}. They differ" in migrated_cells[-1]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_migrating_says_what_is_not_there_and_what_an_error_has_cost(migrated_cells: list[str]) -> None:
    text = "\n".join(migrated_cells)
    assert "has no parameter 'quality'" in text
    assert "no money left -> InsufficientBalanceError | not paid" in text
    assert "a refused portrait -> TaskFailedError | paid, perhaps" in text
    assert "0 run(s) and 0 picture(s) added" in text


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_migrating_leaves_files_rows_and_a_light_notebook(migrated: Path, migrated_rows: list[Run]) -> None:
    assert len(list((migrated / "new").iterdir())) == 4
    for number in (0, 1):  # the same picture, whoever fetches it
        bought = (migrated / "old" / f"{number}.png").read_bytes()
        assert bought in [path.read_bytes() for path in (migrated / "old").glob("task_*.png")]
    chosen = [(run.aspect_ratio, run.tags) for run in migrated_rows if run.name == "from-csv"]
    assert sorted(chosen) == [("1:1", ("chairs",)), ("2:3", ("chairs",)), ("3:2", ("boats",))]
    assert (migrated / "migrate.ipynb").stat().st_size < 120_000
    assert "application/vnd.jupyter.widget" not in (migrated / "migrate.ipynb").read_text("utf-8")
