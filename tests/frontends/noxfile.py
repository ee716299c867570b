"""This package in other front ends, Pythons and versions: `nox -f tests/frontends/noxfile.py`.

Each session has an environment of its own below .nox, runs some tests there, and leaves its result in
build/frontends, from which the last session makes the table of README.md. Python 3.12 to 3.14 are tried where
they are on the PATH. JupyterLab, Notebook 7 and Voila are tried by `make test`; here are the others.
"""

# mypy: disable-error-code="untyped-decorator"

from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parents[2]
# pytest with its plugin, and Playwright, which the shared fixtures import.
PYTEST = ("pytest==9.2.0", "pytest-timeout==2.4.0", "playwright==1.65.2")
KERNEL_EXTRAS = "lab,parquet,plot"
KERNEL_TOOLS = ("hypothesis==6.170.15", "papermill>=2.6", "pexpect==4.9.0")
# What a kernel, a table, a terminal and the runners of notebooks have to do with versions.
KERNEL_TESTS = (
    "tests/frontends/kernel.py",
    "tests/analysis/test_frame.py",
    "tests/cli/test_terminal.py::test_a_cell_shows_its_progress_and_then_the_files",
    "tests/jupyter/test_notebooks.py::test_quickstart_runs_under_nbconvert_and_reads_well_as_html_and_markdown",
)

QUIETLY = ("-q", "-p", "no:cacheprovider", "--timeout", "300")

nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.envdir = str(ROOT / ".nox")
nox.options.error_on_missing_interpreters = False


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The lowest versions that pyproject.toml allows, all at once."""
    _install(
        session,
        "--resolution",
        "lowest-direct",
        "nbconvert>=7.16.6",
        *PYTEST,
        *KERNEL_TOOLS,
        extras=KERNEL_EXTRAS,
    )
    _test(session, "oldest", *KERNEL_TESTS)


@nox.session(python=["3.12", "3.13", "3.14"])
def pythons(session: nox.Session) -> None:
    """Newer Pythons, with the versions of constraints.txt."""
    _install(session, *_exact(), *PYTEST, *KERNEL_TOOLS, extras=KERNEL_EXTRAS)
    _test(session, f"python-{session.python}", *KERNEL_TESTS)


@nox.session(python="3.11")
@nox.parametrize("ipykernel, pandas", [("6.31.0", "2.2.3"), ("7.0.1", "2.3.3"), ("7.3.0", "3.0.0")])
def kernels(session: nox.Session, ipykernel: str, pandas: str) -> None:
    """Kernels that hear the page in other threads, and each pandas since 2.2."""
    wanted = (f"ipykernel=={ipykernel}", f"pandas=={pandas}")
    _install(
        session,
        *_exact("ipykernel", "pandas", "numpy"),
        *wanted,
        *PYTEST,
        *KERNEL_TOOLS,
        extras=KERNEL_EXTRAS,
    )
    _test(session, f"ipykernel-{ipykernel}", *KERNEL_TESTS)


@nox.session(python="3.11")
def nbclassic(session: nox.Session) -> None:
    """The classic notebook in a headless Chromium."""
    _install(session, *_exact(), "nbclassic==1.3.3", *PYTEST)
    _test(session, "nbclassic", "tests/frontends/nbclassic.py")


@nox.session(python="3.11")
def runners(session: nox.Session) -> None:
    """Without a page: `jupyter execute`, jupytext, nbconvert, and a PDF that Chromium prints."""
    _install(session, *_exact(), "jupytext==1.19.6", "papermill", "pypdf==7.1.1", *PYTEST, extras="lab,plot")
    _test(session, "runners", "tests/frontends/runners.py")


@nox.session(python="3.11")
def marimo(session: nox.Session) -> None:
    """marimo, which has no IPython: the Python functions."""
    _install(session, *_exact(), "marimo==0.25.2", *PYTEST)
    _test(session, "marimo", "tests/frontends/marimo_app.py")


@nox.session(python="3.11")
def table(session: nox.Session) -> None:
    """README.md's table, from what the sessions left."""
    session.chdir(ROOT)
    session.run("python", "-m", "tests.frontends.table")


def _install(session: nox.Session, *packages: str, extras: str = "lab") -> None:
    session.chdir(ROOT)
    session.install("-e", f".[{extras}]", *packages)


def _exact(*but: str) -> tuple[str, ...]:
    """The versions of constraints.txt, but for some packages."""
    if not but:
        return ("-c", "constraints.txt")
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    kept = ROOT / "build" / "frontends" / f"constraints-without-{'-'.join(but)}.txt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("\n".join(line for line in lines if line.partition("==")[0] not in but))
    return ("-c", str(kept))


def _test(session: nox.Session, name: str, *files: str) -> None:
    result = f"build/frontends/{name}.xml"
    ran = (
        "-q",
        "-p",
        "no:cacheprovider",
        "--timeout",
        "300",
        "--junit-xml",
        result,
        *files,
        *session.posargs,
    )
    session.run("python", "-m", "pytest", *ran, success_codes=[0, 1])
    session.run("python", "-m", "tests.frontends.table", name, result)  # it fails where a test failed
