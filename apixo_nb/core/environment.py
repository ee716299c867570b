"""What runs this code: an IPython shell or none, a kernel with somebody who can click, or a terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def current_shell() -> InteractiveShell | None:
    """The IPython shell of this process; None in a plain script. IPython is not imported for it."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def has_kernel(shell: InteractiveShell | None) -> bool:
    """Whether output goes to a front end that shows HTML, and not to a terminal."""
    return getattr(shell, "kernel", None) is not None


def takes_input(shell: InteractiveShell | None) -> bool:
    """Whether the request that is carried out says that somebody can answer.

    nbclient, nbconvert and papermill take no input, and would keep dead widgets in the file.
    """
    kernel = getattr(shell, "kernel", None)
    return kernel is not None and bool(kernel.get_parent().get("content", {}).get("allow_stdin", True))


def has_widgets(shell: InteractiveShell | None) -> bool:
    """Whether somebody can click here. Voila runs notebooks without input, and shows their widgets."""
    voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila")
    return takes_input(shell) or (voila and has_kernel(shell))


def ask(question: str) -> bool | None:
    """What somebody answers to a question; None where there is nobody to ask."""
    try:
        answer = input(question)
    except (EOFError, NotImplementedError, OSError, RuntimeError):
        # No input at all, a front end that takes none (nbconvert, papermill), no terminal.
        return None
    return answer.strip().casefold() in ("y", "yes")
