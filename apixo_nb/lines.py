"""Runs as tables need them: plain tuples, of which 100,000 are read in little time. A `Run` is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from .run import Image


class Line(NamedTuple):
    """What a table shows of a run; its fields are named, and mean the same, as those of `run.Run`.

    Attributes
    ----------
    files : sequence of str
        Names of the pictures that are on disk.
    images : sequence of Image
        All its pictures; none where a table of runs is made, which shows the files only.
    """

    run_id: str
    task_id: str | None
    created_at: datetime
    model: str
    mode: str
    prompt: str
    prompt_template: str
    variables: dict[str, str]
    aspect_ratio: str
    num_images: int
    image_urls: Sequence[str]
    request_type: str
    state: str
    cost_time_ms: int | None
    wait_ms: int | None
    cost_micros: int | None
    unit_price_micros: int
    fail_code: str
    fail_msg: str
    result_urls: Sequence[str]
    expires_at: datetime | None
    name: str
    tags: Sequence[str]
    note: str
    rating: int | None
    sandbox: bool
    schema_version: int
    files: Sequence[str] = ()
    images: Sequence[Image] = ()


#: Those that are columns of the ledger.
STORED = Line._fields[:-2]

#: Makes a line of them, in their order, and of the last two.
make_line: Callable[[tuple[Any, ...]], Line] = Line._make
