"""A folder that somebody asks for: it appears whole or not at all, and replaces only its like."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import ApixoError
from .text import printable

#: Lists what we wrote: a folder is replaced by a newer export only while it holds nothing else.
MANIFEST = ".apixo-export.json"

_STEP = "Give the name of a new folder, in a place you may write to."


@contextlib.contextmanager
def new_folder(path: object, originals: Path) -> Iterator[Path]:
    """A folder to write into; all of it takes the place of `path` at the end, and never a part.

    What is there may be nothing, an empty folder, or an earlier export with no other file in it, which is
    replaced.

    Parameters
    ----------
    path : str or path
        ``~`` is filled in.
    originals : Path
        The folder of the originals, which no export may touch.

    Raises
    ------
    ApixoError
        The folder cannot be written, or holds something else; what was there is as it was.
    """
    target = checked_folder(path, originals)
    part = target.parent / f".{secrets.token_hex(6)}.part"
    try:
        part.mkdir(parents=True)
        yield part
        (part / MANIFEST).write_text(json.dumps(_names(part), indent=1), "utf-8")
        _put_in_place(part, target)
    except OSError as error:
        raise _refused(target, error.strerror or type(error).__name__) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def checked_folder(path: object, originals: Path) -> Path:
    """The path of a folder to be written; raises ApixoError as `new_folder` does."""
    if not isinstance(path, (str, os.PathLike)) or "\0" in str(path) or not str(path):
        raise _refused(path, "it is no name of a folder")
    try:
        target = Path(path).expanduser()
        real, home = target.resolve(), originals.resolve()
    except (OSError, RuntimeError):
        raise _refused(path, "it cannot be found") from None
    if real == home or home in real.parents or real in home.parents:
        raise _refused(path, "the originals are kept there, and are never touched")
    try:
        other = _what_else(target)
    except OSError as error:
        raise _refused(path, error.strerror or type(error).__name__) from None
    if other:
        raise _refused(path, f"{other}, and nothing of yours is overwritten")
    return target


def _what_else(target: Path) -> str:
    """What is there that is no earlier export; "" if nothing."""
    if not target.exists() and not target.is_symlink():
        return ""
    if not target.is_dir() or target.is_symlink():
        return "there is a file of that name"
    found = _names(target)
    if not found:
        return ""
    try:
        ours = {MANIFEST, *map(str, json.loads((target / MANIFEST).read_text("utf-8")))}
    except (OSError, ValueError, TypeError, RecursionError):
        return "the folder is in use"
    foreign = [name for name in found if name not in ours]
    return f"the folder also holds {printable(foreign[0], 80)}" if foreign else ""


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _put_in_place(part: Path, target: Path) -> None:
    if not target.exists():
        part.rename(target)
        return
    old = target.parent / f".{secrets.token_hex(6)}.old"
    target.rename(old)
    try:
        part.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _refused(path: object, why: str) -> ApixoError:
    return ApixoError(f"The pictures could not be written to {printable(path, 200)}: {why}", next_step=_STEP)
