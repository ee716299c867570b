"""The checker can go red: it sees each mistake that is put into the package, and nothing without one."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from apixo_nb.core.records import Image, Run, new_run
from apixo_nb.core.request import make_request
from tests.kills import mutations
from tests.kills.checker import Account, Evidence, Task, violations
from tests.kills.processes import ForkServer, Home, ServiceProcess
from tests.support.fault_server import PICTURE

PRICE = 350_000  # micro-dollars, of one picture

# --- mistakes in the package -------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """What happens to a mutated package, and which rules it must be seen to break.

    Attributes
    ----------
    trouble : str
        Marker in the prompt: what the service does.
    dies : str
        "": the process lives to its end; "in submit": it is killed when its task is accepted and not yet
        answered; "in download": when half a picture has arrived.
    first : str
        What the process does that dies.
    then : str
        What the next process does after its resume.
    cap_micros : int or None
        The budget.
    """

    mutation: str
    rules: frozenset[str]
    trouble: str = ""
    dies: str = ""
    then: str = ""
    first: str = "buy"
    cap_micros: int | None = None


def scenario(mutation: Callable[[], None], *rules: str, **facts: Any) -> Scenario:
    return Scenario(mutation.__name__, frozenset(rules), **facts)


SCENARIOS = [
    scenario(mutations.resend_after_a_lost_answer, "duplicated", trouble="[lost]"),
    scenario(mutations.resend_after_a_lost_answer, "duplicated", trouble="[lost:502]"),
    scenario(mutations.row_after_the_post, "lost", dies="in submit"),
    scenario(mutations.task_id_is_dropped, "lost", "state"),
    scenario(mutations.final_name_before_the_check, "file", trouble="[html]"),
    scenario(mutations.no_part_file, "file", dies="in download"),
    scenario(mutations.pictures_are_not_looked_at, "picture", trouble="[html]"),
    scenario(mutations.pictures_are_not_looked_at, "picture", trouble="[half]"),
    scenario(mutations.part_files_stay, "file", dies="in download"),
    scenario(mutations.pictures_are_fetched_once_only, "picture", dies="in download"),
    scenario(mutations.resume_forgets_the_dead, "state", dies="in submit"),
    scenario(mutations.resume_buys_what_was_lost, "duplicated", dies="in submit"),
    scenario(mutations.replay_does_not_look, "duplicated", dies="in submit", then="again"),
    scenario(mutations.cell_ignores_what_it_has, "duplicated", then="cell"),
    scenario(mutations.claims_are_never_given_back, "duplicated", first="failing cell"),
    scenario(mutations.competing_runs_are_told_by_their_take, "duplicated", first="two plans"),
    scenario(mutations.cost_is_forgotten, "money"),
    scenario(mutations.budget_is_not_looked_at, "budget", cap_micros=PRICE - 1),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("fork-server")) as running:
        yield running


@pytest.fixture
def broken_rules(service: ServiceProcess, fork_server: ForkServer, tmp_path: Path) -> Callable[..., set[str]]:
    """Runs a scenario; returns the rules that were broken."""

    def run_scenario(scenario: Scenario, *, mutated: bool) -> set[str]:
        home = Home(tmp_path / "home", service, scenario.cap_micros)
        held = {"in submit": "[hold]", "in download": "[stall]"}.get(scenario.dies, "")
        prompt = f"{tmp_path.name} {scenario.trouble}{held}"
        home.asked[prompt] = 1
        usual: dict[str, Any] = {
            "env": home.env,
            "requests": [(prompt, 1)],
            "mutation": scenario.mutation if mutated else None,
            "tries": 3,
        }
        accepted = (str(service.folder), "tasks.jsonl", prompt)
        arriving = (str(service.folder), "requests.jsonl", json.dumps({"stalled": prompt})[1:-1])
        moment = {"in submit": accepted, "in download": arriving}.get(scenario.dies)
        first = fork_server.run_and_kill(scenario.first, **usual, kill_when=moment)
        assert (first["ended"], first["error"]) == (not scenario.dies, "")
        service.wait_until_idle()
        found = home.check_leftovers([(prompt, 1)])[0]
        for program in ("resume", scenario.then) if scenario.then else ("resume",):
            assert not fork_server.run_and_kill(program, **usual)["error"]
        service.wait_until_idle()
        return {text.partition(":")[0] for text in found + home.settled()}

    return run_scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: f"{scenario.mutation}{scenario.trouble}")
def test_mistake_in_the_package_is_seen(broken_rules: Callable[..., set[str]], scenario: Scenario):
    assert scenario.rules <= broken_rules(scenario, mutated=True)


@pytest.mark.parametrize(
    "facts",
    sorted(
        {(each.trouble, each.dies, each.then, each.first, each.cap_micros) for each in SCENARIOS}, key=str
    ),
)
def test_nothing_is_seen_without_a_mistake(broken_rules: Callable[..., set[str]], facts: tuple[Any, ...]):
    assert broken_rules(Scenario("", frozenset(), *facts), mutated=False) == set()


# --- records that contradict each other --------------------------------------------------------------


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    """One task, its row and its picture, and nothing wrong with them."""
    request = make_request("a fox")
    url = "http://pictures/1.png"
    task = Task("task_1", request.body(), PRICE, "success", (url,))
    run = new_run(request, unit_price_micros=PRICE, sandbox=True)
    name = f"{run.run_id}-1.png"
    (tmp_path / name).write_bytes(PICTURE)
    (tmp_path / name).with_suffix(".json").write_text("{}")
    image = Image(index=0, url=url, file=name, sha256=hashlib.sha256(PICTURE).hexdigest(), bytes=len(PICTURE))
    done = {"state": "success", "task_id": "task_1", "result_urls": (url,), "images": (image,)}
    row = run.replace(**done, cost_micros=PRICE)
    account = Account([task], Counter({"a fox": 1}), PRICE)
    return Evidence(account, [row], tmp_path, {"a fox": 1}, lambda _url: PICTURE)


def rules(evidence: Evidence, **changes: Any) -> set[str]:
    changed = {name: value for name, value in vars_of(evidence).items() if name != "tasks"} | changes
    return {violation.rule for violation in violations(Evidence(**changed))}


def vars_of(evidence: Evidence) -> dict[str, Any]:
    return {name: getattr(evidence, name) for name in Evidence.__slots__}


def row_with(evidence: Evidence, **changes: Any) -> list[Run]:
    return [evidence.rows[0].replace(**changes)]


def test_good_records_break_no_rule(evidence: Evidence):
    assert violations(evidence) == []


def test_task_without_a_row_is_lost(evidence: Evidence):
    assert "lost" in rules(evidence, rows=[])


def test_unknown_row_stands_for_one_task_of_its_own_request(evidence: Evidence):
    unknown = {"state": "unknown", "task_id": None, "images": (), "result_urls": (), "cost_micros": None}
    [row] = row_with(evidence, **unknown)
    for path in evidence.images.iterdir():
        path.unlink()
    assert rules(evidence, rows=[row]) == set()
    assert "lost" in rules(evidence, rows=[row.replace(prompt="a hen")])
    [task] = evidence.account.tasks
    twice = replace(evidence.account, tasks=[task, replace(task, task_id="task_2")])
    assert {"lost", "duplicated"} <= rules(evidence, rows=[row], account=twice)


def test_post_that_nobody_asked_for_is_seen_though_it_bought_nothing(evidence: Evidence):
    account = replace(evidence.account, sent=Counter({"a fox": 2}))
    assert {"duplicated", "lost"} == rules(evidence, account=account)


def test_row_of_a_task_that_never_was_or_was_for_something_else_is_seen(evidence: Evidence):
    assert "unexpected" in rules(evidence, rows=row_with(evidence, task_id="task_9"))
    assert "unexpected" in rules(evidence, rows=row_with(evidence, prompt="a hen"))


def test_task_in_two_rows_is_seen(evidence: Evidence):
    assert "shared" in rules(evidence, rows=[*evidence.rows, evidence.rows[0].replace(run_id="another")])


@pytest.mark.parametrize("state", ["submitting", "submitted", "processing", "timeout", "cancelled", "odd"])
def test_row_that_is_open_after_resume_is_seen(evidence: Evidence, state: str):
    rows = row_with(evidence, state=state)
    assert "state" in rules(evidence, rows=rows)
    assert ("state" in rules(evidence, rows=rows, settled=False)) == (state == "odd")


def test_row_that_contradicts_its_task_is_seen(evidence: Evidence):
    assert "state" in rules(evidence, rows=row_with(evidence, state="failed", cost_micros=0))


@pytest.mark.parametrize(
    "before",
    [
        {"run_id": "gone"},
        {"state": "failed"},
        {"task_id": "task_0"},
        {"images": (Image(index=1, url="", file="other.png", sha256="0"),)},
    ],
)
def test_change_that_takes_something_back_is_seen(evidence: Evidence, before: dict[str, Any]):
    assert rules(evidence, before=row_with(evidence, **before)) == {"change"}


def test_row_that_goes_backwards_is_seen(evidence: Evidence):
    now = row_with(evidence, state="unknown", task_id=None)
    assert "change" in rules(evidence, rows=now, before=row_with(evidence, state="processing"))


@pytest.mark.parametrize(
    "changes", [{"cost_micros": None}, {"cost_micros": PRICE + 1}, {"unit_price_micros": 1}]
)
def test_sum_that_is_off_by_a_micro_dollar_is_seen(evidence: Evidence, changes: dict[str, Any]):
    assert "money" in rules(evidence, rows=row_with(evidence, **changes))


def test_cap_that_was_passed_is_seen(evidence: Evidence):
    assert rules(evidence, cap_micros=PRICE) == set()
    assert rules(evidence, cap_micros=PRICE - 1) == {"budget"}


@pytest.mark.parametrize("bill", [PRICE - 1, PRICE + 1])
def test_bill_that_is_not_the_sum_is_seen(evidence: Evidence, bill: int):
    assert rules(evidence, account=replace(evidence.account, bill_micros=bill)) == {"money"}


def test_picture_that_is_missing_or_changed_or_was_never_served_is_seen(evidence: Evidence):
    [file] = evidence.images.glob("*.png")
    assert rules(evidence, served=lambda _url: PICTURE + b"!") == {"picture"}
    file.write_bytes(PICTURE[:-1])
    assert rules(evidence) == {"picture"}
    file.unlink()
    assert rules(evidence) == {"picture"}
    assert "picture" in rules(evidence, rows=row_with(evidence, images=()))


def test_picture_that_is_said_to_be_missing_is_no_violation(evidence: Evidence):
    for path in evidence.images.iterdir():
        path.unlink()
    said = (Image(index=0, url="http://pictures/1.png", error="It is gone"),)
    assert rules(evidence, rows=row_with(evidence, images=said)) == set()


def test_success_that_cannot_be_opened_is_seen(evidence: Evidence):
    html = b"<html>"
    [file] = evidence.images.glob("*.png")
    file.write_bytes(html)
    facts = {"sha256": hashlib.sha256(html).hexdigest(), "bytes": len(html)}
    image = evidence.rows[0].images[0].model_copy(update=facts)
    assert rules(evidence, rows=row_with(evidence, images=(image,)), served=lambda _url: html) == {"picture"}


@pytest.mark.parametrize("name", [".0123456789ab.part", "stray.png"])
def test_file_without_a_row_is_seen(evidence: Evidence, name: str):
    (evidence.images / name).write_bytes(PICTURE)
    assert rules(evidence) == {"file"}
    assert ("file" in rules(evidence, settled=False)) == (not name.endswith(".part"))


def test_half_a_picture_under_a_final_name_is_seen_in_the_leftovers_of_a_kill(evidence: Evidence):
    rows = row_with(evidence, images=())
    assert rules(evidence, rows=rows, settled=False) == set()
    [file] = evidence.images.glob("*.png")
    file.write_bytes(PICTURE[: len(PICTURE) // 2])
    assert rules(evidence, rows=rows, settled=False) == {"file"}
