"""Runs and pictures to files, pages, folders and trackers; and bundles back into a ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apixo_nb.core import lazy_names

if TYPE_CHECKING:
    from .contact_sheet import write_sheet
    from .importer import Imported, import_bundle
    from .pages import write_report, write_site
    from .tracked_runs import Pushed
    from .trackers import push_to_mlflow, write_for_wandb

__all__ = [
    "Imported",
    "Pushed",
    "import_bundle",
    "push_to_mlflow",
    "write_for_wandb",
    "write_report",
    "write_sheet",
    "write_site",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "contact_sheet": ("write_sheet",),
        "importer": ("Imported", "import_bundle"),
        "pages": ("write_report", "write_site"),
        "tracked_runs": ("Pushed",),
        "trackers": ("push_to_mlflow", "write_for_wandb"),
    },
)
