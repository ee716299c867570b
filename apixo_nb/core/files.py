"""Files and folders that are there whole or not at all, and the checks of their names and of pictures."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apixo_nb.errors import ApixoError, ImageError
from apixo_nb.text import printable

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_NO_SUCH_CALL = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)

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

#: Kinds that are a folder of pictures, and so have no end of a file's name.
FOLDERS = ("imagefolder", "embed", "site")
EXPORT_KINDS = (*SUFFIXES, *FOLDERS)

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
def atomic(path: Path, part: Path | None = None, mode: int = 0o666) -> Iterator[io.BufferedWriter]:
    """A file to write to; it takes the place of `path` once all of it is on disk, and never in part.

    Parameters
    ----------
    path : Path
        In a folder that exists.
    part : Path, optional
        Its name until then, in the same folder; by default one that nobody else uses.
    mode : int
        Permissions of the new file, less the umask; those of an older file are not taken over.

    Raises
    ------
    OSError
        The file cannot be written; the old one, if there was one, is as it was.
    """
    part = part or path.parent / f".{secrets.token_hex(6)}.part"

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), mode)

    try:
        with open(part, "xb", opener=opener) as file:  # "x": never through a link that somebody has put there
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_file(target: Path, kind: str) -> Iterator[io.BufferedWriter]:
    """A file to write to; it takes the place of `target` once all is written, and never in part.

    Raises
    ------
    ApixoError
        The file cannot be written; the old one, if there was one, is as it was.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic(target) as file:
            yield file
    except OSError as error:
        step = "Give the name of a file in a folder you may write to."
        why = f": {error.strerror or type(error).__name__}"
        raise _refused(printable(target, 200), kind, why, step) from None
    except UnicodeError:
        step = "A folder's name may be at fault; .csv and .jsonl can hold such names."
        raise _refused(
            printable(target, 200), kind, ": a text in it cannot be written as UTF-8", step
        ) from None


def _refused(shown: str, kind: str, why: str, step: str) -> ApixoError:
    what = {"html": "report", "bundle": "bundle", "sheet": "contact sheet"}.get(kind, "table")
    return ApixoError(f"The {what} could not be written to {shown}{why}", next_step=step)


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
        raise _folder_refused(target, error.strerror or type(error).__name__) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def checked_folder(path: object, originals: Path) -> Path:
    """The path of a folder to be written; raises ApixoError as `new_folder` does."""
    if not isinstance(path, (str, os.PathLike)) or "\0" in str(path) or not str(path):
        raise _folder_refused(path, "it is no name of a folder")
    try:
        target = Path(path).expanduser()
        real, home = target.resolve(), originals.resolve()
    except (OSError, RuntimeError):
        raise _folder_refused(path, "it cannot be found") from None
    if real == home or home in real.parents or real in home.parents:
        raise _folder_refused(path, "the originals are kept there, and are never touched")
    try:
        other = _what_else(target)
    except OSError as error:
        raise _folder_refused(path, error.strerror or type(error).__name__) from None
    if other:
        raise _folder_refused(path, f"{other}, and nothing of yours is overwritten")
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


def _folder_refused(path: object, why: str) -> ApixoError:
    return ApixoError(f"The pictures could not be written to {printable(path, 200)}: {why}", next_step=_STEP)


#: Format, as read from the bytes -> the end of the file's name.
IMAGE_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a picture may be at most: bytes, pixels, redirects, and seconds for all of it.

    `public_only`: it comes from an address of the public internet, never from a machine of this network.
    `keep_unreadable`: bytes that came in place of a picture are kept, as they may have been paid for.
    """

    max_bytes: int = 100_000_000
    max_pixels: int = 40_000_000
    max_redirects: int = 5
    total_s: float = 300.0
    public_only: bool = False
    keep_unreadable: bool = False


USUAL_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A verified picture on disk. `format` is PNG, JPEG or WEBP, read from the bytes, not from the name."""

    path: Path
    url: str
    sha256: str
    bytes: int
    width: int
    height: int
    format: str


