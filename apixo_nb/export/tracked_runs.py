"""What experiment trackers are told of a run, whichever it is: short facts in fields, the rest in files.

Their fields are cut at some thousand characters, silently, so prompts go along as files. Callback addresses,
queries of addresses and the names of notebooks stay here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from apixo_nb.core.records import PLANNED, Image, Run, checked_runs
from apixo_nb.errors import ApixoError
from apixo_nb.storage.originals import Images, left_out
from apixo_nb.text import bare_address, redacted, to_usd

PROMPT, RECORD = "prompt.txt", "run.json"  # the files beside the pictures
SHORT = 250  # characters that fit a field of any tracker, and a column on the screen

Outcome = Literal["new", "updated", "same"]


@dataclass(slots=True)
class Pushed:
    """What came of it: runs that are new there, that were brought up to date, that were there as they are.

    `notes` names the pictures that had to be left out.
    """

    place: str
    new: int = 0
    updated: int = 0
    same: int = 0
    notes: list[str] = field(default_factory=list)

    def count(self, outcome: Outcome) -> None:
        """One more run of that outcome."""
        setattr(self, outcome, getattr(self, outcome) + 1)

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{self.place}: {self.new} new, {self.updated} updated, {self.same} there already.",
            *self.notes,
        ]


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A run with the pictures of it that are intact."""

    run: Run
    pictures: tuple[Image, ...]

    @property
    def digest(self) -> str:
        """Changes whenever there is something to tell."""
        facts = [self.record, [image.sha256 for image in self.pictures]]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def prompt_bytes(self) -> bytes:
        """The prompt, for a file of its own."""
        return self.run.prompt.encode("utf-8", "replace")

    @property
    def record(self) -> dict[str, Any]:
        """All that is known of the run, as JSON, but for what stays here."""
        run = self.run
        facts = run.model_dump(mode="json", exclude={"callback_url", "notebook"})
        for image in facts["images"]:
            image |= {"url": bare_address(image["url"]), "error": redacted(image["error"], run.callback_url)}
        texts = {name: redacted(facts[name], run.callback_url) for name in ("fail_code", "fail_msg")}
        addresses = {name: [*map(bare_address, facts[name])] for name in ("image_urls", "result_urls")}
        return {**facts, **texts, **addresses, "raw": _answer(run)}

    @property
    def inputs(self) -> dict[str, str]:
        """What was asked for, in short texts: never changes."""
        run = self.run
        request = {"model": run.model, **{name: str(value) for name, value in run.parameters.items()}}
        request |= {"references": str(len(run.image_urls)), "take": str(run.take)}
        request |= {f"variable.{name}": value for name, value in run.variables.items()}
        return {name: short(value) for name, value in request.items()}

    @property
    def figures(self) -> dict[str, float]:
        """Numbers to compare, as far as they are known; times are milliseconds."""
        run = self.run
        known = {
            "cost_time_ms": run.cost_time_ms,
            "wait_ms": run.wait_ms,
            "cost_usd": None if run.cost_micros is None else to_usd(run.cost_micros),
            "pictures": len(self.pictures),
            "rating": run.rating,
        }
        return {name: float(value) for name, value in known.items() if value is not None}

    @property
    def labels(self) -> dict[str, str]:
        """What it is, how it ended and what people say of it, in short texts: may change."""
        run, record = self.run, self.record
        facts = {
            "run_id": run.run_id,
            "task_id": run.task_id or "",
            "state": run.state,
            "fail_code": record["fail_code"],
            "fail_msg": record["fail_msg"],
            "sandbox": str(run.sandbox).lower(),
            "name": run.name,
            "tags": ", ".join(run.tags),
            "note": run.note,
            "rating": "" if run.rating is None else str(run.rating),
            "starred": ", ".join(str(image.index + 1) for image in run.images if image.starred),
            "prompt": run.prompt,
            "prompt_sha256": hashlib.sha256(self.prompt_bytes).hexdigest(),
        }
        return {name: short(value) for name, value in facts.items()}


def _answer(run: Run) -> str:
    """APIXO's last answer without the queries of addresses; JSON in it may be text in JSON."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without(part) for name, part in value.items()}
        if isinstance(value, list):
            return [without(part) for part in value]
        if not isinstance(value, str):
            return value
        with contextlib.suppress(ValueError, RecursionError):
            inner = json.loads(value)
            if isinstance(inner, (dict, list)):
                return json.dumps(without(inner), ensure_ascii=False)
        return redacted(value, run.callback_url)

    try:
        return json.dumps(without(json.loads(run.raw)), ensure_ascii=False)
    except (ValueError, RecursionError):
        return redacted(run.raw, run.callback_url)


def short(text: str) -> str:
    """As much of a text as fits a field; the whole of it is in a file."""
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"


def tracked_runs(runs: Iterable[Run], images: Images) -> tuple[list[TrackedRun], list[str]]:
    """Runs with their pictures, and what there is to say of pictures that are not as they were.

    Runs that were never sent are none. A run that is given twice counts once.

    Raises
    ------
    InvalidRequestError
        One of them is no run.
    """
    once = {run.run_id: run for run in checked_runs(runs) if run.state != PLANNED}
    stored, gone = images.stored(once.values())
    intact: dict[str, list[Image]] = {}
    for run, image in stored:
        intact.setdefault(run.run_id, []).append(image)
    found = [TrackedRun(run, tuple(intact.get(run_id, ()))) for run_id, run in once.items()]
    return found, left_out(gone)


def not_installed(library: str, extra: str) -> ApixoError:
    """The error where a tracker's library is missing."""
    step = f"Run `pip install 'apixo-nb[{extra}]'`, then try again; nothing was written."
    return ApixoError(f"{library} is not installed", next_step=step)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Settings of a library for the time in which it looks at them; what you have set yourself stands."""
    ours = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
