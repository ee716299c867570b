"""How a sandbox is set up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from apixo_nb.sandbox.faults import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxOptions:
    """The wishes of whoever starts a sandbox.

    Parameters
    ----------
    seconds
        Typical duration of a task; each takes 0.7 to 1.3 times as long, fixed by its taskId. The real
        service takes about 30 s, so ``seconds / 30`` is also the scale of the callback delays.
    balance_usd
        What the account holds before its first task.
    key
        The only API key accepted; None accepts any that is not empty.
    port, picture_port
        Where API and picture host listen on 127.0.0.1; 0 takes a free port.
    journal
        File of JSON lines, one for each accepted task. A sandbox started on it again knows them all.
    picture_scale
        Size of the pictures; at 1.0 the short side has 1024 pixels.
    faults
        Rules that say which requests meet which trouble; more can be added while it runs, see `faults`.
    """

    seconds: float = 3.0
    balance_usd: float = 100.0
    key: str | None = None
    port: int = 0
    picture_port: int = 0
    journal: Path | None = None
    picture_scale: float = 1.0
    faults: tuple[Fault, ...] = ()
