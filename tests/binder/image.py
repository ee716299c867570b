"""Binder's image, as far as it can be had without Docker; `make binder` runs this and tour.py (minutes).

repo2docker reads the folder and prints the Dockerfile that it would build; what that runs is run here, in an
environment that holds what the image holds before it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPO2DOCKER = ROOT / ".venv-binder" / "bin" / "jupyter-repo2docker"

#: What repo2docker's image holds before ours is added, as far as it is ours too (its lock for Python 3.11).
FIRST = (
    *("ipykernel==7.0.1", "ipywidgets>=8", "jupyter_server==2.17.0", "jupyterhub==5.4.0"),
    *("jupyterlab==4.4.9", "jupyterlab_server==2.27.3", "notebook==7.4.7"),
)


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """All that a command says; its failure is the test's."""
    done = subprocess.run(
        [*command],
        cwd=cwd,
        env=os.environ | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_repo2docker_takes_requirements_post_build_and_start() -> None:
    dockerfile = run(REPO2DOCKER, "--no-build", "--debug", ROOT).splitlines()
    install = '${KERNEL_PYTHON_PREFIX}/bin/pip install --no-cache-dir -r "binder/requirements.txt"'
    # The order counts: `.` of the requirements is there only once the repository is.
    steps = [
        "COPY --chown=0:0 src/ ${REPO_DIR}/" if os.getuid() == 0 else "src/ ${REPO_DIR}/",
        f"RUN {install}",
        "RUN ./binder/postBuild",
        'ENV R2D_ENTRYPOINT="${REPO_DIR}/binder/start"',
    ]
    places = [next(n for n, line in enumerate(dockerfile) if line.endswith(step)) for step in steps]
    assert places == sorted(places)
    python = (ROOT / "binder" / "runtime.txt").read_text("utf-8").strip().removeprefix("python-")
    assert any(f"environment-2epy-2d{python.replace('.', '-2e')}" in line for line in dockerfile)


def python_in(folder: Path) -> Path:
    """The interpreter of a new environment."""
    run(sys.executable, "-m", "venv", folder)
    return folder / "bin" / "python"


def install(python: Path, *what: str) -> None:
    """Install with pip, from the root of the repository, as the image is built."""
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("first", [(), FIRST], ids=["empty", "image"])
def test_requirements_install_and_the_scripts_run(tmp_path: Path, first: tuple[str, ...]) -> None:
    python = python_in(tmp_path / "environment")
    if first:
        install(python, *first)
    install(python, "-r", "binder/requirements.txt")
    assert "No broken requirements found" in run(python, "-m", "pip", "check")
    checkout = tmp_path / "checkout"
    for folder in ("binder", "notebooks"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns(".*", "apixo-runs"))
    env = {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    run("./binder/postBuild", cwd=checkout, env=env)
    shown = run("./binder/start", "jupyter", "lab", "--show-config", cwd=checkout, env=env)
    assert "/lab/tree/notebooks/offline.ipynb" in shown
