"""Runs side by side: what differs is marked, and what stays in the notebook is light, safe and whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

import apixo_nb
from apixo_nb.core.records import Run
from apixo_nb.errors import ApixoError, InvalidRequestError
from apixo_nb.experiments import review as comparison
from apixo_nb.experiments.review import choose
from apixo_nb.sandbox import Sandbox
from apixo_nb.session.session import Session, current
from tests.support.factories import a_run
from tests.support.hostile import HOSTILE_HTML, Skeleton
from tests.support.kernels import execute

STYLED = {"class", "style", "href", "target", "rel", "title", "src", "alt", "width", "height"}


@pytest.fixture
def session(service: Sandbox) -> Session:
    """The shared one, with its folder of pictures."""
    assert service.base_url
    return current()


@pytest.fixture
def runs(session: Session) -> list[Run]:
    """Three runs that differ in a word, in the ratio and in the number of pictures."""
    asked: list[tuple[str, str, int]] = [
        ("a red fox in snow", "1:1", 1),
        ("a red cat in snow", "3:2", 1),
        ("a red fox in deep snow", "1:1", 2),
    ]
    return [session.begin(prompt, aspect_ratio=ratio, num_images=n).wait() for prompt, ratio, n in asked]


def elements(html: str) -> set[str]:
    return {name for name, _ in Skeleton(html).elements if not name.startswith("/")}


def test_pictures_prompts_and_parameters_stand_side_by_side(runs: list[Run]):
    html = apixo_nb.compare(runs[0], runs[1]).html
    assert html.count("data:image/webp;base64,") == 2
    assert "red </span>" not in html
    assert ">cat</ins>" in html
    assert ">fox</del>" in html
    seen = " ".join(Skeleton(html).text.split())
    assert "Aspect ratio ≠" in seen
    assert "Model ≠" not in seen
    assert runs[0].run_id in seen


def test_what_always_differs_is_not_marked(runs: list[Run]):
    seen = " ".join(Skeleton(apixo_nb.compare(*runs[:2]).html).text.split())
    assert "Run ≠" not in seen
    assert "Made ≠" not in seen


def test_runs_their_ids_and_rows_of_tables_are_all_taken(runs: list[Run]):
    table = apixo_nb.history()
    [tuple_] = table.iloc[[1]].itertuples()
    expected = apixo_nb.compare(runs[0], runs[1]).html
    for a, b in (
        (runs[0].run_id, runs[1].run_id),
        (table.iloc[0], table.iloc[1]),
        (table.iloc[0].to_dict(), tuple_),
    ):
        assert apixo_nb.compare(a, b).html == expected


def test_row_of_a_picture_is_that_picture_alone(runs: list[Run]):
    rows = apixo_nb.images()
    rows = rows[rows["run_id"] == runs[2].run_id]
    html = apixo_nb.compare(rows.iloc[0], rows.iloc[1]).html
    assert html.count("data:image/webp") == 2
    assert apixo_nb.compare(runs[2], runs[2]).html.count("data:image/webp") == 4


def test_best_picture_comes_first(runs: list[Run], session: Session):
    choose(session, runs[2].run_id, 1, rating=5, starred=True)
    html = apixo_nb.compare(runs[2], runs[0]).html
    assert html.index("Picture 2 of 2") < html.index("Picture 1 of 2")
    assert "★ 5/5" in html


@pytest.mark.parametrize("count", [3, 4])
def test_three_and_four_fit_as_well(count: int, runs: list[Run]):
    shown = apixo_nb.compare(*(runs + runs[:1])[:count])
    assert len(shown.html) < 200_000
    assert shown.html.count("<del") + shown.html.count("<ins") >= 2


@pytest.mark.parametrize("count", [0, 1, 5])
def test_other_numbers_are_refused(count: int, runs: list[Run], session: Session):
    with pytest.raises(InvalidRequestError, match="cannot be compared"):
        comparison.compare(session, (runs * 2)[:count])


@pytest.mark.parametrize("odd", [None, 3, "no-such-run", {}, {"run_id": 3}, object(), dict])
def test_what_is_no_run_is_an_error_of_two_lines(odd: Any, runs: list[Run]):
    with pytest.raises(ApixoError) as refused:
        apixo_nb.compare(runs[0], odd)
    assert len(str(refused.value).splitlines()) == 2


def test_links_lead_to_the_originals(runs: list[Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    links = Skeleton(apixo_nb.compare(*runs[:2]).html).values["href"]
    assert len(links) == 2
    assert all((tmp_path / link).is_file() for link in links)


def test_run_without_pictures_says_why(runs: list[Run], session: Session):
    bad = a_run(state="failed", task_id="t", fail_code="SensitiveContent", fail_msg="no", cost_micros=0)
    session.ledger.insert(bad)
    assert "SensitiveContent" in apixo_nb.compare(runs[0], bad.run_id).html


@pytest.mark.parametrize("text", HOSTILE_HTML, ids=range(len(HOSTILE_HTML)))
def test_texts_are_shown_as_text(text: str, session: Session):
    known = elements(comparison.compare(session, [a_run(prompt="a b"), a_run(prompt="a c")]).html)
    said = {"prompt": text, "name": text, "tags": (text,), "fail_msg": text, "parameters": {"x": text}}
    one = a_run(state="failed").replace(**said)
    page = Skeleton(comparison.compare(session, [a_run(prompt="plain"), one]).html)
    assert {name for name, _ in page.elements if not name.startswith("/")} <= known | {"div", "del", "ins"}
    assert {name for _, names in page.elements for name in names} <= STYLED


def test_only_what_an_untrusted_notebook_keeps_is_used(runs: list[Run]):
    page = Skeleton(apixo_nb.compare(*runs).html)
    kept = {"div", "table", "tbody", "tr", "th", "td", "a", "img", "del", "ins", "span"}
    assert {name for name, _ in page.elements if not name.startswith("/")} <= kept
    assert {name for _, names in page.elements for name in names} <= STYLED


def test_queries_and_users_of_addresses_do_not_stay_in_the_notebook(session: Session):
    signed = ("https://me:5ecret@cdn.example/a.png?sig=5ecret#5ecret",)
    runs = [a_run(image_urls=signed), a_run(image_urls=("https://cdn.example/b.png",))]
    shown = comparison.compare(session, runs)
    assert "5ecret" not in shown.html + shown.text
    assert "https://cdn.example/a.png" in shown.html


def test_text_tells_the_difference_too(runs: list[Run]):
    text = repr(apixo_nb.compare(*runs[:2]))
    assert "a red [-fox-]{+cat+} in snow" in text
    assert "Aspect ratio: 1:1 | 3:2" in text


@pytest.mark.usefixtures("service")
def test_it_stays_in_an_executed_notebook_and_its_export(tmp_path: Path):
    cells = [
        "%load_ext apixo_nb",
        "import apixo_nb\na = apixo_nb.generate('a red fox'); b = apixo_nb.generate('a red cat')",
        "apixo_nb.compare(a, b)",
    ]
    notebook = execute(cells, tmp_path)
    [bundle] = [output.data for output in notebook.cells[2].outputs]
    assert set(bundle) == {"text/html", "text/plain"}
    nbformat.write(notebook, tmp_path / "compared.ipynb")
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "compared.ipynb"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=100)
    page = (tmp_path / "compared.html").read_text("utf-8")
    assert page.count("data:image/webp") == 2
    assert ">fox</del>" in page
