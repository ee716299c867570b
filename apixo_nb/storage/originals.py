"""The stored pictures: originals byte for byte, a JSON sidecar beside each, and thumbnails for notebooks."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from apixo_nb.core.files import IMAGE_SUFFIXES, Downloaded, atomic, clear_parts, new_part, open_picture
from apixo_nb.core.records import SUCCESS, Image, Run
from apixo_nb.errors import ApixoError, ImageError, StorageError
from apixo_nb.text import printable

SUFFIXES = tuple(IMAGE_SUFFIXES.values())
_ELSEWHERE = frozenset("/\\:\0")
_MOST_NAMED = 50
_SIDECAR = re.compile(r"(?P<run_id>[0-9]{8}-[0-9]{6}-[0-9a-f]{8})-[0-9]+\.json")
_ATTEMPTS = 3  # to write a sidecar
_PROBE_BYTES = 4096  # a block, as an empty file fits on a full disk
_ROOM_BYTES = 8_000_000  # for one picture; the usual ones have two megabytes

THUMBNAIL_PX = 384
THUMBNAIL_QUALITY = 78  # about 20 kB of WebP for a photograph at this size, 1/80 of its PNG


class Images:
    """A folder of originals. Names are made from run id and index only, never from a server's text.

    The rows of a shared ledger are written by others, so a name in them may lead anywhere. Only `path` and
    `target` make paths of them; both refuse a name that is not a bare file name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[tuple[str, int], bytes] = {}

    def target(self, run_id: str, index: int) -> Path:
        """Where a picture goes; its suffix follows from its bytes.

        Raises
        ------
        ImageError
            The id of the run leads out of the folder.
        """
        name = f"{run_id}-{index + 1}"
        if not is_bare_name(name):
            text = f"Pictures are not stored under the id {printable(run_id, 80)}, which is no file name"
            raise ImageError(text, retryable=False, run_id=run_id)
        return self.folder / name

    def clear(self, run_id: str, index: int) -> None:
        """Remove half a picture that a killed process has left; the run must be ours."""
        clear_parts(self.target(run_id, index))

    def path(self, image: Image) -> Path:
        """The file of a picture that is on disk.

        Raises
        ------
        FileNotFoundError
            The picture has no file, or a name that is not a bare file name: it counts as not there.
        """
        if not is_bare_name(image.file):
            raise FileNotFoundError(errno.ENOENT, "Not the name of a picture", printable(image.file, 80))
        return self.folder / image.file

    def has(self, image: Image) -> bool:
        """Whether there is a file of the picture's name; `is_intact` tells whether it is the picture."""
        try:
            return self.path(image).exists()
        except OSError:  # also for a name that is too long for the file system
            return False

    def has_sidecar(self, image: Image) -> bool:
        """Whether there is a file beside the picture, for what is known of it."""
        try:
            return self.path(image).with_suffix(".json").exists()
        except OSError:
            return False

    def keep(self, run: Run, index: int, downloaded: Downloaded) -> Image:
        """Write the sidecar of a downloaded picture; returns its record.

        Raises
        ------
        ImageError
            The sidecar cannot be written.
        """
        image = Image(
            index=index,
            url=downloaded.url,
            file=downloaded.path.name,
            sha256=downloaded.sha256,
            bytes=downloaded.bytes,
            width=downloaded.width,
            height=downloaded.height,
            format=downloaded.format,
        )
        # A picture that comes again keeps its choice. A run in flight may know an older one than the file.
        beside = downloaded.path.with_suffix(".json")
        for known in (_read_image(beside), *(old for old in run.images if old.index == index)):
            if known is not None and known.index == index and known.is_chosen:
                image = image.with_choice(known)
                break
        try:
            _write_sidecar(beside, run, image)
        except OSError as error:
            text = f"The facts beside {downloaded.path.name} could not be saved: {error.strerror}"
            raise ImageError(text, unsaved=True, run_id=run.run_id, task_id=run.task_id) from None
        return image

    def rewrite_sidecar(self, run: Run, index: int) -> bool:
        """Bring the sidecar of a picture up to date; False if the picture is not here or the disk refuses."""
        for image in run.images:
            if image.index == index:
                with contextlib.suppress(OSError):
                    if self.path(image).is_file():
                        _write_sidecar(self.path(image).with_suffix(".json"), run, image)
                        return True
        return False

    def is_intact(self, run: Run, image: Image) -> bool:
        """Whether the file of a picture is here, byte for byte what was downloaded."""
        if image.file not in file_names(run.run_id, image.index):
            return False
        try:
            with self.path(image).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == image.sha256
        except OSError:
            return False

    def stored(self, runs: Iterable[Run]) -> tuple[list[tuple[Run, Image]], list[str]]:
        """The pictures of some runs that are intact, and the names of those that are not any more."""
        pictures = [(run, image) for run in runs for image in run.images if image.file]
        intact = [(run, image) for run, image in pictures if self.is_intact(run, image)]
        here = {image.file for _, image in intact}
        return intact, [image.file for _, image in pictures if image.file not in here]

    def run_ids(self) -> set[str]:
        """Ids of the runs that have a sidecar here, by the names of the files alone."""
        try:
            with os.scandir(self.folder) as files:
                found = [_SIDECAR.fullmatch(file.name) for file in files]
        except OSError:
            return set()
        return {name["run_id"] for name in found if name}

    def check_room(self, count: int) -> None:
        """Raise StorageError unless so many pictures can be stored: asked before they are paid for."""
        step = "Nothing was sent. Make room, or set APIXO_HOME or APIXO_IMAGES to another folder."
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as probe:  # nameless: a kill leaves nothing of it
                probe.write(b"\0" * _PROBE_BYTES)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise StorageError(f"Pictures cannot be stored in {self.folder}: {why}", next_step=step) from None
        if free < count * _ROOM_BYTES:
            raise StorageError(
                f"Only {free / 1e6:.0f} MB are free in {self.folder}, and {count} picture(s) may need "
                f"{count * _ROOM_BYTES / 1e6:.0f} MB",
                next_step=step,
            )

    def hold(self, run_id: str, index: int, downloaded: Downloaded) -> None:
        """Keep the thumbnail of a picture that cannot be stored, while this process lives."""
        self._held[run_id, index] = small_webp(downloaded.path, THUMBNAIL_PX)

    def held(self, run_id: str, index: int) -> str:
        """The thumbnail of a picture that could not be stored, as a data URI, or ""."""
        return data_uri(self._held.get((run_id, index), b""))

    def link(self, image: Image, start: Path | None = None) -> str:
        """A link to the original, or "" where it has no file; relative, so that both can move together.

        `start` is the folder of the page; without one it is the working folder, so that the link works from a
        notebook in it and from its export.
        """
        try:
            original = self.path(image)
        except FileNotFoundError:
            return ""
        try:
            relative = os.path.relpath(original, start)
        except ValueError:  # another drive on Windows
            return original.absolute().as_uri()
        return quote(os.fsencode(Path(relative).as_posix()))

    def thumbnails(
        self,
        pictures: Iterable[tuple[Run, Image]],
        px: int = THUMBNAIL_PX,
        *,
        start: Path | None = None,
        prompt: int = 100,
    ) -> list[Thumbnail]:
        """Pictures as templates show them, made on a few threads.

        Parameters
        ----------
        pictures : iterable of (Run, Image)
        px : int
            The side, in pixels, of the square that each of them fits.
        start : path, optional
            Where the links start; see `link`.
        prompt : int
            The characters of the prompt in the alternative text.
        """

        def make(picture: tuple[Run, Image]) -> Thumbnail:
            run, image = picture
            uri = data_uri(self.small(run.run_id, image, px))
            problem = "" if uri else GONE if image.file else "Not on disk"
            return Thumbnail(
                self.link(image, start), uri, *scaled(image, px), alt_text(run, image, prompt), problem
            )

        return in_threads(make, pictures)

    def small(self, run_id: str, image: Image, px: int) -> bytes:
        """A picture as a WebP that fits a square of `px` pixels; b"" if its file is gone or cannot be read.

        One that could not be stored is as large as it was held.
        """
        if not image.file:
            return self._held.get((run_id, image.index), b"")
        try:
            return small_webp(self.path(image), px)
        except FileNotFoundError:
            return b""


