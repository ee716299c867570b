"""What runs this code: a plain script, a terminal, a notebook, or a program that runs notebooks."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from apixo_nb.core.process import current_shell, has_kernel, has_widgets, takes_input


def shell(**content: Any) -> Any:
    return SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda: {"content": content}))


TERMINAL: Any = SimpleNamespace()


@pytest.mark.parametrize(
    ("here", "kernel", "widgets"),
    [
        (None, False, False),
        (TERMINAL, False, False),
        (shell(), True, True),
        (shell(allow_stdin=True), True, True),
        (shell(allow_stdin=False), True, False),
    ],
    ids=["script", "terminal", "older front end", "notebook", "nbconvert"],
)
def test_somebody_can_click_where_the_front_end_takes_input(here: Any, kernel: bool, widgets: bool):  # noqa: FBT001
    assert (has_kernel(here), takes_input(here), has_widgets(here)) == (kernel, widgets, widgets)


def test_voila_shows_widgets_though_it_takes_no_input(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.8")
    assert has_widgets(shell(allow_stdin=False))
    assert not takes_input(shell(allow_stdin=False))
    assert not has_widgets(TERMINAL)


def test_a_script_has_no_shell_and_does_not_import_ipython():
    program = "import sys, apixo_nb.core.process as e; e.current_shell(); sys.exit('IPython' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
    assert current_shell() is None
