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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from . import __version__
from .errors import ApixoError, ConfigurationError

#: The commands of ``%apixo`` that ``apixo-nb`` has as well, by the same name.
SHARED = (
    *("login", "logout", "status", "balance", "spend", "budget", "history"),
    *("resume", "settle", "rescue", "doctor", "export", "import", "help"),
)

_MAGIC = re.compile(rf"(?<!%)%apixo ({'|'.join(SHARED)}|sandbox)\b")


def in_terminal(text: str) -> str:
    """The text with the commands of ``%apixo`` as one types them in a terminal."""
    return _MAGIC.sub(_command, text)


def _command(found: re.Match[str]) -> str:
    # A setting of a notebook; what tries everything without a key is the demo here.
    name = {"sandbox": "demo", "help": "--help"}.get(found[1], found[1])
    return f"apixo-nb {name}"


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


#: Group -> command -> what it does, in one line.
COMMANDS: dict[str, dict[str, str]] = {
    "look back": {
        "status": "where requests go, what the ledger holds and what was spent",
        "history": "the last runs as a table",
        "spend": "what was spent by state, day and tag",
        "balance": "US dollars left for the key, beside what the ledger says",
    },
    "take along": {
        "export": "write all runs to a file or folder: CSV, JSON Lines, Parquet, HTML, ZIP and more",
        "import": "merge a ZIP of `export`, or a folder of pictures with their facts, into the ledger",
    },
    "look after": {
        "resume": "bring unfinished runs to their end, download what is missing; costs nothing",
        "rescue": "download every picture that is not on disk before its address ends; costs nothing",
        "settle": "say how a submit without an answer ended",
        "budget": "show or set what may be spent",
        "doctor": "compare ledger and pictures, and mend the ledger",
    },
    "the key": {
        "login": "store an API key; it is asked for, never typed on the line",
        "logout": "remove the stored key",
    },
    "try it": {
        "demo": "make three pictures on this machine: no key, no cost, no Jupyter",
        "sandbox": "serve an imitation of APIXO to anything that speaks HTTP",
    },
    "this program": {
        "completion": "print what completes these commands in bash, zsh or fish",
        "version": "this package's version, and those of what it works with",
    },
}

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

#: As in `export.KINDS`, and the two trackers; spelt out, as --help shall not wait for those modules.
KINDS = (
    *("csv", "excel", "jsonl", "parquet", "html", "bundle", "sheet", "imagefolder", "embed", "site"),
    *("mlflow", "wandb"),
)
SHELLS = ("bash", "zsh", "fish")

_STOPPED, _UNREAD = 130, 141  # 128 and the number of the signal, as shells count


class _Command(argparse.ArgumentParser):
    """Repeats no value that it cannot use: it may be a key."""

    def error(self, message: str) -> NoReturn:
        super().error(
            re.sub(r"(invalid [\w ]+?): .*?( \(choose from [^()]*\))?$", r"\1\2", message, flags=re.DOTALL)
        )


class _Parser(argparse.ArgumentParser):
    """Lists the commands in groups, each in one line."""

    def format_help(self) -> str:
        if self.prog != "apixo-nb":
            return super().format_help()
        width = max(len(name) for group in COMMANDS.values() for name in group)
        lines = [self.format_usage(), DESCRIPTION, ""]
        for title, group in COMMANDS.items():
            lines += [f"{title}:", *(f"  {name:<{width}}  {text}" for name, text in group.items()), ""]
        lines += [
            "`apixo-nb COMMAND --help` says more about one.",
            "",
            EXAMPLES,
            "",
        ]
        return "\n".join(lines)


