"""The panel in a real JupyterLab: its form, pictures and history, and how it looks."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from apixo_nb.analysis.formats import read_csv
from tests.support import panel_page
from tests.support.accessibility import serious_violations
from tests.support.browser import SCREENSHOTS
from tests.support.panel_page import OpenPanel

pytestmark = [pytest.mark.browser, pytest.mark.slow]

open_panel = panel_page.open_panel


def test_reference_shows_its_preview_or_why_it_is_bad(open_panel: OpenPanel) -> None:
    panel = open_panel().show()
    panel.generate("a reference")
    panel.cards.first.locator(".apx-thumb").click()
    panel.lightbox.get_by_role("button", name="Use as reference").click()
    expect(panel.lightbox).to_contain_text("Added to the references")
    panel.page.keyboard.press("Escape")
    references = panel.root.locator(".apx-references li")
    expect(references).to_contain_text("1024 \u00d7 1024")
    line = panel.root.get_by_label("Reference pictures")
    for bad, why in (
        ("http://192.168.1.1/a.png", "is on a private network"),
        ("C:\\pictures\\a.png", "is on this machine"),
        ("https://user:secret@example.com/a.png", "is not a usable URL"),
    ):
        line.fill(bad)
        line.press("Enter")
        expect(references.last).to_contain_text(why)
        panel.root.get_by_role("button", name="Remove reference 2").click()
    panel.generate("with a reference")
    expect(panel.cards.first).to_contain_text("1 reference")
    expect(panel.cards.first).to_contain_text("Done")


def test_picture_is_seen_at_full_size_rated_and_sent_to_the_form(open_panel: OpenPanel) -> None:
    panel = open_panel().show()
    panel.root.get_by_role("radio", name="3:2").check()
    panel.root.get_by_role("radio", name="2", exact=True).check()
    panel.generate("to be judged <b>boldly</b>")
    panel.cards.first.locator(".apx-thumb").nth(1).click()
    box = panel.lightbox
    expect(box).to_contain_text("2 of 2")
    expect(box.locator(".apx-full")).to_have_js_property("naturalWidth", 1536)
    box.get_by_label("4 of 5").check()
    expect(box).to_contain_text("Rated 4 of 5.")
    box.get_by_role("button", name="Star").click()
    expect(box).to_contain_text("Starred.")
    box.get_by_label("Note on this picture").fill("the better one")
    box.get_by_label("Tags of this picture").fill("keep, 好")
    box.get_by_label("Tags of this picture").press("Enter")
    expect(box).to_contain_text("Tags saved.")
    with panel.page.expect_download() as download:
        box.get_by_role("button", name="Download").click()
    original = panel.folder / "apixo-runs" / "images" / download.value.suggested_filename
    assert download.value.path().read_bytes() == original.read_bytes()
    panel.notebook.screenshot("panel-lightbox")
    box.get_by_role("button", name="Send to form").click()
    expect(box).to_be_hidden()
    expect(panel.prompt).to_have_value("to be judged <b>boldly</b>")
    expect(panel.root.get_by_role("radio", name="3:2")).to_be_checked()
    expect(panel.cards.first.locator(".apx-marks")).to_contain_text("★ 4/5")
    facts = json.loads(original.with_suffix(".json").read_text("utf-8"))["image"]
    assert (facts["rating"], facts["starred"], facts["note"], facts["tags"]) == (
        4,
        True,
        "the better one",
        ["keep", "好"],
    )


def test_two_runs_are_compared_and_exported(open_panel: OpenPanel) -> None:
    panel = open_panel().show()
    panel.generate("a red fox in the snow, 赤い狐")
    expect(panel.cards.first).to_contain_text("Done")
    panel.root.get_by_role("radio", name="3:2").check()
    panel.generate("a blue fox in the snow, 青い狐")
    expect(panel.cards.first).to_contain_text("Done")
    panel.open_history()
    expect(panel.rows()).to_have_count(2)
    search = panel.root.get_by_label("Search", exact=True)
    search.fill("狐 red")
    expect(panel.rows()).to_have_count(1)
    search.fill("")
    expect(panel.rows()).to_have_count(2)
    panel.root.get_by_role("button", name="Prompt").click()
    expect(panel.rows().first).to_contain_text("a blue fox")
    panel.root.get_by_label("Select all rows of this page").check()
    panel.button("Compare").click()
    compare = panel.root.get_by_role("dialog", name="Compare runs")
    expect(compare.locator("del")).to_have_text(["left out: blue", "left out: 青"])
    expect(compare.locator("ins")).to_have_text(["added: red", "added: 赤"])
    expect(compare.locator("tr.apx-differs").first).to_contain_text("Aspect ratio")
    widths = "pictures => pictures.map(picture => picture.naturalWidth)"
    expect(compare.locator(".apx-full")).to_have_count(2)
    panel.page.wait_for_function("document.querySelectorAll('.apx-compare .apx-full[src]').length === 2")
    assert sorted(compare.locator(".apx-full").evaluate_all(widths)) == [1024, 1536]
    panel.notebook.screenshot("panel-compare")
    panel.page.keyboard.press("Escape")
    panel.button("Export 2 selected").click()
    expect(panel.root).to_contain_text("Written: apixo-")
    [written] = panel.folder.glob("apixo-*.csv")
    table = read_csv(written)
    assert set(table["prompt"]) == {"a red fox in the snow, 赤い狐", "a blue fox in the snow, 青い狐"}
    with panel.page.expect_download() as download:
        panel.button("Download").click()
    assert download.value.path().read_bytes() == written.read_bytes()
    endings = {"excel": "-excel.csv", "jsonl": ".jsonl", "parquet": ".parquet", "html": ".html"}
    for kind, ending in endings.items():
        panel.root.get_by_label("Kind of file").select_option(kind)
        panel.button("Export 2 selected").click()
        expect(panel.root.locator(".apx-history .apx-note").last).to_contain_text(ending)
        assert len(list(panel.folder.glob(f"apixo-*{ending}"))) == 1


def test_history_is_filtered_and_sorted(open_panel: OpenPanel) -> None:
    panel = open_panel().show()
    panel.generate("cheap")
    panel.root.get_by_role("radio", name="4", exact=True).check()
    panel.generate("dear")
    panel.generate("[fail:PromptInvalid] refused")
    expect(panel.cards.first).to_contain_text("Failed")
    expect(panel.card("dear")).to_contain_text("Done")
    panel.open_history()
    expect(panel.rows()).to_have_count(3)
    panel.root.get_by_label("State").select_option("failed")
    expect(panel.rows()).to_have_count(1)
    panel.root.get_by_label("State").select_option("")
    panel.root.get_by_label("Cost from, $").fill("1")
    panel.root.get_by_label("Cost from, $").press("Tab")
    expect(panel.rows()).to_have_count(1)
    expect(panel.rows()).to_contain_text("dear")
    panel.root.get_by_label("Cost from, $").fill("")
    panel.root.get_by_label("From", exact=True).fill("2001-01-01")
    panel.root.get_by_label("To", exact=True).fill("2001-01-02")
    expect(panel.root.locator(".apx-history-table")).to_contain_text("No run is like that.")
    panel.root.get_by_label("To", exact=True).fill("")
    panel.root.get_by_role("button", name="Cost").click()
    expect(panel.root.locator("th.apx-col-cost_usd")).to_have_attribute("aria-sort", "descending")
    expect(panel.rows().first).to_contain_text("dear")


def test_form_is_copied_as_a_cell_and_as_python(open_panel: OpenPanel) -> None:
    panel = open_panel().show()
    panel.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    panel.root.get_by_role("radio", name="3:2").check()
    panel.root.get_by_label("Draws").fill("2")
    panel.prompt.fill("a {curly} fox\nsecond line")
    panel.button("Copy as %%apixo cell").click()
    expect(panel.root).to_contain_text("Copied")
    read = "navigator.clipboard.readText()"
    assert panel.page.evaluate(read) == "%%apixo --ar 3:2 --repeat 2 --raw\na {curly} fox\nsecond line"
    panel.button("Copy as Python").click()
    panel.page.wait_for_function(f"{read}.then(text => text.startsWith('import apixo_nb'))")


def test_sweep_is_counted_asked_for_and_made(open_panel: OpenPanel) -> None:
    panel = open_panel(
        "import apixo_nb\n"
        "[(run.variables, run.aspect_ratio, run.prompt) for run in apixo_nb.Session().runs()]"
    ).show()
    panel.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    panel.prompt.fill("a fox, {style}")
    panel.root.get_by_text("Sweep: all combinations of several values").click()
    values = panel.root.get_by_label("Values of {names}")
    values.fill("colour = red")
    expect(panel.root.locator(".apx-sweep .apx-problem")).to_contain_text("Add a line: style = ")
    values.fill("style = ink, oil")
    several = panel.root.get_by_role("group", name="Aspect ratio: all of")
    several.get_by_label("1:1").check()
    several.get_by_label("3:2").check()
    price = panel.root.locator(".apx-form > .apx-buy .apx-price")
    expect(price).to_contain_text("4 tasks, 4 pictures: $1.40")
    panel.button("Copy as %%apixo cell").click()
    panel.page.wait_for_function(
        "navigator.clipboard.readText().then(text => text === "
        "'%%apixo --ar 1:1,3:2 --set style=ink,oil\\na fox, {style}')"
    )
    panel.root.get_by_label("Draws").fill("4")
    expect(price).to_contain_text("16 tasks, 16 pictures: $5.60")
    panel.button("Generate · $5.60").click()
    asked = panel.root.get_by_role("dialog", name="Is that the sum you want?")
    expect(asked).to_contain_text("16 tasks")
    panel.notebook.screenshot("panel-ask")
    asked.get_by_role("button", name="Not now").click()
    expect(panel.cards).to_have_count(0)
    panel.root.get_by_label("Draws").fill("1")
    panel.button("Generate · $1.40").click()
    expect(panel.cards).to_have_count(4)
    expect(panel.root.locator(".apx-all")).to_contain_text("of 4 done")
    expect(panel.root.locator(".apx-card[data-kind=done]")).to_have_count(4)
    expect(panel.root.locator(".apx-all")).to_have_text("4 of 4 done · $1.40, not paid")
    panel.notebook.screenshot("panel-sweep")
    panel.notebook.run_cell(2)
    made = panel.notebook.outputs(2)[-1]["data"]["text/plain"]
    assert made.count("'style': 'ink'") == made.count("'style': 'oil'") == made.count("'3:2'") == 2
    assert "a fox, oil" in made


def test_second_model_can_be_chosen_and_one_is_no_question(open_panel: OpenPanel) -> None:
    another = "dataclasses.replace(spec.MODELS['gpt-image-1'], id='gpt-image-2', mode='gpt-image-2')"
    panel = open_panel(
        "import dataclasses\nfrom apixo_nb.core import models as spec\n"
        f"spec.MODELS['gpt-image-2'] = {another}"
    )
    panel.show()
    expect(panel.root.get_by_label("Model")).to_be_hidden()
    panel.notebook.restart_kernel()
    panel.notebook.run_cell(2)
    panel.show()
    panel.root.get_by_label("Model").select_option("gpt-image-2")
    panel.generate("by another model")
    expect(panel.cards.first).to_contain_text("Done")
    panel.open_history()
    expect(panel.rows()).to_have_count(1)
    made = panel.notebook.page.evaluate("document.querySelector('tr[data-run]').dataset.run")
    sidecar = panel.folder / "apixo-runs" / "images" / f"{made}-1.json"
    assert json.loads(sidecar.read_text("utf-8"))["model"] == "gpt-image-2"


@pytest.mark.parametrize(
    ("name", "size", "theme"),
    [
        ("light-wide", (1600, 1000), "JupyterLab Light"),
        ("dark-wide", (1600, 1000), "JupyterLab Dark"),
        ("light-narrow", (480, 1100), "JupyterLab Light"),
        ("dark-narrow", (480, 1100), "JupyterLab Dark"),
    ],
)
def test_panel_is_readable_and_has_no_barriers(
    open_panel: OpenPanel, name: str, size: tuple[int, int], theme: str
) -> None:
    panel = open_panel(size=size)
    panel.notebook.set_theme(theme)
    panel.show()
    panel.root.get_by_role("radio", name="2", exact=True).check()
    panel.generate("a lighthouse at dusk, soft light, long exposure, calm sea")
    panel.generate("[fail:SensitiveContent] something that is refused")
    panel.generate("[never] a run on its way")
    expect(panel.card("is refused")).to_contain_text("Failed")
    expect(panel.card("lighthouse")).to_contain_text("Done")
    line = panel.root.get_by_label("Reference pictures")
    line.fill("ftp://example.com/a.png")
    line.press("Enter")
    expect(panel.root.locator(".apx-references .apx-problem")).to_be_visible()
    panel.root.get_by_text("Name, tags and note").click()
    panel.notebook.screenshot(f"panel-{name}")
    fits = "root => root.scrollWidth <= root.clientWidth + 1"
    assert panel.root.evaluate(fits)
    assert serious_violations(panel.page, ".apx-panel") == []
    panel.open_history()
    expect(panel.rows()).to_have_count(3)
    panel.notebook.screenshot(f"panel-{name}-history")
    assert panel.root.evaluate(fits)
    assert serious_violations(panel.page, ".apx-panel") == []
    panel.rows().locator(".apx-thumb").first.click()
    expect(panel.lightbox.locator(".apx-full")).to_have_js_property("naturalWidth", 1024)
    panel.notebook.screenshot(f"panel-{name}-lightbox")
    assert serious_violations(panel.page, ".apx-lightbox") == []


def test_nobody_is_moved_who_asks_for_no_motion(open_panel: OpenPanel) -> None:
    panel = open_panel()
    panel.page.emulate_media(reduced_motion="reduce")
    panel.show()
    panel.generate("[never] still")
    fill = panel.cards.first.locator(".apx-fill")
    assert fill.evaluate("bar => getComputedStyle(bar).transitionDuration") in ("0s", "1e-05s")


def test_the_picture_of_the_readme_panel(open_panel: OpenPanel) -> None:
    """`make pictures` puts this screenshot into the README."""
    panel = open_panel(size=(1240, 800)).show()
    panel.root.get_by_role("radio", name="3:2").check()
    panel.root.get_by_role("radio", name="2", exact=True).check()
    panel.generate("a cozy cyberpunk cafe with neon lights")
    expect(panel.card("cyberpunk cafe")).to_contain_text("Done")
    panel.generate("a paper boat on a puddle, after the rain")
    expect(panel.card("paper boat")).to_contain_text(re.compile("1 poll|Done"))  # or a moment later
    panel.page.mouse.move(0, 0)
    panel.root.screenshot(path=SCREENSHOTS / "readme-panel.png", animations="disabled")
    assert (SCREENSHOTS / "readme-panel.png").stat().st_size > 10_000
