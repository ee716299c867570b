"""CONTRIBUTING and the reference keep step: every package is listed, every public name has its entry."""

from __future__ import annotations

import importlib
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest

import apixo_nb
from apixo_nb import engine, errors, sandbox, session, widgets

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PAGES = {path.stem: path.read_text("utf-8") for path in (ROOT / ".docs").glob("*.rst")}


def levels() -> list[list[str]]:
    """The packages of each level, from the top down, as the import contract says."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    return [re.split(r" [|:] ", level) for level in settings["contracts"][0]["layers"]]


def test_the_table_of_packages_is_the_import_contract():
    table = CONTRIBUTING.partition("| level | package |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines()[2:]]
    assert [re.findall(r"`(\w+)`", packages) for _, packages in rows] == levels()
    assert [int(level) for level, _ in rows] == list(range(len(rows), 0, -1))


def test_the_drawing_shows_every_package_on_its_level():
    drawing = CONTRIBUTING.partition("```mermaid\n")[2].partition("```")[0]
    groups = re.findall(r"subgraph L(\d)\b.*?\n(.*?)\n +end", drawing, re.DOTALL)
    assert [int(number) for number, _ in groups] == list(range(len(groups), 0, -1))
    assert [re.findall(r"^ +(\w+)$", inside, re.MULTILINE) for _, inside in groups] == levels()


@pytest.mark.parametrize("package", sorted({name for level in levels() for name in level}))
def test_every_package_says_in_a_sentence_what_it_is(package: str):
    first = str(importlib.import_module(f"apixo_nb.{package}").__doc__).partition("\n")[0]
    assert first.endswith(".")


def test_it_is_short_enough_to_be_read():
    assert len(CONTRIBUTING.splitlines()) <= 200


def test_its_files_and_make_targets_are_there():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"`make ([a-z]+)`", CONTRIBUTING)) <= set(targets)
    files = re.findall(r"`((?:tests|apixo_nb|\.docs)/[\w./]+)`", CONTRIBUTING)
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_the_modules_and_names_it_tells_of_are_there():
    package = ROOT / "apixo_nb"
    files = re.findall(r"`((?:\w+/)*\w+\.py)`", CONTRIBUTING)
    assert len(files) > 40
    assert [file for file in files if not (package / file).exists() and not (ROOT / file).exists()] == []
    packages = "|".join(path.parent.name for path in package.glob("*/__init__.py"))
    named = re.findall(rf"`((?:{packages})(?:\.\w+)+)`", CONTRIBUTING)
    named = [name for name in named if not name.endswith(".py")]
    assert len(named) > 4
    for name in named:
        pkgutil.resolve_name(f"apixo_nb.{name}")
    methods = re.findall(r"`((?:Session|History|Runner|Panel)\.\w+)`", CONTRIBUTING)
    homes = {
        "Session": session.Session,
        "History": session.History,
        "Runner": engine.Runner,
        "Panel": widgets.Panel,
    }
    assert len(methods) > 8
    for method in methods:
        owner, _, name = method.partition(".")
        assert callable(getattr(homes[owner], name))


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
