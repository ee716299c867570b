"""The read side of a session: runs and their pictures, found, as tables, and exported."""

from __future__ import annotations

import dataclasses
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from apixo_nb.core.records import Run
from apixo_nb.core.settings import Apixo
from apixo_nb.errors import InvalidRequestError, LedgerError
from apixo_nb.ledger.database import REBUILD_STEP
from apixo_nb.ledger.journal import NAME as JOURNAL
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.ledger.query import Facets, Found, Query, Since, query_of
from apixo_nb.storage.originals import Images
from apixo_nb.text import is_loopback

if TYPE_CHECKING:
    import pandas as pd

    from apixo_nb.core.files import Written
    from apixo_nb.export.importer import Imported
    from apixo_nb.export.tracked_runs import Pushed

_PLAIN_NAME = re.compile(r"\w[\w.-]*")


class History:
    """A ledger and its folder of pictures, and what can be asked of them. It sends nothing.

    Attributes
    ----------
    settings : Apixo
        They do not change any more; their folders are absolute.
    images : Images
        The pictures on disk.
    """

    def __init__(self, settings: Apixo) -> None:
        self.settings = settings
        self.images = Images(settings.images_path)
        self._ledger: Ledger | None = None
        self._compared: tuple[Ledger, object] | None = None  # with the pictures: it has a row for each
        self._lock = threading.RLock()

    @property
    def is_sandbox(self) -> bool:
        """Whether runs go to a sandbox on this machine and cost nothing; they never mix with real ones."""
        return self.settings.sandbox or is_loopback(urlsplit(self.settings.base_url).hostname)

    # --- the ledger, opened when first needed ---

    @property
    def ledger(self) -> Ledger:
        """The ledger; raises LedgerError where it cannot be opened."""
        with self._lock:
            if self._ledger is None:
                self._check_not_emptied()
                journal = self.settings.home_path / JOURNAL
                self._ledger = Ledger(self.settings.ledger or self.ledger_file(), journal)
            return self._ledger

    def _check_not_emptied(self) -> None:
        """An empty file is a new ledger, but not beside pictures: then something has emptied it."""
        file = self.ledger_file()
        try:
            emptied = not self.settings.ledger and file.stat().st_size == 0
        except OSError:  # there is none, or no such name; opening it says so
            return
        if emptied and any(self.images.folder.glob("*.json")):
            text = f"The ledger {file} is empty, though there are pictures in {self.images.folder}"
            raise LedgerError(text, damaged=True, next_step=REBUILD_STEP)

    def runs_without_rows(self) -> set[str]:
        """Runs whose pictures are in the folder, while the ledger knows nothing of them."""
        return self.ledger.without_rows(self.images.run_ids())

    def check_ledger_knows_pictures(self) -> None:
        """Raise LedgerError where the ledger is new, or an older copy, and has no rows of pictures here.

        They would be bought again. It is looked at once for each ledger, before the first purchase.
        """
        ledger = self.ledger
        if self._compared == (ledger, ledger.identity):
            return
        if unknown := self.runs_without_rows():
            text = (
                f"The ledger {ledger.shown_place} is new or an older copy: it has no row of {len(unknown)} "
            )
            step = (
                "`%apixo doctor --rebuild` makes the rows from the facts there; `%apixo doctor --accept` buys"
            )
            raise LedgerError(
                f"{text}run(s) whose pictures are in {self.images.folder}",
                next_step=f"Nothing was sent. {step} without them.",
            )
        self._compared = ledger, ledger.identity

    def ledger_file(self) -> Path:
        """The file of the ledger where it is no database of its own address."""
        return self.settings.home_path / "ledger.db"

    # --- runs ---

    def lost(self) -> list[Run]:
        """Runs whose submit was never answered, and nobody waits for it any more: maybe billed."""
        self.ledger.mark_abandoned()
        return self.ledger.unanswered(sandbox=self.is_sandbox)

    def elsewhere(self) -> list[Run]:
        """Runs that other living kernels or programs work on."""
        rows = self.ledger.some(sorted(self.ledger.leases.held_elsewhere()))
        return [run for run in rows if run.sandbox == self.is_sandbox]

    def run(self, run_id: str) -> Run:
        """One run by its id; raises InvalidRequestError if there is none."""
        found = self.ledger.get(run_id)
        if found is None:
            raise InvalidRequestError(
                f"There is no run {run_id!r:.80} in the ledger",
                field="run_id",
                value=run_id,
                next_step="`%apixo history` lists them.",
            )
        return found

    def runs(self) -> list[Run]:
        """All runs of this service, real or sandbox, oldest first."""
        return self.ledger.runs(sandbox=self.is_sandbox)

    def successes(self) -> list[Run]:
        """Runs of this service that have, or should have, pictures."""
        return self.ledger.successes(sandbox=self.is_sandbox)

    def find(self, query: Query) -> Found:
        """The runs of this service that a query asks for; see `query.Query`."""
        return self.ledger.find(dataclasses.replace(query, sandbox=self.is_sandbox))

    def facets(self) -> Facets:
        """What a query may ask for here: states, tags and names, most frequent first."""
        return self.ledger.facets(self.is_sandbox)

    # --- tables ---

    def history(
        self,
        name: str | None = None,
        tag: str | Iterable[str] | None = None,
        since: Since | None = None,
        state: str | Iterable[str] | None = None,
        text: str | None = None,
    ) -> pd.DataFrame:
        """Runs as a DataFrame, oldest first: all of the ledger, or those that fit all that is given.

        See `query.query_of` for the filters, `frame.history_frame` for columns, dtypes and units. It is a
        plain table; those of `apixo_nb.history` have ``df.apixo`` as well.
        """
        from apixo_nb.analysis.frame import history_frame

        asked = query_of(name=name, tag=tag, since=since, state=state, text=text)
        return history_frame(self.ledger.lines(asked), self._shown_paths())

    def pictures(
        self,
        name: str | None = None,
        tag: str | Iterable[str] | None = None,
        since: Since | None = None,
        state: str | Iterable[str] | None = None,
        text: str | None = None,
    ) -> pd.DataFrame:
        """The pictures of the runs that `history` would give, one row each; see `frame.images_frame`.

        It is a plain table; those of `apixo_nb.images` have ``df.apixo`` as well.
        """
        from apixo_nb.analysis.frame import images_frame

        asked = query_of(name=name, tag=tag, since=since, state=state, text=text)
        return images_frame(self.ledger.lines(asked, pictures=True), self._shown_paths())

    # --- files, and other programs ---

    def export_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `history` to a CSV file, exactly; see `formats.write_csv`."""
        from apixo_nb.analysis.formats import write_csv

        return write_csv(self.history(), path)

    def export(
        self, path: str | os.PathLike[str], kind: str | None = None, runs: Iterable[Run] | None = None
    ) -> Path:
        """Write runs (default: all) to a file or folder of one of many kinds; see `export.export`.

        What there is to say of it, such as a picture that had to be left out, is a UserWarning.
        """
        written = self.write(path, kind, runs)
        for note in written.notes:
            warnings.warn(note, stacklevel=2)
        return written.path

    def write(
        self, path: str | os.PathLike[str], kind: str | None = None, runs: Iterable[Run] | None = None
    ) -> Written:
        """As `export`, but what there is to say is returned."""
        from apixo_nb.export.export import export

        chosen = self.ledger if runs is None else runs
        return export(chosen, path, kind, self.images, self._shown_paths())

    def import_bundle(self, path: str | os.PathLike[str]) -> Imported:
        """Merge a ZIP bundle, or a folder of pictures and sidecars, into this ledger by the ids of the runs.

        Twice is once. Imported runs count towards budgets like others; see `importer.import_bundle`.
        """
        from apixo_nb.export.importer import import_bundle

        return import_bundle(path, self.ledger, self.images)

    def to_mlflow(
        self, runs: Iterable[Run] | None = None, experiment: str = "apixo", tracking_uri: str | None = None
    ) -> Pushed:
        """Bring runs (default: all of this service) to MLflow; see `mlflow.push_to_mlflow`."""
        from apixo_nb.export.trackers import push_to_mlflow

        chosen = self.runs() if runs is None else runs
        return push_to_mlflow(chosen, self.images, experiment=experiment, tracking_uri=tracking_uri)

    def to_wandb(
        self,
        runs: Iterable[Run] | None = None,
        project: str = "apixo",
        folder: str | os.PathLike[str] = ".",
    ) -> Pushed:
        """Write runs (default: all of this service) for wandb, offline; see `wandb.write_for_wandb`."""
        from apixo_nb.export.trackers import write_for_wandb

        chosen = self.runs() if runs is None else runs
        return write_for_wandb(chosen, self.images, project=project, folder=folder)

    def shown_path(self, file: str) -> str:
        """Relative to the working folder where it lies within, so that a table can move with its folder."""
        path = self.images.folder / file
        working = Path.cwd()
        return path.relative_to(working).as_posix() if path.is_relative_to(working) else str(path)

    def _shown_paths(self) -> Callable[[str], str]:
        """`shown_path` for a whole table: the folder is looked at once, unless a name leads elsewhere."""
        start = self.shown_path("x").removesuffix("x")
        return lambda file: start + file if _PLAIN_NAME.fullmatch(file) else self.shown_path(file)
