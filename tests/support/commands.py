"""What the commands of ``%apixo`` print."""

from __future__ import annotations

import contextlib
import io
from typing import cast

from IPython.core.interactiveshell import InteractiveShell

from apixo_nb.notebook import commands


def printed(line: str) -> str:
    """What ``%apixo`` prints, where there is no front end."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        commands.carry_out(line, cast(InteractiveShell, None))
    return out.getvalue()
