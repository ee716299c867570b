"""What `make lint` does not see: where heavy libraries are used, what stays apart, how long a module may be.

Which package may import which is the contract in pyproject.toml, checked by import-linter.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import grimp
import pytest

import apixo_nb

PACKAGE = Path(apixo_nb.__file__).parent
TESTS = Path(__file__).parents[1]

MODULE_LINES = 450
FUNCTION_LINES = 60


@cache
def graph(*, annotations: bool = True) -> grimp.ImportGraph:
    """Who imports whom, also inside functions; without what is imported for annotations alone."""
    return grimp.build_graph(
        "apixo_nb",
        include_external_packages=True,
        exclude_type_checking_imports=not annotations,
        cache_dir=None,
    )


def packages_that_import(module: str, *, annotations: bool = True) -> set[str]:
    imports = graph(annotations=annotations)
    inside = {module} | (set() if imports.is_module_squashed(module) else imports.find_descendants(module))
    found = {name for each in inside for name in imports.find_modules_that_directly_import(each)} - inside
    return {name.split(".")[1] for name in found}


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("anywidget", {"widgets"}),
        ("httpx2", {"client"}),
        ("ipywidgets", {"display"}),
        ("jinja2", {"core"}),
        ("keyring", {"core"}),
        ("matplotlib", {"analysis"}),
        ("mlflow", {"export"}),
        ("nest_asyncio2", {"core"}),
        ("pandas", {"analysis", "display", "experiments"}),
        ("PIL", {"core", "export", "sandbox"}),
        ("psutil", {"core"}),
        ("pyarrow", {"analysis"}),
        ("sqlalchemy", {"ledger"}),
        ("wandb", {"export"}),
    ],
)
def test_each_library_is_used_in_few_packages(library: str, homes: set[str]):
    assert packages_that_import(library, annotations=False) == homes


def test_the_sandbox_shares_only_models_and_fonts_with_what_it_checks():
    shared = {
        name
        for module in graph().find_descendants("apixo_nb.sandbox") | {"apixo_nb.sandbox"}
        for name in graph().find_modules_directly_imported_by(module)
        if name.startswith("apixo_nb.") and not name.startswith("apixo_nb.sandbox")
    }
    assert shared == {"apixo_nb.core.models", "apixo_nb.core.fonts"}


def test_the_sandbox_is_started_by_the_session_and_the_command_line_alone():
    assert packages_that_import("apixo_nb.sandbox") == {"session", "cli"}


@pytest.mark.parametrize("module", ["apixo_nb.cli", "apixo_nb.session.session", "apixo_nb.session.service"])
def test_the_sandbox_is_imported_when_it_is_started(module: str):
    program = f"import sys, {module}; sys.exit('apixo_nb.sandbox' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def imported_names(path: Path) -> set[str]:
    """The modules and names that a file imports, also inside functions, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_no_test_file_is_imported_by_another():
    names = {
        path.relative_to(TESTS.parent).as_posix(): imported_names(path)
        for path in sorted(TESTS.rglob("*.py"))
    }
    tests = re.compile(r"tests\.(\w+\.)*(test_\w+|conftest)\b")
    assert {
        path: found for path, imported in names.items() if (found := set(filter(tests.match, imported)))
    } == {}


def lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_module_and_its_functions_are_of_readable_size(path: Path):
    source = path.read_text(encoding="utf-8")
    long = {
        node.name: lines_of(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_of(node) > FUNCTION_LINES
    }
    assert source.count("\n") <= MODULE_LINES
    assert long == {}
