"""Runs as tables: DataFrames and their files, sums by group, plots, pivots, and what blind votes say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apixo_nb.core import lazy_names

if TYPE_CHECKING:
    from .formats import read_csv, write_csv
    from .frame import brief, history_frame, images_frame
    from .pivot import Layout, lay_out
    from .summary import spending

__all__ = [
    "Layout",
    "brief",
    "history_frame",
    "images_frame",
    "lay_out",
    "read_csv",
    "spending",
    "write_csv",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "formats": ("read_csv", "write_csv"),
        "frame": ("brief", "history_frame", "images_frame"),
        "pivot": ("Layout", "lay_out"),
        "summary": ("spending",),
    },
)
