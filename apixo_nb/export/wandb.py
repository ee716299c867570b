"""Runs for Weights & Biases, offline: folders that ``wandb sync`` takes up. Nothing is sent from here."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from apixo_nb.core.files import is_picture
from apixo_nb.core.records import FAILED, Run
from apixo_nb.errors import ApixoError
from apixo_nb.storage.originals import Images
from apixo_nb.text import printable

from .trackers import (
    PROMPT,
    RECORD,
    Outcome,
    Pushed,
    TrackedRun,
    environment,
    not_installed,
    short,
    tracked_runs,
)

_MARK = "apixo.json"  # in a folder that was written to its end: of which run it tells, and what
_MOST_TAG = 64  # characters
_QUIET = {
    "mode": "offline",
    "silent": True,
    "console": "off",  # a cell's output is nobody's but the notebook's
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "host": "",
    "x_disable_meta": True,  # user and folders of this machine
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


def write_for_wandb(
    runs: Iterable[Run],
    images: Images,
    *,
    project: str = "apixo",
    folder: str | os.PathLike[str] = ".",
) -> Pushed:
    """Write runs as offline runs of wandb, into ``wandb`` in a folder; ``wandb sync`` brings them to it.

    A run has the same id there as here and may be resumed, so what was synced before is brought up to date.
    One that is in the folder already is written again only if anything has changed, such as a rating; the
    older one is then removed, unless it was synced.

    Raises
    ------
    ApixoError
        wandb is not installed, or refuses; what was written stays, and to do it again is safe.
    """
    told, notes = tracked_runs(runs, images)
    with environment(WANDB_ERROR_REPORTING="false"):
        wandb = _wandb()
        try:
            place = Path(folder).expanduser().absolute()
            (place / "wandb").mkdir(parents=True, exist_ok=True)  # else it would choose another folder
            pushed = Pushed(f"wandb offline in {printable(place / 'wandb', 200)}", notes=notes)
            for tracked in told:
                pushed.count(_write(wandb, tracked, project, place, images))
        except (wandb.Error, OSError, ValueError, TypeError, RuntimeError) as error:
            why = printable(getattr(error, "strerror", None) or error, 200)
            step = "What was written before stays; to do it again is safe."
            raise ApixoError(f"wandb refused: {why}", next_step=step) from None
    return pushed


def _wandb() -> Any:
    try:
        import wandb
    except ImportError:
        raise not_installed("wandb", "wandb") from None
    return wandb


def _write(wandb: Any, tracked: TrackedRun, project: str, place: Path, images: Images) -> Outcome:
    before = dict(_earlier(place, tracked.run.run_id))
    if tracked.digest in before.values():
        return "same"
    done = _offline_run(wandb, tracked, project, place, images)
    (done / _MARK).write_text(json.dumps({"run_id": tracked.run.run_id, "digest": tracked.digest}), "utf-8")
    for older in before:
        if older != done and not any(older.glob("*.synced")):
            shutil.rmtree(older, ignore_errors=True)
    return "updated" if before else "new"


def _earlier(place: Path, run_id: str) -> Iterator[tuple[Path, str]]:
    """The folders that tell of this run, each with the digest of what it tells."""
    for mark in place.glob(f"wandb/offline-run-*/{_MARK}"):
        try:
            facts = json.loads(mark.read_text("utf-8"))
            if facts["run_id"] == run_id:
                yield mark.parent, str(facts["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _offline_run(wandb: Any, tracked: TrackedRun, project: str, place: Path, images: Images) -> Path:
    """Write one; returns its folder."""
    run = tracked.run
    settings = wandb.Settings(**_QUIET, root_dir=str(place))
    there = wandb.init(
        project=project,
        id=run.run_id,
        resume="allow",
        reinit="create_new",  # a run of yours in this kernel goes on
        name=run.name or run.run_id,
        group=run.name or None,
        notes=run.note or None,
        tags=[tag[:_MOST_TAG] for tag in dict.fromkeys(run.tags)],
        config=_config(tracked),
        settings=settings,
    )
    try:
        for name, content in {PROMPT: tracked.prompt_bytes, RECORD: _json(tracked.record)}.items():
            file = Path(there.dir, name)
            file.write_bytes(content)
            there.save(str(file), base_path=there.dir, policy="now")
        caption = short(run.prompt)
        for image in tracked.pictures:
            path = images.path(image)
            if is_picture(path):  # wandb opens any format, as `open_picture` does not
                shown = wandb.Image(str(path), caption=caption)
                there.log({f"picture_{image.index + 1}": shown}, step=0)
        there.summary.update(_summary(tracked))
        return Path(there.settings.sync_dir)
    finally:
        there.finish(exit_code=int(run.state == FAILED))


def _config(tracked: TrackedRun) -> dict[str, Any]:
    """What was asked for, whole: its fields are not cut."""
    run, record = tracked.run, tracked.record
    names = ("run_id", "model", "prompt", "prompt_template", "variables", "parameters", "image_urls", "take")
    times = ("created_at", "submitted_at", "sandbox", "unit_price_micros")
    return {**run.parameters, **{name: record[name] for name in (*names, *times)}}


def _summary(tracked: TrackedRun) -> dict[str, Any]:
    """How it ended; what is not known, or was taken back, is None."""
    record = tracked.record
    names = ("state", "task_id", "finished_at", "fail_code", "fail_msg", "name", "tags", "note", "rating")
    known = dict.fromkeys(("cost_time_ms", "wait_ms", "cost_usd")) | tracked.figures
    choices = [{"picture": image.index + 1, **image.choice} for image in tracked.run.images]
    return {**known, **{name: record[name] for name in names}, "choices": choices}


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=1).encode()
