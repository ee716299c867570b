"""The facts beside the pictures, read: what a folder of pictures tells of the runs that made them.

A folder may come from anywhere, so its names must be such as we make, and every file is small.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from .originals import file_names
from .run import SUCCESS, Image, Run

MOST_BYTES = 8_000_000  # of the facts of one picture; usual ones have two thousand
_OUR_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")


def is_our_id(run_id: str) -> bool:
    """Whether it is the id of a run as we make them, and so fit to be part of a file's name."""
    return _OUR_ID.fullmatch(run_id) is not None


def from_facts(folder: Path) -> Iterator[Run]:
    """The runs that the facts beside the pictures tell of."""
    images: dict[str, dict[int, Image]] = {}
    runs: dict[str, Run] = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        facts = read_facts(path)
        if facts is not None:
            run, image = facts
            runs[run.run_id] = run
            if (folder / image.file).is_file():
                images.setdefault(run.run_id, {})[image.index] = image
    for run_id, run in runs.items():
        here = images.get(run_id, {})
        yield run.but(state=SUCCESS, images=tuple(here[index] for index in sorted(here)))


def read_facts(path: Path) -> tuple[Run, Image] | None:
    """The run and the picture of a file of facts; None if it is none of ours."""
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        facts = json.loads(path.read_text("utf-8"))
        run, image = Run.model_validate(facts), Image.model_validate(facts["image"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    # Facts may come from elsewhere: their names must be such as we make, and belong to this very file.
    ours = is_our_id(run.run_id) and path.stem == f"{run.run_id}-{image.index + 1}"
    return (run, image) if ours and image.file in file_names(run.run_id, image.index) else None
