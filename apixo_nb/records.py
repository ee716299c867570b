"""Looking back: the rows of a ledger and their pictures, found, tabled and exported."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InvalidRequestError
from .ledger import Ledger
from .originals import Images
from .run import Run
from .search import Facets, Found, Query

if TYPE_CHECKING:
    import pandas as pd


class Records:
    """What a session can tell of its past. It knows a ledger and a folder of pictures, and sends nothing."""

    images: Images

    @property
    def ledger(self) -> Ledger:
        """The ledger."""
        raise NotImplementedError

    @property
    def is_sandbox(self) -> bool:
        """Whether it is about runs of the sandbox, or about real ones: they never mix."""
        raise NotImplementedError

    def lost(self) -> list[Run]:
        """Runs whose submit was never answered, and nobody waits for it any more: maybe billed."""
        self.ledger.settle()
        return [run for run in self.ledger.lost() if run.sandbox == self.is_sandbox]

    def elsewhere(self) -> list[Run]:
        """Runs that other living kernels or programs work on."""
        rows = self.ledger.some(sorted(self.ledger.elsewhere()))
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
        return [run for run in self.ledger.runs() if run.sandbox == self.is_sandbox]

    def successes(self) -> list[Run]:
        """Runs of this service that have, or should have, pictures."""
        return [run for run in self.ledger.successes() if run.sandbox == self.is_sandbox]

    def find(self, query: Query) -> Found:
        """The runs of this service that a query asks for; see `search.Query`."""
        return self.ledger.find(dataclasses.replace(query, sandbox=self.is_sandbox))

    def facets(self) -> Facets:
        """What a query may ask for here: states, tags and names, most frequent first."""
        return self.ledger.facets(self.is_sandbox)

    def history(self) -> pd.DataFrame:
        """All runs as a DataFrame, oldest first; see `frame.history_frame` for columns, dtypes and units."""
        from .frame import history_frame

        return history_frame(self.ledger.runs(), self.shown_path)

    def export_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `history` to a CSV file, exactly; see `frame.write_csv`."""
        from .frame import write_csv

        return write_csv(self.history(), path)

    def export(
        self, path: str | os.PathLike[str], kind: str | None = None, runs: Iterable[Run] | None = None
    ) -> Path:
        """Write runs (default: all) as CSV, JSON Lines, Parquet or a page; see `export.export`."""
        from .export import export

        chosen = self.ledger.runs() if runs is None else runs
        return export(chosen, path, kind, self.images, self.shown_path)

    def shown_path(self, file: str) -> str:
        """Relative to the working folder where it lies within, so that a table can move with its folder."""
        path = self.images.folder / file
        working = Path.cwd()
        return path.relative_to(working).as_posix() if path.is_relative_to(working) else str(path)
