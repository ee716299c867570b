"""The panel in a real JupyterLab: runs on their way, money, and what outlives a page or a kernel."""

from __future__ import annotations

import json
import re

import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Page, expect

from tests.support import panel_page
from tests.support.panel_page import OpenPanel

pytestmark = [pytest.mark.browser, pytest.mark.slow]

open_panel = panel_page.open_panel

# Only then is the task's id in the ledger: a card says "0 polls" while its submit is on the way.
POLLED = re.compile(r"[1-9]\d* poll")


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


@pytest.mark.parametrize("key", ["Control+Enter", "Meta+Enter"])
def test_the_key_generates(open_panel: OpenPanel, key: str) -> None:
    panel = open_panel().show()
    panel.prompt.fill("by a key")
    expect(panel.prompt).to_be_focused()
    panel.prompt.press(key)
    expect(panel.card("by a key")).to_contain_text("Done")
    expect(panel.cards).to_have_count(1)


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
    expect(panel.prompt).to_be_focused()
    panel.prompt.press("Control+Enter")
    expect(panel.root.locator(".apx-form .apx-problem[role=alert]")).to_contain_text("Nothing was sent")
    expect(panel.cards).to_have_count(0)


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
    expect(panel.cards.first).to_contain_text(POLLED)
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
    panel.generate("[seconds:15] left behind")
    expect(panel.cards.first).to_contain_text(POLLED)
    panel.notebook.restart_kernel()
    panel.show()
    panel.button("Resume · free").click()
    expect(panel.card("left behind")).to_contain_text("Done")
    expect(panel.root.locator(".apx-unfinished")).to_be_hidden()


def test_reloaded_page_has_its_panel_again(open_panel: OpenPanel) -> None:
    panel = open_panel("%%apixo\n[seconds:3] in a cell, with a Cancel button").show()
    panel.notebook.run_cell(2)
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
    panel.button("Generate").click()
    expect(panel.root.locator(".apx-form .apx-problem[role=alert]")).to_contain_text("Nothing was sent")
    expect(panel.button("Generate · $2.00")).to_be_enabled()
    expect(panel.cards).to_have_count(0)
    panel.button("Generate").click()
    expect(panel.cards.first).to_contain_text("$2.00")


def test_keys_of_the_notebook_stay_out_of_the_panel(open_panel: OpenPanel) -> None:
    panel = open_panel("'a cell'").show()
    panel.root.get_by_role("tab", name="Make").focus()
    for key in ("d", "d", "a", "b", "x", "Shift+Enter", "m"):
        panel.page.keyboard.press(key)
    assert [cell.cell_type for cell in panel.notebook.notebook().cells] == ["code"] * 3
    assert panel.notebook.outputs(2) == []
