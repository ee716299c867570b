"""The magics: ``%%apixo`` makes pictures from a cell, ``%apixo`` does everything around it.

A translator and no more: read what was typed, call the session, show what came.
"""

from __future__ import annotations

import contextlib
import difflib
import getpass
import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.display import display

from . import config, keys, options
from .completion import complete
from .errors import ApixoError, AuthenticationError, ConfigurationError, InvalidRequestError, printable
from .template import fill, split_prompts

if TYPE_CHECKING:
    from .live import Watch
    from .run import Run
    from .session import Session


@magics_class
class ApixoMagics(Magics):
    """``%%apixo`` and ``%apixo``."""

    shell: InteractiveShell

    @cell_magic("apixo")  # type: ignore[arg-type]
    def apixo_cell(self, line: str, cell: str) -> None:
        """``%%apixo``; its help is made of the options, below."""
        given = options.parse(line)
        watch = self._start(given, cell, button=False)
        if watch is not None:
            self._bind(given.output, watch.block())

    @cell_magic("apixo_awaited")  # type: ignore[arg-type]
    def apixo_awaited(self, line: str, cell: str) -> Coroutine[Any, Any, None]:
        """``%%apixo`` as the notebook runs it: awaited, so that its Cancel button is heard meanwhile."""
        return self._await(options.parse(line), cell)

    async def _await(self, given: options.Options, cell: str) -> None:
        watch = self._start(given, cell, button=True)
        if watch is not None:
            self._bind(given.output, await watch.wait())

    def _start(self, given: options.Options, cell: str, *, button: bool) -> Watch | None:
        """Check everything, then buy; None for a dry run."""
        from .live import Watch
        from .shared import current

        session = current()
        runs = [self._plan(session, given, template) for template in split_prompts(cell)]
        if given.dry_run:
            _show_plan(session, runs)
            return None
        decisions = session.decide(runs, new=given.new)
        bought = [decision.run for decision in decisions if decision.action == "buy"]
        session.check_cost(bought, given.max_cost_usd)
        jobs = [session.carry_out(decision, given.timeout_s) for decision in decisions]
        return Watch(session, jobs, self.shell, button=button)

    def _plan(self, session: Session, given: options.Options, template: str) -> Run:
        from .labels import make_labels
        from .request import make_request

        prompt, used = (template, {}) if given.raw else fill(template, self.shell.user_ns)
        asked: dict[str, Any] = {"model": given.model, "image_urls": given.image_urls, **given.parameters}
        labels = make_labels(given.name, given.tags, given.note)
        return session.plan(make_request(prompt, **asked), labels, prompt_template=template, variables=used)

    def _bind(self, name: str, runs: list[Run]) -> None:
        if name:
            self.shell.push({name: runs[0] if len(runs) == 1 else runs})

    @line_magic("apixo")  # type: ignore[arg-type]
    def apixo_line(self, line: str) -> Any:
        """``%apixo``; its help is made of the commands, below."""
        words = line.split()
        command, rest = (words[0], words[1:]) if words else ("help", [])
        if command in options.COMMANDS_NOT_YET:
            raise InvalidRequestError(f"%apixo {command} is not there yet", field="command", value=command)
        if command not in options.COMMANDS:
            near = difflib.get_close_matches(command, options.COMMANDS, n=1)
            raise InvalidRequestError(
                f"Unknown command {command!r:.80}",
                next_step=f"Did you mean {near[0]}?" if near else "",
                field="command",
                value=command,
                allowed=", ".join(options.COMMANDS),
            )
        action: Callable[[list[str]], Any] = getattr(self, f"_{command}")
        return action(rest)

    # --- one method for each command of %apixo ---

    def _help(self, _words: list[str]) -> None:
        _say(_cell_help(), "", _line_help())

    def _login(self, words: list[str]) -> None:
        from .shared import current, reset

        if words:
            step = "It may now stand in the notebook and its history: remove it there, or make a new key."
            raise ConfigurationError("%apixo login takes no key on the line", next_step=step)
        try:
            key = keys.ApiKey(getpass.getpass("APIXO API key (not shown): "), "you typed")
        except (EOFError, NotImplementedError) as error:
            # ipykernel raises a subclass of NotImplementedError where the front end takes no input.
            step = f"Set {keys.KEY_VARIABLE} before Jupyter starts."
            raise ConfigurationError("There is nobody to ask for the key here", next_step=step) from error
        _say("Trying the key ...")
        left = _balance_of(key, current().settings)
        stored = _stored(key)
        reset()
        _say(f"The key is stored {stored.source}. {left}")
        if os.environ.get(keys.KEY_VARIABLE):
            _say(f"But {keys.KEY_VARIABLE} is set too, and goes first until it is removed.")

    def _logout(self, _words: list[str]) -> None:
        from .shared import reset

        keys.forget_key()
        reset()
        _say("The stored key is removed. A key in the environment stays until Jupyter restarts.")

    def _status(self, _words: list[str]) -> None:
        from .shared import current
        from .status import status_lines

        _say(*status_lines(current()))

    def _balance(self, _words: list[str]) -> None:
        from .shared import current

        session = current()
        _say(f"{_sandbox_mark(session)}${session.balance():.2f} left")

    def _history(self, words: list[str]) -> Any:
        from .shared import current

        number = _whole_number(words[0]) if words else 10
        table = current().history().set_index("run_id").tail(number)
        table["created_at"] = table["created_at"].dt.floor("s").dt.tz_localize(None)
        table["seconds"] = (table["costTime"] / 1000).round(1)
        table["on disk"] = table["files"].map(len)
        shown = [
            "created_at",
            "state",
            "prompt",
            "aspect_ratio",
            "num_images",
            "on disk",
            "seconds",
            "cost_usd",
        ]
        return table[[*shown, "fail_code"]]

    def _resume(self, words: list[str]) -> None:
        from .display import dollars
        from .live import Watch
        from .shared import current

        session = current()
        jobs = session.resume(words[0] if words else None)
        if lost := session.lost():
            stake = dollars(sum(run.price_micros for run in lost))
            _say(
                f"{len(lost)} submit(s) without an answer, up to {stake} at stake; they are not sent again:",
                *(f"  run {run.run_id}: {printable(run.prompt, 60)}" for run in lost),
            )
        if jobs:
            Watch(session, jobs, self.shell).block()
        elif not lost:
            _say("Nothing to resume: every task has ended, and its pictures are on disk.")

    def _export(self, words: list[str]) -> None:
        from .shared import current

        if len(words) != 1:
            raise InvalidRequestError("Which file?", field="export", allowed="%apixo export FILE.csv")
        _say(f"Written: {current().export_csv(words[0])}")

    def _sandbox(self, words: list[str]) -> None:
        from .shared import current

        wanted = {(): True, ("on",): True, ("off",): False}.get(tuple(words))
        if wanted is None:
            raise InvalidRequestError("On or off?", field="sandbox", value=" ".join(words), allowed="on, off")
        config.settings().sandbox = wanted
        if not wanted:
            _say("Sandbox off: runs go to APIXO and cost money.")
            return
        current().sandbox()
        _say(
            "Sandbox on: an imitation of APIXO on this machine. Nothing leaves it and nothing is paid;",
            "its pictures and rows are marked SANDBOX. `%apixo sandbox off` goes back.",
        )

    def _config(self, _words: list[str]) -> None:
        values = config.settings().trait_values(config=True)
        width = max(map(len, values))
        shown = {name: config.without_secrets(value) for name, value in sorted(values.items())}
        _say(*(f"Apixo.{name:<{width}} = {text}" for name, text in shown.items()))