def is_bare_name(name: str) -> bool:
    """Whether it names a file of a folder, and can lead nowhere else on any system.

    Refused are separators, drives and streams (``C:x``), NUL, names that Windows cuts at their end (``..``,
    ``x.``), and texts that are no UTF-8.
    """
    with contextlib.suppress(UnicodeEncodeError):
        name.encode("utf-8")
        return name.rstrip(" .") == name != "" and _ELSEWHERE.isdisjoint(name)
    return False


def left_out(names: Sequence[str]) -> list[str]:
    """What to say of pictures whose files are not what they were: a sentence, or none."""
    if not names:
        return []
    what = f"{len(names)} picture(s) left out, as their files are missing or changed: {listed(names)}."
    return [f"{what} `%apixo doctor` looks them over."]


def check_any(stored: Sequence[object]) -> None:
    """Raise ApixoError where there is no picture to hand on."""
    if not stored:
        step = "Nothing was written. `%apixo rescue` downloads what is missing."
        raise ApixoError("None of these runs has a picture on disk", next_step=step)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence; of very many the first."""
    shown = ", ".join(printable(name, 120) for name in names[:_MOST_NAMED])
    return shown if len(names) <= _MOST_NAMED else f"{shown} and {len(names) - _MOST_NAMED} more"


def file_names(run_id: str, index: int) -> list[str]:
    """The names that a picture's file can have."""
    return [f"{run_id}-{index + 1}{suffix}" for suffix in SUFFIXES]


