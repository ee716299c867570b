"""The project's notebooks, and nbconvert."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def nbconvert(notebook: Path, kind: str, *options: str, env: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-m", "nbconvert", "--to", kind, *options, notebook.name]
    subprocess.run(command, cwd=notebook.parent, check=True, capture_output=True, timeout=200, env=env)
    suffix = {"html": ".html", "markdown": ".md", "notebook": ".ipynb"}[kind]
    return notebook.with_suffix(suffix).read_text("utf-8")
