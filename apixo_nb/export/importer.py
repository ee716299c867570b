"""Runs and pictures from another ledger, merged into this one by the ids of the runs."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from apixo_nb.core.files import IMAGE_SUFFIXES, Limits, atomic, verify
from apixo_nb.core.models import RESULT_DAYS
from apixo_nb.core.records import (
    BEST,
    PLANNED,
    SCHEMA_VERSION,
    SUBMITTED,
    SUBMITTING,
    UNKNOWN,
    Image,
    Run,
    utc_now,
)
from apixo_nb.errors import ApixoError, ImageError
from apixo_nb.ledger.ledger import Ledger
from apixo_nb.storage.originals import Images, file_names, is_our_id, read_sidecar
from apixo_nb.text import dollars, is_loopback, printable, storable

from .bundle import BundleReader, not_a_bundle, open_bundle

_LIMITS = Limits()
_MOST_PICTURES = 100  # of one run
# What a number may be at most: its column takes it, and sums of very many such runs are still numbers.
_MOST_MICROS = 10**12  # of money
_MOST_MS = 366 * 86_400_000
_MOST_INT32 = (1 << 31) - 1
_MOST: dict[str, int] = {
    "unit_price_micros": _MOST_MICROS,
    "cost_micros": _MOST_MICROS,
    "cost_time_ms": _MOST_MS,
    "wait_ms": _MOST_MS,
    "take": 10**9,  # the next one has room as well
    "cell_position": 10**6,
    "rating": BEST,
    "schema_version": SCHEMA_VERSION,
}
_MOST_PICTURE = {"bytes": 10**12, "width": _MOST_INT32, "height": _MOST_INT32}
# An index of a database takes no long text.
_MOST_LETTERS = {"task_id": 500, "state": 100, "cell_id": 500, "rerun_of": 64, "service_state": 200}
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(days=1)  # of a clock that is wrong
_MOST_SAID = 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True)
class Imported:
    """What came of an import.

    Attributes
    ----------
    added, gained, same : int
        Runs that are new here; that were here and have gained something; that were here already as they are.
    pictures : int
        Pictures that were copied.
    cost_micros : int
        What the new runs have cost, or may have, but for those of a sandbox; it counts towards budgets.
    problems : list of str
        What was left out, and why.
    """

    added: int = 0
    gained: int = 0
    same: int = 0
    pictures: int = 0
    cost_micros: int = 0
    problems: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        others = f"{self.gained} run(s) brought up to date, {self.same} here already"
        said = [f"{self.added} run(s) and {self.pictures} picture(s) added; {others}."]
        if self.cost_micros:
            cost = dollars(self.cost_micros)
            said.append(f"The new runs stand for {cost}, which counts towards total budgets here.")
        if self.problems:
            said.append(f"{len(self.problems)} thing(s) left out:")
            said += [f"  {problem}" for problem in self.problems[:_MOST_SAID]]
        return said


def import_bundle(path: str | os.PathLike[str], ledger: Ledger, images: Images) -> Imported:
    """Take runs and pictures from a ZIP bundle, or from a folder of pictures with their facts.

    A run that is not here is added, a run of the sandbox with its mark. One that has ended here is left as it
    is, but gains the pictures it lacks, and a choice where it has none. One that is open here stays open, and
    gains nothing: what was paid for ends by the service's word, or a person's. So twice is once. A picture is
    copied and checked against its sha256 before a row says that it is here.

    Imported runs count as if they were made here: in `spend`, in the total budget, in that of the day they
    were made and of the notebook they name. This ledger cannot tell who has paid, most bundles are one's own
    from another machine, and a budget should rather stop too early than too late: raise it if the money
    was somebody else's. They are replayed as well: a cell that asks for the same shows them at $0.

    Raises
    ------
    ApixoError
        There is nothing that can be imported, or it was written by a newer apixo_nb. What was imported
        until then stays; to import it again is safe.
    LedgerError
        The ledger cannot be written.
    """
    place = _place(path)
    done = Imported()
    ledger.merge_journal()  # a task that is known only there is known
    with open_bundle(place) as reader:
        images.folder.mkdir(parents=True, exist_ok=True)
        for found in reader.runs():
            try:
                run = _checked(found)
            except _RefusedError as refused:
                done.problems.append(f"{refused}")
                continue
            _take(run, _ImportState(reader, ledger, images, done))
    if not done.added + done.gained + done.same + len(done.problems):
        raise not_a_bundle(place, "there is no run in it")
    return done


def _place(path: object) -> Path:
    if not isinstance(path, (str, os.PathLike)) or "\0" in str(path):
        raise not_a_bundle(path, "it is no file name")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise not_a_bundle(path, "it names a user that does not exist") from None


# --- is it a run? -----------------------------------------------------------------------------------


class _RefusedError(Exception):
    """Why one thing is left out."""


def _checked(found: Run | str) -> Run:
    """A run that may go into the ledger: every name and number of it such as we make."""
    if isinstance(found, str):
        raise _RefusedError(found)
    name = f"run {printable(found.run_id, 40)}"
    if found.schema_version > SCHEMA_VERSION:
        theirs = printable(found.schema_version, 20)
        text = f"A newer apixo_nb has written this (its schema is {theirs}, ours is {SCHEMA_VERSION})"
        raise ApixoError(text, next_step="Update apixo_nb, then import it again.")
    if problem := _problem(found):
        raise _RefusedError(f"{name}: {problem}")
    try:
        run = _as_ours(found)
        problem = _problem_of_ours(run)
    except (ValueError, TypeError, OverflowError):
        raise _RefusedError(f"{name}: it has a value that cannot be") from None
    if problem:
        raise _RefusedError(f"{name}: {problem}")
    return run


def _problem(found: Run) -> str:
    """What cannot be so in a record as it has come, or ""."""
    if not is_our_id(found.run_id):
        return "that is no id of ours"
    indexes = [image.index for image in found.images]
    if len(set(indexes)) < len(indexes) or not all(0 <= index < _MOST_PICTURES for index in indexes):
        return "its pictures are not numbered as ours are"
    if not all(_is_picture(found.run_id, image) for image in found.images):
        return "a picture of it does not have the name or the numbers of ours"
    if found.sandbox and not all(map(_is_local, found.result_urls)):
        return "no sandbox has made it, as its pictures' addresses are elsewhere"
    if any(len(getattr(found, field) or "") > most for field, most in _MOST_LETTERS.items()):
        return "it has a text that is too long"
    return "" if _is_bounded(found, _MOST) else "it has a number that cannot be"


def _problem_of_ours(run: Run) -> str:
    """The same, of what follows from the rest; raises ValueError, TypeError or OverflowError too."""
    if not (0 <= run.num_images <= _MOST_PICTURES and run.price_micros <= _MOST_MICROS):
        return "it has a number that cannot be"
    return "" if _is_timely(run) else "it has a time that cannot be"


def _is_bounded(record: Run | Image, most: dict[str, int]) -> bool:
    values = ((getattr(record, name), bound) for name, bound in most.items())
    return all(value is None or 0 <= value <= bound for value, bound in values)


def _is_timely(run: Run) -> bool:
    """Whether it was made when its id says, and no time of it is one that nobody has lived to see."""
    stamp = datetime.strptime(run.run_id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
    latest = utc_now() + _AHEAD
    times = (run.created_at, run.bought_at, run.submitted_at, run.finished_at)
    seen = [time for time in times if time is not None]
    ends = [run.expires_at - timedelta(days=RESULT_DAYS)] if run.expires_at else []
    timely = all(_EARLIEST <= time <= latest for time in (*seen, *ends))
    return timely and run.created_at.replace(microsecond=0) == stamp


def _is_picture(run_id: str, image: Image) -> bool:
    named = image.file == "" or (
        image.file in file_names(run_id, image.index) and bool(_SHA256.fullmatch(image.sha256))
    )
    rated = image.rating is None or 1 <= image.rating <= BEST
    return named and rated and _is_bounded(image, _MOST_PICTURE)


def _is_local(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname)
    except ValueError:
        return False


def _as_ours(run: Run) -> Run:
    """What follows from the rest is worked out anew, and what is of no use here is dropped."""
    clean = Run.model_validate({name: _clean(value) for name, value in run.model_dump().items()})
    lost = clean.state == SUBMITTING  # somewhere else; nobody here waits for the answer
    ratings = [image.rating for image in clean.images if image.rating is not None]
    without_task = not clean.task_id or clean.state not in (PLANNED, SUBMITTING, UNKNOWN)
    return clean.replace(
        state=(UNKNOWN if lost else clean.state) if without_task else SUBMITTED,
        fail_msg=clean.fail_msg or ("Imported before its submit was answered" if lost else ""),
        callback_url=None,
        digest=clean.request.digest(),
        rating=max(ratings, default=None),
        schema_version=SCHEMA_VERSION,
    )


def _clean(value: Any) -> Any:
    """Text that any database takes, and times that are UTC."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    if isinstance(value, dict):
        return {_clean(name): _clean(part) for name, part in value.items()}
    return [_clean(part) for part in value] if isinstance(value, (list, tuple)) else value


