"""What runs have cost: exact sums, both ends of what nobody knows, and the balance beside it."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

from apixo_nb.core.formatting import (
    FAILED_NOTE,
    GROUPS,
    at_stake_micros,
    balance_text,
    count_text,
    spend_lines,
    spent_micros,
)
from apixo_nb.core.records import Run
from apixo_nb.errors import ApixoError
from apixo_nb.notebook import commands, maintenance
from apixo_nb.sandbox import Sandbox
from apixo_nb.session.maintenance import compare_balance
from apixo_nb.session.session import Session
from tests.support import sandboxes, waiting
from tests.support.commands import printed
from tests.support.factories import a_run

clock, sandbox, session = sandboxes.clock, sandboxes.sandbox, sandboxes.session

PRICE = 350_000
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def paid(**changes: Any) -> Run:
    facts: dict[str, Any] = {"state": "success", "task_id": "t", "cost_micros": PRICE, "created_at": NOON}
    return a_run(**(facts | changes))


def table(runs: Iterable[Run], by: str) -> list[list[str]]:
    """The cells of one table, its head and its sum apart."""
    lines = spend_lines(list(runs), [by])
    return [line.split() for line in lines[1 : lines.index("")]]


# --- sums -------------------------------------------------------------------------------------------


def test_each_state_counts_as_what_it_may_have_cost():
    runs = [
        paid(),
        a_run(state="unknown"),
        a_run(state="processing", task_id="t"),
        a_run(state="planned"),
        a_run(state="failed", cost_micros=0),
    ]
    assert (spent_micros(runs), at_stake_micros(runs)) == (PRICE, 2 * PRICE)
    assert spend_lines(runs)[-1] == (
        "in all: $0.35 by list price, and up to $0.70 more for runs whose end is not known"
        ", none of it paid: this is the sandbox"
    )


def test_settled_submit_is_spent_and_no_longer_at_stake():
    runs = [a_run(state="unknown", cost_micros=PRICE)]
    assert (spent_micros(runs), at_stake_micros(runs)) == (PRICE, 0)


@given(micros=st.lists(st.integers(0, 10**13), max_size=50))
def test_sums_are_exact_in_any_order(micros: list[int]):
    runs = [paid(cost_micros=one) for one in micros]
    random.Random(7).shuffle(runs)
    assert spent_micros(runs) == sum(micros)


def test_real_runs_are_not_called_unpaid():
    assert spend_lines([paid(sandbox=False)])[-1] == "in all: $0.35 by list price"


def test_nothing_is_nothing():
    assert spend_lines([])[-1] == "in all: $0.00 by list price"
    assert count_text([]) == "0"


def test_count_names_each_state():
    assert count_text([paid(), paid(), a_run(state="failed")]) == "3, 1 failed, 2 success"


# --- groups -----------------------------------------------------------------------------------------


def test_by_state():
    runs = [paid(), paid(), a_run(state="unknown"), a_run(state="failed", cost_micros=0)]
    assert table(runs, "state") == [
        ["failed", "1", "$0.00"],
        ["success", "2", "$0.70"],
        ["unknown", "1", "$0.00", "$0.35"],
    ]


def test_by_tag_counts_a_run_in_each_of_its_tags_and_once_in_all():
    runs = [paid(tags=("red", "big")), paid(tags=("red",)), paid()]
    assert table(runs, "tag") == [
        ["(no", "tag)", "1", "$0.35"],
        ["big", "1", "$0.35"],
        ["red", "2", "$0.70"],
    ]
    assert spend_lines(runs, ["tag"])[-1].startswith("in all: $1.05")


def test_by_day_of_this_machines_time_zone():
    days = [NOON - timedelta(days=2), NOON - timedelta(days=2), NOON]
    cells = table([paid(created_at=day) for day in days], "day")
    assert cells == [
        [f"{days[0].astimezone():%Y-%m-%d}", "2", "$0.70"],
        [f"{NOON.astimezone():%Y-%m-%d}", "1", "$0.35"],
    ]


def test_columns_stand_under_each_other():
    runs = [paid(tags=("a" * 30,)), a_run(state="unknown", tags=("b",))]
    head, *lines = [line for line in spend_lines(runs, ["tag"]) if line][:-1]
    assert all(line.rindex("$0.35") <= len(head) for line in lines)
    assert head.split() == ["tag", "runs", "spent", "at", "stake"]


def test_note_about_failed_tasks_is_there_only_where_a_task_was_made():
    assert FAILED_NOTE in spend_lines([a_run(state="failed", task_id="t", cost_micros=0)])
    assert FAILED_NOTE not in spend_lines([a_run(state="failed", cost_micros=0)])


def test_label_of_anybody_is_printed_safely():
    hostile = "\x1b[2J\u202e\r\n" + "x" * 99
    line = spend_lines([paid(tags=(hostile,))], ["tag"])[1]
    assert "\x1b" not in line
    assert "\u202e" not in line
    assert "…" in line


# --- the balance ------------------------------------------------------------------------------------


def test_first_look_compares_with_nothing():
    assert balance_text(10.0, None, [paid()]) == ""


@pytest.mark.parametrize(
    ("now", "runs", "said"),
    [
        (10.0, [], "it is the same; the ledger's runs of that time cost $0.00."),
        (9.65, [paid()], "it fell by $0.35; the ledger's runs of that time cost $0.35."),
        (9.65, [], "it fell by $0.35; the ledger's runs of that time cost $0.00. They differ"),
        (10.0, [paid()], "it is the same; the ledger's runs of that time cost $0.35. They differ"),
        (15.0, [paid()], "it rose by $5.00; the ledger's runs of that time cost $0.35. They differ"),
        (
            9.65,
            [a_run(state="unknown")],
            "it fell by $0.35; the ledger's runs of that time cost $0.00 to $0.35.",
        ),
        (
            10.0,
            [a_run(state="unknown")],
            "it is the same; the ledger's runs of that time cost $0.00 to $0.35.",
        ),
        (
            9.3,
            [paid(), a_run(state="unknown")],
            "it fell by $0.70; the ledger's runs of that time cost $0.35 to",
        ),
        (9.29, [paid(), a_run(state="unknown")], "They differ"),
    ],
)
def test_balance_is_told_beside_what_the_ledger_says(now: float, runs: list[Run], said: str):
    text = balance_text(now, (NOON, 10.0), runs)
    assert text.startswith(f"Since {NOON.astimezone():%Y-%m-%d %H:%M} it ")
    assert said in text
    assert ("They differ" in said) == ("They differ" in text)


def test_sum_of_many_small_prices_fits_though_floats_do_not():
    runs = [paid(cost_micros=100_000) for _ in range(3)]
    assert "it fell by $0.30; the ledger's runs of that time cost $0.30." in balance_text(
        10.0 - 0.1 - 0.1 - 0.1, (NOON, 10.0), runs
    )


def test_balance_command_compares_with_its_last_look(session: Session, sandbox: Sandbox):
    assert printed("balance") == "SANDBOX · $100.00 left\n"
    session.begin("a fox", num_images=2).wait()
    first, second = printed("balance").splitlines()
    assert first == "SANDBOX · $99.30 left"
    assert second.endswith("it fell by $0.70; the ledger's runs of that time cost $0.70.")
    assert printed("balance").endswith("it is the same; the ledger's runs of that time cost $0.00.\n")
    assert sandbox.account.submits == 1


def test_balance_tells_whether_a_lost_submit_was_charged(session: Session):
    printed("balance")
    with pytest.raises(ApixoError):
        session.begin("[lost] a fox").wait()
    assert printed("balance").endswith(
        "it fell by $0.35; the ledger's runs of that time cost $0.00 to $0.35.\n"
    )


def test_balances_of_sandbox_and_real_service_are_never_compared(session: Session):
    session.ledger.record_balance(5.0, sandbox=False)
    assert compare_balance(session, 100.0) == ""
    assert session.ledger.record_balance(5.0, sandbox=False) is not None


def test_run_that_ends_after_the_look_counts_in_the_next_comparison(session: Session, sandbox: Sandbox):
    job = session.begin("[seconds:0.5] a fox")
    waiting.wait_for(lambda: sandbox.account.accepted, "the task to be accepted")
    printed("balance")
    job.wait()
    assert printed("balance").endswith("it is the same; the ledger's runs of that time cost $0.00.\n")


def test_spend_command_shows_what_is_asked_for(session: Session):
    session.begin("a fox", tags=["red"]).wait()
    shown = printed("spend")
    assert shown.startswith("SANDBOX · by list price\n\nstate")
    assert all(f"\n{head}" in shown for head in ("state", "day", "tag", "in all: $0.35"))
    by_tag = printed("spend tag")
    assert "red" in by_tag
    assert "state" not in by_tag


def test_spend_command_offers_every_group():
    assert tuple(GROUPS) == maintenance.GROUPS


def test_spend_command_names_what_it_does_not_know():
    with pytest.raises(ApixoError) as refused, contextlib.redirect_stdout(io.StringIO()):
        commands.carry_out("spend by week", cast(InteractiveShell, None))
    assert vars(refused.value)["field"] == "spend"
    assert vars(refused.value)["value"] == "by"
    assert vars(refused.value)["allowed"] == "state, day, tag"
