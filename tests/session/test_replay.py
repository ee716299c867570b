"""A request belongs to the cell that asks for it: run again, in any kernel, a cell costs nothing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apixo_nb.core.records import Image, Run, new_run
from apixo_nb.core.request import make_request
from apixo_nb.engine.job import Job
from apixo_nb.errors import ApixoError, SubmitUnknownError
from apixo_nb.sandbox import Fault, Sandbox
from apixo_nb.session.cells import Asked, CellTracker
from apixo_nb.session.replay import by_number, of_cell, of_execution
from tests.support.kernels import error_of, execute, kernel, rows

# --- the rule ----------------------------------------------------------------------------------------


def a_run(state: str = "submitting", take: int = 0, **facts: object) -> Run:
    run = new_run(make_request("a fox"), unit_price_micros=350_000, sandbox=True)
    return run.replace(state=state, take=take, **facts)


def made(take: int, *, starred: bool = False) -> Run:
    picture = Image(index=0, url="u", file="f", starred=starred)
    return a_run("success", take, task_id="t", result_urls=("u",), images=(picture,))


OPEN_STATES = ["submitted", "processing", "cancelled", "timeout", "an invented word"]


def test_a_cell_that_has_nothing_buys():
    decision = of_cell(a_run(), [], [])
    assert (decision.action, decision.once, decision.note) == ("buy", True, "")


def test_a_cell_gets_its_newest_variation():
    decision = of_cell(a_run(), [made(1), made(3), made(2)], [made(4)])
    assert (decision.action, decision.run.take) == ("show", 3)
    assert "shown again at $0" in decision.note


def test_a_starred_variation_goes_before_a_newer_one():
    assert of_cell(a_run(), [made(1), made(2, starred=True), made(3)], []).run.take == 2
    assert of_cell(a_run(), [made(1, starred=True), made(2, starred=True), made(3)], []).run.take == 2


def test_a_success_that_no_cell_has_is_taken_before_anything_is_bought():
    decision = of_cell(a_run(), [], [made(2), made(1), a_run("processing", 3, task_id="t")])
    assert (decision.action, decision.run.take) == ("show", 1)


@pytest.mark.parametrize("state", OPEN_STATES)
def test_an_open_task_is_taken_up_again(state: str):
    row = a_run(state, 1, task_id="t")
    assert of_cell(a_run(), [row], []).action == "follow"
    assert of_cell(a_run(), [], [row]).action == "follow"
    assert of_execution(a_run(), [[row]]).action == "follow"
    assert by_number(a_run(take=1), [row]).action == "follow"


@pytest.mark.parametrize("urls", [("u",), ()])
def test_a_success_without_its_pictures_is_followed_not_bought(urls: tuple[str, ...]):
    row = a_run("success", 1, task_id="t", result_urls=urls)
    assert of_cell(a_run(), [row], []).action == "follow"
    assert of_execution(a_run(), [[row]]).action == "follow"


@pytest.mark.parametrize("mine", [True, False])
def test_a_lost_submit_stops_and_says_what_is_at_stake(*, mine: bool):
    row = a_run("unknown", 1)
    with pytest.raises(SubmitUnknownError, match="answer was lost") as stopped:
        of_cell(a_run(), [row] if mine else [], [] if mine else [row])
    assert (stopped.value.at_stake_usd, stopped.value.run_id) == (0.35, row.run_id)
    assert "--new" in stopped.value.advice
    with pytest.raises(SubmitUnknownError):
        of_execution(a_run(), [[row]])
    assert of_cell(a_run(), [row], [], leave=True).action == "leave"


def test_a_lost_submit_beside_a_success_stops_nothing():
    assert of_cell(a_run(), [a_run("unknown", 2), made(1)], []).action == "show"


@pytest.mark.parametrize("state", ["failed", "planned"])
def test_what_failed_or_was_never_sent_is_bought_and_that_is_said(state: str):
    decision = of_cell(a_run(), [a_run(state, 1)], [])
    assert decision.action == "buy"
    assert "bought now for $0.35" in decision.note


def test_what_was_settled_as_not_charged_is_bought():
    assert of_cell(a_run(), [a_run("unknown", 1, cost_micros=0)], []).action == "buy"


def test_without_an_id_executions_get_the_variations_in_their_order():
    first, second, of_a_cell = made(1), made(2), [made(3), made(4)]
    assert of_execution(a_run(), [of_a_cell, [second], [first]]).run == first
    assert of_execution(a_run(), [of_a_cell, [second]]).run == second
    assert of_execution(a_run(), [of_a_cell]).run.take == 4
    assert of_execution(a_run(), [[a_run("failed", 1)]]).action == "buy"


def test_a_variation_is_asked_for_by_its_number():
    stored = [made(1), made(2), a_run("failed", 3)]
    assert by_number(a_run(take=2), stored).run == stored[1]
    assert by_number(a_run(take=3), stored).action == "buy"
    assert by_number(a_run(take=9), stored).run.take == 9


# --- in kernels --------------------------------------------------------------------------------------


def shown(messages: list[dict[str, Any]]) -> str:
    return str([message["content"] for message in messages if "data" in message["content"]])


@contextmanager
def notebook(folder: Path, *, ids: bool = True) -> Iterator[Any]:
    """Run cells, by their names, as JupyterLab does; without ids as nbclient does."""
    with kernel(folder) as running:

        def run_cell(name: str, code: str) -> list[dict[str, Any]]:
            return running.run(code, cell_id=name if ids else None)

        yield run_cell


def run_all(folder: Path, cells: Sequence[str], *, ids: bool, times: int = 1) -> list[str]:
    """What each cell showed, in the last of several runs in one kernel; a cell that fails stops none."""
    with notebook(folder, ids=ids) as run_cell:
        for _ in range(times):
            found = [shown(run_cell(f"cell-{number}", cell)) for number, cell in enumerate(cells)]
    return found


CELLS = ["%%apixo\na", "%%apixo -n 2\nb", "%%apixo\na", "import apixo_nb\napixo_nb.generate('c').run_id"]


@pytest.mark.parametrize("ids", [True, False])
def test_run_all_on_a_restarted_kernel_submits_nothing_and_shows_the_same(
    tmp_path: Path, service: Sandbox, *, ids: bool
):
    run_all(tmp_path, CELLS, ids=ids)
    found = run_all(tmp_path, CELLS, ids=ids)
    assert service.account.submits == 4
    assert ["shown again at $0" in text for text in found] == [True, True, True, False]
    assert [run.run_id in text for run, text in zip(rows(), found, strict=True)] == [True] * 4


def test_run_all_twice_in_one_kernel_submits_nothing_more(tmp_path: Path, service: Sandbox):
    found = run_all(tmp_path, CELLS, ids=True, times=2)
    assert service.account.submits == 4
    assert [run.run_id in text for run, text in zip(rows(), found, strict=True)] == [True] * 4
    assert [run.cell_id for run in rows()] == [f"cell-{number}" for number in range(4)]


def test_nbclient_runs_a_notebook_twice_and_buys_once(tmp_path: Path, service: Sandbox):
    for _ in range(2):
        execute(["%load_ext apixo_nb", *CELLS], tmp_path)
    assert service.account.submits == 4


def test_two_cells_with_one_request_have_a_variation_each_in_any_order(tmp_path: Path, service: Sandbox):
    with notebook(tmp_path) as run_cell:
        run_cell("x", "%%apixo\na")
        run_cell("y", "%%apixo\na")
    with notebook(tmp_path) as run_cell:
        y, x = shown(run_cell("y", "%%apixo\na")), shown(run_cell("x", "%%apixo\na"))
        assert service.account.submits == 2
        z = shown(run_cell("z", "%%apixo\na"))
    assert [run.run_id in text for run, text in zip(rows(), (x, y, z), strict=True)] == [True] * 3
    assert [run.take for run in rows()] == [1, 2, 3]


def test_another_variation_is_bought_by_new_and_the_starred_or_newest_is_shown(
    tmp_path: Path, service: Sandbox
):
    with notebook(tmp_path) as run_cell:
        for _ in range(2):
            run_cell("x", "%%apixo --new\na")
        first, second = rows()
        assert second.run_id in shown(run_cell("x", "%%apixo\na"))
        star = f"current().ledger.choose('{first.run_id}', 0, starred=True)"
        run_cell("other", f"from apixo_nb.session.session import current\n{star}")
    with notebook(tmp_path) as run_cell:
        assert first.run_id in shown(run_cell("x", "%%apixo\na"))
    assert service.account.submits == 2


@pytest.mark.parametrize("setting", ["rerun = 'buy'", "replay = False"])
def test_running_a_cell_again_buys_where_the_setting_says_so(tmp_path: Path, service: Sandbox, setting: str):
    with notebook(tmp_path) as run_cell:
        run_cell("c", f"%config Apixo.{setting}")
        for _ in range(2):
            run_cell("x", "%%apixo\na")
    assert ([run.take for run in rows()], service.account.submits) == ([1, 2], 2)


@pytest.mark.parametrize("ids", [True, False])
def test_a_kernel_killed_while_waiting_is_taken_up_by_run_all(tmp_path: Path, service: Sandbox, *, ids: bool):
    cell = "%%apixo\n[seconds:1] a"
    with kernel(tmp_path) as running:
        running.wait_for(running.start(cell, cell_id="x" if ids else None), "Waiting")
        while not any(run.task_id for run in rows()):
            pass
        running.manager.shutdown_kernel(now=True)  # SIGKILL
    assert "taken up again at $0" in run_all(tmp_path, [cell], ids=False)[0]
    [run] = rows()
    assert (run.state, run.missing, service.account.submits) == ("success", 0, 1)


@pytest.mark.parametrize("ids", [True, False])
def test_a_stopped_cell_goes_on_with_its_task(tmp_path: Path, service: Sandbox, *, ids: bool):
    cell = "%%apixo\n[seconds:1] a"
    with kernel(tmp_path) as running:
        message = running.start(cell, cell_id="x" if ids else None)
        while not any(run.task_id for run in rows()):
            pass
        running.interrupt()
        running.finish(message)
        assert "taken up again at $0" in shown(running.run(cell, cell_id="x" if ids else None))
    assert service.account.submits == 1


@pytest.mark.parametrize("ids", [True, False])
def test_a_timed_out_cell_goes_on_with_its_task(tmp_path: Path, service: Sandbox, *, ids: bool):
    cell = "%%apixo --timeout 0.3\n[seconds:1] a"
    with notebook(tmp_path, ids=ids) as run_cell:
        assert error_of(run_cell("x", cell))["ename"] == "WaitTimeoutError"
        run_cell("x", cell.replace(" --timeout 0.3", ""))
    assert (service.account.submits, rows()[0].state) == (1, "success")


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("trouble", ["[gone]", "[broken]"])
def test_a_picture_that_did_not_come_is_asked_for_again(
    tmp_path: Path, service: Sandbox, *, ids: bool, trouble: str
):
    with notebook(tmp_path, ids=ids) as run_cell:
        for _ in range(2):
            run_cell("x", f"%%apixo\n{trouble} a")
    assert service.account.submits == 1


@pytest.mark.parametrize("ids", [True, False])
def test_a_lost_submit_stops_run_all_and_new_buys(tmp_path: Path, service: Sandbox, *, ids: bool):
    prompt = "[lost] a"
    with notebook(tmp_path, ids=ids) as run_cell:
        run_cell("x", f"%%apixo\n{prompt}")
        again = error_of(run_cell("x", f"%%apixo\n{prompt}"))
    with notebook(tmp_path, ids=ids) as run_cell:
        after = error_of(run_cell("x", f"%%apixo\n{prompt}"))
    assert [error["ename"] for error in (again, after)] == ["SubmitUnknownError"] * 2
    assert "--new" in after["evalue"]
    assert service.account.submits == 1


@pytest.mark.parametrize("ids", [True, False])
def test_a_failed_run_is_bought_again(tmp_path: Path, service: Sandbox, *, ids: bool):
    for _ in range(2):
        run_all(tmp_path, ["%%apixo\n[fail:Timeout] a"], ids=ids)
    assert service.account.submits == 2


FIVE = "a\n---\nb\n---\n[http:400] c\n---\nd\n---\na"
LOOP = """import apixo_nb
for prompt in ['a', 'b', '[http:400] c', 'd']:
    apixo_nb.generate(prompt)"""


@pytest.mark.parametrize("ids", [True, False])
def test_of_five_prompts_only_the_one_that_failed_is_bought_again(
    tmp_path: Path, service: Sandbox, *, ids: bool
):
    run_all(tmp_path, [f"%%apixo\n{FIVE}"], ids=ids, times=2)
    assert len(service.account.accepted) == 4


@pytest.mark.parametrize("ids", [True, False])
def test_of_a_loop_only_what_failed_or_came_after_it_is_bought_again(
    tmp_path: Path, service: Sandbox, *, ids: bool
):
    run_all(tmp_path, [LOOP], ids=ids, times=2)
    assert len(service.account.accepted) == 2


@pytest.mark.parametrize("ids", [True, False])
def test_labels_of_a_replayed_cell_are_put_on_the_row_and_said(
    tmp_path: Path, service: Sandbox, *, ids: bool
):
    run_all(tmp_path, ["%%apixo --tag red\na"], ids=ids)
    [found] = run_all(tmp_path, ["%%apixo --tag blue --name foxes\na"], ids=ids)
    [run] = rows()
    assert (run.name, run.tags, service.account.submits) == ("foxes", ("red", "blue"), 1)
    assert "Its name, tags are now as this cell says" in found


@pytest.mark.parametrize("ids", [True, False])
def test_a_rerun_of_a_row_is_found_again(tmp_path: Path, service: Sandbox, *, ids: bool):
    cells = [
        "import apixo_nb\nmade = apixo_nb.generate('a')",
        "apixo_nb.history().apixo.rerun(0).run_id",
        "apixo_nb.generate('a').run_id",
    ]
    found = [run_all(tmp_path, cells, ids=ids) for _ in range(3)]
    assert service.account.submits == 3
    assert rows()[1].rerun_of == rows()[0].run_id
    assert all(rows()[1].run_id in each[1] and rows()[2].run_id in each[2] for each in found)


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("pause_s", [0, 1, 3])
def test_a_sweep_stopped_while_its_submits_are_on_their_way_is_bought_once(
    tmp_path: Path, service: Sandbox, *, ids: bool, pause_s: int
):
    cell = "%%apixo --set x=1,2,3,4,5,6\na {x}"
    service.faults.add(Fault("submit", "delay", times="always", seconds=1.5))
    with kernel(tmp_path) as running:
        message = running.start(cell, cell_id="x" if ids else None)
        while not rows():
            pass
        running.interrupt()
        running.finish(message)
        time.sleep(pause_s)
        running.run(cell, cell_id="x" if ids else None)
    assert len(service.account.accepted) == 6
    assert [run.state for run in rows()].count("success") == 6


def test_a_stored_result_needs_no_money_and_no_limit(tmp_path: Path, service: Sandbox):
    run_all(tmp_path, ["%%apixo -n 4\na"], ids=True)
    assert "shown again" in run_all(tmp_path, ["%%apixo -n 4 --max-cost 0\na"], ids=True)[0]
    assert service.account.submits == 1


def test_a_cell_takes_what_a_script_has_made(tmp_path: Path, service: Sandbox):
    import apixo_nb

    first, second = (apixo_nb.generate("a") for _ in range(2))
    with notebook(tmp_path) as run_cell:
        x, y = shown(run_cell("x", "%%apixo\na")), shown(run_cell("y", "%%apixo\na"))
        run_cell("z", "%%apixo\na")
    assert (first.run_id in x, second.run_id in y, service.account.submits) == (True, True, 3)
    assert [run.cell_id for run in rows()] == ["x", "y", "z"]


def test_ids_of_a_window_are_good_in_their_kernel_only(tmp_path: Path, service: Sandbox):
    window = "vscode-notebook-cell:/a.ipynb#"
    with notebook(tmp_path) as run_cell:
        for _ in range(2):
            run_cell(f"{window}W0", "%%apixo\na")
            run_cell(f"{window}W1", "%%apixo\na")
    with notebook(tmp_path) as run_cell:  # opened anew, with a cell put in front
        x, y = (shown(run_cell(f"{window}W{number}", "%%apixo\na")) for number in (1, 2))
    assert service.account.submits == 2
    assert [run.run_id in text for run, text in zip(rows(), (x, y), strict=True)] == [True, True]


def test_a_plain_script_buys_unless_it_asks_for_replay(service: Sandbox):
    import apixo_nb

    first, second = (apixo_nb.generate("a") for _ in range(2))
    assert (first.take, second.take, service.account.submits) == (1, 2, 2)
    assert apixo_nb.generate("a", replay=True).run_id == first.run_id
    assert apixo_nb.generate("a", replay=True).run_id == second.run_id
    assert service.account.submits == 2


def test_a_take_is_bought_once_whoever_asks(tmp_path: Path, service: Sandbox):
    import apixo_nb

    first = apixo_nb.generate("a", take=2)
    assert (first.take, apixo_nb.generate("a", take=2).run_id) == (2, first.run_id)
    with notebook(tmp_path) as run_cell:
        for _ in range(2):
            run_cell("x", "import apixo_nb\n[apixo_nb.generate('a', take=take) for take in (1, 2)]")
    assert (service.account.submits, sorted(run.take for run in rows())) == (2, [1, 2])


@pytest.mark.parametrize("take", [0, -1, 1.5, "2", True, 10**10, None.__class__])
def test_no_take_but_a_whole_number_is_sent(service: Sandbox, take: Any):
    import apixo_nb

    with pytest.raises(ApixoError, match="take cannot be"):
        apixo_nb.generate("a", take=take)
    assert service.account.submits == 0


@pytest.mark.parametrize("other", [{"new": True}, {"replay": False}])
def test_a_take_that_is_to_be_new_is_refused(service: Sandbox, other: dict[str, Any]):
    import apixo_nb

    with pytest.raises(ApixoError, match="take=2"):
        apixo_nb.generate("a", take=2, **other)
    assert service.account.submits == 0


# --- what a stranger tries ---------------------------------------------------------------------------

AWAITED_LATER = (
    "import apixo_nb, asyncio\ntask = asyncio.create_task(apixo_nb.agenerate('a'))",
    "(await task).run_id",
)


def test_a_task_that_a_cell_leaves_running_is_that_cells(tmp_path: Path, service: Sandbox):
    found = run_all(tmp_path, AWAITED_LATER, ids=True, times=2)
    assert (service.account.submits, [run.cell_id for run in rows()]) == (1, ["cell-0"])
    assert rows()[0].run_id in found[1]


THREE = {
    "threads": "with concurrent.futures.ThreadPoolExecutor() as pool:\n"
    "    made = list(pool.map(lambda _: apixo_nb.generate('a'), range(3)))",
    "gather": "made = await asyncio.gather(*(apixo_nb.agenerate('a') for _ in range(3)))",
    "loop": "made = [apixo_nb.generate('a') for _ in range(3)]",
    "repeat": "made = list(apixo_nb.sweep('a', repeat=3).wait())",
    "begun apart": "plans = [apixo_nb.sweep('a', dry_run=True, repeat=3) for _ in range(2)]\n"
    "made = [list(plan.start().wait()) for plan in plans][0]",
}


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("way", THREE)
def test_three_variations_in_one_cell_are_three_and_stay_the_same(
    tmp_path: Path, service: Sandbox, *, way: str, ids: bool
):
    cells = [
        "import apixo_nb, asyncio, concurrent.futures",
        f"{THREE[way]}\nprint(sorted(run.take for run in made))\nsorted(run.run_id for run in made)",
    ]
    found = [run_all(tmp_path, cells, ids=ids, times=2 if ids else 1) for _ in range(2)]
    assert service.account.submits == 3
    # The runs; a sweep tells besides whether it has bought them.
    first, second = (set(re.findall(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}", each[1])) for each in found)
    assert len(first) == 3
    assert first == second


@pytest.mark.parametrize("ids", [True, False])
def test_more_repeats_buy_what_is_new_and_fewer_show_the_first(
    tmp_path: Path, service: Sandbox, *, ids: bool
):
    for repeat, bought in ((3, 3), (5, 5), (2, 5)):
        run_all(tmp_path, [f"%%apixo --repeat {repeat}\na"], ids=ids)
        assert service.account.submits == bought


def test_a_cell_edited_and_edited_back_shows_what_it_had(tmp_path: Path, service: Sandbox):
    with notebook(tmp_path) as run_cell:
        first, _, again = (shown(run_cell("x", f"%%apixo\n{prompt}")) for prompt in "aba")
    assert service.account.submits == 2
    assert all(rows()[0].run_id in text for text in (first, again))


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("around", ["%%time", "%%capture"])
def test_a_magic_around_the_cell_changes_nothing(tmp_path: Path, service: Sandbox, *, around: str, ids: bool):
    failing = (
        f"{around}\nimport apixo_nb\nfor prompt in ['a', '[http:400] b']:\n    apixo_nb.generate(prompt)"
    )
    run_all(tmp_path, [f"{around}\n%%apixo\nc", failing], ids=ids, times=2 if ids else 1)
    with notebook(tmp_path, ids=ids) as run_cell:
        if ids:
            run_cell("cell-0", f"{around}\n%%apixo\nc")
        for _ in range(2):  # a cell that failed is the same cell again
            run_cell("cell-1", failing)
    assert len(service.account.accepted) == 2


def test_cells_run_by_a_cell_are_that_cell_also_after_an_empty_one(tmp_path: Path, service: Sandbox):
    code = "run = get_ipython().run_cell\nrun('')\nrun('%%apixo\\na')\nrun(' ')\nrun('%%apixo\\nb')"
    run_all(tmp_path, [code], ids=True, times=2)
    assert [(run.cell_id, run.prompt) for run in rows()] == [("cell-0", "a"), ("cell-0", "b")]
    assert service.account.submits == 2


def test_a_function_that_two_cells_call_asks_for_each_of_them(tmp_path: Path, service: Sandbox):
    cells = ["import apixo_nb\ndef fox(): return apixo_nb.generate('a').run_id", "fox()", "fox()"]
    found = [run_all(tmp_path, cells, ids=True, times=2) for _ in range(2)]
    assert found[0] == found[1]
    assert (service.account.submits, [run.cell_id for run in rows()]) == (2, ["cell-1", "cell-2"])


@pytest.mark.parametrize("ids", [True, False])
def test_a_sweep_planned_in_one_cell_and_started_in_another_is_bought_once(
    tmp_path: Path, service: Sandbox, *, ids: bool
):
    cells = [
        "import apixo_nb\nmade = apixo_nb.sweep('a {x}', x=['1', '2'], dry_run=True)",
        "made.start().wait()",
    ]
    for _ in range(2):
        run_all(tmp_path, cells, ids=ids, times=2 if ids else 1)
    assert service.account.submits == 2


@pytest.mark.parametrize("ids", [True, False])
def test_a_dry_run_claims_nothing(tmp_path: Path, service: Sandbox, *, ids: bool):
    import apixo_nb

    first = apixo_nb.generate("a")
    with notebook(tmp_path, ids=ids) as run_cell:
        run_cell("x", "%%apixo --dry-run --repeat 2\na")
        run_cell("x", "import apixo_nb\nplan = apixo_nb.sweep('a', repeat=2, dry_run=True)")
        assert (rows()[0].cell_id, service.account.submits) == ("", 1)
        assert first.run_id in shown(run_cell("y", "%%apixo\na"))


def test_what_another_cell_has_got_meanwhile_stays_its_own(tmp_path: Path, service: Sandbox):
    import apixo_nb

    made = apixo_nb.generate("a")
    with notebook(tmp_path) as run_cell:
        run_cell("x", "import apixo_nb\nplan = apixo_nb.sweep('a', dry_run=True)")
        run_cell("y", "%%apixo\na")
        run_cell("z", "plan.start().wait()\nprint(plan.jobs[0].note)")
        assert made.run_id in shown(run_cell("y", "%%apixo\na"))
    assert (service.account.submits, rows()[0].cell_id) == (1, "y")


def test_a_copy_of_a_notebook_leaves_the_first_one_its_pictures(
    tmp_path: Path, service: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    for name in ("first", "copy"):
        monkeypatch.setenv("APIXO_NOTEBOOK", name)
        with notebook(tmp_path) as run_cell:
            run_cell("x", "%%apixo\na" if name == "first" else "%%apixo --new\na")
    first, copy = rows()
    for name, own in (("first", first), ("copy", copy)):
        monkeypatch.setenv("APIXO_NOTEBOOK", name)
        with notebook(tmp_path) as run_cell:
            assert own.run_id in shown(run_cell("x", "%%apixo\na"))
    assert service.account.submits == 2


@pytest.mark.parametrize(
    ("named", "minor"), [("old.ipynb", 4), ("new.ipynb", 5), ("text.md", None), ("console-1", None)]
)
def test_ids_are_lasting_where_the_notebook_keeps_them(
    tmp_path: Path, service: Sandbox, monkeypatch: pytest.MonkeyPatch, named: str, minor: int | None
):
    path = tmp_path / named
    if minor is not None:
        path.write_text(json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": minor}))
    monkeypatch.setenv("JPY_SESSION_NAME", str(path))
    for opened in range(2):
        with notebook(tmp_path) as run_cell:
            for cell in "xyxy":
                run_cell(cell if minor == 5 else f"{cell}-{opened}", "%%apixo\na")
    assert service.account.submits == 2


def test_a_cell_cut_off_without_a_result_gives_its_claims_back():
    tracker, run = CellTracker(), made(1)
    tracker.begin(SimpleNamespace(cell_id=None))
    cell = tracker.current()
    tracker.claim(cell, (Asked.of(run), 1), Job(run))
    tracker.end(None)
    assert (tracker.claimed(), tracker.current() is cell) == (set(), False)


# --- rerun = "ask" -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "bought"), [("y", 4), ("n", 2), ("", 2)])
def test_a_cell_with_stored_results_asks_once_whether_to_buy_new_ones(
    tmp_path: Path, service: Sandbox, answer: str, bought: int
):
    cell = "%%apixo\na\n---\nb"
    with kernel(tmp_path) as running:
        running.run("%config Apixo.rerun = 'ask'")
        assert running.answering(cell, answer, cell_id="x") == []
        asked = running.answering(cell, answer, cell_id="x")
    assert asked == ["This cell has 2 stored results. Buy new ones for $0.70? [y/N] "]
    assert service.account.submits == bought


def test_a_no_holds_for_the_whole_cell_and_a_yes_for_what_it_was_told(tmp_path: Path, service: Sandbox):
    cell = "import apixo_nb\nfor prompt in 'ab':\n    apixo_nb.generate(prompt)"
    question = "This cell has 1 stored result. Buy new ones for $0.35? [y/N] "
    with kernel(tmp_path) as running:
        running.run("%config Apixo.rerun = 'ask'")
        running.run(cell, cell_id="x")
        assert running.answering(cell, "n", cell_id="x") == [question]
        assert running.answering(cell, "y", cell_id="x") == [question] * 2
    assert service.account.submits == 4


@pytest.mark.parametrize(
    "cell", ["%%apixo --set x=1,2\na {x}", "import apixo_nb\napixo_nb.sweep('a {x}', x=[1, 2]).wait()"]
)
def test_a_sweep_asks_and_a_dry_run_does_not(tmp_path: Path, service: Sandbox, cell: str):
    dry = cell.replace("%%apixo", "%%apixo --dry-run").replace("x=[1, 2]).wait()", "x=[1, 2], dry_run=True)")
    with kernel(tmp_path) as running:
        running.run("%config Apixo.rerun = 'ask'")
        running.run(cell, cell_id="x")
        assert running.answering(dry, "y", cell_id="x") == []
        assert len(running.answering(cell, "y", cell_id="x")) == 1
    assert service.account.submits == 4


def test_where_nobody_can_be_asked_what_is_stored_is_shown_and_that_is_said(tmp_path: Path, service: Sandbox):
    with notebook(tmp_path) as run_cell:
        run_cell("c", "%config Apixo.rerun = 'ask'")
        run_cell("x", "%%apixo\na")
        found = run_cell("x", "%%apixo\na")
    assert "Nobody can be asked here" in str(found)
    assert ("shown again at $0" in shown(found), service.account.submits) == (True, 1)