# --- and in it goes ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ImportState:
    """Where from, where to, and what has come of it so far."""

    reader: BundleReader
    ledger: Ledger
    images: Images
    done: Imported


def _take(run: Run, state: _ImportState) -> None:
    known = state.ledger.get(run.run_id)
    if known is not None and (refused := _refusal(known, run, state)) is not None:
        state.done.problems += [f"run {run.run_id}: {refused}"] if refused else []
        state.done.same += not refused
        return
    copied = state.done.pictures
    run = run.replace(images=tuple(_with_file(run, image, known, state) for image in run.images))
    copied = state.done.pictures - copied
    if known is None:
        run = run.replace(images=tuple(_with_beside(run, image, state.images) for image in run.images))
        for image in run.images:
            state.images.rewrite_sidecar(run, image.index)
        state.ledger.insert(run)
        state.done.added += 1
        state.done.cost_micros += 0 if run.sandbox else (run.cost_micros or 0) + run.at_stake_micros
        return
    gained = _merge(run, known, state.ledger)
    merged = state.ledger.get(run.run_id) or known
    for image in merged.images:
        if image.file and (gained or copied or not state.images.has_sidecar(image)):
            state.images.rewrite_sidecar(merged, image.index)
    state.done.gained += bool(gained or copied)
    state.done.same += not (gained or copied)


