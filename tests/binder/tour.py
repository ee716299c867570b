"""What a Binder does with binder/: the scripts run, and people land in the tour, in the sandbox.

The image itself, as far as it can be had without Docker, is in image.py; `make binder` runs both.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.browser import NotebookPage
from tests.support.kernels import execute, rows
from tests.support.notebook_servers import Lab

ROOT = Path(__file__).parents[2]
START, POST_BUILD = ROOT / "binder" / "start", ROOT / "binder" / "postBuild"
TOUR = "notebooks/offline.ipynb"


def started(*command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What comes of a command that `start` starts."""
    theirs = os.environ | (env or {})
    return subprocess.run(
        [START, *command], capture_output=True, text=True, check=False, env=theirs, timeout=60
    )


def environment(env: dict[str, str] | None = None) -> dict[str, str]:
    """The environment that `start` makes."""
    printed = started(sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))", env=env)
    made: dict[str, str] = json.loads(printed.stdout)
    return made


# --- start -------------------------------------------------------------------------------------------


def test_start_turns_the_sandbox_on_and_adds_to_the_configuration_that_is_there() -> None:
    assert environment()["APIXO_SANDBOX"] == "1"
    ours = str(ROOT / "binder" / "jupyter")
    assert environment({"JUPYTER_CONFIG_PATH": ""})["JUPYTER_CONFIG_PATH"] == ours
    assert environment({"JUPYTER_CONFIG_PATH": "/a b"})["JUPYTER_CONFIG_PATH"] == f"{ours}:/a b"


def test_start_becomes_the_command_with_all_its_words_and_its_end() -> None:
    code = "import sys; print(sys.argv[1:]); sys.exit(7)"
    done = started(sys.executable, "-c", code, "two words", "", "*")
    assert done.stdout.strip() == str(["two words", "", "*"])
    assert done.returncode == 7


def test_kernels_of_a_binder_work_on_the_sandbox_unasked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("APIXO_SANDBOX", environment()["APIXO_SANDBOX"])
    execute(["%load_ext apixo_nb", "%%apixo\na fox"], tmp_path)
    (run,) = rows()
    assert (run.state, run.sandbox) == ("success", True)


# --- the page that people land on --------------------------------------------------------------------


class Binder(Lab):
    """JupyterLab as a Binder starts it, with nobody's settings; its address is its root."""

    before = (str(START),)

    def address(self, _notebook: Path) -> str:
        """Where Binder sends people."""
        return f"{self.url}/"

    def reset_settings(self) -> None:
        """There are none: what is set comes from binder/."""


@pytest.fixture
def landed(browser: Browser, lab_env: dict[str, str], tmp_path: Path) -> Iterator[NotebookPage]:
    """The first page of a Binder."""
    with Binder.running(tmp_path / "binder", lab_env) as server:
        server.add_kernel("python3")
        (server.root / "notebooks").mkdir()
        shutil.copy(ROOT / TOUR, server.root / TOUR)
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = NotebookPage(context, server, server.root / TOUR)
        yield page
        page.shut_down()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_people_land_in_the_tour_and_it_runs_in_the_sandbox(landed: NotebookPage) -> None:
    assert landed.page.url.endswith(f"/lab/tree/{TOUR}")
    landed.screenshot("binder-landing")
    landed.run_all(timeout_s=100)
    outputs = landed.outputs()
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("data:image/webp" in json.dumps(output) for output in outputs) >= 3
    assert "SANDBOX, on this machine; nothing is paid" in outputs[-1]["text"]
    landed.screenshot("binder-tour")
    assert not landed.page.get_by_text("Jupyter news").count()
    assert landed.errors == []
    assert landed.blocked == []


# --- postBuild ---------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of the repository as `postBuild` looks at."""
    (tmp_path / "checkout").mkdir()
    for folder in ("binder", "notebooks"):
        shutil.copytree(
            ROOT / folder, tmp_path / "checkout" / folder, ignore=shutil.ignore_patterns(".*", "apixo-runs")
        )
    return tmp_path / "checkout"


def post_build(checkout: Path) -> subprocess.CompletedProcess[str]:
    ours = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(checkout.parent),
    }
    folders = {f"JUPYTER_{name}_DIR": str(checkout.parent / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    env = os.environ | ours | folders
    return subprocess.run(
        ["./binder/postBuild"],
        cwd=checkout,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=220,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_post_build_runs_the_tour_and_leaves_the_repository_as_it_was(checkout: Path) -> None:
    before = files(checkout)
    done = post_build(checkout)
    assert done.returncode == 0, done.stderr
    assert "Signing notebook: notebooks/offline.ipynb" in done.stdout
    assert files(checkout) == before
    assert not [path for path in checkout.parent.iterdir() if path.name.startswith("tmp.")]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_there_is_no_image_with_a_tour_that_fails(checkout: Path) -> None:
    text = (checkout / TOUR).read_text("utf-8")
    (checkout / TOUR).write_text(text.replace("%load_ext apixo_nb", "%load_ext nothing_of_ours"), "utf-8")
    done = post_build(checkout)
    assert done.returncode != 0
    assert "nothing_of_ours" in done.stderr
