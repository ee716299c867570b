"""The magics in a real kernel: what a notebook shows, saves, binds and survives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from apixo_nb.sandbox import Sandbox
from tests.support.kernels import Kernel, error_of, execute, kernel, rows, text_of

LOAD = "%load_ext apixo_nb"


pytestmark = pytest.mark.usefixtures("service")


# --- %%apixo -----------------------------------------------------------------------------------------


def test_a_cell_leaves_pictures_a_row_and_light_html(tmp_path: Path, service: Sandbox) -> None:
    notebook = execute([LOAD, "%%apixo --ar 3:2 -n 2 --tag x -o run\na café", "run.files"], tmp_path)
    (output,) = notebook.cells[1].outputs
    (run,) = rows()
    assert service.account.accepted == [run.task_id]
    assert output.data["text/html"].count("data:image/webp") == 2
    assert (run.state, run.aspect_ratio, run.num_images, run.tags) == ("success", "3:2", 2, ("x",))
    assert run.files[0] in notebook.cells[2].outputs[0].data["text/plain"]
    assert "widget" not in json.dumps(notebook)


def test_pictures_in_the_output_link_to_the_original_files(tmp_path: Path) -> None:
    notebook = execute([LOAD, "%config Apixo.home = 'my runs'", "%%apixo\nx"], tmp_path)
    (link,) = re.findall(r'<a href="([^"]+)"', notebook.cells[2].outputs[0].data["text/html"])
    assert link.startswith("my%20runs/images/")
    assert (tmp_path / link.replace("%20", " ")).is_file()


def test_variables_are_filled_and_template_and_prompt_are_both_kept(tmp_path: Path) -> None:
    execute([LOAD, "mood = 'blue'", "%%apixo\n\na {mood} house {{sic}}\n\n"], tmp_path)
    (run,) = rows()
    assert run.prompt == "a blue house {sic}"
    assert run.prompt_template == "a {mood} house {{sic}}"
    assert run.variables == {"mood": "blue"}


def test_raw_sends_the_prompt_as_typed(tmp_path: Path) -> None:
    execute([LOAD, '%%apixo --raw\n{"style": "oil"}'], tmp_path)
    assert rows()[0].prompt == '{"style": "oil"}'


def test_three_dashes_make_several_runs_and_one_bad_one_spares_the_others(tmp_path: Path) -> None:
    cells = [LOAD, "%%apixo -o runs\na\n---\n[fail:Timeout] b\n---\nc"]
    notebook = execute(cells, tmp_path, allow_errors=True)
    assert [run.state for run in rows()] == ["success", "failed", "success"]
    kinds = [output.output_type for output in notebook.cells[1].outputs]
    assert kinds == ["display_data", "display_data", "display_data", "error"]


def test_a_run_that_has_ended_shows_its_card_while_its_neighbour_still_runs(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        message_id = notebook.start("%%apixo\na\n---\n[never] b")
        notebook.wait_for(message_id, "data:image/webp")
        notebook.interrupt()
        notebook.finish(message_id)
    assert [run.state for run in rows()] == ["success", "cancelled"]


def test_resume_names_what_is_at_stake(tmp_path: Path) -> None:
    notebook = execute([LOAD, "%%apixo\n[lost] x", "%apixo resume"], tmp_path, allow_errors=True)
    assert "1 submit(s) without an answer, up to $0.35 at stake" in text_of(notebook.cells[2])


def test_dry_run_shows_request_count_and_cost_and_sends_nothing(tmp_path: Path, service: Sandbox) -> None:
    notebook = execute([LOAD, "%%apixo --ar 2:3 -n 4 --dry-run\na <b>fox</b>"], tmp_path)
    shown = notebook.cells[1].outputs[0].data
    assert "1 task, 4 pictures, $1.40" in shown["text/plain"]
    assert '"num_images": 4' in shown["text/plain"]
    assert "<b>fox</b>" not in shown["text/html"]
    assert service.account.submits == 0


def test_max_cost_refuses_before_anything_is_sent(tmp_path: Path, service: Sandbox) -> None:
    notebook = execute([LOAD, "%%apixo -n 4 --max-cost 1.00\nx"], tmp_path, allow_errors=True)
    assert "$1.40, above the limit of $1.00" in text_of(notebook.cells[1])
    assert service.account.submits == 0


@pytest.mark.parametrize("outer", ["%%time", "%%capture kept"])
def test_it_works_inside_other_cell_magics(tmp_path: Path, outer: str) -> None:
    execute([LOAD, f"{outer}\n%%apixo\nx", "%%apixo\ny"], tmp_path)
    assert [run.state for run in rows()] == ["success", "success"]


def test_every_press_of_shift_enter_buys_another_draw(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        notebook.run("%%apixo\nsame")
        notebook.run("%%apixo\nsame")
    assert [run.take for run in rows()] == [1, 2]


def test_repeat_makes_draws_of_one_request_and_replays_them_all_at_no_cost(
    tmp_path: Path, service: Sandbox
) -> None:
    cells = [LOAD, "%%apixo --repeat 3 -n 2\na fox"]
    first = execute(cells, tmp_path)
    made = rows()
    assert [run.take for run in made] == [1, 2, 3]
    assert len({run.digest for run in made}) == 1
    assert [run.price_micros for run in made] == [700_000] * 3
    again = execute(cells, tmp_path)  # another kernel, as after a restart
    assert rows() == made
    assert len(service.account.accepted) == service.account.submits == 3
    for run in made:
        assert run.run_id in text_of(first.cells[1])
        assert run.run_id in text_of(again.cells[1])
    assert "$0" in text_of(again.cells[1])


def test_repeat_pressed_again_in_one_kernel_buys_more_takes(tmp_path: Path) -> None:
    execute([LOAD, "%%apixo --repeat 2\na fox", "%%apixo --repeat 2\na fox", "%%apixo\na fox"], tmp_path)
    assert [run.take for run in rows()] == [1, 2, 3, 4, 5]


def test_repeat_goes_with_several_prompts_and_binds_the_runs(tmp_path: Path) -> None:
    cells = [LOAD, "%%apixo --repeat 2 -o runs\na\n---\nb", "len(runs)"]
    notebook = execute(cells, tmp_path)
    assert sorted((run.prompt, run.take) for run in rows()) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert notebook.cells[2].outputs[0].data["text/plain"] == "4"


def test_dry_run_of_draws_shows_the_request_and_the_sum(tmp_path: Path, service: Sandbox) -> None:
    notebook = execute([LOAD, "%%apixo --repeat 3 -n 2 --dry-run\na fox"], tmp_path)
    shown = notebook.cells[1].outputs[0].data["text/plain"]
    assert all(part in shown for part in ("3 tasks, 6 pictures", "$2.10", "POST ", '"num_images": 2'))
    assert (rows(), service.account.submits) == ([], 0)


@pytest.mark.parametrize("limit", ["--max-cost 1.00", "budget"])
def test_draws_above_the_limit_are_refused_together(tmp_path: Path, service: Sandbox, limit: str) -> None:
    cap = "%apixo budget 1.00" if limit == "budget" else ""
    option = "" if limit == "budget" else limit
    notebook = execute([LOAD, cap, f"%%apixo --repeat 3 {option}\na fox"], tmp_path, allow_errors=True)
    assert "This would cost $1.05" in text_of(notebook.cells[2])
    assert (rows(), service.account.submits) == ([], 0)


# --- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "name", "told"),
    [
        ("%%apixo --ar 5:4\nx", "InvalidRequestError", "Allowed: 1:1, 2:3, 3:2. Nothing was sent."),
        ("%%apixo\n{moood}", "InvalidRequestError", "no variable moood"),
        ("%%apixo --repeat 0\nx", "InvalidRequestError", "Allowed: a whole number from 1 to 100."),
        ("%%apixo --repeat 101\nx", "InvalidRequestError", "Nothing was sent."),
        ("%%apixo\n[fail:SensitiveContent] x", "TaskFailedError", "Change the prompt"),
        ("%%apixo\n[http:402] x", "InsufficientBalanceError", "Nothing was made. Add balance"),
        ("%%apixo\n[lost] x", "SubmitUnknownError", "May have cost up to $0.35"),
        ("%%apixo\n[gone] x", "ImageError", "gone from its address"),
        ("%apixo stauts", "InvalidRequestError", "Did you mean status?"),
        ("%%apixo", "InvalidRequestError", "There is no prompt"),
        ("%%apixo --ar 3:2 a cafe", "InvalidRequestError", "The prompt goes into the cell below"),
    ],
    ids=lambda value: value if value.isidentifier() else None,
)
def test_an_error_is_a_real_error_output_of_two_lines(
    tmp_path: Path, cell: str, name: str, told: str
) -> None:
    notebook = execute([LOAD, cell], tmp_path, allow_errors=True)
    error = notebook.cells[1].outputs[-1]
    assert error.ename == name
    assert told in error.evalue
    assert len(error.traceback) == 2


def test_a_lost_submit_is_unknown_counted_once_and_never_sent_again(tmp_path: Path, service: Sandbox) -> None:
    execute([LOAD, "%%apixo\n[lost] x", "%apixo resume"], tmp_path, allow_errors=True)
    assert [run.state for run in rows()] == ["unknown"]
    assert service.account.submits == 1


def test_without_a_key_the_error_names_the_three_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APIXO_API_KEY")
    notebook = execute([LOAD, "%%apixo\nx"], tmp_path, allow_errors=True)
    told = text_of(notebook.cells[1])
    assert all(way in told for way in ("APIXO_API_KEY", "%apixo login", "%apixo sandbox"))


# --- Stop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", ["", "%%time\n"], ids=["awaited", "blocking"])
def test_stop_ends_the_wait_and_says_how_to_resume(tmp_path: Path, outer: str, service: Sandbox) -> None:
    with kernel(tmp_path) as notebook:
        message_id = notebook.start(f"{outer}%%apixo\n[never] x")
        notebook.wait_for(message_id, "Waiting")
        notebook.interrupt()
        error = error_of(notebook.finish(message_id))
        assert notebook.value("1 + 1") == "2"
    (run,) = rows()
    assert error["ename"] in ("KeyboardInterrupt", "CancelledError")
    assert run.run_id in error["traceback"][0]
    assert "%apixo resume" in error["traceback"][1]
    assert run.state == "cancelled"
    assert service.account.submits == 1


def test_stop_while_agenerate_is_awaited_keeps_the_run_id(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        message_id = notebook.start(
            "import apixo_nb\nprint('Waiting')\nawait apixo_nb.agenerate('[never] x')"
        )
        notebook.wait_for(message_id, "Waiting")
        while not rows():
            pass
        notebook.interrupt()
        error = error_of(notebook.finish(message_id))
    assert rows()[0].run_id in error["traceback"][0]


def test_a_stopped_run_is_resumed_without_another_submit(tmp_path: Path, service: Sandbox) -> None:
    with kernel(tmp_path) as notebook:
        message_id = notebook.start("%%apixo\n[seconds:2] x")
        notebook.wait_for(message_id, "Waiting")
        notebook.interrupt()
        notebook.finish(message_id)
        notebook.run("%apixo resume")
    (run,) = rows()
    assert (run.state, len(run.files), service.account.submits) == ("success", 1, 1)


# --- %apixo and settings -----------------------------------------------------------------------------


def test_line_commands_say_what_they_did(tmp_path: Path) -> None:
    cells = [
        LOAD,
        "%%apixo -n 2\nx",
        "%apixo balance",
        "%apixo status",
        "%apixo history",
        "%apixo export t.csv",
    ]
    notebook = execute(cells, tmp_path)
    balance, status, table, export = (text_of(cell) for cell in notebook.cells[2:])
    assert "$99.30 left" in balance
    assert "runs      1, 1 success" in status
    assert "success" in table
    assert "t.csv" in export
    assert (tmp_path / "t.csv").read_text("utf-8").startswith('"run_id","task_id"')


def test_settings_are_traits_that_config_shows_checks_and_changes(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        assert "Apixo.timeout=<Float>" in str(notebook.run("%config Apixo"))
        assert "0.05 or more" in str(notebook.run("%config Apixo.poll_interval = 0"))
        notebook.run("%config Apixo.home = 'elsewhere'")
        notebook.run("%%apixo\nx")
    assert (tmp_path / "elsewhere" / "ledger.db").is_file()


def test_login_asks_in_private_tries_the_key_and_never_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APIXO_API_KEY")
    with kernel(tmp_path) as notebook:
        message_id = notebook.start("%apixo login", allow_stdin=True)
        asked = notebook.client.get_stdin_msg(timeout=60)
        notebook.client.input("sk-odd-key-42")
        said = str(notebook.finish(message_id))
        notebook.run("%%apixo\nx")
        history = notebook.value("[line for *_, line in get_ipython().history_manager.get_range()]")
    assert asked["content"]["password"] is True
    assert "$100.00 left" in said
    assert "sk-odd" not in said + history
    assert rows()[0].state == "success"


def test_login_that_is_stopped_says_so_in_two_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APIXO_API_KEY")
    with kernel(tmp_path) as notebook:
        message_id = notebook.start("%apixo login", allow_stdin=True)
        notebook.client.get_stdin_msg(timeout=60)
        notebook.interrupt()
        told = error_of(notebook.finish(message_id))
    assert told["ename"] == "ConfigurationError"
    assert len("\n".join(told["traceback"]).strip().splitlines()) == 2


def test_login_without_a_front_end_says_what_else_to_do(tmp_path: Path) -> None:
    notebook = execute([LOAD, "%apixo login"], tmp_path, allow_errors=True)
    assert "Set APIXO_API_KEY before Jupyter starts" in text_of(notebook.cells[1])


def test_a_key_typed_on_the_login_line_is_not_taken(tmp_path: Path) -> None:
    notebook = execute([LOAD, "%apixo login sk-oops"], tmp_path, allow_errors=True)
    assert "takes no key on the line" in text_of(notebook.cells[1])


def test_unload_takes_back_everything(tmp_path: Path) -> None:
    state = (
        "(len(ip.configurables), len(ip.input_transformers_post), len(ip.Completer.custom_matchers),"
        " [len(found) for found in ip.events.callbacks.values()],"
        " 'apixo' in ip.magics_manager.magics['cell'])"
    )
    with kernel(tmp_path) as notebook:
        notebook.run("ip = get_ipython()\n%unload_ext apixo_nb")
        before = notebook.value(state)
        notebook.run("%load_ext apixo_nb\n%reload_ext apixo_nb\n%unload_ext apixo_nb")
        assert notebook.value(state) == before
        assert before.endswith("False)")


# --- help and completion -----------------------------------------------------------------------------


def complete(notebook: Kernel, code: str) -> list[str]:
    content = notebook.reply(notebook.client.complete(code, len(code)))
    return [code[: content["cursor_start"]] + match for match in content["matches"]]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("%%apixo --ar ", ["%%apixo --ar 1:1", "%%apixo --ar 2:3", "%%apixo --ar 3:2"]),
        ("%%apixo --ar 3", ["%%apixo --ar 3:2"]),
        ("%%apixo -n ", ["%%apixo -n 1", "%%apixo -n 2", "%%apixo -n 4"]),
        ("%%apixo --model ", ["%%apixo --model gpt-image-1"]),
        ("%%apixo --dry", ["%%apixo --dry-run"]),
        ("%apixo ba", ["%apixo balance"]),
    ],
)
def test_tab_completes_flags_values_and_commands(tmp_path: Path, typed: str, expected: list[str]) -> None:
    with kernel(tmp_path) as notebook:
        assert complete(notebook, typed) == expected


def test_tab_elsewhere_is_left_to_python(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        notebook.run("apixo_value = 1")
        assert "apixo_value" in complete(notebook, "apixo_va")
        assert not [match for match in complete(notebook, "%%apixo\nthe --a") if "--ar" in match]


def test_help_shows_the_options_and_the_commands(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        helped = notebook.client.execute("%%apixo?")
        page = notebook.reply(helped)["payload"][0]["data"]["text/plain"]
        printed = str(notebook.run("%apixo help"))
    assert all(word in page for word in ("--ar VALUE", "1:1, 2:3, 3:2", "--dry-run", "examples:"))
    assert all(word in printed for word in ("--max-cost", "login", "sandbox"))


# --- values and the loop -----------------------------------------------------------------------------


def test_a_run_as_the_value_of_a_cell_is_shown_as_its_card(tmp_path: Path) -> None:
    notebook = execute([LOAD, "import apixo_nb\napixo_nb.generate('x')"], tmp_path)
    assert "data:image/webp" in notebook.cells[1].outputs[0].data["text/html"]


def test_await_works_in_a_cell_and_other_tasks_go_on(tmp_path: Path) -> None:
    cells = [
        LOAD,
        "import asyncio, apixo_nb",
        "both = await asyncio.gather(apixo_nb.agenerate('[seconds:0.6] a'), asyncio.sleep(0, 'free'))",
        "both[0].state, both[1]",
    ]
    notebook = execute(cells, tmp_path)
    assert notebook.cells[3].outputs[0].data["text/plain"] == "('success', 'free')"


def test_nested_asyncio_is_an_opt_in(tmp_path: Path) -> None:
    cells = [
        LOAD,
        "import sys, asyncio, apixo_nb\nprint('nest_asyncio2' in sys.modules)",
        "asyncio.run(asyncio.sleep(0, 'ran'))",
        "apixo_nb.allow_nested_asyncio()",
        "asyncio.run(asyncio.sleep(0, 'ran'))",
        "%%apixo\nx",
    ]
    notebook = execute(cells, tmp_path, allow_errors=True)
    assert notebook.cells[1].outputs[0].text == "False\n"
    assert notebook.cells[2].outputs[-1].ename == "RuntimeError"
    assert notebook.cells[4].outputs[0].data["text/plain"] == "'ran'"
    assert rows()[0].state == "success"


def test_the_sandbox_of_a_notebook_needs_no_key_and_is_marked_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: Sandbox
) -> None:
    monkeypatch.delenv("APIXO_API_KEY")
    notebook = execute([LOAD, "%apixo sandbox", "%%apixo\nx", "%apixo status"], tmp_path)
    assert "SANDBOX" in notebook.cells[2].outputs[0].data["text/html"]
    assert "SANDBOX" in text_of(notebook.cells[3])
    assert [run.sandbox for run in rows()] == [True]
    assert service.account.submits == 0