def _cell_help() -> str:
    return options.parser().format_help()


def _line_help() -> str:
    width = max(map(len, options.COMMANDS))
    return "\n".join(
        ["%apixo COMMAND:", *(f"  {name:<{width}}  {text}" for name, text in options.COMMANDS.items())]
    )


# `%%apixo?` and `%apixo?` show these.
ApixoMagics.apixo_cell.__doc__ = _cell_help()  # type: ignore[assignment]
ApixoMagics.apixo_line.__doc__ = _line_help()  # type: ignore[assignment]


def _say(*lines: str) -> None:
    print("\n".join(lines))  # noqa: T201 - what the magics say


def _sandbox_mark(session: Session) -> str:
    return "SANDBOX · " if session.is_sandbox else ""


def _show_plan(session: Session, runs: list[Run]) -> None:
    from .display import plan_html, plan_text

    base_url = session.client.base_url if session.settings.sandbox else session.settings.base_url
    display({"text/html": plan_html(runs, base_url), "text/plain": plan_text(runs, base_url)}, raw=True)


def _stored(key: keys.ApiKey) -> keys.ApiKey:
    """Store the key. Stop while a keyring asks for its password leaves no frame behind that holds the key."""
    with contextlib.suppress(KeyboardInterrupt):
        return keys.store_key(key)
    raise KeyboardInterrupt


