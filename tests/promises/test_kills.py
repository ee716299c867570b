"""Nothing paid is lost and nothing is paid twice: two hundred processes, killed while they buy pictures.

`python -m tests.kills --kills 2000 --seed 7` does the same for longer; `tests.kills.checker` says
what is checked.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.kills.harness import run
from tests.kills.processes import Counts, ForkServer, Home, ServiceProcess, wait_for

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
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Counts]:
    """What came of all kills, by the way of dying."""
    return run(tmp_path_factory.mktemp("kills"), KILLS, SEED, every_call=False)


def told(counts: Counts) -> str:
    return f"python -m tests.kills --kills {KILLS} --seed {SEED}\n{counts}"


@pytest.mark.parametrize("way", ["fork", "kernel"])
def test_process_killed_at_any_instant_loses_nothing_and_pays_nothing_twice(
    killed: dict[str, Counts], way: str
):
    counts = killed[way]
    assert counts.broken == [], told(counts)
    # Most of them on a quiet machine; on a busy one a life takes longer than the one that was measured.
    assert counts.interrupted > counts.kills / 5, told(counts)


def test_process_killed_at_every_step_loses_nothing_and_pays_nothing_twice(killed: dict[str, Counts]):
    if "calls" not in killed:
        pytest.skip("there is no strace, or it may not trace processes here: see tests/install.sh")
    assert killed["calls"].broken == [], told(killed["calls"])
    # Which of them a call falls into depends on how busy the machine is: all ways together reach them.
    counts = sum(killed.values(), start=Counts())
    assert set(STEPS) <= set(counts.where), told(counts)


def test_resume_killed_again_and_again_is_harmless(killed: dict[str, Counts]):
    counts = sum(killed.values(), start=Counts())
    assert counts.in_resume > 0, told(counts)
    assert counts.rule("error in resume") == 0, told(counts)


# --- a living process, and a network that goes dead ---


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path / "service") as running:
        yield running
        os.kill(running.process.pid, signal.SIGCONT)


@pytest.fixture
def fork_server(tmp_path: Path) -> Iterator[ForkServer]:
    with ForkServer(tmp_path / "fork-server") as running:
        yield running


@pytest.fixture
def home(service: ServiceProcess, tmp_path: Path) -> Home:
    return Home(tmp_path / "home", service)


def test_resume_leaves_the_submit_of_a_living_process_to_it_and_takes_over_when_it_is_dead(
    service: ServiceProcess, fork_server: ForkServer, home: Home, tmp_path: Path
):
    prompt = "[hold] a fox"
    home.asked[prompt] = 1
    kill_time = (str(tmp_path), "kill-time", "now")
    with ThreadPoolExecutor() as pool, ForkServer(tmp_path / "another") as another:
        living = pool.submit(
            another.run_and_kill, "buy", env=home.env, requests=[(prompt, 1)], kill_when=kill_time
        )
        wait_for(lambda: len(service.account(home.asked).tasks) == 1, "the task to be accepted")
        assert fork_server.run_and_kill("resume", env=home.env)["error"] == ""
        assert home.check_leftovers([])[0] == []
        assert [run.state for run in home.rows()] == ["submitting"]
        (tmp_path / "kill-time").write_text("now")
        assert not living.result()["ended"]
    assert fork_server.run_and_kill("resume", env=home.env)["error"] == ""
    assert home.settled() == []
    assert [run.state for run in home.rows()] == ["unknown"]


def freeze(service: ServiceProcess) -> None:
    """The service is there, takes connections and says nothing more."""
    os.kill(service.process.pid, signal.SIGSTOP)
    stat = Path(f"/proc/{service.process.pid}/stat")
    wait_for(lambda: stat.read_text("ascii").rpartition(")")[2].split()[0] == "T", "the service to stop")


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc to look at")


@needs_proc
def test_submit_into_a_dead_network_is_one_unknown_row_whatever_the_service_made_of_it(
    service: ServiceProcess, fork_server: ForkServer, home: Home
):
    freeze(service)
    home.asked["a fox"] = 1
    outcome = fork_server.run_and_kill("impatient", env=home.env, requests=[("a fox", 1)], deadline_s=0.5)
    assert outcome["error"] == ""
    os.kill(service.process.pid, signal.SIGCONT)
    service.wait_until_idle()
    assert service.account(home.asked).sent["a fox"] == 1
    assert fork_server.run_and_kill("resume", env=home.env)["error"] == ""
    assert home.settled() == []
    assert [run.state for run in home.rows()] == ["unknown"]


@needs_proc
def test_resume_in_a_dead_network_goes_on_when_it_is_back(
    service: ServiceProcess, fork_server: ForkServer, home: Home
):
    prompt = "[seconds:1] a fox"
    home.asked[prompt] = 1
    log = (str(service.folder), "requests.jsonl", f'"polled": "{prompt}"')
    fork_server.run_and_kill("buy", env=home.env, requests=[(prompt, 2)], kill_when=log)
    freeze(service)
    with ThreadPoolExecutor() as pool:
        resume = pool.submit(fork_server.run_and_kill, "resume", env=home.env)
        wait_for(lambda: waits_for(service), "the resume to ask")
        os.kill(service.process.pid, signal.SIGCONT)
        assert resume.result()["error"] == ""
    assert home.settled() == []
    assert [run.state for run in home.rows()] == ["success"]


def waits_for(service: ServiceProcess) -> bool:
    """Whether somebody is connected to the stopped service."""
    port = int(service.base_url.split(":")[2].partition("/")[0])
    lines = Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
    return any(line.split()[2] == f"0100007F:{port:04X}" and line.split()[3] == "01" for line in lines)
