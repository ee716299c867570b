"""``%load_ext apixo_nb``: registers the magics, their completion and their settings, and takes them back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from IPython.core.completer import SimpleCompletion, context_matcher
from IPython.core.getipython import get_ipython
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from apixo_nb.core.settings import DEFAULT_HOME, notebook_folder, settings
from apixo_nb.errors import ConfigurationError
from apixo_nb.ledger.unfinished import pending_line
from apixo_nb.session import cells
from apixo_nb.text import is_loopback

from .magics import ApixoMagics

if TYPE_CHECKING:
    from apixo_nb.core.records import Run


_CELL = "get_ipython().run_cell_magic('apixo', "


class AwaitMagic:
    """Input transformer: a cell that is ``%%apixo`` is awaited.

    On ipykernel 7.4 that is the one public way for a Cancel button to be heard while its own cell runs.
    A ``%%apixo`` inside another magic (``%%time``, ``%%capture``) stays synchronous, as those cannot await:
    it is transformed while a cell is running already. So does one in a terminal, where there is no button,
    and where Ctrl-C never reaches an awaiting cell.
    """

    def __init__(self) -> None:
        self._running: list[Any] = []  # what IPython knows of each cell that runs
        self.enabled = False

    def __call__(self, lines: list[str]) -> list[str]:
        """The lines of a cell after IPython's own transformers."""
        if not self.enabled or self._running or not lines or not lines[0].startswith(_CELL):
            return lines
        first = lines[0].replace("'apixo'", "'apixo_awaited'", 1)
        if first.endswith(", '')\n"):
            # An empty body would be refused in IPython's words, which name the inner magic. Ours are better.
            first = first.removesuffix("'')\n") + "'\\n')\n"
        return ["await " + first, *lines[1:]]

    def cell_begins(self, info: Any) -> None:
        """For the event ``pre_run_cell``, which comes after the cell was transformed."""
        self._running.append(info)

    def cell_ends(self, result: Any) -> None:
        """For ``post_run_cell``. The cell with ``%load_ext``, and an empty one, end without having begun."""
        ended = self._running[-1:] if result is None else [result.info]  # none: it was cut off
        self._running[:] = [info for info in self._running if not any(info is each for each in ended)]


_await_magic = AwaitMagic()