def sidecar_text(run: Run, image: Image) -> str:
    """What stands beside a picture: its run and its own record, as JSON."""
    # The run's own rating is that of its best picture, and would be old as soon as another one is rated.
    # A callback's address is of use to one service, and often a secret; the folder may be given away.
    content = run.model_dump(mode="json", exclude={"images", "raw", "rating", "callback_url"})
    content["image"] = image.model_dump(mode="json")
    return json.dumps(content, ensure_ascii=False, indent=1)


def _write_sidecar(path: Path, run: Run, image: Image) -> None:
    _write_whole(path, sidecar_text(run, image))


def _read_image(path: Path) -> Image | None:
    """The picture of a sidecar; None if there is none that can be read."""
    try:
        return Image.model_validate(json.loads(path.read_text("utf-8"))["image"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all; of several threads the last one wins."""
    for attempt in range(_ATTEMPTS):
        try:
            with atomic(path, part=new_part(path.with_suffix(""))) as file:
                file.write(text.encode("utf-8"))
        except FileNotFoundError:  # a download of this picture has begun anew, and cleared up before
            if attempt + 1 == _ATTEMPTS:
                raise
        else:
            return


# --- sidecars as records ----------------------------------------------------------------------------

MOST_BYTES = 8_000_000  # of one sidecar; usual ones have two thousand
_OUR_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")


def is_our_id(run_id: str) -> bool:
    """Whether it is the id of a run as we make them, and so fit to be part of a file's name."""
    return _OUR_ID.fullmatch(run_id) is not None


def runs_of_sidecars(folder: Path) -> Iterator[Run]:
    """The runs of which there are sidecars."""
    images: dict[str, dict[int, Image]] = {}
    runs: dict[str, Run] = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        found = read_sidecar(path)
        if found is not None:
            run, image = found
            runs[run.run_id] = run
            if (folder / image.file).is_file():  # `read_sidecar` has checked the name
                images.setdefault(run.run_id, {})[image.index] = image
    for run_id, run in runs.items():
        here = images.get(run_id, {})
        yield run.replace(state=SUCCESS, images=tuple(here[index] for index in sorted(here)))


def read_sidecar(path: Path) -> tuple[Run, Image] | None:
    """The run and the picture of a sidecar; None if it is none of ours."""
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        content = json.loads(path.read_text("utf-8"))
        run, image = Run.model_validate(content), Image.model_validate(content["image"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    # A sidecar may come from elsewhere: its names must be such as we make, and belong to this very file.
    ours = is_our_id(run.run_id) and path.stem == f"{run.run_id}-{image.index + 1}"
    return (run, image) if ours and image.file in file_names(run.run_id, image.index) else None


# --- thumbnails -------------------------------------------------------------------------------------

#: What is said in place of a picture that has a file name.
GONE = "Its file is gone, or cannot be read"

_WEBP_URI = "data:image/webp;base64,"
_THREADS = 4  # Pillow releases the GIL while it decodes

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture as a template shows it.

    Attributes
    ----------
    link : str
        To the original; "" if that is not on disk.
    data_uri : str
        The small picture; "" if there is none, then see `problem`.
    width, height : int
        The size at which it is shown, in CSS pixels.
    alt : str
        The alternative text: which picture it is, and its prompt.
    problem : str
        Why there is no small picture, as a sentence without its full stop.
    """

    link: str
    data_uri: str
    width: int
    height: int
    alt: str = ""
    problem: str = ""


def small_webp(path: Path, px: int) -> bytes:
    """A picture file as a WebP that fits a square of `px` pixels; b"" if it is gone or cannot be read."""
    try:
        with open_picture(path) as original:
            original.draft("RGB", (px, px))  # a JPEG is decoded no larger than needed
            original.thumbnail((px, px))
            buffer = io.BytesIO()
            mode = "RGBA" if "A" in original.getbands() else "RGB"
            original.convert(mode).save(buffer, "WEBP", quality=THUMBNAIL_QUALITY, method=4)
            return buffer.getvalue()
    except Exception:  # noqa: BLE001 - decoders raise OSError, SyntaxError, ValueError, bomb errors...
        return b""


def data_uri(content: bytes) -> str:
    """The bytes of a WebP as a data URI; "" if there are none."""
    return _WEBP_URI + base64.b64encode(content).decode("ascii") if content else ""


def scaled(image: Image, px: int) -> tuple[int, int]:
    """The width and height of a picture within a square of `px` pixels; a square if its size is not known."""
    width, height = image.width or px, image.height or px
    scale = min(1.0, px / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def number_text(run: Run, image: Image) -> str:
    """Which picture of its run it is: Picture 1 of 4."""
    return f"Picture {image.index + 1} of {max(len(run.images), len(run.result_urls))}"


def alt_text(run: Run, image: Image, characters: int) -> str:
    """Which picture it is, and its prompt as far as `characters` go."""
    return f"{number_text(run, image)}: {printable(run.prompt, characters)}"


def in_threads(make: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """What `make` makes of each item, in their order; on a few threads, for what decodes pictures."""
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(make, items))
