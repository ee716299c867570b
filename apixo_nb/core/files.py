"""A file that somebody asks for: its name is checked, and it is written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import ApixoError
from .text import printable

#: Kind of export -> the ends of its file names; the first is the usual one.
SUFFIXES: dict[str, tuple[str, ...]] = {
    "csv": (".csv",),
    "excel": (".csv",),
    "jsonl": (".jsonl", ".ndjson"),
    "parquet": (".parquet",),
    "html": (".html", ".htm"),
    "bundle": (".zip",),
    "sheet": (".png", ".webp", ".jpg", ".jpeg"),
}

_FOREIGN = {".xlsx", ".xls", ".ods", ".json"}.union(*SUFFIXES.values())
_WORDS = {
    "csv": "CSV",
    "excel": "CSV",
    "jsonl": "JSON Lines",
    "parquet": "Parquet",
    "html": "HTML",
    "bundle": "ZIP",
    "sheet": "a picture",
}


@dataclass(frozen=True, slots=True)
class Written:
    """A file or folder that was written, and what there is to say of it, in sentences."""

    path: Path
    notes: tuple[str, ...] = ()


def checked_target(path: object, kind: str) -> Path:
    """The path of a file to be written, with ``~`` filled in.

    Raises
    ------
    ApixoError
        It is no file name, or that of another kind of file. A name without an end, or with an end of no
        known kind, is taken as it is.
    """
    step = f"Give the name of a file in a folder you may write to, such as runs{SUFFIXES[kind][0]}."
    problem = "" if isinstance(path, (str, os.PathLike)) and "\0" not in str(path) else "is no file name"
    if not problem and Path(str(path)).suffix.casefold() in _FOREIGN.difference(SUFFIXES[kind]):
        end = SUFFIXES[kind][0]
        problem = f"is the name of another kind of file, and this is {_WORDS[kind]}: end it in {end}"
    try:
        if not problem:
            return Path(path).expanduser()  # type: ignore[arg-type]
    except RuntimeError:
        problem = "names a user that does not exist"
    raise _refused(printable(path, 80), kind, f", which {problem}", step)


@contextlib.contextmanager
def new_file(target: Path, kind: str) -> Iterator[io.BufferedWriter]:
    """A file to write to; it takes the place of `target` once all is written, and never in part.

    Raises
    ------
    ApixoError
        The file cannot be written; the old one, if there was one, is as it was.
    """
    part = target.parent / f".{secrets.token_hex(6)}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        step = "Give the name of a file in a folder you may write to."
        why = f": {error.strerror or type(error).__name__}"
        raise _refused(printable(target, 200), kind, why, step) from None
    except UnicodeError:
        step = "A folder's name may be at fault; .csv and .jsonl can hold such names."
        raise _refused(
            printable(target, 200), kind, ": a text in it cannot be written as UTF-8", step
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _refused(shown: str, kind: str, why: str, step: str) -> ApixoError:
    what = {"html": "report", "bundle": "bundle", "sheet": "contact sheet"}.get(kind, "table")
    return ApixoError(f"The {what} could not be written to {shown}{why}", next_step=step)
