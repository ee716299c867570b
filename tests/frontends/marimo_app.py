"""The Python functions in marimo, which is no IPython: `nox -s marimo`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from apixo_nb.sandbox import Sandbox
from tests.support.kernels import rows

APP = """
import marimo

app = marimo.App()


@app.cell
def _():
    import apixo_nb
    return (apixo_nb,)


@app.cell
def _(apixo_nb):
    run = apixo_nb.generate("a <b>paper</b> boat", num_images=2, replay=True)
    run
    return (run,)


@app.cell
async def _(apixo_nb):
    other = await apixo_nb.agenerate("a lighthouse", aspect_ratio="3:2", replay=True)
    other
    return (other,)


@app.cell
def _(apixo_nb, run, other):
    (run, other)
    apixo_nb.history().apixo.gallery()
    return


@app.cell
def _(apixo_nb):
    apixo_nb.panel()
    return


if __name__ == "__main__":
    app.run()
"""


@pytest.fixture
def app(tmp_path: Path, service: Sandbox) -> Path:  # noqa: ARG001 - it is running
    path = tmp_path / "app.py"
    path.write_text(APP, "utf-8")
    return path


def python(app: Path, *arguments: str) -> None:
    command = [sys.executable, *arguments]
    ran = subprocess.run(command, cwd=app.parent, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stderr


def exported(app: Path) -> str:
    python(app, "-m", "marimo", "export", "html", app.name, "--output", "app.html", "--force")
    return app.with_suffix(".html").read_text("utf-8")


def test_an_export_has_the_pictures_and_what_the_panel_needs(app: Path) -> None:
    page = exported(app)
    assert page.count("data:image/webp") == 3
    assert "success, 2 of 2 pictures on disk" in page
    assert "<b>paper</b>" not in page
    assert "open the notebook in JupyterLab, Notebook 7 or Voila" in page


def test_with_replay_the_same_app_buys_once(app: Path, service: Sandbox) -> None:
    exported(app)
    python(app, app.name)
    exported(app)
    assert [run.state for run in rows()] == ["success", "success"]
    assert len(service.account.accepted) == 2
