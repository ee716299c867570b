"""Grids in the notebook: rows and columns of what runs differ in, stacks that flip without a script."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbconvert import HTMLExporter

import apixo_nb
from apixo_nb.analysis.pivot import lay_out
from apixo_nb.core.records import Image, Run
from apixo_nb.errors import InvalidRequestError
from apixo_nb.experiments import review as grids
from apixo_nb.experiments.review import Grid, choose, grid, grid_html, grid_text
from apixo_nb.sandbox import Sandbox
from apixo_nb.session import session as shared
from apixo_nb.storage.originals import Images
from tests.support.accessibility import serious_violations
from tests.support.browser import SCREENSHOTS, OpenHtml, OpenNotebook
from tests.support.factories import a_session
from tests.support.hostile import HOSTILE_HTML, Skeleton
from tests.support.kernels import execute
from tests.support.sweep_runs import HOOK, chosen, drawn, failed, planned


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def sweep(folder: Path) -> list[Run]:
    """Two styles in three ratios: a stack, a winner, failures, a hole."""
    return [
        drawn(folder, "oil", take=1, count=2),
        chosen(drawn(folder, "oil", take=2, count=2), 1, starred=True, rating=4),
        failed("oil"),
        drawn(folder, "oil", "3:2"),
        drawn(folder, "ink", "1:1"),
        failed("ink", "3:2"),
        failed("ink", "3:2"),
        drawn(folder, "ink", "2:3"),
    ]


def html_of(runs: list[Run], folder: Path, **axes: str) -> str:
    return grid_html(lay_out(runs, **axes), Images(folder))


# --- where everything stands ------------------------------------------------------------------------


def test_axes_are_what_the_runs_differ_in(sweep: list[Run]):
    layout = lay_out(sweep)
    assert (layout.x, layout.y, layout.axes) == (
        "style",
        "aspect_ratio",
        ("style", "aspect_ratio"),
    )
    ratios = lay_out([run for run in sweep if run.num_images == 1], x="aspect_ratio")
    [section] = ratios.sections
    assert (ratios.y, section.columns) == ("style", ("1:1", "3:2", "2:3"))
    assert [row.label for row in section.rows] == ["oil", "ink"]


def test_every_run_is_in_one_cell_and_a_hole_is_none(sweep: list[Run]):
    layout = lay_out(sweep, "style", "aspect_ratio")
    assert sorted(run.run_id for run in layout.runs) == sorted(run.run_id for run in sweep)
    again = lay_out([*sweep, *sweep], "style", "aspect_ratio")
    assert again.runs == layout.runs
    assert [cell is None for cell in layout.sections[0].rows[2].cells] == [True, False]
    assert [section.label for section in lay_out(sweep, "style", "num_images").sections] == [
        "aspect_ratio: 1:1",
        "aspect_ratio: 3:2",
        "aspect_ratio: 2:3",
    ]


def test_further_axes_are_sections(folder: Path):
    runs = [
        planned(style, ratio, mood=mood)
        for style in "ab"
        for ratio in ("1:1", "3:2")
        for mood in ("calm", "wild")
    ]
    layout = lay_out(runs, x="style", y="mood")
    assert [section.label for section in layout.sections] == ["aspect_ratio: 1:1", "aspect_ratio: 3:2"]
    html = html_of(runs, folder, x="style", y="mood")
    assert "aspect_ratio: 3:2" in Skeleton(html).text


def test_long_texts_and_many_values_go_down_the_page():
    runs = [planned(f"style {n}", ratio) for n in range(9) for ratio in ("1:1", "3:2")]
    assert (lay_out(runs).x, lay_out(runs).y) == ("aspect_ratio", "style")


def test_one_axis_is_a_row_that_wraps_and_no_axis_is_one_stack(folder: Path):
    runs = [planned("oil"), planned("ink")]
    assert [section.columns for section in lay_out(runs).sections] == [("oil", "ink")]
    [cell] = lay_out([drawn(folder, "oil"), drawn(folder, "oil", take=2)]).cells
    assert (cell.key, len(cell.slides())) == ((), 2)


def test_runs_that_have_little_in_common_are_listed_rather_than_tabled():
    runs = [planned(f"style {n}", subject=f"fox {n}", place=f"wood {n % 5}") for n in range(400)]
    layout = lay_out(runs)
    assert (layout.y, len(layout.cells), len(layout.sections)) == ("", 400, 1)
    assert layout.cells[7].label == "style: style 7 · subject: fox 7 · place: wood 2"
    with pytest.raises(InvalidRequestError, match="cells, and there are 400 runs"):
        lay_out(runs, x="style", y="subject")


@pytest.mark.parametrize("axes", [{"x": "colour"}, {"y": "colour"}, {"x": 7}, {"x": "style", "y": "style"}])
def test_axis_that_is_none_is_refused(sweep: list[Run], axes: dict[str, Any]):
    with pytest.raises(InvalidRequestError) as refused:
        lay_out(sweep, **axes)
    assert len(str(refused.value).splitlines()) <= 2


def test_winner_is_the_starred_picture_or_else_the_best_rated(folder: Path):
    images = Images(folder)
    plain, rated = drawn(folder, "oil"), chosen(drawn(folder, "oil", count=1, take=2), rating=5)
    starred = chosen(drawn(folder, "oil", take=3), starred=True)
    key = ()
    assert Grid(lay_out([plain]), images).winners() == {}
    assert Grid(lay_out([plain, rated]), images).winners()[key].run == rated
    found = Grid(lay_out([plain, rated, starred]), images).winners()[key]
    assert (found.run, found.image) == (starred, starred.images[0])
    [cell] = lay_out([plain, rated, starred]).cells
    assert [slide.run.take for slide in cell.slides()] == [3, 1, 2]


def test_grid_takes_what_has_runs_and_refuses_what_are_none(sweep: list[Run], folder: Path):
    class Sweep:
        runs = tuple(sweep)

    class Rows:
        def runs(self) -> list[Run]:
            return sweep

    images = Images(folder)
    for given in (sweep, iter(sweep), Sweep(), Rows()):
        assert len(grid(given, images=images).layout.runs) == len(sweep)
    assert len(grid(sweep[0], images=images).layout.runs) == 1
    for wrong in (["x"], 7, "20261125-1", {"a": 1}):
        with pytest.raises(InvalidRequestError, match="This is no run"):
            grid(wrong, images=images)


def test_grid_knows_the_ratings_of_now(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    with contextlib.closing(a_session(base_url=sandbox.base_url)) as session:
        monkeypatch.setattr(shared, "current", lambda: session)
        run = session.begin("a fox", num_images=2).wait()
        choose(session, run.run_id, 1, starred=True)
        [pick] = apixo_nb.grid([run]).winners().values()
        assert pick.image.index == 1


# --- as HTML ----------------------------------------------------------------------------------------


def test_cell_says_what_it_holds_and_why_it_holds_nothing(sweep: list[Run], folder: Path):
    text = Skeleton(html_of(sweep, folder, x="style", y="aspect_ratio")).text
    for said in (
        "3 takes · 1 failed · mean 30 s · $1.40 · ★ · best 4 of 5",
        "⚠ Failed: SensitiveContent: refused by the filter (2 times)",
        "2 takes · 2 failed · $0.00",
        "Winner ★ 4 of 5 · 1 of 5",
        "8 runs · 7 pictures on disk · 3 failed · $2.45 by list price",
    ):
        assert said in text
    assert "No run" in text


def test_html_needs_no_style_sheet_script_or_trust(sweep: list[Run], folder: Path):
    page = Skeleton(html_of(sweep, folder))
    assert {name for name, _ in page.elements}.isdisjoint(
        {"script", "style", "link", "iframe", "svg", "form"}
    )
    names = {name for _, attributes in page.elements for name in attributes}
    assert names.isdisjoint({"id", "onclick"})
    assert page.values["class"] == ["mathjax_ignore tex2jax_ignore"]
    assert all(source.startswith("data:image/webp;base64,") for source in page.values["src"])
    assert all(page.values["alt"])


@pytest.mark.parametrize("text", HOSTILE_HTML, ids=range(len(HOSTILE_HTML)))
def test_what_people_and_servers_wrote_is_text(text: str, folder: Path):
    def page(words: str) -> Skeleton:
        image = Image(index=0, url=words, error=words, note=words, tags=(words,), format=words)
        facts: dict[str, Any] = {"fail_code": "F", "fail_msg": words, "name": words, "note": words}
        runs = [
            failed(f"s{words}", **facts).replace(prompt=words),
            failed(f"t{words}", "3:2", **facts).replace(images=(image,), state=f"s{words}"),
        ]
        return Skeleton(grid_html(lay_out(runs), Images(folder)))

    hostile, harmless = page(text), page("x" * len(text))
    assert (hostile.elements, hostile.odd) == (harmless.elements, harmless.odd)


def test_secrets_of_addresses_are_left_out(folder: Path):
    run = failed(
        "oil", callback_url=HOOK, fail_msg=f"Could not call {HOOK} nor https://me:5ecre7@x.example/a?5ecre7"
    )
    lost = Image(index=0, url="https://x.example/a", error="https://x.example/a?5ecre7 answered 403")
    html = html_of([run, drawn(folder, "ink", images=(lost,))], folder)
    assert "5ecre7" not in html
    assert "hooks.example" not in html
    assert "https://x.example/a answered 403" in html


def test_picture_outside_the_folder_is_not_read(folder: Path):
    run = drawn(folder / "elsewhere", "oil")
    stray = run.replace(
        images=(run.images[0].model_copy(update={"file": f"elsewhere/{run.images[0].file}"}),)
    )
    html = html_of([stray], folder)
    assert "data:image" not in html
    assert "Its file is gone" in html


def test_long_values_are_folded_and_whole(folder: Path):
    long = "brush strokes " * 40
    html = html_of([planned(long), planned("ink")], folder)
    assert "<details>" in html
    assert long in Skeleton(html).text


def test_large_grid_stays_small_and_says_what_it_leaves_out(folder: Path):
    runs = [drawn(folder, f"style {n}", ratio) for n in range(250) for ratio in ("1:1", "3:2")]
    html = html_of(runs, folder)
    page = Skeleton(html)
    assert len(page.values["src"]) == grids.PICTURES
    assert len(html) < 1_500_000
    assert "100 more cells and 380 more pictures are not shown here" in page.text
    assert len(grid_text(lay_out(runs)).splitlines()) < 50


def test_each_cell_shows_its_top_before_any_shows_its_second(folder: Path):
    runs = [drawn(folder, f"style {n}", take=take) for n in range(50) for take in (1, 2, 3)]
    page = Skeleton(html_of(runs, folder))
    assert page.text.count("1 of") == 50
    assert page.text.count("more not shown here") == 30


def test_text_form_is_a_table(sweep: list[Run], folder: Path):
    bundle = Grid(lay_out(sweep, "style", "aspect_ratio"), Images(folder))._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert "★ 4 of 5" in bundle["text/plain"]
    assert [line.split() for line in bundle["text/plain"].splitlines()[1:]] == [
        ["oil", "ink"],
        ["1:1", "4", "pictures", "★", "4", "of", "5", "1", "picture"],
        ["3:2", "1", "picture", "failed"],
        ["2:3", "-", "1", "picture"],
    ]


def test_no_runs_are_a_grid_too(folder: Path):
    assert "There are no runs." in html_of([], folder)
    assert grid_text(lay_out([])) == "Takes of one request · 0 runs · 0 pictures on disk"


# --- in a browser -----------------------------------------------------------------------------------

_FLIP = """strip => { strip.scrollLeft += strip.children[0].offsetWidth; }"""
_IN_VIEW = """strip => [...strip.children].findIndex(pane =>
    Math.abs(pane.getBoundingClientRect().left - strip.getBoundingClientRect().left) < 12)"""


def exported(runs: list[Run], folder: Path, path: Path) -> Path:
    bundle = Grid(lay_out(runs), Images(folder))._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data=bundle)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("grid(runs)", outputs=[output])])
    path.write_text(HTMLExporter(embed_images=False).from_notebook_node(notebook)[0], "utf-8")
    return path


@pytest.mark.browser
def test_grid_flips_after_nbconvert(sweep: list[Run], folder: Path, open_html: OpenHtml, tmp_path: Path):
    opened = open_html(exported(sweep, folder, tmp_path / "grid.html"))
    page = opened.page
    strip = page.get_by_role("group", name="5 takes of style: oil · aspect_ratio: 1:1")
    widths = page.evaluate("Array.from(document.images, image => image.naturalWidth)")
    assert len(widths) == 7
    assert all(widths)
    assert strip.evaluate(_IN_VIEW) == 0
    strip.evaluate(_FLIP)
    assert strip.evaluate(_IN_VIEW) == 1
    strip.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"strip => ({_IN_VIEW})(strip) === 2", arg=strip.element_handle())
    assert serious_violations(page, ".jp-OutputArea-output") == []
    opened.page.screenshot(path=SCREENSHOTS / "grid-nbconvert.png", full_page=True)


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.usefixtures("service")
def test_grid_of_a_notebook_that_was_run_lasts_in_its_export(open_html: OpenHtml, tmp_path: Path):
    executed = execute(
        [
            "%load_ext apixo_nb",
            "import apixo_nb",
            "%%apixo -n 2 -o calm\na calm fox",
            "%%apixo -n 2 -o wild\na wild fox, [fail:SensitiveContent]",
            "apixo_nb.grid(apixo_nb.history().apixo.runs(), x='prompt')",
        ],
        tmp_path,
        allow_errors=True,
    )
    [output] = executed.cells[-1].outputs
    assert set(output.data) == {"text/html", "text/plain"}
    path = tmp_path / "executed.html"
    path.write_text(HTMLExporter().from_notebook_node(executed)[0], "utf-8")
    page = open_html(path).page
    pictures = page.get_by_role("img", name="prompt: a calm fox")
    assert pictures.count() == 2
    assert all(pictures.evaluate_all("all => all.map(image => image.naturalWidth)"))
    strip = page.get_by_role("group", name="2 takes of prompt: a calm fox")
    strip.evaluate(_FLIP)
    assert strip.evaluate(_IN_VIEW) == 1
    assert page.get_by_text("⚠ Failed: SensitiveContent").first.is_visible()


@pytest.mark.browser
def test_headers_stay_in_sight(folder: Path, open_html: OpenHtml, tmp_path: Path):
    runs = [drawn(folder, f"style {n}", ratio) for n in range(12) for ratio in ("1:1", "2:3", "3:2")]
    page = open_html(exported(runs, folder, tmp_path / "grid.html"), size=(480, 800)).page
    table = page.get_by_role("group", name="Grid", exact=True)
    table.evaluate("element => element.scrollTo(150, 900)")
    inside = table.bounding_box()
    column, row = page.get_by_role("columnheader", name="1:1"), page.get_by_role("rowheader", name="style 4")
    assert inside is not None
    top, left = column.bounding_box(), row.bounding_box()
    assert top is not None
    assert left is not None
    assert top["y"] - inside["y"] < 5
    assert left["x"] - inside["x"] < 5


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_grid_of_a_stranger_can_be_read_in_jupyterlab(
    theme: str, sweep: list[Run], folder: Path, open_notebook: OpenNotebook
):
    """A notebook that did not run here is not trusted: style sheets, scripts and much else are dropped."""
    bundle = Grid(lay_out(sweep), Images(folder))._repr_mimebundle_()
    output = nbformat.v4.new_output("display_data", data=bundle)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("grid(runs)", outputs=[output])])
    opened = open_notebook(notebook)
    opened.set_theme(theme)
    page = opened.page
    shown = page.locator(".jp-RenderedHTMLCommon")
    assert shown.locator("img").count() == 7
    assert shown.get_by_text("⚠ Failed: SensitiveContent").first.is_visible()
    strip = shown.locator("td div", has_text="1 of 5").first
    strip.evaluate(_FLIP)
    assert strip.evaluate(_IN_VIEW) == 1
    assert (opened.blocked, opened.errors) == ([], [])
    opened.screenshot(f"grid-stranger-{theme.rsplit(maxsplit=1)[-1].lower()}")
