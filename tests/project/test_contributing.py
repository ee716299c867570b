"""CONTRIBUTING and the reference keep step: every room is on the plan, every public name has its entry."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

import apixo_nb
from apixo_nb import errors, sandbox
from tests.test_architecture import FLOORS

ROOT = Path(__file__).parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PAGES = {path.stem: path.read_text("utf-8") for path in (ROOT / ".docs").glob("*.rst")}


def test_every_room_is_on_the_plan_once():
    plan = CONTRIBUTING.partition("From the ground up:")[2].partition("\n## ")[0]
    rows = [line for line in plan.splitlines() if line.startswith("|")]
    named = re.findall(r"`(\w+)`", "\n".join(row.rpartition(" | ")[2] for row in rows))
    assert sorted(named) == sorted(set(FLOORS) - {"__init__", "__main__"})


def test_it_is_short_enough_to_be_read():
    assert len(CONTRIBUTING.splitlines()) <= 120


def test_its_files_and_make_targets_are_there():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z]+)`", CONTRIBUTING)) <= set(targets)
    files = re.findall(r"`((?:tests|apixo_nb|\.docs)/[\w./]+)`", CONTRIBUTING)
    assert [file for file in files if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("name", apixo_nb.__all__)
def test_every_public_name_is_in_the_reference(name: str):
    assert re.search(rf"\bapixo_nb\.{name}\b", PAGES["reference"])


@pytest.mark.parametrize("name", sorted(set(sandbox.__all__) - {"KINDS", "MARKERS"}))
def test_every_name_of_the_sandbox_is_in_the_reference(name: str):
    assert f"apixo_nb.sandbox.{name}\n" in PAGES["sandbox"]


def test_the_reference_names_what_there_is():
    named = re.findall(r"auto(?:function|class|module):: apixo_nb\.([\w.]+)", "\n".join(PAGES.values()))
    assert named
    assert [path for path in named if not pkgutil.resolve_name(f"apixo_nb.{path}").__doc__] == []


def test_every_error_is_told():
    ours = [
        kind.__name__ for kind in vars(errors).values() if getattr(kind, "__module__", "") == errors.__name__
    ]
    assert "ApixoError" in ours
    assert [name for name in ours if name[0].isupper() and name not in str(errors.__doc__)] == []
    assert "automodule:: apixo_nb.errors" in PAGES["reference"]
