"""What is said to notebooks, said in a terminal: ``%apixo resume`` reads ``apixo-nb resume`` there."""

from __future__ import annotations

import io
import re
from typing import TextIO

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