def _is_same(known: Run, run: Run) -> bool:
    """Whether two records are about one run; an id alone can be made up."""
    tasks = {task for task in (known.task_id, run.task_id) if task}
    facts = ("created_at", "digest", "sandbox")
    return len(tasks) < 2 and all(getattr(known, name) == getattr(run, name) for name in facts)


def _refusal(known: Run, run: Run, state: _ImportState) -> str | None:
    """Why a known run stays as it is; "" where that needs no word, None if it may gain something."""
    if not _is_same(known, run):
        return "another run of that id is here"
    if not run.is_final or (known.is_final and known.state != run.state):
        return ""
    if run.run_id in state.ledger.leases.held():
        return "it is worked on here; import it once more afterwards"
    if not known.is_final:
        return "it is open here; bring it to its end with `%apixo resume`, then import it once more"
    return None


def _merge(run: Run, known: Run, ledger: Ledger) -> bool:
    """Give a known run that has ended the pictures and choices that it lacks; False if there are none."""
    here = {image.index: image for image in known.images}
    news = tuple(image for image in run.images if _is_news(image, here.get(image.index)))
    return bool(news) and ledger.catch_up(known.replace(images=news))


def _is_news(image: Image, known: Image | None) -> bool:
    if known is None:
        return True
    return bool(image.file and not known.file) or (image.is_chosen and not known.is_chosen)


def _with_beside(run: Run, image: Image, images: Images) -> Image:
    """A picture with the choice that stands beside it here: its row was lost, and comes back."""
    facts = read_sidecar(images.path(image).with_suffix(".json")) if image.file else None
    if facts is None or facts[0].run_id != run.run_id or image.is_chosen:
        return image
    return image.with_choice(facts[1])


# --- its pictures -----------------------------------------------------------------------------------


def _with_file(run: Run, image: Image, known: Run | None, state: _ImportState) -> Image:
    """The record of a picture once its file is here; without a file if it does not get here."""
    here = [old for old in known.images if old.index == image.index and old.file] if known else []
    wanted = here[0] if here else image
    if not image.file:
        return _without_file(image, image.error)
    if state.images.is_intact(run, wanted):
        return image
    if here and image.sha256 != wanted.sha256:
        return image
    try:
        _copy(wanted, state)
    except _RefusedError as refused:
        state.done.problems.append(f"picture {wanted.file}: {refused}")
        return _without_file(image, f"Not imported: {refused}")
    state.done.pictures += 1
    return image


def _without_file(image: Image, error: str) -> Image:
    return Image(index=image.index, url=image.url, error=error, **image.choice)


def _copy(image: Image, state: _ImportState) -> None:
    """Bring a picture into the folder, whole and checked, or not at all."""
    if os.path.lexists(state.images.path(image)):
        raise _RefusedError("another file of that name is here")
    try:
        with atomic(state.images.path(image)) as file:
            digest = hashlib.sha256()
            for data in _bounded(state.reader.picture(image.file)):
                digest.update(data)
                file.write(data)
            if digest.hexdigest() != image.sha256:
                raise _RefusedError("its bytes are not those that its run tells of")
            file.flush()
            _, kind = verify(Path(file.name), _LIMITS)
            if IMAGE_SUFFIXES[kind] != Path(image.file).suffix:
                raise _RefusedError(f"it is a {kind}, and its name says something else")
    except FileNotFoundError:
        raise _RefusedError("it is not in there") from None
    except ImageError as error:
        raise _RefusedError(error.message) from None
    except OSError as error:
        raise _RefusedError(error.strerror or str(error)) from None


def _bounded(parts: Iterator[bytes]) -> Iterator[bytes]:
    received = 0
    for part in parts:
        received += len(part)
        if received > _LIMITS.max_bytes:
            raise _RefusedError(f"it is larger than {_LIMITS.max_bytes // 1_000_000} MB")
        yield part
