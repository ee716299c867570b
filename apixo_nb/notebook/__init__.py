"""``%load_ext apixo_nb``: the magics, their commands, their completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apixo_nb.core import lazy_names

if TYPE_CHECKING:
    from .command_line import Command, Context, Message
    from .commands import COMMANDS, carry_out
    from .extension import load, unload

__all__ = [
    "COMMANDS",
    "Command",
    "Context",
    "Message",
    "carry_out",
    "load",
    "unload",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "command_line": ("Command", "Context", "Message"),
        "commands": ("COMMANDS", "carry_out"),
        "extension": ("load", "unload"),
    },
)