def _card_of(run: Run, **_options: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """A run as the value of a cell is shown as its card."""
    from apixo_nb.display.cards import card
    from apixo_nb.session.session import current

    return card(current(), run), {}


def _show_grid(grid: Any) -> None:
    """A grid as the value of a cell can be worked with, where somebody can click."""
    from apixo_nb.widgets.review import show_grid

    show_grid(grid)


def load(shell: InteractiveShell) -> None:
    """Register everything that `unload` takes back."""
    unload(shell)
    shell.register_magics(ApixoMagics(shell))
    _await_magic.enabled = hasattr(shell, "kernel")
    _configure(shell)
    for registry, ours in _registries(shell):
        registry.append(ours)
    for event, callback in _EVENTS:
        shell.events.register(event, callback)
    settings().observe(_say_new_home, "home")
    cells.tracker.watch(shell)
    if shell.display_formatter is not None:
        shell.display_formatter.mimebundle_formatter.for_type_by_name(
            "apixo_nb.core.records", "Run", _card_of
        )
        shell.display_formatter.ipython_display_formatter.for_type_by_name(
            "apixo_nb.experiments.review", "Grid", _show_grid
        )
    with contextlib.suppress(ConfigurationError):  # the first command tells of a bad variable
        _say_unfinished(shell)


def _configure(shell: InteractiveShell) -> None:
    """Take the settings of a configuration file; one that cannot be used is said, and leaves the others."""
    for name, value in shell.config.get("Apixo", {}).items():
        try:
            settings().update_config(Config({"Apixo": {name: value}}))
        except ConfigurationError as error:
            _say(str(error))


def _say_unfinished(shell: InteractiveShell) -> None:
    chosen = settings()
    if not chosen.notebook:
        chosen.notebook = str(shell.user_ns.get("__vsc_ipynb_file__", ""))  # as VS Code tells it
        chosen.use_folder_of(chosen.notebook)
    _say_other_homes()
    if chosen.ledger:
        return  # a database server: to ask it may take long
    sandbox = chosen.sandbox or is_loopback(urlsplit(chosen.base_url).hostname)
    if line := pending_line(chosen.home_path / "ledger.db", sandbox=sandbox):
        _say(line)


def _say(line: str) -> None:
    from .command_line import say

    say(line)


def unload(shell: InteractiveShell) -> None:
    """Take back what `load` registered; harmless where nothing is."""
    for kind, names in (("cell", ("apixo", "apixo_awaited")), ("line", ("apixo",))):
        for name in names:
            shell.magics_manager.magics[kind].pop(name, None)
    for registry, ours in _registries(shell):
        while ours in registry:
            registry.remove(ours)
    # IPython adds every Magics object to this list, and has no call to take it out.
    shell.configurables[:] = [kept for kept in shell.configurables if not isinstance(kept, ApixoMagics)]
    cells.tracker.forget()
    with contextlib.suppress(ValueError):
        settings().unobserve(_say_new_home, "home")
    _said_homes.clear()
    for event, callback in _EVENTS:
        with contextlib.suppress(ValueError):
            shell.events.unregister(event, callback)
    if shell.display_formatter is not None:
        with contextlib.suppress(KeyError):
            shell.display_formatter.mimebundle_formatter.pop("apixo_nb.core.records.Run")
        with contextlib.suppress(KeyError):
            shell.display_formatter.ipython_display_formatter.pop("apixo_nb.experiments.review.Grid")


_said_homes: set[Path] = set()


def _say_other_homes(_result: Any = None) -> None:
    """Say once that another home lies in the working folder or beside the notebook, and is not used."""
    chosen = settings()
    folders = [notebook_folder(chosen.notebook)]
    with contextlib.suppress(OSError):
        folders.append(Path.cwd())
    for other in [folder / DEFAULT_HOME for folder in folders if folder is not None]:
        if other not in {chosen.home_path, *_said_homes} and (other / "ledger.db").is_file():
            _said_homes.add(other)
            _say(f"apixo_nb: runs are kept in {chosen.home_path}; the ledger in {other} is not used.")


def _say_new_home(change: Any) -> None:
    """`%config Apixo.home = ...`: from here on there is another ledger, with budgets of its own."""
    _say(f"apixo_nb: runs and budgets are kept in {change['owner'].home_path} from now on.")


_EVENTS: tuple[tuple[str, Callable[[Any], None]], ...] = (
    ("pre_run_cell", _await_magic.cell_begins),
    ("post_run_cell", _await_magic.cell_ends),
    ("post_run_cell", _say_other_homes),
)


def _registries(shell: InteractiveShell) -> list[tuple[list[Any], Any]]:
    found: list[tuple[list[Any], Any]] = [
        (shell.configurables, settings()),
        (shell.input_transformers_post, _await_magic),
    ]
    if shell.Completer is not None:
        found.append((shell.Completer.custom_matchers, complete))
    return found


# --- completion -------------------------------------------------------------------------------------


def _nothing() -> dict[str, Any]:
    # A new one each time: IPython writes into it, and a shared one breaks the next, unrelated completion.
    return {"completions": [], "suppress": False}


@context_matcher(identifier="apixo_nb", priority=500)  # type: ignore[untyped-decorator]
def complete(context: Any) -> dict[str, Any]:
    """Complete ``%%apixo --ar <TAB>`` and ``%apixo <TAB>``; silence Python's own completion there."""
    head = context.text_until_cursor
    words = head.split()
    typed_name_only = len(words) == 1 and not head.endswith(" ")
    if not words or words[0] not in ("%apixo", "%%apixo") or typed_name_only:
        return _nothing()
    if words[0] == "%%apixo" and context.cursor_line != 0:
        return _nothing()
    fragment = "" if head[-1].isspace() else words[-1]
    before = words if not fragment else words[:-1]
    candidates = _of_list(before, fragment) or _candidates(before)
    found = [word for word in candidates if word.startswith(fragment)]
    if not found:
        # Nothing of ours: Python's words would be wrong there as well, but for a file name or a variable.
        return _nothing() | {"suppress": words[0] == "%apixo"}
    completions = [SimpleCompletion(word, type="param") for word in found]
    # The whole fragment is replaced, from its dashes on.
    return {"completions": completions, "suppress": True, "matched_fragment": fragment}


def _candidates(before: list[str]) -> list[str]:
    from apixo_nb.experiments.cell_options import known_flags, values_of

    from .commands import COMMANDS

    if before[0] == "%%apixo":
        return list(values_of(before[-1])) or known_flags()
    if len(before) == 1:
        return list(COMMANDS)
    command = COMMANDS.get(before[1])
    return [word for word in command.words if word not in before] if command else []


def _of_list(before: list[str], fragment: str) -> list[str]:
    """Words for the next value of a list, after ``1:1,``, or for a list of the notebook, after ``@``."""
    from apixo_nb.experiments.cell_options import values_of

    flag, values = before[-1], values_of(before[-1])
    head, at, _name = fragment.rpartition("@")
    if at and ((flag == "--set" and head.endswith("=")) or (values and not head)):
        return [f"{head}@{name}" for name in _lists()]
    head, comma, _value = fragment.rpartition(",")
    taken = head.split(",")
    return [f"{head},{value}" for value in values if value not in taken] if comma else []


# Nothing is asked of a value but its type: a property of a foreign object may do anything.
_LISTS = (list, tuple, set, frozenset, range, dict)
_FOREIGN = ("Series", "Index", "ndarray")


def _lists() -> list[str]:
    """Names of the notebook's lists."""
    shell = get_ipython()
    if shell is None:
        return []
    return [
        name
        for name, value in shell.user_ns.items()
        if not name.startswith("_")
        and name not in shell.user_ns_hidden
        and (isinstance(value, _LISTS) or type(value).__name__ in _FOREIGN)
    ]