def new_part(target: Path) -> Path:
    """A name for half of what belongs to this target; nobody else's, and found by `clear_parts`."""
    return target.with_name(f".{_mark(target)}-{secrets.token_hex(6)}.part")


def _mark(target: Path) -> str:
    """What the names of parts of this target begin with; short, as the target may use all that a name can."""
    return hashlib.blake2s(target.name.encode("utf-8", "replace"), digest_size=6).hexdigest()


def clear_parts(target: Path) -> None:
    """Remove what a killed process has left of its download of `target`; nobody must be at it now."""
    for part in target.parent.glob(f".{_mark(target)}-*.part"):
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def verify(path: Path, limits: Limits) -> tuple[tuple[int, int], str]:
    """Size in pixels and format of a whole picture; raises ImageError for anything else."""
    from PIL import Image

    try:
        return _decode(path, limits)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(limits) from None
    except Exception as error:  # noqa: BLE001 - decoders raise OSError, SyntaxError, ValueError, struct.error...
        raise ImageError(f"What arrived is not a whole picture ({type(error).__name__})") from None


def _decode(path: Path, limits: Limits) -> tuple[tuple[int, int], str]:
    """Decode the whole picture. verify() and load() notice different damage, so both are asked."""
    with open_picture(path, limits) as image:
        # MPO is Pillow's name for a JPEG with more pictures behind the first.
        size, kind = image.size, "JPEG" if image.format == "MPO" else str(image.format)
        image.verify()
    with open_picture(path, limits) as image:
        image.load()
    return size, kind


def open_picture(path: Path, limits: Limits = USUAL_LIMITS) -> ImageFile:
    """Open a PNG, JPEG or WebP file whose header is fit to be decoded; the only opener of picture files.

    Pillow guesses the format from the bytes, and for some starts other programs, such as Ghostscript for
    PostScript. Its own limit on pixels is a global of the process. So neither is left to it.

    Raises
    ------
    ImageError
        There are more pixels than `limits` has.
    Exception
        Whatever a decoder raises for something else: OSError, SyntaxError, ValueError, struct.error...
    """
    from PIL import Image

    image = Image.open(path, formats=list(IMAGE_SUFFIXES))
    if image.width * image.height > limits.max_pixels:
        image.close()
        raise _too_large(limits)
    return image


def is_picture(path: Path) -> bool:
    """Whether `open_picture` opens it; its header alone is read."""
    try:
        open_picture(path).close()
    except Exception:  # noqa: BLE001 - see open_picture
        return False
    return True


def _too_large(limits: Limits) -> ImageError:
    return ImageError(
        f"The picture has more than {limits.max_pixels // 1_000_000} million pixels", retryable=False
    )


def sync_folder(folder: Path) -> None:
    """Make the rename itself durable; Windows has no such call."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# --- a file that stays open ---


def allocate(handle: int, offset: int, size: int) -> None:
    """Make the disk keep so many bytes for us; raises OSError if it has not got them."""
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(handle, offset, size)
        except OSError as error:
            if error.errno not in _NO_SUCH_CALL:
                raise
    os.lseek(handle, offset, os.SEEK_SET)
    if os.write(handle, b"\n" * size) != size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def lock_open_file(handle: int) -> bool:
    """Lock an open file until it is closed; False if another process has it, or the disk knows no locks."""
    if os.name != "posix":  # Windows, where a file that somebody has open cannot be removed
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_file_of(path: Path, handle: int) -> bool:
    """Whether a path still leads to the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))  # noqa: PTH116 - with its device
    except OSError:
        return False


def remove_open_file(path: Path, handle: int) -> None:
    """Remove an open file, if the path still leads to it, and close it."""
    ours = is_file_of(path, handle)
    if os.name != "posix":
        os.close(handle)
    with contextlib.suppress(OSError):
        if ours:
            path.unlink()
    if os.name == "posix":  # its lock is kept until its name is gone
        os.close(handle)
