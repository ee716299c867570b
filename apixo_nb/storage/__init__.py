"""The pictures on disk: originals byte for byte, a JSON sidecar beside each, thumbnails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apixo_nb.core import lazy_names

if TYPE_CHECKING:
    from .originals import Images, Thumbnail, file_names, read_sidecar, runs_of_sidecars

__all__ = [
    "Images",
    "Thumbnail",
    "file_names",
    "read_sidecar",
    "runs_of_sidecars",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "originals": ("Images", "Thumbnail", "file_names", "read_sidecar", "runs_of_sidecars"),
    },
)
