"""What an import reads from: a ZIP bundle, or a folder of pictures. Whatever is in it may be hostile.

No name that stands in it is ever used as a path: runs are read, and then the pictures are asked for by the
names that we would have given them. Links are not followed, and what may come out of a ZIP is bounded.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from .bundle import PICTURES, RUNS
from .errors import ApixoError
from .facts import from_facts
from .run import Run
from .text import printable

MOST_LINE = 16_000_000  # bytes of one run
_RATIO, _FLOOR = 100, 50_000_000  # bytes that may come out of a ZIP for each of its own, and at any rate
_CHUNK = 1 << 20
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
)


class Luggage(Protocol):
    """Runs and pictures that have come from elsewhere."""

    def runs(self) -> Iterator[Run | str]:
        """Its runs, unchecked; in place of one that cannot be read, why."""
        ...

    def picture(self, name: str) -> Iterator[bytes]:
        """The bytes of a picture, in parts; raises FileNotFoundError if it is not there, OSError else."""
        ...


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Luggage]:
    """A bundle or a folder of pictures to read from.

    Raises
    ------
    ApixoError
        There is none of that name.
    """
    if path.is_dir():
        yield _Folder(path)
        return
    try:
        archive = zipfile.ZipFile(path)
        size = path.stat().st_size
    except _UNREADABLE as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is no ZIP file"
        raise no_luggage(path, why) from None
    with archive:
        if RUNS not in archive.namelist():
            raise no_luggage(path, f"there is no {RUNS} in it")
        yield _Zip(archive, size)


def no_luggage(path: object, why: str) -> ApixoError:
    """The error for what is no bundle."""
    step = (
        "Give a ZIP that `%apixo export FILE.zip` has made, or a folder of pictures with their .json files."
    )
    return ApixoError(f"Nothing could be imported from {printable(path, 200)}: {why}", next_step=step)


def _read(lines: IO[bytes]) -> Iterator[Run | str]:
    number = 0
    while line := lines.readline(MOST_LINE + 1):
        number += 1
        if len(line) > MOST_LINE:
            yield f"line {number} and all after it: it is too long"
            return
        try:
            yield Run.model_validate(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            yield f"line {number}: it is no run"


class _Folder:
    """A folder of pictures, a folder that has one, or a bundle that was unpacked."""

    def __init__(self, folder: Path) -> None:
        self._lines = folder / RUNS
        inner = [path for path in (folder / PICTURES, folder / "images") if path.is_dir()]
        if self._lines.is_file():
            self._pictures = folder / PICTURES
        else:
            self._pictures = folder if any(folder.glob("*.json")) or not inner else inner[0]

    def runs(self) -> Iterator[Run | str]:
        if self._lines.is_file() and not self._lines.is_symlink():
            with self._lines.open("rb") as lines:
                yield from _read(lines)
        else:
            yield from from_facts(self._pictures)

    def picture(self, name: str) -> Iterator[bytes]:
        path = self._pictures / name
        if path.is_symlink() or not path.is_file():
            raise FileNotFoundError(name)
        with path.open("rb") as file:
            while part := file.read(_CHUNK):
                yield part


class _Zip:
    """A ZIP. All that comes out of it counts, so that a small one never fills the disk."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive = archive
        self._left = _RATIO * size + _FLOOR

    def runs(self) -> Iterator[Run | str]:
        try:
            with self._archive.open(RUNS) as entry:
                yield from _read(_Counted(self, entry))  # type: ignore[arg-type]
        except _UNREADABLE as error:
            yield f"the rest of {RUNS}: it is damaged ({type(error).__name__})"

    def picture(self, name: str) -> Iterator[bytes]:
        try:
            with self._archive.open(f"{PICTURES}/{name}") as entry:
                while part := entry.read(_CHUNK):
                    self.count(len(part))
                    yield part
        except KeyError:
            raise FileNotFoundError(name) from None
        except _UNREADABLE as error:
            raise OSError(f"it is damaged ({type(error).__name__})") from None

    def count(self, length: int) -> None:
        """Count what has come out; raises ValueError when it is more than such a ZIP can hold in earnest."""
        self._left -= length
        if self._left < 0:
            raise ValueError("more comes out of the ZIP than it can hold in earnest")


class _Counted:
    """The lines of an entry, each of which counts."""

    def __init__(self, source: _Zip, entry: IO[bytes]) -> None:
        self._source = source
        self._entry = entry

    def readline(self, most: int) -> bytes:
        line = self._entry.readline(most)
        self._source.count(len(line))
        return line
