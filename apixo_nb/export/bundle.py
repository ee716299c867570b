"""Runs and their pictures in one ZIP file: to keep, to move to another machine, to give to somebody.

::

    README.txt      what this is, for people
    runs.jsonl      a run a line, all of its record with that of its pictures; ``schema_version`` in each
    pictures/       the originals, stored byte for byte, and the facts of each in a .json beside it

It is written as a stream, so a large one needs no more memory than a small one. The same runs give the same
bytes. Callback addresses are not carried: they are of use to one service, and often a secret.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from apixo_nb.core.files import Written, checked_target, new_file
from apixo_nb.core.records import SCHEMA_VERSION, Run
from apixo_nb.errors import ApixoError
from apixo_nb.storage.originals import Images, left_out, runs_of_sidecars, sidecar_text
from apixo_nb.text import printable, without_callback

README, RUNS, PICTURES = "README.txt", "runs.jsonl", "pictures"

_CHUNK = 1 << 20
_NO_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a ZIP can tell

_TEXT = """\
Pictures and the runs that made them, from apixo_nb.

runs.jsonl   one run a line, as JSON: prompt, parameters, times, cost, ids, ratings; times are UTC, prices
             are in millionths of a US dollar (schema version {version})
pictures/    the pictures as they were downloaded, and the facts of each in a .json file beside it

{count} runs, {pictures} pictures{sandbox}

To take them into a ledger of your own: %apixo import FILE.zip
"""


def write_bundle(runs: Sequence[Run], path: str | os.PathLike[str], images: Images) -> Written:
    """Write a bundle, whole or not at all; `importer.import_bundle` reads it.

    A picture whose file is missing or changed is left out, and named in the notes; its run is carried.

    Raises
    ------
    ApixoError
        The file cannot be written.
    """
    target = checked_target(path, "bundle")
    carried = [_carried(run) for run in sorted(runs, key=lambda run: (run.created_at, run.run_id))]
    stored, gone = images.stored(carried)
    sandbox = ", all made by the sandbox" if carried and all(run.sandbox for run in carried) else ""
    text = _TEXT.format(
        version=SCHEMA_VERSION, count=len(carried), pictures=len(stored), sandbox=sandbox
    ).encode()
    with new_file(target, "bundle") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_entry(README), text)
        _write(archive, _entry(RUNS, zipfile.ZIP_DEFLATED), _lines(carried))
        for run, image in stored:
            name = PurePosixPath(PICTURES, image.file)
            when = max(_NO_TIME, run.created_at.timetuple()[:6])
            with (
                images.path(image).open("rb") as original,
                archive.open(_entry(str(name), when=when), "w", force_zip64=True) as entry,
            ):
                shutil.copyfileobj(original, entry, _CHUNK)
            archive.writestr(_entry(str(name.with_suffix(".json")), when=when), sidecar_text(run, image))
    return Written(target, tuple(left_out(gone)))


def _carried(run: Run) -> Run:
    """A run without its callback's address, wherever it stands."""
    texts = {name: without_callback(getattr(run, name), run.callback_url) for name in ("raw", "fail_msg")}
    return run.replace(callback_url=None, **texts)


def _lines(runs: Iterable[Run]) -> Iterator[bytes]:
    for run in runs:
        yield f"{run.model_dump_json()}\n".encode()


def _entry(
    name: str, compression: int = zipfile.ZIP_STORED, when: tuple[int, ...] = _NO_TIME
) -> zipfile.ZipInfo:
    year, month, day, hour, minute, second = when
    entry = zipfile.ZipInfo(name, (year, month, day, hour, minute, second))
    entry.compress_type = compression
    entry.create_system = 3  # whatever system this is: the same runs give the same bytes
    entry.external_attr = 0o644 << 16
    return entry


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, parts: Iterable[bytes]) -> None:
    with archive.open(entry, "w", force_zip64=True) as file:
        for part in parts:
            file.write(part)


MOST_LINE = 16_000_000  # bytes of one run
_RATIO, _FLOOR = 100, 50_000_000  # bytes that may come out of a ZIP for each of its own, and at any rate
_READ_BYTES = 1 << 20
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
)


class BundleReader(Protocol):
    """Runs and pictures that have come from elsewhere."""

    def runs(self) -> Iterator[Run | str]:
        """Its runs, unchecked; in place of one that cannot be read, why."""
        ...

    def picture(self, name: str) -> Iterator[bytes]:
        """The bytes of a picture, in parts; raises FileNotFoundError if it is not there, OSError else."""
        ...


@contextlib.contextmanager
def open_bundle(path: Path) -> Iterator[BundleReader]:
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
        raise not_a_bundle(path, why) from None
    with archive:
        if RUNS not in archive.namelist():
            raise not_a_bundle(path, f"there is no {RUNS} in it")
        yield _Zip(archive, size)


def not_a_bundle(path: object, why: str) -> ApixoError:
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
            yield from runs_of_sidecars(self._pictures)

    def picture(self, name: str) -> Iterator[bytes]:
        path = self._pictures / name
        if path.is_symlink() or not path.is_file():
            raise FileNotFoundError(name)
        with path.open("rb") as file:
            while part := file.read(_READ_BYTES):
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
                while part := entry.read(_READ_BYTES):
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
