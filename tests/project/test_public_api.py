"""The names that notebooks and other people's code rely on, and what importing them costs."""

from __future__ import annotations

import importlib
import inspect
import pathlib
import subprocess
import sys

import pytest

import apixo_nb

NAMES = [
    "ApixoError",
    "AsyncClient",
    "Client",
    "Session",
    "agenerate",
    "allow_nested_asyncio",
    "compare",
    "contact_sheet",
    "export_csv",
    "generate",
    "grid",
    "history",
    "images",
    "import_bundle",
    "panel",
    "rate",
    "resume",
    "sweep",
    "vote",
    "wait",
]

CALLS = ["submit", "status", "wait", "download", "balance"]

#: Each takes a noticeable part of a second; `%load_ext` happens in every notebook, a table in few.
HEAVY = [
    *("pandas", "sqlalchemy", "PIL", "ipywidgets", "anywidget", "httpx2"),
    *("tornado", "pydantic", "jinja2", "keyring"),
]


def test_public_names_are_these():
    assert sorted(apixo_nb.__all__) == NAMES


def test_no_name_is_that_of_a_module():
    """The import system would put the module in its place as soon as anything imports it."""
    modules = {path.stem for path in pathlib.Path(apixo_nb.__file__).parent.iterdir()}
    assert modules.isdisjoint(NAMES)


def test_dir_lists_them():
    assert set(NAMES) <= set(dir(apixo_nb))


@pytest.mark.parametrize("name", NAMES)
def test_public_name_is_there_and_documented(name: str):
    found = getattr(apixo_nb, name)
    assert inspect.getdoc(found)
    assert found.__module__.startswith("apixo_nb.")


def test_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'paint'"):
        _ = apixo_nb.paint


@pytest.mark.parametrize("client", ["Client", "AsyncClient"])
def test_both_clients_have_the_same_calls(client: str):
    for call in CALLS:
        assert inspect.getdoc(getattr(getattr(apixo_nb, client), call))


def test_magics_are_loaded_by_these_two_hooks():
    assert callable(apixo_nb.load_ipython_extension)
    assert callable(apixo_nb.unload_ipython_extension)


PACKAGES = sorted(path.parent.name for path in pathlib.Path(apixo_nb.__file__).parent.glob("*/__init__.py"))
FACES = {package: importlib.import_module(f"apixo_nb.{package}") for package in PACKAGES}
HANDED_ON = [(package, name) for package in PACKAGES for name in FACES[package].__all__]


def test_there_are_thirteen_packages_and_each_hands_on_some_names():
    assert len(PACKAGES) == 13
    assert [package for package in PACKAGES if not FACES[package].__all__] == []


@pytest.mark.parametrize(("package", "name"), HANDED_ON)
def test_name_of_a_package_is_there_whatever_was_imported_before(package: str, name: str):
    for module in pathlib.Path(str(FACES[package].__file__)).parent.glob("[!_]*.py"):
        importlib.import_module(f"apixo_nb.{package}.{module.stem}")
    assert not inspect.ismodule(getattr(FACES[package], name))


@pytest.mark.parametrize("package", PACKAGES)
def test_dir_of_a_package_lists_its_names(package: str):
    assert set(FACES[package].__all__) <= set(dir(FACES[package]))


@pytest.mark.parametrize("package", PACKAGES)
def test_name_that_a_package_has_not_is_an_attribute_error(package: str):
    with pytest.raises(AttributeError, match=f"'apixo_nb.{package}' has no attribute 'paint'"):
        _ = FACES[package].paint


@pytest.mark.parametrize("package", PACKAGES)
def test_package_by_itself_brings_in_nothing_heavy(package: str):
    """The sandbox alone is imported whole: who imports it is about to start it."""
    allowed = {"tornado", "PIL"} if package == "sandbox" else set()
    assert modules_after(f"import apixo_nb.{package}").isdisjoint({*HEAVY, "IPython", "traitlets"} - allowed)


def test_version_is_three_numbers():
    assert all(part.isdecimal() for part in apixo_nb.__version__.split("."))
    assert len(apixo_nb.__version__.split(".")) == 3


def modules_after(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after a statement."""
    script = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_import_brings_in_nothing_heavy():
    assert modules_after("import apixo_nb").isdisjoint([*HEAVY, "IPython", "traitlets"])


def test_magics_and_commands_bring_in_nothing_heavy():
    allowed = {"pydantic", "jinja2"}
    modules = "import apixo_nb.notebook.magics, apixo_nb.notebook.commands, apixo_nb.experiments.prompts"
    assert modules_after(modules).isdisjoint(set(HEAVY) - allowed)


def test_load_ext_brings_in_no_more_of_the_package_than_this():
    """Each module costs about a millisecond in every notebook; a magic imports what it needs when it runs."""
    script = """if True:
        import sys
        from IPython.core.interactiveshell import InteractiveShell
        InteractiveShell.instance().run_line_magic("load_ext", "apixo_nb")
        print(*(name for name in sys.modules if name.startswith("apixo_nb.")))
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    modules = {
        name for name in done.stdout.split() if name.count(".") > 1 or name.endswith(("errors", "text"))
    }
    assert modules == {
        "apixo_nb.core.settings",
        "apixo_nb.errors",
        "apixo_nb.ledger.unfinished",
        "apixo_nb.notebook.extension",
        "apixo_nb.notebook.magics",
        "apixo_nb.session.cells",
        "apixo_nb.text",
    }


def test_using_the_clients_needs_neither_notebook_nor_ledger():
    assert modules_after("import apixo_nb; apixo_nb.Client").isdisjoint(
        ["pandas", "sqlalchemy", "IPython", "ipywidgets"]
    )


@pytest.mark.parametrize(
    "module",
    [
        "client.client",
        "session.session",
        "notebook.magics",
        "cli",
        "analysis.frame",
        "ledger.ledger",
        "sandbox",
    ],
)
def test_every_level_can_be_imported_by_itself(module: str):
    assert importlib.import_module(f"apixo_nb.{module}").__doc__
