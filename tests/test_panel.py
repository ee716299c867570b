"""The panel in a real JupyterLab: what a person sees and does there, by mouse and by keyboard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Locator, Page, expect

from apixo_nb.frame import read_csv
from tests.axe import serious_violations
from tests.browser import SCREENSHOTS, NotebookPage, OpenNotebook

pytestmark = [pytest.mark.browser, pytest.mark.slow]

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
        self.prompt.press("Control+Enter")
        expect(self.cards.first).to_contain_text(prompt)

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


def focused(page: Page) -> str:
    """What has the focus, as its label, name or text."""
    script = """() => {
        const it = document.activeElement;
        return it.labels?.[0]?.textContent || it.getAttribute("aria-label") || it.textContent || it.tagName;
    }"""
    return str(page.evaluate(script))


def test_form_can_be_filled_and_sent_by_keyboard_alone(open_panel: OpenPanel) -> None:
    panel = open_panel().show()
    keyboard = panel.page.keyboard
    panel.root.get_by_role("tab", name="Make").focus()
    keyboard.press("Tab")
    assert focused(panel.page) == "Prompt"
    keyboard.type("a fox by keyboard")
    keyboard.press("Tab")
    keyboard.press("ArrowRight")
    assert focused(panel.page) == "2:3"
    keyboard.press("Tab")
    keyboard.press("ArrowRight")
    assert focused(panel.page) == "2"
    keyboard.press("Tab")
    assert focused(panel.page) == "Draws"
    keyboard.press("Tab")
    keyboard.type("ftp://example.com/a.png")
    keyboard.press("Enter")
    expect(panel.root.locator(".apx-references .apx-problem")).to_contain_text("is not an http(s) URL")
    keyboard.press("Tab")
    keyboard.press("Tab")
    assert focused(panel.page) == "Remove reference 1"
    keyboard.press("Enter")
    expect(panel.root.locator(".apx-references li")).to_have_count(0)
    while not focused(panel.page).startswith("Generate"):
        keyboard.press("Tab")
    assert focused(panel.page) == "Generate · $0.70"
    keyboard.press("Enter")
    expect(panel.cards.first).to_contain_text("Waiting")
    thumbs = panel.cards.first.locator(".apx-thumb")
    expect(thumbs).to_have_count(2)
    while "Picture 1 of 2" not in panel.page.evaluate(
        "document.activeElement.querySelector('img')?.alt ?? ''"
    ):
        keyboard.press("Tab")
    keyboard.press("Enter")
    expect(panel.lightbox).to_be_visible()
    keyboard.press("ArrowRight")
    expect(panel.lightbox).to_contain_text("2 of 2")
    keyboard.press("Escape")
    expect(panel.lightbox).to_be_hidden()
    assert "Picture 1 of 2" in panel.page.evaluate("document.activeElement.querySelector('img')?.alt ?? ''")


def test_runs_are_live_and_one_of_three_is_cancelled(open_panel: OpenPanel) -> None:
    panel = open_panel().show()
    panel.generate("the first one")
    panel.generate("[never] the second one")
    panel.generate("the third one")
    second = panel.card("the second one")
    expect(second).to_contain_text("Waiting")
    expect(second).to_contain_text("usually about 3 s")
    expect(second).to_contain_text("1 poll")
    expect(second).to_contain_text("up to $0.35, not paid")
    second.get_by_role("button", name="Cancel").click()
    expect(second).to_contain_text("Stopped waiting; the task may still finish")
    expect(second.get_by_role("button", name="Resume · free")).to_be_visible()
    for prompt in ("the first one", "the third one"):
        expect(panel.card(prompt)).to_contain_text("Done")
        expect(panel.card(prompt).locator(".apx-thumb img")).to_have_js_property("complete", value=True)
    assert [panel.cards.nth(index).locator(".apx-prompt").inner_text() for index in range(3)] == [
        "the third one",
        "[never] the second one",
        "the first one",
    ]


def test_nothing_freezes_while_another_cell_sleeps(open_panel: OpenPanel) -> None:
    panel = open_panel("import time\nfor _ in range(600):\n    time.sleep(0.1)").show()
    panel.generate("before")
    panel.notebook.start_run_cell(2)
    expect(panel.page.locator(".jp-InputPrompt").nth(2)).to_have_text("[*]:")
    panel.generate("during")
    expect(panel.card("during")).to_contain_text("Done")
    panel.generate("[never] stopped during")
    panel.card("stopped during").get_by_role("button", name="Cancel").click()
    expect(panel.card("stopped during")).to_contain_text("Stopped waiting")
    panel.open_history()
    expect(panel.rows()).to_have_count(3)
    assert not panel.notebook.finished()
    panel.notebook.interrupt()
    panel.notebook.wait_finished()


def test_failed_run_says_why_and_what_another_try_costs(open_panel: OpenPanel) -> None:
    panel = open_panel().show()
    panel.generate("[fail:SensitiveContent] something")
    card = panel.cards.first
    expect(card).to_contain_text("Change the prompt or the reference picture.")
    card.get_by_role("button", name="Try again · $0.35").click()
    expect(panel.cards).to_have_count(2)
    expect(panel.cards.first).to_contain_text("Failed")
    panel.cards.first.get_by_role("button", name="Send to form").click()
    expect(panel.prompt).to_have_value("[fail:SensitiveContent] something")
    expect(panel.prompt).to_be_focused()


def test_lost_submit_offers_no_second_purchase(open_panel: OpenPanel) -> None:
    panel = open_panel().show()
    panel.generate("[lost] something")
    card = panel.cards.first
    expect(card).to_contain_text("May have cost up to $0.35")
    expect(card.get_by_role("button", name="Try again")).to_have_count(0)


def test_hurried_clicks_buy_once(open_panel: OpenPanel) -> None:
    panel = open_panel().show()
    panel.prompt.fill("bought once")
    panel.button("Generate").evaluate("button => { for (let i = 0; i < 8; i += 1) button.click(); }")
    expect(panel.cards.first).to_contain_text("Done")
    panel.open_history()
    expect(panel.rows()).to_have_count(1)


def test_price_budget_and_count_follow_the_form(open_panel: OpenPanel) -> None:
    panel = open_panel().show()
    expect(panel.root.locator(".apx-price")).to_have_text("1 picture: $0.35 by list price, not paid")
    panel.root.get_by_role("radio", name="4", exact=True).check()
    panel.root.get_by_label("Draws").fill("3")
    expect(panel.button("Generate · $4.20")).to_be_enabled()
    expect(panel.root.locator(".apx-price")).to_contain_text("3 draws \u00d7 4 pictures: $4.20")
    panel.prompt.fill("日本語 😀")
    expect(panel.root.locator(".apx-count")).to_have_text("5 / 10,000")
    panel.prompt.fill("x" * 10_001)
    expect(panel.root.locator(".apx-field .apx-problem").first).to_contain_text("10001 characters")


def test_budget_is_shown_and_refuses(open_panel: OpenPanel) -> None:
    panel = open_panel("%apixo budget 1.00")
    panel.notebook.run_cell(0)
    panel.notebook.run_cell(2)
    panel.show()
    expect(panel.root.locator(".apx-money")).to_have_text("Budget in total, $1.00: $0.65 left after this")
    panel.root.get_by_role("radio", name="4", exact=True).check()
    expect(panel.root.locator(".apx-money")).to_contain_text("$0.40 too much")
    panel.prompt.fill("too dear")
    panel.prompt.press("Control+Enter")
    expect(panel.root.locator(".apx-form .apx-problem[role=alert]")).to_contain_text("Nothing was sent")
    expect(panel.cards).to_have_count(0)


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
    expect(panel.root.locator(".apx-sweep .apx-problem")).to_contain_text("No prompt uses {colour}")
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


def test_run_of_a_cell_shows_on_the_panel_and_the_cell_runs_again_with_all_in_it(
    open_panel: OpenPanel,
) -> None:
    panel = open_panel("%%apixo --bg\n[never] begun in a cell").show()
    panel.notebook.run_cell(2)
    expect(panel.card("begun in a cell")).to_contain_text("Waiting")
    panel.generate("[never] begun on the panel")
    panel.prompt.fill("half a thought")
    panel.notebook.run_cell(1)  # shown anew, in the same cell
    expect(panel.root).to_have_count(1)
    expect(panel.cards).to_have_count(2)
    expect(panel.prompt).to_have_value("half a thought")
    panel.card("begun in a cell").get_by_role("button", name="Cancel").click()
    expect(panel.card("begun in a cell")).to_contain_text("Stopped waiting")


def test_kernel_restart_and_resume_bring_the_runs_back(open_panel: OpenPanel) -> None:
    panel = open_panel("%apixo resume").show()
    panel.generate("[seconds:15] outlives its kernel")
    expect(panel.cards.first).to_contain_text("Waiting")
    expect(panel.cards.first).to_contain_text("poll")
    panel.notebook.restart_kernel()
    panel.show()
    expect(panel.root.locator(".apx-unfinished")).to_contain_text("1 earlier run is not finished")
    panel.notebook.start_run_cell(2)
    expect(panel.card("outlives its kernel")).to_contain_text("Waiting")
    expect(panel.card("outlives its kernel")).to_contain_text("Done")
    panel.notebook.wait_finished()
    panel.open_history()
    expect(panel.rows()).to_have_count(1)


def test_resume_on_the_panel_takes_up_what_a_kernel_has_left(open_panel: OpenPanel) -> None:
    panel = open_panel().show()
    panel.generate("left behind")
    expect(panel.cards.first).to_contain_text("poll")
    panel.notebook.restart_kernel()
    panel.show()
    panel.button("Resume · free").click()
    expect(panel.card("left behind")).to_contain_text("Done")
    expect(panel.root.locator(".apx-unfinished")).to_be_hidden()


def test_reloaded_page_has_its_panel_again(open_panel: OpenPanel) -> None:
    panel = open_panel().show()
    panel.generate("made before the reload")
    expect(panel.cards.first).to_contain_text("Done")
    panel.notebook.save()
    panel.notebook.reload()
    expect(panel.card("made before the reload").locator(".apx-thumb img")).to_have_js_property(
        "naturalWidth", 384
    )
    panel.generate("made after it")
    expect(panel.cards.first).to_contain_text("Done")


def test_what_was_made_stays_in_the_notebook_as_plain_html(open_panel: OpenPanel) -> None:
    panel = open_panel().show()
    panel.generate("to stay <script>")
    expect(panel.cards.first).to_contain_text("Done")
    outputs = panel.page.locator(".jp-Cell").nth(1).locator(".apixo-nb-lasting")
    expect(outputs).to_have_count(1)
    expect(outputs).to_be_hidden()
    saved = panel.notebook.save()
    lasting = saved.cells[1].outputs[-1].data["text/html"]
    assert "to stay &lt;script&gt;" in lasting
    assert lasting.count("data:image/webp") == 1
    assert "widgets" not in saved.metadata
    page, _ = HTMLExporter().from_notebook_node(saved)
    assert "to stay &lt;script&gt;" in page
    assert page.count("data:image/webp") == 1
    assert len(json.dumps(saved)) < 60_000
    panel.notebook.restart_kernel()
    panel.notebook.reload()  # tomorrow: no panel, and the picture is there
    expect(outputs).to_be_visible()
    expect(outputs).to_contain_text("to stay <script>")
    panel.notebook.errors.clear()  # JupyterLab's own word for a widget without its kernel


def test_changed_settings_are_never_bought_with(open_panel: OpenPanel) -> None:
    panel = open_panel("%config Apixo.unit_price_usd = 2.0").show()
    panel.prompt.fill("at the old price")
    panel.notebook.run_cell(2)
    panel.prompt.press("Control+Enter")
    expect(panel.root.locator(".apx-form .apx-problem[role=alert]")).to_contain_text("Nothing was sent")
    expect(panel.button("Generate · $2.00")).to_be_enabled()
    expect(panel.cards).to_have_count(0)
    panel.prompt.press("Control+Enter")
    expect(panel.cards.first).to_contain_text("$2.00")


def test_second_model_can_be_chosen_and_one_is_no_question(open_panel: OpenPanel) -> None:
    another = "dataclasses.replace(spec.MODELS['gpt-image-1'], id='gpt-image-2', mode='gpt-image-2')"
    panel = open_panel(
        f"import dataclasses\nfrom apixo_nb import spec\nspec.MODELS['gpt-image-2'] = {another}"
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


def test_keys_of_the_notebook_stay_out_of_the_panel(open_panel: OpenPanel) -> None:
    panel = open_panel("'a cell'").show()
    panel.root.get_by_role("tab", name="Make").focus()
    for key in ("d", "d", "a", "b", "x", "Shift+Enter", "m"):
        panel.page.keyboard.press(key)
    assert [cell.cell_type for cell in panel.notebook.notebook().cells] == ["code"] * 3
    assert panel.notebook.outputs(2) == []


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
    expect(panel.card("paper boat")).to_contain_text("1 poll")
    panel.page.mouse.move(0, 0)
    panel.root.screenshot(path=SCREENSHOTS / "readme-panel.png", animations="disabled")
    assert (SCREENSHOTS / "readme-panel.png").stat().st_size > 10_000
