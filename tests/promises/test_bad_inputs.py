"""Every row of `tests/support/bad_inputs.py`: two lines say what, where and what instead."""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import apixo_nb
from apixo_nb.client.protocol import RetryPolicy
from apixo_nb.core import settings
from apixo_nb.sandbox import Sandbox
from apixo_nb.session import session as shared
from tests.support.bad_inputs import (
    BAD_INPUTS,
    CELL,
    FORGIVEN,
    LINE,
    PYTHON,
    SETTINGS,
    URL,
    BadInput,
    Forgiven,
)

pytestmark = pytest.mark.timeout(30)  # seconds; a guard, should something wait for ever

LONGEST_LINE = 500  # characters; whatever was given, what is said about it can be read

_COLOURS = re.compile(r"\x1b\[\d+m")

#: What the cells of the table find in their notebook.
VARIABLES = {
    **{name: getattr(apixo_nb, name) for name in apixo_nb.__all__},
    "current": shared.current,
    "settings": settings.settings,
    "once": RetryPolicy(attempts=1),
    "nan": float("nan"),
    "inf": float("inf"),
    "URL": URL,
    "mood": "dark",
    "blank": " \u200b",
    "nul": "\0",
    "surrogate": "\ud800",
    "braces": "{mood} {0} }{",
}


@dataclass(frozen=True)
class Notebook:
    """An IPython shell as a new notebook in an empty folder."""

    shell: InteractiveShell
    places: dict[str, str]
    patch: pytest.MonkeyPatch
    output: pytest.CaptureFixture[str]
    log: pytest.LogCaptureFixture

    def real(self, text: str) -> str:
        """The text with real places where the table says ``<file>``, ``<folder>`` and ``<port>``."""
        return re.sub("<file>|<folder>|<port>", lambda found: self.places[found[0]], text)

    def run(self, row: BadInput | Forgiven) -> tuple[BaseException | None, str]:
        """Load the extension and run a row's cell; returns the first error, and what was shown."""
        for name, value in row.variables.items():
            self.patch.setenv(name, self.real(value))
        error = self._cell("%load_ext apixo_nb") or self._cell(self.real(row.source))
        return error, _COLOURS.sub("", "".join(self.output.readouterr()))

    def _cell(self, source: str) -> BaseException | None:
        result = self.shell.run_cell(source)
        # IPython logs the errors of %config, and raises none.
        logged = [record.msg for record in self.log.records if isinstance(record.msg, BaseException)]
        return result.error_before_exec or result.error_in_exec or next(iter(logged), None)


@pytest.fixture(scope="module")
def ipython(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteractiveShell]:
    """The one IPython shell of this module, without history and without a terminal."""
    quiet = Config()
    quiet.HistoryManager.enabled = False
    folder = str(tmp_path_factory.mktemp("ipython"))
    made = InteractiveShell.instance(config=quiet, ipython_dir=folder, user_module=ModuleType("cells"))
    yield made
    made.restore_sys_module_state()
    InteractiveShell.clear_instance()


@pytest.fixture
def notebook(
    ipython: InteractiveShell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Notebook]:
    """A new notebook, the file and the folder of the table, and a port where nobody listens."""
    (tmp_path / "file").write_text("not a folder", "utf-8")
    for name in ("folder", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    ipython.push(dict(VARIABLES))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it, and it refuses
        places = {f"<{name}>": str(tmp_path / name) for name in ("file", "folder")}
        places["<port>"] = str(closed.getsockname()[1])
        yield Notebook(ipython, places, monkeypatch, capsys, caplog)
    ipython.run_line_magic("unload_ext", "apixo_nb")
    ipython.config.pop("Apixo", None)  # %config leaves even what was refused


def named(rows: list[Any]) -> list[Any]:
    """One parameter for each row, named after it."""
    return [pytest.param(row, id=f"{row.interface}, {row.name}") for row in rows]


@pytest.mark.parametrize("row", named(BAD_INPUTS))
def test_bad_input_is_told_in_two_lines_and_nothing_is_sent(
    row: BadInput, service: Sandbox, notebook: Notebook
):
    error, shown = notebook.run(row)
    assert list(service.account.requests) == []
    assert type(error).__name__ == row.error, shown
    for what in (row.field, row.value, row.allowed):
        assert notebook.real(what) in str(error)
    for text in (shown, str(error)):
        assert len(text.splitlines()) <= 2
        assert max(map(len, text.splitlines()), default=0) <= LONGEST_LINE
    if row.hidden:
        assert row.hidden not in f"{shown} {error} {error!r} {vars(error)} {notebook.log.text}"


@pytest.mark.parametrize("row", named(FORGIVEN))
def test_clumsy_input_is_put_right(row: Forgiven, service: Sandbox, notebook: Notebook):
    error, shown = notebook.run(row)
    assert error is None
    assert len(service.account.accepted) == row.sends
    assert row.says in shown


def test_table_holds_all_interfaces_and_no_row_twice():
    assert Counter(row.name for row in BAD_INPUTS).most_common(1)[0][1] == 1
    interfaces = Counter(row.interface for row in BAD_INPUTS)
    assert min(interfaces[interface] for interface in (CELL, LINE, PYTHON, SETTINGS)) >= 20
