"""The panel in a real kernel, order message by message: what it buys, what it refuses, and what it leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from apixo_nb.sandbox import Sandbox
from tests.support.factories import KEY
from tests.support.kernels import execute, kernel, rows, text_of
from tests.support.widget_page import VIEW, Page

UNTIL_GO = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.05)"
LOAD = "%load_ext apixo_nb"
PRICE = 350_000
SENTENCE = "The panel is a form in the notebook"
SETTLED = "Nothing was sent. Look at what the panel says now, then press again."


@pytest.fixture
def page(service: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:  # noqa: ARG001
    """The panel of a kernel that works against a quick sandbox with a key that is easily found."""
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    with kernel(tmp_path) as running:
        shown = Page(running)
        yield shown
        assert KEY not in shown.everything()


def problem(answer: dict[str, Any]) -> dict[str, str]:
    assert set(answer["problem"]) == {"text", "advice", "field"}
    found: dict[str, str] = answer["problem"]
    return found


# --- what is shown ----------------------------------------------------------------------------------


def test_the_panel_is_a_widget_that_knows_models_and_prices(page: Page) -> None:
    facts = page.state["facts"]
    assert page.text.startswith(SENTENCE)
    assert [(model["id"], model["price_micros"]) for model in facts["models"]] == [("gpt-image-1", PRICE)]
    assert (facts["sandbox"], facts["problem"], facts["unfinished"]) == (True, {}, "")
    assert page.state["checked"]["problems"] == {}
    assert (page.state["cards"], page.state["money"]) == ([], {"budgets": []})


def test_a_kernel_has_one_panel(page: Page) -> None:
    [output] = page.run(
        "import apixo_nb\n[apixo_nb.panel() is apixo_nb.panel(), repr(apixo_nb.panel())[:18]]"
    )
    assert output["data"]["text/plain"] == "[True, '<Panel of Session(']"
    again = page.run("apixo_nb.panel()")[0]["data"]
    assert again[VIEW]["model_id"] == page._comm


def test_a_form_is_checked_as_it_is_filled_in(page: Page) -> None:
    form = {"prompt": "x" * 10_001, "repeat": 0, "image_urls": ["a.png"], "rev": 7}
    page.send({"method": "update", "state": {"form": form}, "buffer_paths": []})
    page.wait(lambda: page.state["checked"].get("rev") == 7, "the form to be checked")
    assert set(page.state["checked"]["problems"]) == {"prompt", "repeat", "image_urls.0"}
    assert (page.state["checked"]["cell"], "generate(" in page.state["checked"]["python"]) == ("", True)


@pytest.mark.parametrize("form", [{"model": []}, {"tags": {}, "parameters": 3}, {"prompt": 7}], ids=str)
def test_a_form_of_anything_else_is_checked_too(page: Page, form: dict[str, Any]) -> None:
    page.send({"method": "update", "state": {"form": form | {"rev": 8}}, "buffer_paths": []})
    page.wait(lambda: page.state["checked"].get("rev") == 8, "the form to be checked")


# --- buying -----------------------------------------------------------------------------------------


def test_a_click_makes_one_row_and_one_task(page: Page, service: Sandbox) -> None:
    answer = page.generate("a fox", parameters={"aspect_ratio": "3:2"}, tags=["red"], name="foxes")
    [run_id] = answer["run_ids"]
    card = page.ended(run_id)
    [run] = rows()
    assert service.account.accepted == [run.task_id]
    assert (run.run_id, run.state, run.aspect_ratio, run.tags) == (run_id, "success", "3:2", ("red",))
    assert (card["kind"], card["phase"], card["cost"]) == ("done", "Done", "$0.35, not paid")
    assert [picture["file"] for picture in card["pictures"]] == list(run.files)


def test_three_draws_are_three_takes_of_one_request(page: Page, service: Sandbox) -> None:
    run_ids = page.generate("a fox", micros=3 * PRICE, repeat=3)["run_ids"]
    for run_id in run_ids:
        page.ended(run_id)
    assert sorted(run.take for run in rows()) == [1, 2, 3]
    assert {run.run_id for run in rows()} == set(run_ids)
    assert len(service.account.accepted) == 3


def test_the_same_click_twice_buys_once(page: Page, service: Sandbox) -> None:
    order = {"form": {"prompt": "a fox"}, "token": "once", "price_micros": PRICE}
    calls = [page.send_request("generate", **order) for _ in range(3)]
    answers = [page.reply(call)["run_ids"] for call in calls]
    page.ended(answers[0][0])
    assert page.request("generate", **order)["run_ids"] == answers[0]
    assert answers == [answers[0]] * 3
    assert (len(rows()), service.account.submits) == (1, 1)


def test_a_click_buys_at_the_service_that_the_page_showed_and_at_no_other(
    page: Page, service: Sandbox
) -> None:
    settings_id = page.state["facts"]["settings_id"]
    page.run("%config Apixo.timeout = 600")
    page.request("pictures", wanted=[])  # the panel has seen the change, the page of this click has not
    order = {"form": {"prompt": "a fox"}, "token": "once", "price_micros": PRICE}
    said = problem(page.request("generate", settings_id=settings_id, **order))
    assert "settings have changed" in said["text"]
    assert (rows(), service.account.submits) == ([], 0)
    assert page.request("generate", **order)["run_ids"]


def test_the_same_click_on_several_threads_buys_once(page: Page, service: Sandbox) -> None:
    order = {"form": {"prompt": "a fox"}, "token": "once", "price_micros": PRICE}
    calls = []
    for shell in [page.new_subshell() for _ in range(3)] * 2:
        page.subshell = shell
        calls.append(page.send_request("generate", **order))
    answers = [page.reply(call)["run_ids"] for call in calls]
    page.ended(answers[0][0])
    assert answers == [answers[0]] * 6
    assert (len(rows()), service.account.submits) == (1, 1)


def test_a_click_is_heard_while_a_cell_runs(page: Page, service: Sandbox, tmp_path: Path) -> None:
    page.subshell = page.new_subshell()
    page.request("hello")  # from here on the kernel hears this page there
    cell = page.kernel.start(UNTIL_GO)
    page.ended(page.generate("a fox")["run_ids"][0])
    assert not page.has_ended(cell)
    (tmp_path / "go").touch()
    page.finish(cell)
    assert len(service.account.accepted) == 1


@pytest.mark.parametrize("price", [0, PRICE - 1, 4 * PRICE, None, "350000"])
def test_another_price_than_was_shown_is_refused(page: Page, service: Sandbox, price: Any) -> None:
    order = {"form": {"prompt": "a fox"}, "token": "once"}
    said = problem(page.request("generate", price_micros=price, **order))
    assert (said["text"], said["advice"]) == ("This costs $0.35, not what was shown", SETTLED)
    assert (rows(), service.account.submits) == ([], 0)
    assert page.request("generate", price_micros=PRICE, **order)["run_ids"]  # the click was not spent


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a fox", "repeat": 0}, "repeat"),
        ({"prompt": "a fox", "repeat": 101}, "repeat"),
        ({"prompt": "a fox", "parameters": {"num_images": 3}}, "num_images"),
        ({"prompt": "a fox", "image_urls": ["a.png"]}, "image_urls"),
        (None, "prompt"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused_by_field(
    page: Page, service: Sandbox, form: Any, field: str
) -> None:
    said = problem(page.request("generate", form=form, token="once", price_micros=PRICE))
    assert said["field"] == field
    assert said["advice"].endswith("Nothing was sent.")
    assert (rows(), service.account.submits) == ([], 0)


@pytest.mark.parametrize("token", ["", None])
def test_a_purchase_without_a_token_is_refused(page: Page, service: Sandbox, token: str | None) -> None:
    said = problem(page.request("generate", form={"prompt": "a fox"}, token=token, price_micros=PRICE))
    assert "Nothing was sent." in said["advice"]
    assert service.account.submits == 0


def test_a_budget_is_shown_and_kept(page: Page, service: Sandbox) -> None:
    page.run("%apixo budget 0.60")
    page.request("hello")
    [cap] = page.state["money"]["budgets"]
    assert (cap["name"], cap["limit_micros"], cap["left_micros"]) == ("in total", 600_000, 600_000)
    said = problem(page.generate("a fox", micros=2 * PRICE, repeat=2))
    assert said["text"].startswith("This would cost $0.70 and pass the budget of $0.60 in total")
    assert (said["field"], "Nothing was sent." in said["advice"]) == ("budget", True)
    assert (rows(), service.account.submits) == ([], 0)
    page.ended(page.generate("a fox")["run_ids"][0])
    page.wait(lambda: page.state["money"]["budgets"][0]["left_micros"] == 250_000, "what is left")


def test_after_a_setting_has_changed_one_click_is_refused(
    service: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    with kernel(tmp_path) as running:
        running.run("%apixo sandbox")
        page = Page(running)
        page.run("%apixo sandbox off")
        said = problem(page.generate("a fox"))
        assert said["text"] == "The settings have changed since the panel was drawn"
        assert (said["advice"], rows(), service.account.submits) == (SETTLED, [], 0)
        page.ended(page.generate("a fox")["run_ids"][0])
        assert len(service.account.accepted) == 1
        page.run("%config Apixo.unit_price_usd = 0.5")
        assert "have changed" in problem(page.generate("a fox"))["text"]
        assert page.state["facts"]["models"][0]["price_micros"] == 500_000
        page.ended(page.generate("a fox", micros=500_000)["run_ids"][0])
        assert len(service.account.accepted) == 2


def test_without_a_key_the_panel_shows_and_says_what_to_do(
    service: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APIXO_API_KEY")
    with kernel(tmp_path) as running:
        page = Page(running)
        told = page.state["facts"]["problem"]
        assert all(way in told["advice"] for way in ("APIXO_API_KEY", "%apixo login", "%apixo sandbox"))
        assert "APIXO_API_KEY" in problem(page.generate("a fox"))["advice"]
        assert service.account.submits == 0
        page.run(f"import os\nos.environ['APIXO_API_KEY'] = {KEY!r}")
        page.request("hello")
        assert page.state["facts"]["problem"] == {}
        assert page.ended(page.generate("a fox")["run_ids"][0])["kind"] == "done"


def test_a_purchase_is_told_as_one_although_it_cannot_be_left_in_the_notebook(
    service: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    with kernel(tmp_path / "work") as running:
        page = Page(running)
        page.run("import os\nos.rmdir(os.getcwd())")  # paths cannot be told from nowhere
        answer = page.generate("a fox")
        assert page.ended(answer["run_ids"][0])["kind"] == "done"
        assert page.lasting() == []
    assert len(service.account.accepted) == 1


# --- what becomes of a run --------------------------------------------------------------------------


def test_cancel_ends_the_waiting_and_resume_takes_it_up_for_nothing(page: Page, service: Sandbox) -> None:
    [run_id] = page.generate("[seconds:2] a fox")["run_ids"]
    page.wait(lambda: page.card(run_id).get("phase") == "Waiting", "the task")
    assert page.card(run_id)["stoppable"]
    page.request("cancel", run_id=run_id)
    card = page.ended(run_id)
    assert (card["kind"], card["resumable"], card["retry_price"]) == ("stopped", True, "")
    assert page.request("resume", run_id=run_id)["run_ids"] == [run_id]
    page.wait(lambda: page.card(run_id)["kind"] == "done", "the pictures")
    assert [card["run_id"] for card in page.state["cards"]] == [run_id]
    assert service.account.submits == 1


def test_a_run_stays_on_the_page_when_a_setting_changes(page: Page, service: Sandbox) -> None:
    [run_id] = page.generate("[seconds:0.5] a fox")["run_ids"]
    [failed] = page.generate("[fail:Timeout] a fox")["run_ids"]
    page.run("%config Apixo.unit_price_usd = 0.5")
    page.request("hello")
    assert page.card(run_id)
    assert page.ended(run_id)["kind"] == "done"
    page.ended(failed)
    page.wait(lambda: len(page.lasting()) == 2, "the lasting outputs")
    assert service.account.submits == 2


def test_what_an_earlier_kernel_left_is_told_and_taken_up(
    page: Page, service: Sandbox, tmp_path: Path
) -> None:
    [run_id] = page.generate("[seconds:1] a fox")["run_ids"]
    page.wait(lambda: page.card(run_id).get("phase") == "Waiting", "the task")
    page.request("cancel", run_id=run_id)
    page.ended(run_id)
    with kernel(tmp_path) as later:
        other = Page(later)
        assert other.state["facts"]["unfinished"].startswith("1 earlier run is not finished")
        assert other.request("resume")["run_ids"] == [run_id]
        assert other.ended(run_id)["kind"] == "done"
        other.request("hello")
        assert other.state["facts"]["unfinished"] == ""
    assert service.account.submits == 1


def test_a_failed_run_can_be_bought_again(page: Page, service: Sandbox) -> None:
    form: dict[str, Any] = {"parameters": {"num_images": 2}, "tags": ["red"], "note": "n"}
    [run_id] = page.generate("[fail:Timeout] a fox", micros=2 * PRICE, **form)["run_ids"]
    card = page.ended(run_id)
    assert (card["kind"], card["retry_price"], card["retry_micros"]) == ("failed", "$0.70", 2 * PRICE)
    assert "Timeout" in card["problem"]["text"]
    order = {"run_id": run_id, "token": "again", "price_micros": 2 * PRICE}
    [again] = page.request("retry", **order)["run_ids"]
    assert page.request("retry", **order)["run_ids"] == [again]
    page.ended(again)
    first, second = rows()
    assert (first.digest, first.tags, first.note) == (second.digest, second.tags, second.note)
    assert len(service.account.accepted) == 2


@pytest.mark.parametrize("prompt", ["a fox", "[lost] a fox", "[gone] a fox"])
def test_what_is_or_may_be_paid_for_is_not_bought_again(page: Page, service: Sandbox, prompt: str) -> None:
    [run_id] = page.generate(prompt)["run_ids"]
    assert page.ended(run_id)["retry_price"] == ""
    said = problem(page.request("retry", run_id=run_id, token="again", price_micros=PRICE))
    assert "Nothing was sent." in said["advice"]
    assert (len(rows()), service.account.submits) == (1, 1)


@pytest.mark.parametrize("name", ["retry", "cancel"])
@pytest.mark.parametrize("run_id", ["nobody", None, 7, "../x"])
def test_a_run_that_is_not_there_is_said(page: Page, name: str, run_id: Any) -> None:
    said = problem(page.request(name, run_id=run_id, token="t", price_micros=PRICE))
    assert said["text"] == "That run is not on the panel any more"


def test_a_run_of_a_cell_has_a_card_and_leaves_its_output_there(page: Page) -> None:
    outputs = page.run("%%apixo\na fox")
    [run] = rows()
    assert page.ended(run.run_id)["kind"] == "done"
    assert outputs
    assert page.lasting() == []


# --- what stays in the notebook ---------------------------------------------------------------------


def test_a_run_leaves_its_card_in_the_panels_cell_although_another_cell_runs(
    page: Page, tmp_path: Path
) -> None:
    [run_id] = page.generate("[seconds:0.5] a <script>alert(1)</script> fox")["run_ids"]
    cell = page.kernel.start(UNTIL_GO)
    page.wait(page.lasting, "the lasting output")
    assert not page.has_ended(cell)
    (tmp_path / "go").touch()
    page.finish(cell)
    [left] = page.lasting()
    assert run_id in left
    assert left.count("data:image/webp") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in left
    assert "<script" not in left
    assert page.outputs(cell) == []


def test_shown_again_the_panel_leaves_its_runs_in_the_new_cell(page: Page) -> None:
    [run_id] = page.generate("a fox")["run_ids"]
    page.ended(run_id)
    page.wait(page.lasting, "the lasting output")
    page.cell = page.kernel.start("%apixo panel", allow_stdin=True)
    page.finish(page.cell)
    [left] = page.lasting()
    assert run_id in left


# --- pictures, choices and files --------------------------------------------------------------------


def test_pictures_come_as_bytes_on_request(page: Page, tmp_path: Path) -> None:
    [run_id] = page.generate("a fox", micros=2 * PRICE, parameters={"num_images": 2})["run_ids"]
    files = [picture["file"] for picture in page.ended(run_id)["pictures"]]
    hopeless = [
        {"run_id": "nobody", "index": 0, "size": "row"},
        {"run_id": run_id, "index": "0", "size": "row"},
        7,
    ]
    wanted = [{"run_id": run_id, "index": index, "size": "full"} for index in (0, 1)]
    page.request("pictures", wanted=[*hopeless, *wanted])
    came = {said["index"]: (said, parts) for said, parts in page.custom() if said.get("size") == "full"}
    for index, file in enumerate(files):
        said, [data] = came[index]
        assert data == (tmp_path / "home" / "images" / file).read_bytes()
        assert (said["event"], said["run_id"], said["mime"], said["file"]) == (
            "picture",
            run_id,
            "image/png",
            file,
        )


def test_a_choice_is_on_the_card_and_in_the_ledger(page: Page) -> None:
    [run_id] = page.generate("a fox")["run_ids"]
    page.ended(run_id)
    answer = page.request(
        "review", run_id=run_id, index=0, rating=4, starred=True, note="the one", tags=["keep"]
    )
    assert answer["row"]["rating"] == 4
    page.wait(lambda: page.card(run_id)["pictures"][0]["starred"], "the star on the card")
    [run] = rows()
    assert (run.rating, run.images[0].note, run.images[0].tags) == (4, "the one", ("keep",))
    assert problem(page.request("review", run_id=run_id, index=0, rating=9))["field"] == "rating"


def test_an_export_is_written_beside_the_notebook_and_can_be_fetched(page: Page, tmp_path: Path) -> None:
    page.ended(page.generate("a fox")["run_ids"][0])
    answer = page.request("export", kind="csv", run_ids=[], query={})
    written = tmp_path / answer["file"]
    call = page.send_request("fetch", file=answer["file"])
    page.reply(call)
    [parts] = [parts for said, parts in page.custom() if said.get("id") == call]
    assert parts == [written.read_bytes()]
    for other in ("home/ledger.db", "../../etc/passwd", None):
        assert problem(page.request("fetch", file=other))["text"] == "No such file was exported here"


@pytest.mark.parametrize("name", ["", "nonsense", "__class__", None, 7, "generate\n"])
def test_what_nobody_asks_is_answered_all_the_same(page: Page, name: Any) -> None:
    page.send({"method": "custom", "content": {"method": name, "id": "odd"}})
    assert problem(page.reply("odd"))["text"]


def test_a_message_that_is_none_leaves_the_panel_alive(page: Page, service: Sandbox) -> None:
    odd: list[Any] = [[], 7, None, "generate", {"method": "pictures", "wanted": 7, "id": "odd"}]
    for content in odd:
        page.send({"method": "custom", "content": content})
    assert page.reply("odd") == {"id": "odd"}
    assert page.generate("a fox")["run_ids"]
    assert service.account.submits <= 1


# --- where nobody can click -------------------------------------------------------------------------


def test_headless_it_is_a_sentence_and_no_widget(service: Sandbox, tmp_path: Path) -> None:  # noqa: ARG001
    notebook = execute([LOAD, "%apixo panel", "import apixo_nb\napixo_nb.panel()", "%%apixo\nx"], tmp_path)
    for cell in notebook.cells[1:3]:
        [output] = cell.outputs
        assert output.data["text/plain"].startswith(SENTENCE)
        assert SENTENCE in output.data["text/html"]
    assert "✓" in text_of(notebook.cells[3])
    assert "widget" not in json.dumps(notebook)


def test_in_a_terminal_it_is_a_sentence(service: Sandbox, tmp_path: Path) -> None:  # noqa: ARG001
    arguments = ["-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor"]
    child = pexpect.spawn(sys.executable, arguments, cwd=str(tmp_path), encoding="utf-8", timeout=60)
    try:
        child.setwinsize(40, 200)
        child.expect_exact("In [1]:")
        for number, line in enumerate([LOAD, "%apixo panel", "import apixo_nb; apixo_nb.panel()"], start=2):
            child.sendline(line)
            child.expect_exact(f"In [{number}]:")
            assert "Traceback" not in child.before
            assert (SENTENCE in child.before) == ("panel" in line)
    finally:
        child.close(force=True)
