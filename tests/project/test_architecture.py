"""The house keeps its floors: who may import whom, and how large a room may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import apixo_nb

PACKAGE = Path(apixo_nb.__file__).parent

#: The house, from the ground up. A module may import from lower floors only, at the top and inside functions
#: alike, so there are no circles, not even lazy ones. A new module needs a place here.
HOUSE = (
    "timetable",
    "aside chunks difference lettering listing loop outlet owner places",
    "retry scrub shown spec text widget writer",
    "errors",
    "address budget config folder keys options request target template terminal wire",
    "completion download expansion labels pending run",
    "lines",
    "axes display flows form frame job originals outcome plots prompt_table replay spend sqltext tables",
    "ballot caps cards cells database formats gallery gate lane rows scheduler summaries transport",
    "bundle facts imagefolder lookup provenance report sheet site trackers",
    "search",
    "api filters ledger luggage mlflow_export tally wandb_export",
    "export intake",
    "keeper records",
    "collect comparison parts",
    "buyer",
    "runner service",
    "session",
    "board choices live lost planning purse rescue shared status sweep_view",
    "grids",
    "accessor asks doctor exchange",
    "desk functions sweeps",
    "live_grid panels voting",
    "commands",
    "demo magic",
    "cli extension",
    "__init__ __main__",
)
FLOORS = {module: floor for floor, modules in enumerate(HOUSE) for module in modules.split()}

MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))

MODULE_LINES = 400
FUNCTION_LINES = 60


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path, *, lazily: bool | None = None) -> set[str]:
    """Full names of all modules a file imports; only those inside functions, or only the others."""
    nodes = set(ast.walk(tree(path)))
    inside = {
        node
        for function in nodes
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    chosen = nodes if lazily is None else inside if lazily else nodes - inside - type_checking(path)
    return {name for node in chosen for name in names_in(node, path)}


def type_checking(path: Path) -> set[ast.AST]:
    """What stands under ``if TYPE_CHECKING`` and is never run."""
    blocks = [node for node in ast.walk(tree(path)) if isinstance(node, ast.If)]
    return {
        node
        for block in blocks
        if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }


def names_in(node: ast.AST, path: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = ("apixo_nb", *path.parent.relative_to(PACKAGE).parts)
            home = ".".join(package[: len(package) - node.level + 1])
            base = f"{home}.{base}".rstrip(".")
        yield base
        # `from . import x` may import a module, or a name such as __version__.
        yield from (f"{base}.{alias.name}" for alias in node.names if is_module(f"{base}.{alias.name}"))


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def rooms(names: set[str]) -> set[str]:
    """The modules directly below apixo_nb that are among these names."""
    return {name.split(".")[1] for name in names if name.startswith("apixo_nb.")}


def importers(package: str) -> set[str]:
    """The files that import a package from outside, anywhere in them."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if package in {name.partition(".")[0] for name in imported(path)}
    }


def test_every_module_has_its_floor():
    assert sorted(FLOORS) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_from_lower_floors_only(module: str):
    found = rooms(imported(PACKAGE / f"{module}.py")) - {"sandbox"}
    assert {name for name in found if FLOORS[name] >= FLOORS[module]} == set()


def test_names_of_the_package_come_from_where_it_says():
    homes = {home for home in apixo_nb._HOMES.values() if FLOORS[home] < FLOORS["__init__"]}
    assert homes == set(apixo_nb._HOMES.values())


@pytest.mark.parametrize("path", sorted((PACKAGE / "sandbox").glob("*.py")), ids=lambda path: path.stem)
def test_sandbox_knows_only_the_spec_and_letters(path: Path):
    assert rooms(imported(path)) <= {"sandbox", "spec", "lettering"}


def test_sandbox_is_imported_by_the_service_and_the_command_line_only_and_late():
    wanting = {module for module in MODULES if "sandbox" in rooms(imported(PACKAGE / f"{module}.py"))}
    early = {
        module for module in MODULES if "sandbox" in rooms(imported(PACKAGE / f"{module}.py", lazily=False))
    }
    assert (wanting, early) == ({"service", "cli"}, set())


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("httpx2", {"transport.py", "download.py", "address.py"}),
        # records and functions name it for annotations, see below
        (
            "pandas",
            {
                "accessor.py",
                "formats.py",
                "frame.py",
                "functions.py",
                "gallery.py",
                "records.py",
                "summaries.py",
                "sweeps.py",
                "voting.py",
            },
        ),
        ("matplotlib", {"accessor.py", "plots.py"}),  # accessor names it for annotations
        (
            "sqlalchemy",
            {
                "caps.py",
                "database.py",
                "ledger.py",
                "lookup.py",
                "rows.py",
                "search.py",
                "sqltext.py",
                "tables.py",
            },
        ),
        ("pyarrow", {"formats.py"}),
        ("mlflow", {"mlflow_export.py"}),
        ("wandb", {"wandb_export.py"}),
        ("psutil", {"owner.py"}),
        (
            "PIL",
            {
                "download.py",
                "originals.py",
                "provenance.py",
                "sandbox/pictures.py",
                "lettering.py",
                "sheet.py",
            },
        ),
        ("ipywidgets", {"live.py"}),
        ("anywidget", {"widget.py"}),
        ("jinja2", {"display.py"}),
        ("keyring", {"keys.py"}),
        ("nest_asyncio2", {"loop.py"}),
    ],
)
def test_each_library_is_used_in_few_places(package: str, homes: set[str]):
    assert importers(package) <= homes


def test_pandas_is_never_run_outside_the_frame():
    path = PACKAGE / "records.py"
    assert "pandas" not in imported(path, lazily=False) | imported(path, lazily=True)


def lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_module_and_its_functions_are_of_readable_size(path: Path):
    lines = path.read_text(encoding="utf-8").count("\n")
    long = {
        node.name: lines_of(node)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_of(node) > FUNCTION_LINES
    }
    assert lines <= MODULE_LINES
    assert long == {}
