"""``apixo-nb`` on the command line. It buys nothing: each command is one that notebooks have as well."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib.metadata
import io
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from . import __version__
from .errors import ApixoError, ConfigurationError
from .notebook.command_line import Argument, Command, Context, Message
from .notebook.commands import COMMANDS

#: Group -> its commands, in the order of the help.
GROUPS = {
    "look back": ("status", "history", "spend", "balance"),
    "take along": ("export", "import"),
    "look after": ("resume", "rescue", "settle", "budget", "doctor"),
    "the key": ("login", "logout"),
    "try it": ("demo", "sandbox"),
    "this program": ("completion", "version"),
}

# `help` is an option here. What tries everything without a key is a setting in a notebook, and the demo here.
_OTHER_WORDS = {"help": "--help", "sandbox": "demo"}
_SHARED = {name for group in GROUPS.values() for name in group if name in COMMANDS}
_MAGIC = re.compile(rf"(?<!%)%apixo ({'|'.join(sorted(_SHARED | set(_OTHER_WORDS)))})\b")


def in_terminal(text: str) -> str:
    """The text with the commands of ``%apixo`` as one types them in a terminal."""
    return _MAGIC.sub(_command, text)


def _command(found: re.Match[str]) -> str:
    return f"apixo-nb {_OTHER_WORDS.get(found[1], found[1])}"


class Terminal(io.TextIOBase):
    """Standard output that speaks as `in_terminal` does."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        """Write it, in the words of a terminal."""
        self._out.write(in_terminal(text))
        return len(text)

    def flush(self) -> None:
        """Write what is held back."""
        self._out.flush()

    def isatty(self) -> bool:
        """Whether a person looks on, so that lines may be rewritten."""
        return self._out.isatty()


EXAMPLES = """\
examples:
  apixo-nb demo                              a first look, in ./apixo-demo
  apixo-nb history 20                        the last twenty runs
  apixo-nb export runs.csv --kind excel      a table that spreadsheets leave alone
  apixo-nb export backup.zip                 all runs with their pictures
  APIXO_HOME=~/cafes/apixo-runs apixo-nb status
  eval "$(apixo-nb completion bash)"

exit codes:
  0 done · 1 it failed, or doctor found something, and the lines on stderr or stdout say what
  2 unusable arguments · 130 stopped with Ctrl+C · 141 nobody reads the output any more"""

DESCRIPTION = """\
Paid AI pictures in Jupyter, kept and counted. Pictures are bought in notebooks and from Python;
these commands look at them, after them, and take them along. None of them buys anything."""

_STOPPED, _UNREAD = 130, 141  # 128 and the number of the signal, as shells count


# --- commands that a notebook has not -----------------------------------------------------------------


def _demo(args: argparse.Namespace, _context: Context) -> None:
    from .demo import demo

    demo(Path(args.folder))


def _sandbox(args: argparse.Namespace, _context: Context) -> Message:
    from .sandbox.__main__ import main as serve

    return Message((), ok=serve(args.rest) == 0)


SHELLS = ("bash", "zsh", "fish")

_HOW_TO_COMPLETE = """\
bash: eval "$(apixo-nb completion bash)" in ~/.bashrc
zsh:  apixo-nb completion zsh > FOLDER/_apixo-nb, where FOLDER is in $fpath before compinit runs
fish: apixo-nb completion fish > ~/.config/fish/completions/apixo-nb.fish"""


def _completion(args: argparse.Namespace, _context: Context) -> list[str]:
    try:
        import shtab
    except ImportError:
        step = "It comes with `pip install 'apixo-nb[completion]'`."
        raise ConfigurationError("Completion needs the package shtab", next_step=step) from None
    whole = whole_parser()
    for command in command_parsers(whole).values():
        for argument in command._actions:  # noqa: SLF001 - argparse has no list of them for others
            if argument.metavar in ("FILE", "FOLDER"):
                argument.complete = shtab.FILE  # type: ignore[attr-defined]
    return [shtab.complete(whole, args.shell)]


_WORKS_WITH = (
    *("ipython", "ipykernel", "jupyterlab", "notebook", "ipywidgets", "anywidget"),
    *("pandas", "sqlalchemy"),
)


def _version(_args: argparse.Namespace, _context: Context) -> list[str]:
    lines = [
        f"apixo-nb {__version__}",
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}",
    ]
    for name in _WORKS_WITH:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            lines.append(f"{name} {importlib.metadata.version(name)}")
    return lines


_OWN = {
    command.name: command
    for command in (
        Command(
            "demo",
            "make three pictures on this machine: no key, no cost, no Jupyter",
            _demo,
            (Argument("folder", metavar="FOLDER", default="apixo-demo"),),
        ),
        Command("sandbox", "serve an imitation of APIXO to anything that speaks HTTP", _sandbox),
        Command(
            "completion",
            "print what completes these commands in bash, zsh or fish",
            _completion,
            (Argument("shell", choices=SHELLS, nargs=None),),
            epilog=_HOW_TO_COMPLETE,
        ),
        Command("version", "this package's version, and those of what it works with", _version),
    )
}


def command_groups() -> dict[str, list[Command]]:
    """Group -> its commands, in the order of the help."""
    return {title: [_OWN.get(name) or COMMANDS[name] for name in names] for title, names in GROUPS.items()}


# --- the line -----------------------------------------------------------------------------------------


class _CommandParser(argparse.ArgumentParser):
    """Repeats no value that it cannot use: it may be a key."""

    def error(self, message: str) -> NoReturn:
        super().error(
            re.sub(r"(invalid [\w ]+?): .*?( \(choose from [^()]*\))?$", r"\1\2", message, flags=re.DOTALL)
        )


class _Parser(argparse.ArgumentParser):
    """Lists the commands in groups, each in one line."""

    def format_help(self) -> str:
        groups = command_groups()
        width = max(len(command.name) for group in groups.values() for command in group)
        lines = [self.format_usage(), DESCRIPTION, ""]
        for title, group in groups.items():
            lines += [f"{title}:"]
            lines += [f"  {command.name:<{width}}  {in_terminal(command.help)}" for command in group]
            lines += [""]
        lines += ["`apixo-nb COMMAND --help` says more about one.", "", EXAMPLES, ""]
        return "\n".join(lines)


def parser(sandbox: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
    """The command line. The sandbox reads its options itself, unless its parser is given, to be shown."""
    made = _Parser("apixo-nb", description=DESCRIPTION, usage="apixo-nb COMMAND ...")
    made.add_argument("--version", action="version", version=f"apixo-nb {__version__}")
    commands: Any = made.add_subparsers(
        dest="command", metavar="COMMAND", prog="apixo-nb", parser_class=_CommandParser
    )
    for command in (command for group in command_groups().values() for command in group):
        own = commands.add_parser(
            command.name,
            help=in_terminal(command.help),
            description=in_terminal(command.description),
            epilog=command.epilog and in_terminal(command.epilog),
            formatter_class=argparse.RawDescriptionHelpFormatter
            if command.epilog
            else argparse.HelpFormatter,
            add_help=command.name != "sandbox",
            parents=[sandbox] if sandbox and command.name == "sandbox" else [],
        )
        command.add_arguments(own)
    return made


def whole_parser() -> argparse.ArgumentParser:
    """The command line with the sandbox's options."""
    from .sandbox.__main__ import parser as sandbox_parser

    return parser(sandbox_parser())


