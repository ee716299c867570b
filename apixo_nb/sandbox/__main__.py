"""``python -m apixo_nb.sandbox``: the sandbox as a program of its own, until Ctrl-C."""

# ruff: noqa: T201 - a program prints

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from threading import Event

from apixo_nb.core.models import DEFAULT_MODEL, MODELS
from apixo_nb.sandbox.account import SandboxOptions
from apixo_nb.sandbox.fault_kinds import describe_kinds
from apixo_nb.sandbox.faults import read
from apixo_nb.sandbox.markers import MARKERS
from apixo_nb.sandbox.server import Sandbox


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; the first line printed is ``base_url=…``, for programs to read."""
    wishes = vars(parser().parse_args(arguments))
    stopping = Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopping.set())
    try:
        faults = () if wishes["faults"] is None else read(wishes["faults"])
        sandbox = Sandbox(
            SandboxOptions(**(wishes | {"faults": faults, "hosts": tuple(wishes["hosts"])}))
        ).start()
    except (OSError, ValueError) as error:
        print(f"The sandbox cannot start: {error}", file=sys.stderr)
        return 1
    with sandbox:
        print(_welcome(sandbox), flush=True)
        while not stopping.wait(1.0):  # a wait without end cannot be interrupted on Windows
            pass
    return 0


def _welcome(sandbox: Sandbox) -> str:
    options = sandbox.options
    key = "any key" if options.key is None else "the key given"
    real = MODELS[DEFAULT_MODEL].cadence
    cadence = real.scaled(options.seconds / real.expected_s)
    known = "sandbox" if options.key is None else "..."
    balance_usd = sandbox.account.balance_micros / 1_000_000
    return "\n".join(
        (
            f"base_url={sandbox.base_url}",
            f"Pictures come from {sandbox.picture_url}",
            f"${balance_usd:.2f} to spend with {key}; a task takes about {options.seconds:g} s",
            "For a client at the same pace:",
            f"  export APIXO_BASE_URL={sandbox.base_url} APIXO_API_KEY={known}",
            f"  export APIXO_FIRST_POLL={cadence.first_poll_s:g} APIXO_POLL_INTERVAL={cadence.interval_s:g}",
            _TROUBLE,
            *([f"{len(options.faults)} faults are to come."] if options.faults else []),
            "Ctrl-C ends it.",
        )
    )


_TROUBLE = "\n".join(
    (
        "Write one of these into a prompt for trouble:",
        *(f"  [{name}]  {text}" for name, text in MARKERS.items()),
    )
)

_FAULTS = f"""
Faults, for a FILE that holds a JSON list of rules such as
  [{{"on": "submit", "kind": "refuse", "status": 429, "retry_after": 2, "times": 3}},
   {{"on": "picture", "kind": "half", "match": "a fox", "times": "always"}}]
The first rule that is due takes the request. Every rule may have
  times     how many requests it hits: 1, another number, "always" or null
  after     how many requests it lets pass first: 0
  match     text that the prompt or the address must contain
  per_task  true: times and after count for each task (submit: each prompt) by itself
and what its kind has, here with its default (accept: a submit is accepted and charged before):
{describe_kinds()}
"""


def parser() -> argparse.ArgumentParser:
    """The options of the program; those of `SandboxOptions` that make sense for one."""
    default = SandboxOptions()
    made = argparse.ArgumentParser(
        "apixo-nb sandbox",
        description="APIXO, imitated on this machine.",
        epilog=f"{_TROUBLE}\n{_FAULTS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = made.add_argument
    option("--port", type=int, default=default.port, help="port of the API; 0 takes a free one")
    option("--picture-port", type=int, default=default.picture_port, help="port of the picture host")
    option("--seconds", type=float, default=default.seconds, help="typical duration of a task")
    option("--balance", type=float, default=default.balance_usd, dest="balance_usd", help="USD to spend")
    option("--journal", type=Path, metavar="FILE", help="file that remembers the tasks over restarts")
    option("--key", help="the only API key accepted; without it, any")
    option("--picture-scale", type=float, default=default.picture_scale, help="1.0 draws 1024 pixels")
    option(
        "--host", action="append", dest="hosts", default=[], metavar="NAME", help="another name to answer to"
    )
    option("--faults", type=Path, metavar="FILE", help="JSON file of faults, see below")
    return made


if __name__ == "__main__":
    sys.exit(main())
