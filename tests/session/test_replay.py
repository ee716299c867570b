"""Run All after a restart costs nothing for what was asked for already; Shift+Enter again buys a draw."""

from __future__ import annotations

from pathlib import Path

import pytest

from apixo_nb.core.records import Image, Run, new_run
from apixo_nb.core.request import make_request
from apixo_nb.errors import SubmitUnknownError
from apixo_nb.sandbox import Sandbox
from apixo_nb.session.replay import Decision, decide_all
from tests.support.kernels import Kernel, error_of, kernel, rows

# --- the rule ----------------------------------------------------------------------------------------


def a_run(state: str = "submitting", take: int = 0, **facts: object) -> Run:
    run = new_run(make_request("a fox"), unit_price_micros=350_000, sandbox=True)
    return run.replace(state=state, take=take, **facts)


def made(take: int) -> Run:
    return a_run(
        "success", take, task_id="t", result_urls=("u",), images=(Image(index=0, url="u", file="f"),)
    )


def decide(stored: list[Run], drawn: list[Run], *, count: int = 1, buy: bool = False) -> list[Decision]:
    planned = [a_run() for _ in range(count)]
    return decide_all(planned, lambda _: stored, {run.run_id for run in drawn}, buy=buy)


def test_nothing_stored_is_bought_as_the_first_take():
    [decision] = decide([], [])
    assert (decision.action, decision.run.take, decision.note) == ("buy", 1, "")


def test_a_stored_success_is_shown():
    first = made(1)
    [decision] = decide([first], [])
    assert (decision.action, decision.run) == ("show", first)
    assert "shown again at $0" in decision.note


def test_the_next_press_in_one_kernel_is_the_next_take():
    first, second = made(1), made(2)
    assert decide([first, second], [first])[0].run == second
    assert decide([first, second], [first, second])[0].run.take == 3
    assert decide([first, second], [first, second])[0].action == "buy"


def test_a_success_whose_pictures_are_missing_is_followed_not_bought():
    row = a_run("success", 1, task_id="t", result_urls=("u",))
    assert decide([row], [])[0].action == "follow"


@pytest.mark.parametrize("state", ["submitted", "processing", "cancelled", "timeout", "an invented word"])
def test_an_open_task_is_taken_up_again(state: str):
    row = a_run(state, 1, task_id="t")
    assert decide([row], [])[0] == Decision("follow", row)


def test_a_submit_on_its_way_in_a_living_kernel_is_followed():
    row = a_run("submitting", 1)
    assert decide([row], [])[0] == Decision("follow", row)
    assert decide([row], [row])[0].action == "buy"  # this kernel's own: the next press is the next take


def test_a_lost_submit_stops_and_says_what_is_at_stake():
    state = "unknown"
    with pytest.raises(SubmitUnknownError, match="answer was lost") as stopped:
        decide([a_run(state, 1)], [])
    assert stopped.value.at_stake_usd == 0.35
    assert "--new" in stopped.value.advice


@pytest.mark.parametrize("state", ["unknown", "failed", "planned"])
def test_what_was_no_draw_does_not_count_so_the_same_press_is_the_same_take(state: str):
    row = a_run(state, 1)
    assert decide([row], [row], buy=True)[0].run.take == 1


@pytest.mark.parametrize("state", ["failed", "planned"])
def test_what_failed_or_was_never_sent_is_bought(state: str):
    [decision] = decide([a_run(state, 1)], [])
    assert (decision.action, decision.run.take) == ("buy", 1)


def test_a_success_beside_a_failure_of_the_same_take_is_shown():
    success = made(1)
    assert decide([a_run("failed", 1), a_run("unknown", 1), success], [])[0].run == success


def test_new_always_buys_a_take_of_its_own():
    [decision] = decide([made(1), made(2)], [], buy=True)
    assert (decision.action, decision.run.take) == ("buy", 3)


