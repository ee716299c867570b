"""A file beside the ledger for the taskIds that the database refuses: what is paid hangs on no lock."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Kept:
    """One line of the file: the task of a run."""

    run_id: str
    task_id: str
    at: datetime


class Aside:
    """JSON lines, appended durably, and taken back in parts: each is merged once, by whoever comes first."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def append(self, kept: Kept) -> bool:
        """Add a line, durably; False where that cannot be."""
        line = {"run_id": kept.run_id, "task_id": kept.task_id, "at": kept.at.isoformat()}
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            return False
        return True

    def parts(self) -> list[Path]:
        """The files to merge. What another process appends from now on goes into a new one."""
        with suppress(OSError):  # there is none, or another kernel was quicker, or the folder is read-only
            self.file.rename(self.file.with_name(f"{self.file.stem}-{secrets.token_hex(4)}.merging"))
        return sorted(self.file.parent.glob(f"{self.file.stem}-*.merging"))


def read(part: Path) -> list[Kept]:
    """The whole lines of a part; one that a crash has torn is left out."""
    found = []
    with suppress(OSError):  # another kernel was quicker
        for line in part.read_text("utf-8", "replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):
                kept = json.loads(line)
                at = datetime.fromisoformat(kept["at"])
                found.append(Kept(str(kept["run_id"]), str(kept["task_id"]), at))
    return found