def command_parsers(reader: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    [commands] = [action for action in reader._actions if isinstance(action.choices, dict)]  # noqa: SLF001
    return dict(commands.choices or {})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, see `EXAMPLES`. Unusable arguments raise SystemExit(2)."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a prompt may have letters that this terminal has not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else list(arguments))
        finally:
            sys.stdout.flush()
    except ApixoError as error:
        print(in_terminal(str(error)), file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(in_terminal("\n".join(["Stopped.", *getattr(stop, "__notes__", [])])), file=sys.stderr)
        return _STOPPED
    except BrokenPipeError:
        # Python flushes once more when it ends, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _UNREAD


def _run(arguments: list[str]) -> int:
    reader = parser()
    _check_command(reader, arguments)
    args, rest = reader.parse_known_args(arguments)
    args.rest = rest
    if rest and args.command != "sandbox":  # which reads its options itself
        _refuse(reader, args.command, rest)
    if args.command is None:
        reader.error("there is no command on the line")
    context = Context(command_parsers(reader)[args.command].error)
    if args.command in _OWN:
        return _answer(_OWN[args.command].run(args, context))
    with contextlib.redirect_stdout(Terminal(sys.stdout)):
        result = COMMANDS[args.command].run(args, context)
    return _answer(result)


def _check_command(reader: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Exit with code 2 if there is no such command, and say which one may be meant."""
    known = [name for names in GROUPS.values() for name in names]
    if not arguments:
        reader.print_help(sys.stderr)
        raise SystemExit(2)
    if arguments[0] in known or arguments[0].startswith("-"):
        return
    near = difflib.get_close_matches(arguments[0], known, n=1)
    if near:
        reader.error(f"there is no command {arguments[0]!r:.60}; did you mean {near[0]}?")
    # What is like no command is not repeated: it may be a key.
    reader.error("there is no such command; `apixo-nb --help` lists them.")


def _refuse(reader: argparse.ArgumentParser, command: str, rest: list[str]) -> NoReturn:
    """End with what cannot be used; no value is repeated, as one may be a key."""
    if command == "login":
        step = "It may now stand in the history of your shell: remove it there, or make a new key."
        raise ConfigurationError("`apixo-nb login` takes no key on the line", next_step=step)
    flags = " ".join(word.partition("=")[0] for word in rest if word.startswith("-"))
    reader.error(f"unrecognized arguments: {flags}" if flags else "too many arguments")


def _answer(result: Any) -> int:
    """Print what a command answers; returns the exit code."""
    message = Message(result) if isinstance(result, list) else result
    if not isinstance(message, Message):
        if result is not None:
            from .analysis.frame import brief_text

            print(brief_text(result))
        return 0
    if message.path is not None:
        print(message.path)  # alone, for programs; what there is to say of it goes beside
    for line in message.lines:
        print(in_terminal(line), file=sys.stdout if message.path is None else sys.stderr)
    return 0 if message.ok else 1
