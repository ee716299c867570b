"""The process that runs this code: its identity, its forks, and the IPython shell or terminal it serves."""

from __future__ import annotations

import os
import platform
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


#: A process of another machine cannot be looked at. It counts as dead once it was silent for so long.
STALE = timedelta(minutes=3)

_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))


def after_fork(call: Callable[[], None]) -> Callable[[], None]:
    """Call this in each process that is forked from this one; a decorator. Windows has no fork.

    The order is that of the imports, so such a call may rely on no other: it makes locks anew and lets go of
    what belongs to the parent.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=call)
    return call


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that works on runs.

    Attributes
    ----------
    id : str
        Made up; one for each ledger that is open, as a process can have several.
    host : str
        The name of the machine, for people: several machines may have one name.
    pid : int
    started : str
        When the process started. A number that was given to another process since is not this one.
    machine_id, boot_id, pid_namespace : str
        The machine, since which start of it, and where process numbers mean the same: containers share a
        machine. "" where that cannot be told.
    """

    host: str
    pid: int
    started: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    machine_id: str = ""
    boot_id: str = ""
    pid_namespace: str = ""

    @property
    def is_here(self) -> bool:
        """Whether its number surely is that of a process which can be looked at from here."""
        place = (self.machine_id, self.boot_id, self.pid_namespace)
        return bool(self.boot_id and self.pid_namespace) and place == this_place()

    def is_alive(self, silent: timedelta) -> bool:
        """Whether the process still runs.

        `silent`: since when there was no heartbeat, which is all that is known of another machine's.
        """
        return process_start(self.pid) == self.started if self.is_here else silent < STALE


def this_process() -> ProcessIdentity:
    """A new identity of this process, for a ledger that is opened."""
    pid, (machine_id, boot_id, pid_namespace) = os.getpid(), this_place()
    return ProcessIdentity(
        host=platform.node(),
        pid=pid,
        started=process_start(pid) or "",
        machine_id=machine_id,
        boot_id=boot_id,
        pid_namespace=pid_namespace,
    )


def this_place() -> tuple[str, str, str]:
    """The machine's id, that of its start, and the space of process numbers; each "" if it is not known."""
    machine_id = next(filter(None, map(_read, _MACHINE_IDS)), "")
    boot_id = _read(Path("/proc/sys/kernel/random/boot_id"))
    if not Path("/proc/self/stat").exists():  # no Linux: one space of numbers, and a start by the clock
        import psutil

        return machine_id or platform.node(), f"{platform.node()}@{psutil.boot_time():.0f}", "-"
    try:
        space = str(os.stat("/proc/self/ns/pid").st_ino)  # noqa: PTH116 - Path.stat does the same with more words
    except OSError:
        space = ""
    return machine_id, boot_id, space


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def since_boot_s() -> float:
    """Seconds since this machine was started, those in which it slept included where that is known."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def process_start(pid: int) -> str | None:
    """When a process started, in words of its system; None if there is none, or only its remains."""
    try:
        # After the name in brackets, which may hold anything: the state, and 19 fields later the start, in
        # ticks since the boot. Unlike a time of day it does not move when the clock is set.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _start_elsewhere(pid)
    except OSError:  # it ended while it was read
        return None
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def _start_elsewhere(pid: int) -> str | None:
    """As `process_start`, where there is no /proc."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.Error:
        return None


# --- the shell or terminal --------------------------------------------------------------------------


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