def _balance_of(key: keys.ApiKey, settings: config.Apixo) -> str:
    """What the key is good for, in a sentence; raises AuthenticationError if APIXO refuses it."""
    from .api import Client

    try:
        with Client(key, base_url=settings.base_url) as client:
            return f"${client.balance():.2f} left."
    except AuthenticationError:
        raise
    except ApixoError as error:
        return f"It could not be tried: {error.message}."


def _whole_number(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise InvalidRequestError(
        f"How many runs is {text!r:.40}?", field="history", value=text, allowed="1, 2, 3 ..."
    )


# --- registration -----------------------------------------------------------------------------------

_CELL = "get_ipython().run_cell_magic('apixo', "


class AwaitMagic:
    """Input transformer: a cell that is ``%%apixo`` is awaited.

    On ipykernel 7.4 that is the one public way for a Cancel button to be heard while its own cell runs.
    A ``%%apixo`` inside another magic (``%%time``, ``%%capture``) stays synchronous, as those cannot await:
    it is transformed while a cell is running already. So does one in a terminal, where there is no button,
    and where Ctrl-C never reaches an awaiting cell.
    """

    def __init__(self) -> None:
        self._running = 0
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

    def cell_begins(self, _info: Any) -> None:
        """For the event ``pre_run_cell``, which comes after the cell was transformed."""
        self._running += 1

    def cell_ends(self, _result: Any) -> None:
        """For ``post_run_cell``. The cell with ``%load_ext`` ends without having begun."""
        self._running = max(0, self._running - 1)


_await_magic = AwaitMagic()


def _card_of(run: Run, **_options: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """A run as the value of a cell is shown as its card."""
    from .live import card
    from .shared import current

    return card(current(), run), {}


def load(shell: InteractiveShell) -> None:
    """Register everything that `unload` takes back."""
    unload(shell)
    shell.register_magics(ApixoMagics(shell))
    _await_magic.enabled = hasattr(shell, "kernel")
    config.settings().update_config(shell.config)
    for registry, ours in _registries(shell):
        registry.append(ours)
    for event, callback in _EVENTS.items():
        shell.events.register(event, callback)
    if shell.display_formatter is not None:
        shell.display_formatter.mimebundle_formatter.for_type_by_name("apixo_nb.run", "Run", _card_of)


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
    for event, callback in _EVENTS.items():
        with contextlib.suppress(ValueError):
            shell.events.unregister(event, callback)
    if shell.display_formatter is not None:
        with contextlib.suppress(KeyError):
            shell.display_formatter.mimebundle_formatter.pop("apixo_nb.run.Run")


_EVENTS: dict[str, Callable[[Any], None]] = {
    "pre_run_cell": _await_magic.cell_begins,
    "post_run_cell": _await_magic.cell_ends,
}


def _registries(shell: InteractiveShell) -> list[tuple[list[Any], Any]]:
    found: list[tuple[list[Any], Any]] = [
        (shell.configurables, config.settings()),
        (shell.input_transformers_post, _await_magic),
    ]
    if shell.Completer is not None:
        found.append((shell.Completer.custom_matchers, complete))
    return found
