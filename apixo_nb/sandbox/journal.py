"""The tasks on disk, one JSON line each, so that a restarted sandbox still owes what it accepted."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from apixo_nb.sandbox.tasks import Task


def read(path: Path) -> Iterator[Task]:
    """The tasks of a journal, oldest first; none if there is no file yet.

    A line cut short by a crash is passed over: its submit was never answered. ValueError if the file
    holds anything else.
    """
    if not path.exists():
        return
    lines = path.read_bytes()
    if lines and not lines.endswith(b"\n"):
        _write(path, b"\n")  # so that the next record starts on a line of its own
    for line in lines.splitlines():
        try:
            yield Task(**json.loads(line))
        except ValueError:
            continue
        except TypeError:
            raise ValueError(f"{path} is not the journal of a sandbox") from None


def append(path: Path, task: Task) -> None:
    """Write one task; when this returns, it is on the disk."""
    _write(path, json.dumps(asdict(task)).encode() + b"\n")


def _write(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
