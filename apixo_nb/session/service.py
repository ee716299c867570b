"""Where requests go: APIXO or the sandbox on this machine, with which key, and at which pace."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from apixo_nb.client.client import AsyncClient
from apixo_nb.client.protocol import RetryPolicy
from apixo_nb.core.cadence import Cadence
from apixo_nb.core.credentials import ApiKey, find_key
from apixo_nb.core.files import Limits
from apixo_nb.core.models import DEFAULT_MODEL, MODELS
from apixo_nb.core.process import after_fork
from apixo_nb.core.records import Run
from apixo_nb.core.settings import Apixo
from apixo_nb.errors import LedgerError

if TYPE_CHECKING:
    from apixo_nb.sandbox import Sandbox

#: The sandbox makes a task in about 3 s where APIXO takes 30: it is polled ten times as often.
SANDBOX_TASK_S = 3.0

_LIMITS = Limits(keep_unreadable=True)
_LEARN_AGAIN_S = 60.0  # how long a look at the ledger's durations is good for


class Service:
    """The service that the settings name: APIXO, or the sandbox on this machine.

    Parameters
    ----------
    settings : Apixo
        Frozen: they do not change any more.
    key : ApiKey, optional
        Default: found when it is first needed, see `credentials.find_key`.
    """

    def __init__(self, settings: Apixo, key: ApiKey | None) -> None:
        self._settings = settings
        self._key = key
        self._learned: dict[tuple[str, int, bool], tuple[Cadence, float]] = {}

    @property
    def key(self) -> ApiKey | None:
        """The key that requests to APIXO carry, or None while there is none."""
        return self._key or find_key()

    def client(self) -> AsyncClient:
        """A new client; raises MissingKeyError where there is no key."""
        if self._settings.sandbox:
            # Never with the real key: whatever listens on a port of this machine has no business with it.
            return AsyncClient(
                ApiKey("sandbox", "of the sandbox"),
                base_url=self.sandbox().base_url,
                request_timeout_s=self._settings.request_timeout,
                cadence=self.cadence,
                retry=RetryPolicy(base_s=0.1, cap_s=2.0),
                limits=_LIMITS,
            )
        return AsyncClient(
            self._key,
            base_url=self._settings.base_url,
            request_timeout_s=self._settings.request_timeout,
            cadence=self.cadence,
            limits=_LIMITS,
        )

    def cadence(self, model: str = DEFAULT_MODEL) -> Cadence:
        """When runs are polled and how long they are expected to take, in seconds."""
        return self._advised(model).override(self._settings.first_poll, self._settings.poll_interval)

    def cadence_of(self, run: Run, durations_s: Callable[[Run], list[float]]) -> Cadence:
        """As `cadence`, with the durations of tasks like this one, which are looked up now and then."""
        kind = (run.model, run.num_images, bool(run.image_urls))
        learned, until = self._learned.get(kind, (None, 0.0))
        if learned is None or time.monotonic() > until:
            try:
                known = durations_s(run)
            except LedgerError:  # the pace of a run that is paid for hangs on no ledger
                return self.cadence(run.model)
            learned = self._advised(run.model).learned(known)
            self._learned[kind] = learned, time.monotonic() + _LEARN_AGAIN_S
        return learned.override(self._settings.first_poll, self._settings.poll_interval)

    def _advised(self, model: str) -> Cadence:
        cadence = MODELS.get(model, MODELS[DEFAULT_MODEL]).cadence
        return cadence.scaled(SANDBOX_TASK_S / cadence.expected_s) if self._settings.sandbox else cadence

    def sandbox(self) -> Sandbox:
        """The sandbox of this home, started; its tasks survive a restart of the kernel."""
        from apixo_nb.sandbox import Sandbox, SandboxOptions

        journal = self._settings.home_path / "sandbox.jsonl"
        with _sandboxes_lock:
            if journal not in _sandboxes:
                _sandboxes[journal] = Sandbox(SandboxOptions(seconds=SANDBOX_TASK_S, journal=journal))
            return _sandboxes[journal].start()


# One sandbox for each home: sessions come and go with the settings, a sandbox knows its tasks.
_sandboxes: dict[Path, Sandbox] = {}
_sandboxes_lock = threading.RLock()


@after_fork
def _forget_sandboxes() -> None:
    """A child process shares no thread and no lock with its parent."""
    global _sandboxes_lock  # noqa: PLW0603
    _sandboxes_lock = threading.RLock()
    _sandboxes.clear()
