"""Nothing paid is lost and nothing is paid twice: two hundred processes, killed while they buy pictures.

`python -m tests.kills.harness --kills 2000 --seed 7` does the same for longer; `tests.kills.checker` says
what is judged.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kills.harness import run
from tests.kills.processes import Home, Judge, Nursery, Tally, until

SEED = 20261123
KILLS = 200

#: Steps that somebody must have died in, or the kills have proved little.
STEPS = (
    "row kept, POST not accepted",
    "accepted, taskId not kept",
    "taskId kept, task goes on",
    "task ended, result not kept",
    "picture half on disk",
    "picture renamed, row not written",
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tally]:
    """What came of all kills, by the way of dying."""
    return run(tmp_path_factory.mktemp("kills"), KILLS, SEED, every_call=False)


def told(tally: Tally) -> str:
    return f"python -m tests.kills.harness --kills {KILLS} --seed {SEED}\n{tally}"


@pytest.mark.parametrize("way", ["fork", "kernel"])
def test_process_killed_at_any_instant_loses_nothing_and_pays_nothing_twice(
    killed: dict[str, Tally], way: str
):
    tally = killed[way]
    assert tally.broken == [], told(tally)
    # Most of them on a quiet machine; on a busy one a life takes longer than the one that was measured.
    assert tally.interrupted > tally.kills / 5, told(tally)


def test_process_killed_at_every_step_loses_nothing_and_pays_nothing_twice(killed: dict[str, Tally]):
    if "calls" not in killed:
        pytest.skip("there is no strace, or it may not trace processes here: see tests/install.sh")
    assert killed["calls"].broken == [], told(killed["calls"])
    # Which of them a call falls into depends on how busy the machine is: all ways together reach them.
    tally = sum(killed.values(), start=Tally())
    assert set(STEPS) <= set(tally.where), told(tally)


def test_resume_killed_again_and_again_is_harmless(killed: dict[str, Tally]):
    tally = sum(killed.values(), start=Tally())
    assert tally.in_resume > 0, told(tally)
    assert tally.rule("error in resume") == 0, told(tally)


# --- a living process, and a network that goes dead ---


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[Judge]:
    with Judge(tmp_path / "judge") as running:
        yield running
        os.kill(running.process.pid, signal.SIGCONT)


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    with Nursery(tmp_path / "nursery") as running:
        yield running


@pytest.fixture
def home(judge: Judge, tmp_path: Path) -> Home:
    return Home(tmp_path / "home", judge)


def test_resume_leaves_the_submit_of_a_living_process_to_it_and_takes_over_when_it_is_dead(
    judge: Judge, nursery: Nursery, home: Home, tmp_path: Path
):
    prompt = "[hold] a fox"
    home.asked[prompt] = 1
    hour = (str(tmp_path), "hour", "now")
    with ThreadPoolExecutor() as pool, Nursery(tmp_path / "another") as another:
        living = pool.submit(another.victim, "live", env=home.env, requests=[(prompt, 1)], kill_when=hour)
        until(lambda: len(judge.account(home.asked).tasks) == 1, "the task to be accepted")
        assert nursery.victim("take_up", env=home.env)["error"] == ""
        assert home.wreck([])[0] == []
        assert [run.state for run in home.rows()] == ["submitting"]
        (tmp_path / "hour").write_text("now")
        assert not living.result()["ended"]
    assert nursery.victim("take_up", env=home.env)["error"] == ""
    assert home.settled() == []
    assert [run.state for run in home.rows()] == ["unknown"]


def freeze(judge: Judge) -> None:
    """The service is there, takes connections and says nothing more."""
    os.kill(judge.process.pid, signal.SIGSTOP)
    stat = Path(f"/proc/{judge.process.pid}/stat")
    until(lambda: stat.read_text("ascii").rpartition(")")[2].split()[0] == "T", "the judge to stop")


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc to look at")


@needs_proc
def test_submit_into_a_dead_network_is_one_unknown_row_whatever_the_service_made_of_it(
    judge: Judge, nursery: Nursery, home: Home
):
    freeze(judge)
    home.asked["a fox"] = 1
    outcome = nursery.victim("impatient", env=home.env, requests=[("a fox", 1)], deadline_s=0.5)
    assert outcome["error"] == ""
    os.kill(judge.process.pid, signal.SIGCONT)
    judge.settle()
    assert judge.account(home.asked).sent["a fox"] == 1
    assert nursery.victim("take_up", env=home.env)["error"] == ""
    assert home.settled() == []
    assert [run.state for run in home.rows()] == ["unknown"]


@needs_proc
def test_resume_in_a_dead_network_goes_on_when_it_is_back(judge: Judge, nursery: Nursery, home: Home):
    prompt = "[seconds:1] a fox"
    home.asked[prompt] = 1
    log = (str(judge.folder), "requests.jsonl", f'"polled": "{prompt}"')
    nursery.victim("live", env=home.env, requests=[(prompt, 2)], kill_when=log)
    freeze(judge)
    with ThreadPoolExecutor() as pool:
        resume = pool.submit(nursery.victim, "take_up", env=home.env)
        until(lambda: waits_for(judge), "the resume to ask")
        os.kill(judge.process.pid, signal.SIGCONT)
        assert resume.result()["error"] == ""
    assert home.settled() == []
    assert [run.state for run in home.rows()] == ["success"]


def waits_for(judge: Judge) -> bool:
    """Whether somebody is connected to the stopped judge."""
    port = int(judge.base_url.split(":")[2].partition("/")[0])
    lines = Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
    return any(line.split()[2] == f"0100007F:{port:04X}" and line.split()[3] == "01" for line in lines)
