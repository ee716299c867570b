"""The output of a sweep: one line while it runs, then a summary and a small gallery that last."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from apixo_nb.analysis.pivot import axis_names, axis_value
from apixo_nb.core.formatting import render
from apixo_nb.core.records import Image, Run
from apixo_nb.engine.job import Job
from apixo_nb.session.session import Session
from apixo_nb.storage.originals import data_uri, scaled
from apixo_nb.text import dollars, printable

from .plan import Plan
from .progress import Failure, Forecast, Progress, Status, about, cell_label, failures, progress_of, status_of

SMALL_PX = 160
_GALLERY_CHARACTERS = 900_000  # of the gallery together: a saved notebook stays light
_AT_A_TIME = 4  # pictures made small between two redrawings
_BODIES = 2  # requests that a dry run shows in full
_ROWS = 50  # cells that it lists
_FILES = 12  # named in a terminal


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture of the gallery: a link to the original, a small one as a data URI, and words."""

    link: str
    data_uri: str
    width: int
    height: int
    caption: str
    title: str
    alt: str


class SweepOutput:
    """What the output of a sweep shows; the subject of a `live.Watch`.

    `jobs` and `bought`, those of them that are paid for now, may be filled after the first line is shown.
    """

    draws_bar = True

    def __init__(self, session: Session, plan: Plan, jobs: Sequence[Job], bought: Sequence[Job]) -> None:
        self.jobs = jobs
        self._session = session
        self._plan = plan
        self._bought = bought
        runs = [decision.run for decision in plan.decisions]
        self._names = axis_names(runs)
        self._takes = len({run.digest for run in runs}) < len(runs)
        limiter = session.runner.rate_limiter if plan.bought else None
        self._forecast = Forecast(_expected_s(session, runs), limiter)
        self._small: dict[tuple[str, int], str] = {}

    # --- on its way ---

    def line(self, elapsed_s: float) -> dict[str, str]:
        """One line for all: counts, money, the expected end."""
        self._make_some_small()
        progress = progress_of(self.jobs, self._bought)
        left = about(self._forecast.left_s(self.jobs, time.monotonic()))
        words = (
            [*progress.words(), progress.money(), f"{elapsed_s:.0f} s, {left}"] if self.jobs else ["Starting"]
        )
        sandbox = any(decision.run.sandbox for decision in self._plan.decisions)
        html = render(
            "sweep_progress.html",
            summary=self._plan.summary,
            words=words,
            sandbox=sandbox,
            bar=[f"{100 * part:.1f}" for part in self._bar(progress)],
        )
        where = "SANDBOX · " if sandbox else ""
        return {"text/html": html, "text/plain": f"{where}Sweep: {' · '.join(words)}"}

    def _bar(self, progress: Progress) -> tuple[float, float, float]:
        """The shares of what is done, of what came to nothing, and of what is on its way."""
        total = max(1, progress.total)
        done = progress.counts[Status.DONE] / total
        nothing = (progress.ended - progress.counts[Status.DONE]) / total
        return done, nothing, max(0.0, self.share(0.0) - done - nothing)

    def news(self) -> str:
        """Counts alone, in steps of a tenth."""
        progress = progress_of(self.jobs, self._bought)
        tenth = progress.total * (10 * progress.ended // max(1, progress.total)) // 10
        return f"Sweep of {progress.total}: {tenth or 'none'} ended" + (" or more" if tenth else " yet")

    def share(self, _elapsed_s: float) -> float:
        """How full the bar is."""
        return self._forecast.share(self.jobs, time.monotonic())

    # --- at its end ---

    @property
    def summary(self) -> str:
        """How it stands, in one line."""
        progress = progress_of(self.jobs, self._bought)
        again = ["run it again for what is missing"] if progress.counts[Status.STOPPED] else []
        return " · ".join([self._plan.size, *progress.words(), *self._plan.free, progress.money(), *again])

    @property
    def failures(self) -> list[Failure]:
        """What went wrong, grouped."""
        return failures(self.jobs, self._names, take=self._takes)

    def lasting(self) -> dict[str, str]:
        """The summary, what went wrong, and a gallery of small pictures."""
        pictures = [(job, image) for job in self.jobs for image in job.run.images if image.file]
        shown = _that_fit(self._tile(job, image) for job, image in pictures)
        kept = {_key(job, image) for job, image in pictures[: len(shown)]}
        for key in list(self._small):
            if key not in kept:
                self._small.pop(key, None)
        html = render(
            "sweep.html",
            summary=self.summary,
            sandbox=any(job.run.sandbox for job in self.jobs),
            failures=self.failures,
            tiles=shown,
            more=len(pictures) - len(shown),
        )
        return {"text/html": html, "text/plain": self.lasting_text()}

    def lasting_text(self) -> str:
        """The same without pictures."""
        sign = "⚠" if self.failures else "✓"
        where = "SANDBOX · " if any(job.run.sandbox for job in self.jobs) else ""
        files = [self._session.shown_path(file) for job in self.jobs for file in job.run.files]
        lines = [f"{sign} {where}{self.summary}", *(f"  {failure}" for failure in self.failures)]
        lines += [f"  {path}" for path in files[:_FILES]]
        return "\n".join([*lines, *([f"  and {len(files) - _FILES} more"] if len(files) > _FILES else [])])

    def check(self) -> None:
        """Raise the first error if nothing came at all; else what failed is in the summary."""
        if self.jobs and not any(status_of(job) == Status.DONE or job.run.files for job in self.jobs):
            self.jobs[0].wait()

    # --- pictures ---

    def _make_some_small(self) -> None:
        """Make a few more pictures small, of runs that have ended, while there is room in the gallery."""
        if sum(map(len, self._small.values())) >= _GALLERY_CHARACTERS:
            return
        left = (
            (job, image)
            for job in self.jobs
            for image in job.run.images
            if job.done and image.file and _key(job, image) not in self._small
        )
        for job, image in list(itertools.islice(left, _AT_A_TIME)):
            self._make_small(job, image)

    def _make_small(self, job: Job, image: Image) -> str:
        """The small picture of one that is there, as a data URI; made once while it is shown."""
        made = self._small.get(_key(job, image))
        if made is None:
            made = data_uri(self._session.images.small(job.run.run_id, image, SMALL_PX))
            self._small[_key(job, image)] = made
        return made

    def _tile(self, job: Job, image: Image) -> Tile:
        run = job.run
        words = [printable(axis_value(run, name), 40) for name in self._names]
        words += [f"take {run.take}"] if self._takes else []
        words += [f"{image.index + 1} of {len(run.files)}"] if len(run.files) > 1 else []
        width, height = scaled(image, SMALL_PX)
        return Tile(
            link=self._session.images.link(image),
            data_uri=self._make_small(job, image) if job.done else "",
            width=width,
            height=height,
            caption=" · ".join(word for word in words if word) or printable(run.prompt, 60),
            title=cell_label(run, self._names, take=self._takes),
            alt=printable(run.prompt, 120),
        )


def _key(job: Job, image: Image) -> tuple[str, int]:
    return job.run.run_id, image.index


def _that_fit(tiles: Iterable[Tile]) -> list[Tile]:
    """The first ones that are together as light as a saved notebook should be; asks for one more at most."""
    room, found = _GALLERY_CHARACTERS, []
    for tile in tiles:
        room -= (
            len(tile.data_uri) + len(tile.caption) + len(tile.title) + len(tile.alt) + len(tile.link) + 500
        )
        if room < 0:
            break
        found.append(tile)
    return found


def _expected_s(session: Session, runs: Sequence[Run]) -> float:
    """How long the slowest kind of its tasks usually takes."""
    kinds = {(run.model, run.num_images, bool(run.image_urls)): run for run in runs}
    return max((session.cadence_of(run).expected_s for run in kinds.values()), default=0.0)


# --- a plan -----------------------------------------------------------------------------------------


def plan_bundle(plan: Plan, base_url: str) -> dict[str, str]:
    """What a dry run shows: progress_of and cost, a table of the cells, the first requests."""
    runs = [decision.run for decision in plan.decisions]
    names = axis_names(runs)
    rows = [
        {
            "cells": [*(printable(axis_value(run, name), 60) for name in names), f"{run.take}"],
            "prompt": printable(run.prompt, 100),
            "cost": _WORDS[decision.action] if decision.action != "buy" else dollars(run.price_micros),
        }
        for decision in plan.decisions[:_ROWS]
        for run in [decision.run]
    ]
    distinct = list({run.digest: run for run in runs}.values())[:_BODIES]
    requests = [
        {
            "address": f"{base_url}/generateTask/{run.model}",
            "body": json.dumps(run.request.body(), ensure_ascii=False, indent=2),
        }
        for run in distinct
    ]
    values: dict[str, Any] = {
        "summary": plan.summary,
        "names": names,
        "rows": rows,
        "more": max(0, len(runs) - _ROWS),
        "requests": requests,
    }
    return {"text/html": render("sweep_plan.html", **values), "text/plain": _plan_text(**values)}


_WORDS = {"show": "stored, $0", "follow": "open, $0", "leave": "left out"}


def _plan_text(
    summary: str, names: list[str], rows: list[dict[str, Any]], more: int, requests: list[dict[str, str]]
) -> str:
    lines = [f"Dry run, nothing was sent. {summary}"]
    for row in rows:
        values = ", ".join(f"{name}={value}" for name, value in zip(names, row["cells"], strict=False))
        take = f"take {row['cells'][-1]}"
        lines.append(
            f"  {', '.join(part for part in (values, take) if part)} · {row['cost']} · {row['prompt']}"
        )
    lines += [f"  and {more} more"] if more else []
    lines += [f"POST {request['address']}\n{request['body']}" for request in requests]
    return "\n".join(lines)
