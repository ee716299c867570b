"""Caps on spending: counted by the ledger, kept by every kernel together, never passed by a cent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from apixo_nb.core import settings as config
from apixo_nb.core.records import Run
from apixo_nb.core.request import make_request
from apixo_nb.errors import (
    ApixoError,
    BudgetError,
    ConfigurationError,
    CostLimitError,
    InvalidRequestError,
    RunCancelledError,
    SubmitUnknownError,
)
from apixo_nb.ledger.budgets import DAY, TOTAL, day_bounds, local_zone, notebook_scope
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.sandbox import Sandbox, SandboxOptions
from apixo_nb.session import session as shared
from apixo_nb.session.maintenance import budgets, set_budget
from apixo_nb.session.session import Session
from tests.support import factories, postgres
from tests.support.processes import in_processes

server, url = postgres.server, postgres.url

PRICE = 350_000


def a_run(**changes: Any) -> Run:
    """A run that is about to be sent."""
    return factories.a_run(**({"state": "submitting"} | changes))


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SandboxOptions(seconds=0.1, picture_scale=0.1)) as running:
        yield running


@pytest.fixture
def session(service: Sandbox) -> Session:  # noqa: ARG001 - it is where the environment says
    return shared.current()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(tmp_path / "ledger.db")) as opened:
        yield opened


def cap(ledger: Ledger, micros: int | None, scope: str = TOTAL, *, sandbox: bool = True) -> None:
    ledger.set_budget(scope, sandbox=sandbox, limit_micros=micros)


def fits(ledger: Ledger, run: Run) -> bool:
    """Whether the ledger takes a run; if it does not, it has written nothing."""
    before = ledger.runs()
    try:
        ledger.add(run)
    except BudgetError as error:
        told = str(error).splitlines()
    else:
        return True
    assert ledger.runs() == before
    assert len(told) == 2
    assert told[1].startswith("Nothing was sent.")
    return False


# --- many processes, one budget ---------------------------------------------------------------------


def ask_for_five(number: int) -> Iterator[Any]:
    """Ask for five pictures, as a notebook does that is run by itself."""
    session = shared.current()
    assert session.runner is not None
    yield None
    jobs = [session.begin(f"fox {number} {each}") for each in range(5)]
    said = []
    for job in jobs:
        try:
            said.append(job.wait().state)
        except ApixoError as error:
            said.append(type(error).__name__)
    session.close()
    yield said


def eight_race(sandbox: Sandbox, ledger: Ledger) -> None:
    cap(ledger, 20 * PRICE)
    said = [word for words in in_processes(ask_for_five, 8) for word in words]
    assert (said.count("success"), said.count("BudgetError")) == (20, 20)
    assert [(run.state, run.cost_micros) for run in ledger.runs()] == [("success", PRICE)] * 20
    [budget] = ledger.budgets(sandbox=True)
    assert (budget.spent_micros, budget.at_stake_micros, budget.left_micros) == (20 * PRICE, 0, 0)
    assert (sandbox.account.submits, len(sandbox.account.accepted)) == (20, 20)
    assert sandbox.account.balance_micros == 100_000_000 - 20 * PRICE


def test_eight_kernels_that_race_for_a_budget_never_pass_it(session: Session, sandbox: Sandbox):
    eight_race(sandbox, session.ledger)


def test_eight_kernels_that_race_for_a_budget_never_pass_it_on_postgres(
    service: Sandbox, url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("APIXO_LEDGER", url)
    with contextlib.closing(Ledger(url)) as ledger:
        eight_race(service, ledger)


def add_five(_number: int, place: str) -> Iterator[Any]:
    """Reserve the sums of five runs that never end."""
    ledger = Ledger(place if "://" in place else Path(place))
    yield None
    yield [fits_alone(ledger) for _ in range(5)]


def fits_alone(ledger: Ledger) -> bool:
    try:
        ledger.add(a_run())
    except BudgetError:
        return False
    return True


def test_sums_at_stake_are_reserved_while_nobody_knows_their_end(tmp_path: Path):
    with contextlib.closing(Ledger(tmp_path / "ledger.db")) as ledger:
        cap(ledger, 20 * PRICE + PRICE - 1)
        said = [word for words in in_processes(add_five, 8, str(tmp_path / "ledger.db")) for word in words]
        assert said.count(True) == 20
        [budget] = ledger.budgets(sandbox=True)
        assert (budget.at_stake_micros, budget.left_micros) == (20 * PRICE, PRICE - 1)


# --- what counts ------------------------------------------------------------------------------------


def test_budget_can_be_used_to_its_last_cent(ledger: Ledger):
    cap(ledger, round(1.05 * 1_000_000))
    assert [fits(ledger, a_run()) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("prompt", "error", "spent", "at_stake"),
    [
        ("a fox", None, PRICE, 0),
        ("[pictures:2] a fox", None, PRICE, 0),
        ("[gone] a fox", ApixoError, PRICE, 0),
        ("[lost] a fox", SubmitUnknownError, 0, PRICE),
        ("[http:500] a fox", SubmitUnknownError, 0, PRICE),
        ("[fail:Timeout] a fox", ApixoError, 0, 0),
        ("[http:402] a fox", ApixoError, 0, 0),
    ],
)
def test_each_end_of_a_run_counts_as_what_it_may_have_cost(
    session: Session, prompt: str, error: type[ApixoError] | None, spent: int, at_stake: int
):
    set_budget(session, 10.0)
    with pytest.raises(error) if error else contextlib.nullcontext():
        session.begin(prompt).wait()
    [budget] = budgets(session)
    assert (budget.spent_micros, budget.at_stake_micros) == (spent, at_stake)


def test_unknown_submit_keeps_its_sum_from_others(session: Session, sandbox: Sandbox):
    set_budget(session, 0.50)
    with pytest.raises(SubmitUnknownError):
        session.begin("[lost] a fox").wait()
    with pytest.raises(BudgetError, match=r"\$0\.35 at stake, \$0\.15 left"):
        session.begin("a cat").wait()
    assert sandbox.account.submits == 1


def test_run_that_was_never_sent_counts_nothing(session: Session, sandbox: Sandbox):
    set_budget(session, 0.35)
    session.ledger.insert(a_run(state="planned"))
    job = session.begin("[busy:50] a fox")
    deadline = time.monotonic() + 30
    while not sandbox.account.submits and time.monotonic() < deadline:
        time.sleep(0.01)
    job.stop()
    with pytest.raises(RunCancelledError):
        job.wait()
    job.ended.result(30)
    assert budgets(session)[0].left_micros == PRICE
    assert session.begin("a fox").wait().state == "success"


def test_sandbox_and_real_runs_have_budgets_of_their_own(ledger: Ledger):
    cap(ledger, PRICE, sandbox=True)
    cap(ledger, 2 * PRICE, sandbox=False)
    assert [fits(ledger, a_run(sandbox=False)) for _ in range(3)] == [True, True, False]
    assert [fits(ledger, a_run(sandbox=True)) for _ in range(2)] == [True, False]
    assert [found.left_micros for found in ledger.budgets(sandbox=True)] == [0]
    assert [found.left_micros for found in ledger.budgets(sandbox=False)] == [0]


def test_real_budget_does_not_bind_a_run_of_the_sandbox(ledger: Ledger):
    cap(ledger, 0, sandbox=False)
    assert fits(ledger, a_run(sandbox=True))
    assert not fits(ledger, a_run(sandbox=False))


def test_own_unit_price_is_what_counts(service: Sandbox):
    with contextlib.closing(Session(config.Apixo(unit_price_usd=1.25))) as session:
        set_budget(session, 3.0)
        session.begin("a fox", num_images=2).wait()
        with pytest.raises(
            BudgetError, match=r"cost \$1\.25 and pass the budget of \$3\.00 in total: \$2\.50"
        ):
            session.begin("a cat").wait()
    assert service.account.submits == 1


# --- scopes -----------------------------------------------------------------------------------------


def ended_at(moment: datetime, **changes: Any) -> Run:
    return a_run(created_at=moment, state="success", cost_micros=PRICE, **changes)


@pytest.fixture(params=["UTC", "Asia/Tokyo", "America/Los_Angeles"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A time zone of this machine."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_day_begins_at_midnight_of_this_machine(ledger: Ledger):
    cap(ledger, 2 * PRICE, DAY)
    midnight, _ = day_bounds()
    for moment in (midnight - timedelta(days=3), midnight - timedelta(microseconds=1), midnight):
        ledger.insert(ended_at(moment))
    [budget] = ledger.budgets(sandbox=True)
    assert budget.spent_micros == PRICE
    assert "for today" in str(budget)
    assert [fits(ledger, a_run()) for _ in range(2)] == [True, False]


def test_runs_planned_before_midnight_and_bought_after_it_count_for_the_new_day(ledger: Ledger):
    cap(ledger, 3 * PRICE, DAY)
    midnight, _ = day_bounds()
    planned = [a_run(created_at=midnight - timedelta(seconds=6), take=number) for number in range(1, 6)]
    assert [fits(ledger, run) for run in planned] == [True, True, True, False, False]
    [budget] = ledger.budgets(sandbox=True)
    assert budget.at_stake_micros == 3 * PRICE


def test_run_of_a_clock_that_is_years_ahead_fills_no_other_day(ledger: Ledger):
    cap(ledger, PRICE, DAY)
    _, end = day_bounds()
    for moment in (end, end + timedelta(days=3650)):
        ledger.insert(ended_at(moment, bought_at=moment))
    [budget] = ledger.budgets(sandbox=True)
    assert (budget.spent_micros, budget.left_micros) == (0, PRICE)


@pytest.mark.usefixtures("zone")
def test_day_is_that_of_the_zone_in_which_the_budget_was_set(
    ledger: Ledger, zone: str, monkeypatch: pytest.MonkeyPatch
):
    cap(ledger, 2 * PRICE, DAY)
    start, end = day_bounds(zone)
    for moment in (start - timedelta(microseconds=1), start, end - timedelta(microseconds=1), end):
        ledger.insert(ended_at(moment, bought_at=moment))
    assert local_zone() == zone
    for elsewhere in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        with monkeypatch.context() as patched:
            patched.setenv("TZ", elsewhere)
            time.tzset()
            [budget] = ledger.budgets(sandbox=True)
            assert budget.spent_micros == 2 * PRICE
    time.tzset()


@pytest.mark.parametrize(
    ("zone", "now", "start", "hours"),
    [
        ("Europe/Berlin", "2026-10-25T12:00:00+00:00", "2026-10-24T22:00:00+00:00", 25),  # summer time ends
        ("Europe/Berlin", "2026-03-29T12:00:00+00:00", "2026-03-28T23:00:00+00:00", 23),
        ("-08:00", "2026-11-28T07:59:00+00:00", "2026-11-27T08:00:00+00:00", 24),
    ],
)
def test_day_is_as_long_as_its_zone_says(zone: str, now: str, start: str, hours: int):
    found, end = day_bounds(zone, datetime.fromisoformat(now))
    assert (found, end - found) == (datetime.fromisoformat(start), timedelta(hours=hours))


def test_zone_without_a_name_is_kept_as_its_offset(monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "XYZ-5:30")
        time.tzset()
        assert local_zone() == "+05:30"
        assert day_bounds() == day_bounds("+05:30")
    time.tzset()


def test_total_counts_every_day(ledger: Ledger):
    cap(ledger, 2 * PRICE)
    ledger.insert(ended_at(datetime.now(UTC) - timedelta(days=400)))
    assert [fits(ledger, a_run()) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("variable", ["APIXO_NOTEBOOK", "JPY_SESSION_NAME"])
def test_budget_of_a_notebook_counts_its_runs_only(
    service: Sandbox, monkeypatch: pytest.MonkeyPatch, variable: str
):
    monkeypatch.setenv(variable, "/notes/cafés & foxes.ipynb")
    with contextlib.closing(Session(config.Apixo())) as session:
        session.ledger.insert(ended_at(datetime.now(UTC), notebook="/notes/another.ipynb"))
        session.ledger.insert(ended_at(datetime.now(UTC)))
        set_budget(session, 0.35, "notebook")
        assert session.begin("a fox").wait().notebook == "/notes/cafés & foxes.ipynb"
        with pytest.raises(BudgetError, match=r"for cafés & foxes\.ipynb"):
            session.begin("a cat").wait()
    monkeypatch.setenv(variable, "/notes/another.ipynb")
    with contextlib.closing(Session(config.Apixo())) as session:
        assert session.begin("a cat").wait().state == "success"
    assert service.account.submits == 2


def test_own_name_for_the_notebook_goes_before_that_of_the_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "/notes/theirs.ipynb")
    monkeypatch.setenv("APIXO_NOTEBOOK", "/notes/ours.ipynb")
    assert config.Apixo().notebook == "/notes/ours.ipynb"


def test_budget_for_a_notebook_without_a_name_says_what_to_set(
    service: Sandbox, monkeypatch: pytest.MonkeyPatch
):
    assert service.account.submits == 0
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    with contextlib.closing(Session(config.Apixo())) as session:
        with pytest.raises(ConfigurationError, match="which notebook") as refused:
            set_budget(session, 1.0, "notebook")
        assert "APIXO_NOTEBOOK" in refused.value.advice
        assert budgets(session) == []


def test_the_smallest_of_several_budgets_binds(ledger: Ledger):
    cap(ledger, 100 * PRICE)
    cap(ledger, 3 * PRICE, DAY)
    cap(ledger, PRICE, notebook_scope("a.ipynb"))
    assert [fits(ledger, a_run(notebook="a.ipynb")) for _ in range(2)] == [True, False]
    assert [fits(ledger, a_run(notebook="b.ipynb")) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("name", ["a%", "_.ipynb", "A.ipynb", "", "x" * 2000])
def test_names_of_notebooks_are_compared_to_the_letter(ledger: Ledger, name: str):
    cap(ledger, 0, notebook_scope("a.ipynb"))
    assert fits(ledger, a_run(notebook=name))
    assert not fits(ledger, a_run(notebook="a.ipynb"))


# --- setting and lifting ----------------------------------------------------------------------------


def test_cap_below_what_is_spent_refuses_all_and_says_by_how_much(session: Session, sandbox: Sandbox):
    session.begin("a fox", num_images=4).wait()
    set_budget(session, 1.0)
    assert str(budgets(session)[0]) == "$1.00 in total: $1.40 spent, $0.40 over"
    with pytest.raises(BudgetError, match=r"\$0\.40 over"):
        session.begin("a cat").wait()
    assert sandbox.account.submits == 1


def test_what_costs_nothing_passes_an_exhausted_budget(ledger: Ledger):
    cap(ledger, 0)
    assert fits(ledger, a_run(unit_price_micros=0))
    assert not fits(ledger, a_run(unit_price_micros=1))


def test_budget_that_is_set_again_replaces_the_one_before(session: Session):
    for sum_usd in (1.0, 2.0):
        set_budget(session, sum_usd)
    assert [found.limit_micros for found in budgets(session)] == [2_000_000]


def test_budget_that_is_off_is_gone_and_the_others_stay(session: Session, sandbox: Sandbox):
    set_budget(session, 0.0)
    set_budget(session, 5.0, DAY)
    set_budget(session, None)
    assert [found.scope for found in budgets(session)] == [DAY]
    session.begin("a fox").wait()
    assert sandbox.account.submits == 1


@pytest.mark.parametrize("limit", [-0.01, float("nan"), float("inf"), True, "5"])
def test_budget_that_is_no_sum_is_refused(session: Session, limit: Any):
    with pytest.raises(InvalidRequestError) as refused:
        set_budget(session, limit)
    assert (refused.value.field, refused.value.value) == ("budget", str(limit))
    assert budgets(session) == []


def test_unknown_scope_is_refused_and_the_known_ones_named(session: Session):
    with pytest.raises(InvalidRequestError) as refused:
        set_budget(session, 1.0, "week")
    assert (refused.value.field, refused.value.value) == ("scope", "week")
    assert refused.value.allowed == "total, day, notebook"


# --- a whole cell -----------------------------------------------------------------------------------


def plans(session: Session, count: int) -> list[Run]:
    return [session.plan(make_request(f"fox {number}")) for number in range(count)]


def test_cell_that_would_pass_a_budget_is_refused_as_a_whole(session: Session, sandbox: Sandbox):
    set_budget(session, 1.0)
    with pytest.raises(BudgetError, match=r"This would cost \$1\.05 and pass the budget of \$1\.00 in total"):
        session.check_cost(plans(session, 3), None)
    session.check_cost(plans(session, 2), None)
    assert (sandbox.account.submits, session.ledger.runs()) == (0, [])


def test_cell_counts_only_the_runs_of_its_own_notebook(ledger: Ledger):
    cap(ledger, 2 * PRICE, notebook_scope("a.ipynb"))
    here, elsewhere = a_run(notebook="a.ipynb"), a_run(notebook="b.ipynb")
    ledger.check_budgets([here, here, elsewhere, elsewhere])
    with pytest.raises(BudgetError):
        ledger.check_budgets([here, here, here])


@pytest.mark.parametrize(
    ("budget", "max_cost", "expected"),
    [(1.0, 0.5, CostLimitError), (0.5, 1.0, BudgetError), (0.7, 0.7, None), (0.69, None, BudgetError)],
)
def test_max_cost_of_a_cell_stands_beside_the_budget(
    session: Session, budget: float, max_cost: float | None, expected: type[CostLimitError] | None
):
    set_budget(session, budget)
    with pytest.raises(expected) if expected else contextlib.nullcontext() as refused:
        session.check_cost(plans(session, 2), max_cost)
    if refused is not None:
        assert refused.type is expected


def test_stored_results_are_shown_whatever_the_budget(session: Session, sandbox: Sandbox):
    session.begin("a fox", replay=True).wait()
    set_budget(session, 0.0)
    assert in_processes(run_again, 1) == ["success"]
    assert sandbox.account.submits == 1


def run_again(_number: int) -> Iterator[Any]:
    """The cell of another kernel."""
    yield None
    yield shared.current().begin("a fox", replay=True).wait().state