def test_the_same_request_twice_in_one_cell_is_two_takes():
    first, second = made(1), made(2)
    assert [decision.run for decision in decide([first, second], [], count=2)] == [first, second]
    assert [decision.run.take for decision in decide([], [], count=3)] == [1, 2, 3]


# --- in kernels --------------------------------------------------------------------------------------


def cards(notebook: Kernel, cell: str) -> str:
    return str([m["content"] for m in notebook.run(cell) if "data" in m["content"]])


def test_run_all_on_a_restarted_kernel_submits_nothing_and_shows_the_same(tmp_path: Path, service: Sandbox):
    cells = ["%%apixo\na", "%%apixo -n 2\nb", "%%apixo\na", "import apixo_nb\napixo_nb.generate('c').run_id"]
    for _ in range(2):
        with kernel(tmp_path) as notebook:
            shown = [cards(notebook, cell) for cell in cells]
    assert service.account.submits == 4
    assert ["shown again at $0" in text for text in shown] == [True, True, True, False]
    assert [run.run_id in text for run, text in zip(rows(), shown, strict=True)] == [True] * 4


def test_shift_enter_again_and_new_buy(tmp_path: Path, service: Sandbox):
    with kernel(tmp_path) as notebook:
        notebook.run("%%apixo\na")
        notebook.run("%%apixo\na")
        notebook.run("%%apixo --new\na")
    assert [run.take for run in rows()] == [1, 2, 3]
    with kernel(tmp_path) as notebook:
        notebook.run("%config Apixo.replay = False")
        notebook.run("%%apixo\na")
    assert (service.account.submits, rows()[-1].take) == (4, 4)


def test_a_kernel_killed_while_waiting_is_taken_up_by_run_all(tmp_path: Path, service: Sandbox):
    with kernel(tmp_path) as notebook:
        notebook.wait_for(notebook.start("%%apixo\n[seconds:1] a"), "Waiting")
        while not any(run.task_id for run in rows()):
            pass
        notebook.manager.shutdown_kernel(now=True)  # SIGKILL
    with kernel(tmp_path) as notebook:
        assert "taken up again at $0" in cards(notebook, "%%apixo\n[seconds:1] a")
    [run] = rows()
    assert (run.state, run.missing, service.account.submits) == ("success", 0, 1)


def test_a_lost_submit_stops_run_all_and_new_settles_it(tmp_path: Path, service: Sandbox):
    prompt = "[lost] a"
    with kernel(tmp_path) as notebook:
        notebook.run(f"%%apixo\n{prompt}")
        again = error_of(notebook.run(f"%%apixo\n{prompt}"))
    with kernel(tmp_path) as notebook:
        after = error_of(notebook.run(f"%%apixo\n{prompt}"))
    assert [error["ename"] for error in (again, after)] == ["SubmitUnknownError"] * 2
    assert "--new" in after["evalue"]
    assert service.account.submits == 1


def test_a_failed_run_is_bought_again(tmp_path: Path, service: Sandbox):
    for _ in range(2):
        with kernel(tmp_path) as notebook:
            notebook.run("%%apixo\n[fail:Timeout] a")
    assert service.account.submits == 2


def test_a_stored_result_needs_no_money_and_no_limit(tmp_path: Path, service: Sandbox):
    with kernel(tmp_path) as notebook:
        notebook.run("%%apixo -n 4\na")
    with kernel(tmp_path) as notebook:
        assert "shown again" in cards(notebook, "%%apixo -n 4 --max-cost 0\na")
    assert service.account.submits == 1


def test_a_plain_script_buys_unless_it_asks_for_replay(service: Sandbox):
    import apixo_nb

    first, second = (apixo_nb.generate("a") for _ in range(2))
    assert (first.take, second.take, service.account.submits) == (1, 2, 2)
    assert apixo_nb.generate("a", replay=True).run_id == first.run_id
    assert service.account.submits == 2
