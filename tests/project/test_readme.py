"""The README tells the truth: its Python runs, its links lead somewhere, its tables are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from apixo_nb.experiments.cell_options import known_flags
from apixo_nb.notebook.commands import COMMANDS
from apixo_nb.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def test_python_blocks_run(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("APIXO_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("APIXO_API_KEY", "test-key")
    monkeypatch.setenv("APIXO_FIRST_POLL", "0.05")
    monkeypatch.setenv("APIXO_POLL_INTERVAL", "0.05")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert blocks
    assert (tmp_path / "experiments.csv").is_file()


def test_links_and_pictures_lead_to_files() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", README)
    local = [target for target in targets if "://" not in target]
    assert local
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_every_option_is_in_the_table() -> None:
    table = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    assert [flag for flag in known_flags() if f"`{flag}" not in " ".join(table)] == []


def test_every_command_is_named() -> None:
    named = re.findall(r"%apixo ([a-z| A-Z]+)`", README)
    words = set(" ".join(named).replace("|", " ").split())
    assert set(COMMANDS) - words == set()


def test_every_environment_variable_of_the_code_is_named() -> None:
    code = "".join(path.read_text("utf-8") for path in (ROOT / "apixo_nb").rglob("*.py"))
    variables = set(re.findall(r'"(APIXO_[A-Z_]+)"', code))
    assert variables
    assert [name for name in sorted(variables) if name not in README] == []


def test_every_make_target_named_exists() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z]+)`", README)) <= set(targets)
