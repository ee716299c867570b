"""A sweep in real kernels: what fails, what is killed, what is asked, and what a notebook keeps of it."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from apixo_nb.core.records import SUCCESS, UNKNOWN, Run
from apixo_nb.sandbox import Sandbox
from tests.kills.checker import Account, Evidence, Task, violations
from tests.support.kernels import Kernel, execute, kernel, rows, text_of

LOAD = "%load_ext apixo_nb"

#: 3 styles, 2 moods, 2 takes: one style is refused by the provider, one is turned away at first.
LINE = '%%apixo --set style=oil,[fail:SensitiveContent],"[busy:1] cut, paper" --set mood=@moods --repeat 2'
CELL = f"{LINE} -o made\na {{style}} fox in {{mood}}"
MOODS = "moods = ['[seconds:1.5] rain', 'sun']"
TASKS = 12

pytestmark = pytest.mark.usefixtures("service")


def cost_of(service: Sandbox) -> int:
    """What the service has charged, in micro-dollars; it takes nothing for a task that fails."""
    account = service.account
    tasks = [account.tasks[task_id] for task_id in account.accepted]
    return sum(task.price_micros for task in tasks if task.script.fail is None)


def evidence(service: Sandbox, home: Path, asked: Counter[str]) -> Evidence:
    """What the service and the ledger say, for the judge of the kills."""
    account, now_ms = service.account, service.account.now_ms()
    tasks = [
        Task(
            task.task_id,
            task.request,
            task.price_micros,
            task.state(now_ms),
            tuple(task.result_urls(service.picture_url)),
        )
        for task in (account.tasks[task_id] for task_id in account.accepted)
    ]
    sent = Counter(task.prompt for task in tasks)
    served: dict[str, bytes] = {}

    def picture(url: str) -> bytes:
        if url not in served:
            with urllib.request.urlopen(url, timeout=60) as answer:
                served[url] = answer.read()
        return served[url]

    bill = cost_of(service)
    return Evidence(Account(tasks, sent, bill), rows(), home / "images", asked, picture)


def prompts(takes: int) -> Counter[str]:
    styles = ["oil", "[fail:SensitiveContent]", "[busy:1] cut, paper"]
    moods = ["[seconds:1.5] rain", "sun"]
    return Counter({f"a {style} fox in {mood}": takes for style in styles for mood in moods})


def bought(state: str) -> list[Run]:
    return [run for run in rows() if run.state == state]


# --- killed, and run again ---------------------------------------------------------------------------


def test_a_sweep_killed_in_the_middle_goes_on_where_it_stopped_and_buys_nothing_twice(
    tmp_path: Path, service: Sandbox
) -> None:
    with kernel(tmp_path) as notebook:
        notebook.run(MOODS)
        notebook.start(CELL)
        while not 3 <= len(service.account.accepted) < TASKS or not bought(SUCCESS):
            pass
        notebook.manager.shutdown_kernel(now=True)  # SIGKILL
    half = len(service.account.accepted)
    assert half < TASKS
    with kernel(tmp_path) as notebook:
        notebook.run(MOODS)
        messages = notebook.run(CELL)
        assert not [message for message in messages if message["msg_type"] == "error"]
        assert notebook.value("len(made)") == str(TASKS)
        assert notebook.value("{run.state for run in made.failed}") == "{'failed'}"
        assert [str(found) for found in violations(evidence(service, tmp_path / "home", asked_for()))] == []
        # What the kill caught between the submit and its answer was left out: a person says how it ended.
        for run in bought(UNKNOWN):
            notebook.run(settled(service, run))
    with kernel(tmp_path) as notebook:
        notebook.run(MOODS)
        notebook.run(CELL)
        assert "8 of 12 done" in notebook.value("repr(made)")
    assert [str(found) for found in violations(evidence(service, tmp_path / "home", asked_for()))] == []
    assert len({(run.digest, run.take) for run in bought(SUCCESS)}) == len(bought(SUCCESS)) == 8
    assert sum(run.cost_micros or 0 for run in rows()) == cost_of(service) == 8 * 350_000


def asked_for() -> Counter[str]:
    """Each cell once; what has failed was no draw, and is asked for again with the next press."""
    asked = prompts(2)
    for run in rows():
        asked[run.prompt] += run.state == "failed"
    return asked


def settled(service: Sandbox, run: Run) -> str:
    """What a person types after a look at what the service has."""
    named = {known.task_id for known in rows()}
    account = service.account
    found = [
        task_id
        for task_id in account.accepted
        if task_id not in named and account.tasks[task_id].request == run.request.body()
    ]
    return f"%apixo resume {run.run_id} {found[0]}" if found else f"%apixo settle {run.run_id} free"


def test_template_prompt_and_variables_are_all_kept(tmp_path: Path) -> None:
    cell = '%%apixo --set style=oil,"cut, paper" --ar 1:1,3:2 --tag x\na {style} {animal} {{sic}}'
    execute([LOAD, "animal, style = 'fox', 'never this'", cell], tmp_path)
    found = {(run.variables["style"], run.aspect_ratio) for run in rows()}
    assert found == {(style, ratio) for style in ("oil", "cut, paper") for ratio in ("1:1", "3:2")}
    for run in rows():
        assert run.prompt_template == "a {style} {animal} {{sic}}"
        assert run.prompt == f"a {run.variables['style']} fox {{sic}}"
        assert run.variables["animal"] == "fox"
        assert run.tags == ("x",)


def test_run_all_on_a_restarted_kernel_buys_nothing_and_shows_the_same(
    tmp_path: Path, service: Sandbox
) -> None:
    cells = [LOAD, "%%apixo --set x=a,b --repeat 2 -o made\n{x}", "[run.run_id for run in made]"]
    first = execute(cells, tmp_path)
    second = execute(cells, tmp_path)
    assert text_of(first.cells[2]) == text_of(second.cells[2])
    assert service.account.submits == 4
    assert "$0.00" in text_of(second.cells[1])


def test_a_finished_sweep_run_again_is_other_draws_and_an_unfinished_one_goes_on(
    tmp_path: Path, service: Sandbox
) -> None:
    with kernel(tmp_path) as notebook:
        for _ in range(2):
            notebook.run("%%apixo --set x=a,b\n{x}")
        assert [run.take for run in rows()] == [1, 1, 2, 2]
        for _ in range(2):
            notebook.run("%%apixo --set x=c,[fail:Timeout]\n{x}")
    last = Counter(run.prompt for run in rows()[4:])
    assert last == {"c": 1, "[fail:Timeout]": 2}
    assert service.account.submits == 7


def test_a_stopped_sweep_run_again_in_the_same_kernel_buys_only_what_was_not_sent(
    tmp_path: Path, service: Sandbox
) -> None:
    cell = "%%apixo --set x=a,b,[seconds:3] -o made\n{x}"
    with kernel(tmp_path) as notebook:
        message_id = notebook.start(cell)
        notebook.wait_for(message_id, "2 of 3 done")
        notebook.interrupt()
        notebook.finish(message_id)
        assert notebook.value("made.done") == "True"
        notebook.run(cell)
        assert notebook.value("[run.state for run in made]") == "['success', 'success', 'success']"
    assert service.account.submits == 3


def test_a_cell_whose_submit_has_an_unknown_end_is_left_out_and_named_and_the_others_go_on(
    tmp_path: Path, service: Sandbox
) -> None:
    cell = "%%apixo --set x=a,[lost] -o made\n{x}"
    for _ in range(2):
        with kernel(tmp_path) as notebook:
            shown = str(notebook.run(cell))
            assert notebook.value("[run.state for run in made.runs]") == "['success', 'unknown']"
            assert notebook.value("len(made.unknown)") == "1"
    [lost] = bought("unknown")
    assert lost.run_id in shown
    assert service.account.submits == 2


# --- errors ------------------------------------------------------------------------------------------


def test_a_sweep_of_which_nothing_came_is_an_error_with_its_summary(tmp_path: Path) -> None:
    cells = [LOAD, "%%apixo --set x=a,b\n[http:402] {x}"]
    notebook = execute(cells, tmp_path, allow_errors=True)
    shown, error = notebook.cells[1].outputs
    assert "2 failed: The submit was refused" in shown.data["text/plain"]
    assert error.ename == "InsufficientBalanceError"
    assert len(error.traceback) == 2


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("%%apixo --set style=a,b\na fox", "No prompt uses {style}"),
        ("%%apixo --set stile=a,b\na {style} fox", "Did you mean style?"),
        ("%%apixo --set x=a,b,a\n{x}", "'a' stands twice in the list of x"),
        ("%%apixo --set x=@nothing\n{x}", "The list of x is empty"),
        ("%%apixo --set x=@nowhere\n{x}", "no variable 'nowhere'"),
        ("%%apixo --set x=@text\n{x}", "are no list"),
        ("%%apixo --ar 1:1,5:4\nx", "cannot be '5:4'"),
        ("%%apixo --set x=a,b --raw\n{x}", "A raw prompt is sent as it is"),
        ("%%apixo --repeat 2\n{unknown}", "no variable unknown"),
        ("%%apixo --set x=a,b --max-cost 0.5\n{x}", "above the limit of $0.50"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said_before_anything_is_sent(
    tmp_path: Path, service: Sandbox, cell: str, told: str
) -> None:
    notebook = execute([LOAD, "nothing, text = [], 'abc'", cell], tmp_path, allow_errors=True)
    error = notebook.cells[2].outputs[-1]
    assert told in error.evalue
    assert len(error.traceback) == 2
    assert service.account.submits == 0


# --- asking ------------------------------------------------------------------------------------------

DEAR = "%%apixo --set x=a,b -n 4\n{x}"


def answer(notebook: Kernel, cell: str, word: str) -> tuple[str, str]:
    """Run a cell that asks; returns what it asked, and what it put out."""
    message_id = notebook.start(cell, allow_stdin=True)
    asked = notebook.client.get_stdin_msg(timeout=60)["content"]["prompt"]
    notebook.client.input(word)
    return asked, str(notebook.finish(message_id))


def test_above_the_sum_it_asks_and_shows_what_it_comes_to(tmp_path: Path, service: Sandbox) -> None:
    with kernel(tmp_path) as notebook:
        notebook.run("%config Apixo.ask_above_usd = 1.0")
        asked, said = answer(notebook, DEAR, "no")
        assert "2 x = 2 tasks, 8 pictures. 2 to buy: $2.80" in asked
        assert "Nothing was sent" in said
        assert service.account.submits == 0
        answer(notebook, DEAR, "y")
    assert service.account.submits == 2


def test_with_nobody_to_ask_it_is_refused_and_yes_goes_on(tmp_path: Path, service: Sandbox) -> None:
    cells = [LOAD, "%config Apixo.ask_above_usd = 1.0", DEAR, DEAR.replace(" -n", " --yes -n"), DEAR]
    notebook = execute(cells[:3], tmp_path, allow_errors=True)
    error = notebook.cells[2].outputs[-1]
    assert error.ename == "CostLimitError"
    assert "--yes" in error.evalue
    execute([*cells[:2], cells[3]], tmp_path)
    execute([*cells[:2], cells[4]], tmp_path)  # all of it is stored: there is nothing to ask about
    assert service.account.submits == 2


# --- what is shown -----------------------------------------------------------------------------------


def test_the_output_is_one_summary_and_a_light_gallery(tmp_path: Path) -> None:
    notebook = execute([LOAD, "%%apixo --set x=@range(0) --repeat 1\n{x}"], tmp_path, allow_errors=True)
    cells = [LOAD, "names = [f'fox {n}' for n in range(25)]", "%%apixo --set x=@names -n 4 --yes\n{x} <b>"]
    notebook = execute(cells, tmp_path)
    [output] = notebook.cells[2].outputs
    html = output.data["text/html"]
    assert html.count("data:image/webp") == 100
    assert len(html) < 1_000_000
    assert "100 pictures · 25 of 25 done" in html
    assert "<b>fox" not in html
    assert " <b>" not in output.data["text/plain"].splitlines()[0]
    links = re.findall(r'<a href="([^"]+)"', html)
    assert all((tmp_path / link).is_file() for link in links)
    assert "widget" not in json.dumps(notebook)


def test_a_dry_run_shows_the_cells_and_a_few_requests_and_sends_nothing(
    tmp_path: Path, service: Sandbox
) -> None:
    cell = "%%apixo --set x=@many --ar 1:1,3:2 --dry-run\na {x} <i>fox</i>"
    notebook = execute([LOAD, "many = range(40)", cell], tmp_path)
    [output] = notebook.cells[2].outputs
    text, html = output.data["text/plain"], output.data["text/html"]
    assert "2 aspect_ratio = 80 tasks, 80 pictures. 80 to buy: $28.00" in text
    assert text.count("POST ") == 2
    assert "and 30 more" in text
    assert "<i>fox" not in html
    assert service.account.submits == 0


def test_a_widget_with_a_cancel_button_gives_way_to_what_lasts(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        messages = notebook.run("%%apixo --set x=a,b\n[seconds:2] {x}", allow_stdin=True)
    shown = [m["content"] for m in messages if m["msg_type"] in ("display_data", "update_display_data")]
    assert any("application/vnd.jupyter.widget-view+json" in content["data"] for content in shown)
    assert "data:image/webp" in shown[-1]["data"]["text/html"]
    assert len({content["transient"]["display_id"] for content in shown}) == 1


def test_a_background_sweep_is_bound_at_once_and_waited_for_with_the_others(tmp_path: Path) -> None:
    with kernel(tmp_path) as notebook:
        notebook.run("%%apixo --bg --set x=a,[fail:Timeout] -o made\n[seconds:1] {x}")
        assert notebook.value("type(made).__name__") == "'Sweep'"
        said = str(notebook.run("%apixo wait"))
        assert "1 of 2 done" in said
        assert "Error" not in said
        assert notebook.value("made.done, len(made.failed)") == "(True, 1)"


# --- from Python -------------------------------------------------------------------------------------


def test_sweep_from_python_is_waited_for_awaited_tabled_and_replayed(
    tmp_path: Path, service: Sandbox
) -> None:
    call = "apixo_nb.sweep('a {style} fox', style=['oil', 'ink'], aspect_ratio=['1:1', '3:2'])"
    cells = [
        LOAD,
        f"import apixo_nb\nmade = {call}\nmade.wait()",
        "made",
        "list(made.frame()['aspect_ratio']), [run.variables['style'] for run in made], len(made)",
    ]
    for _ in range(2):
        notebook = execute([*cells, f"again = await {call}"], tmp_path)
        plan, *shown = notebook.cells[1].outputs
        assert plan.text.startswith("2 style")
        # Once, though the value of the cell would show the same.
        assert ["text/html" in output.data for output in shown].count(True) == 1
        assert "data:image/webp" in notebook.cells[2].outputs[0].data["text/html"]
        told = notebook.cells[3].outputs[0].data["text/plain"]
        assert told == "(['1:1', '3:2', '1:1', '3:2'], ['oil', 'oil', 'ink', 'ink'], 4)"
    assert service.account.submits == 8  # in each kernel, the second call is the second draw


def test_a_table_of_the_notebook_is_a_sweep(tmp_path: Path) -> None:
    cells = [
        LOAD,
        "import apixo_nb, pandas as pd\nprompts, x = ['a {x} fox', 'a cat'], ['red', None]",
        "table = pd.DataFrame({'prompt': prompts, 'x': x, 'num_images': [2, None], 'tags': [['t'], None]})",
        "made = await apixo_nb.sweep(table, note='n')",
        "table2 = pd.DataFrame({'mood': ['calm', 'wild']})",
        "%%apixo --set m=@table2.mood\na {m} dog",
    ]
    execute(cells, tmp_path)
    found = {run.prompt: (run.num_images, run.tags, run.variables) for run in rows()}
    assert found["a red fox"] == (2, ("t",), {"x": "red"})
    assert found["a cat"] == (1, (), {})
    assert {"a calm dog", "a wild dog"} <= set(found)


def test_the_account_of_the_sandbox_equals_the_ledger(tmp_path: Path, service: Sandbox) -> None:
    execute([LOAD, MOODS, CELL], tmp_path)
    assert violations(evidence(service, tmp_path / "home", prompts(2))) == []
    kept = {image.file: image.sha256 for run in rows() for image in run.images}
    folder = tmp_path / "home" / "images"
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in kept} == kept