def parser(sandbox: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
    """The command line. The sandbox reads its options itself, unless its parser is given, to be shown."""
    made = _Parser("apixo-nb", description=DESCRIPTION, usage="apixo-nb COMMAND ...")
    made.add_argument("--version", action="version", version=f"apixo-nb {__version__}")
    commands: Any = made.add_subparsers(
        dest="command", metavar="COMMAND", prog="apixo-nb", parser_class=_Command
    )
    adders = {
        name: commands.add_parser(
            name,
            help=text,
            description=_sentence(text),
            add_help=name != "sandbox",
            parents=[sandbox] if sandbox and name == "sandbox" else [],
        )
        for group in COMMANDS.values()
        for name, text in group.items()
    }
    adders["history"].add_argument("number", nargs="?", default="10", metavar="N", help="how many runs (10)")
    adders["spend"].add_argument("by", nargs="?", choices=("state", "day", "tag"), help="this table alone")
    _add_files(adders["export"], adders["import"], adders["demo"])
    _add_care(adders)
    adders["completion"].add_argument("shell", choices=SHELLS)
    adders["completion"].epilog = _HOW_TO_COMPLETE
    adders["completion"].formatter_class = argparse.RawDescriptionHelpFormatter
    return made


_HOW_TO_COMPLETE = """\
bash: eval "$(apixo-nb completion bash)" in ~/.bashrc
zsh:  apixo-nb completion zsh > FOLDER/_apixo-nb, where FOLDER is in $fpath before compinit runs
fish: apixo-nb completion fish > ~/.config/fish/completions/apixo-nb.fish"""


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _add_files(
    export: argparse.ArgumentParser, bring: argparse.ArgumentParser, demo: argparse.ArgumentParser
) -> None:
    text = "the end of its name tells the kind; for mlflow its address, for wandb a folder"
    export.add_argument("file", nargs="?", metavar="FILE", help=text)
    kind = export.add_mutually_exclusive_group()
    kind.add_argument("--kind", choices=KINDS, metavar="KIND", help="the kind, if it is another; see below")
    for name in ("excel", "site", "imagefolder", "embed", "mlflow", "wandb"):  # as after %apixo export
        text = f"the same as --kind {name}"
        kind.add_argument(f"--{name}", action="store_const", const=name, dest="kind", help=text)
    export.formatter_class = argparse.RawDescriptionHelpFormatter
    export.epilog = _KINDS_TOLD
    bring.add_argument("file", metavar="FILE", help="a .zip, or a folder of pictures with their .json files")
    demo.add_argument("folder", nargs="?", type=Path, default=Path("apixo-demo"), metavar="FOLDER")


_KINDS_TOLD = """\
kinds:
  csv          exact: every text comes back as it was (.csv)
  excel        CSV in which a spreadsheet takes nothing for a formula or a number
  jsonl        JSON Lines (.jsonl)
  parquet      needs `pip install 'apixo-nb[parquet]'` (.parquet)
  html         one page with small pictures in it (.html)
  bundle       all runs and originals, for `apixo-nb import` (.zip)
  sheet        a contact sheet, one large picture (.png, .webp, .jpg)
  site         a folder: a page with its pictures beside it
  imagefolder  a folder that Hugging Face's datasets read
  embed        a folder: copies of the pictures that hold their parameters
  mlflow       pushes to MLflow; needs `pip install 'apixo-nb[mlflow]'`
  wandb        writes an offline run of Weights & Biases; needs `pip install 'apixo-nb[wandb]'`"""


def _add_care(adders: dict[str, argparse.ArgumentParser]) -> None:
    resume, settle, budget = adders["resume"], adders["settle"], adders["budget"]
    resume.add_argument("run", nargs="?", metavar="RUN", help="this run alone")
    resume.add_argument("task", nargs="?", metavar="TASK", help="the task that a lost submit became")
    settle.add_argument("run", metavar="RUN", help="the id of the run")
    settle.add_argument("end", choices=("paid", "free"), help="whether it was charged")
    budget.add_argument("sum", nargs="?", metavar="SUM", help="a sum in US dollars such as 5.00, or off")
    scope = budget.add_mutually_exclusive_group()
    for name, text in (("total", "for ever (default)"), ("day", "each day"), ("notebook", "each notebook")):
        scope.add_argument(f"--{name}", action="store_const", const=f"--{name}", dest="scope", help=text)
    text = "make the rows anew that are missing, from what lies beside the pictures"
    adders["doctor"].add_argument("--rebuild", action="store_true", help=text)


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
    given, rest = reader.parse_known_args(arguments)
    if given.command == "sandbox":
        from .sandbox.__main__ import main as serve

        return serve(rest)
    if rest and given.command == "login":
        step = "It may now stand in the history of your shell: remove it there, or make a new key."
        raise ConfigurationError("`apixo-nb login` takes no key on the line", next_step=step)
    if rest:  # no values: one may be a key
        flags = " ".join(word.partition("=")[0] for word in rest if word.startswith("-"))
        reader.error(f"unrecognized arguments: {flags}" if flags else "too many arguments")
    action = _ACTIONS.get(given.command)
    if action is not None:
        return action(given, reader)
    with contextlib.redirect_stdout(Terminal(sys.stdout)):
        return _carry_out(given)


def _check_command(reader: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Exit with code 2 if there is no such command, and say which one may be meant."""
    known = [name for group in COMMANDS.values() for name in group]
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


def _carry_out(given: argparse.Namespace) -> int:
    """The commands that are the same as those of ``%apixo``."""
    from .notebook.commands import carry_out

    words = [given.command]
    for name in ("number", "by", "run", "task", "end", "sum", "scope"):
        words += [word] if (word := getattr(given, name, None)) is not None else []
    shown = carry_out(" ".join(words), None)
    if shown is not None:
        from .analysis.frame import brief_text

        print(brief_text(shown))
    return 0


def _export(given: argparse.Namespace, reader: argparse.ArgumentParser) -> int:
    from .session.session import current

    if given.kind == "mlflow":
        print("\n".join(current().to_mlflow(tracking_uri=given.file).lines()))
        return 0
    if given.kind == "wandb":
        print("\n".join(current().to_wandb(folder=given.file or ".").lines()))
        return 0
    if given.file is None:
        reader.error("export: which file? Its end tells the kind, such as runs.csv")
    written = current().write(given.file, given.kind)
    print(written.path)  # alone, for programs; what there is to say of it goes beside
    for note in written.notes:
        print(in_terminal(note), file=sys.stderr)
    return 0


def _import(given: argparse.Namespace, _reader: argparse.ArgumentParser) -> int:
    from .session.session import current

    print(in_terminal("\n".join(current().import_bundle(given.file).lines())))
    return 0


def _doctor(given: argparse.Namespace, _reader: argparse.ArgumentParser) -> int:
    from .session.maintenance import examine, rebuild
    from .session.session import current

    if given.rebuild:
        print(in_terminal("\n".join([*rebuild(current()), ""])))
    report = examine(current())
    print(in_terminal("\n".join(report.lines())))
    return 1 if report.wrong else 0


def _demo(given: argparse.Namespace, _reader: argparse.ArgumentParser) -> int:
    from .demo import demo

    demo(given.folder)
    return 0


def _completion(given: argparse.Namespace, _reader: argparse.ArgumentParser) -> int:
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
    print(shtab.complete(whole, given.shell))
    return 0


def whole_parser() -> argparse.ArgumentParser:
    """The command line with the sandbox's options."""
    from .sandbox.__main__ import parser as sandbox_parser

    return parser(sandbox_parser())


def command_parsers(reader: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    [commands] = [action for action in reader._actions if isinstance(action.choices, dict)]  # noqa: SLF001
    return dict(commands.choices or {})


def _version(_given: argparse.Namespace, _reader: argparse.ArgumentParser) -> int:
    print(f"apixo-nb {__version__}")
    print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in _WORKS_WITH:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            print(f"{name} {importlib.metadata.version(name)}")
    return 0


_WORKS_WITH = (
    *("ipython", "ipykernel", "jupyterlab", "notebook", "ipywidgets", "anywidget"),
    *("pandas", "sqlalchemy"),
)

_Action = Callable[[argparse.Namespace, argparse.ArgumentParser], int]

_ACTIONS: dict[str, _Action] = {
    "export": _export,
    "import": _import,
    "doctor": _doctor,
    "demo": _demo,
    "completion": _completion,
    "version": _version,
}
