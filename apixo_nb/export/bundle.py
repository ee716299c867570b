"""Runs and their pictures in one ZIP file: to keep, to move to another machine, to give to somebody.

::

    README.txt      what this is, for people
    runs.jsonl      a run a line, all of its record with that of its pictures; ``schema_version`` in each
    pictures/       the originals, stored byte for byte, and the facts of each in a .json beside it

It is written as a stream, so a large one needs no more memory than a small one. The same runs give the same
bytes. Callback addresses are not carried: they are of use to one service, and often a secret.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from .originals import Images, facts_text, left_out
from .run import SCHEMA_VERSION, Run
from .scrub import without_callback
from .target import Written, checked_target, new_file

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
    """Write a bundle, whole or not at all; `intake.import_bundle` reads it.

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
            archive.writestr(_entry(str(name.with_suffix(".json")), when=when), facts_text(run, image))
    return Written(target, tuple(left_out(gone)))


def _carried(run: Run) -> Run:
    """A run without its callback's address, wherever it stands."""
    texts = {name: without_callback(getattr(run, name), run.callback_url) for name in ("raw", "fail_msg")}
    return run.but(callback_url=None, **texts)


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
