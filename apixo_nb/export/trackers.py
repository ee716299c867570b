"""Runs in experiment trackers: MLflow, and Weights & Biases."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from apixo_nb.core.files import is_picture
from apixo_nb.core.records import CANCELLED, FAILED, SUCCESS, TIMEOUT, UNKNOWN, Run
from apixo_nb.errors import ApixoError
from apixo_nb.storage.originals import Images
from apixo_nb.text import printable, without_secrets

from .tracked_runs import (
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

# --- MLflow -----------------------------------------------------------------------------------------

_STATUS = {SUCCESS: "FINISHED", FAILED: "FAILED", UNKNOWN: "KILLED", CANCELLED: "KILLED", TIMEOUT: "KILLED"}
_ID, _DIGEST, _PICTURES = "apixo.run_id", "apixo.digest", "apixo.pictures"
_ODD = re.compile(r"[^\w.\- ]")  # what the name of a parameter cannot hold
_PAGE = 1000


def push_to_mlflow(
    runs: Iterable[Run], images: Images, *, experiment: str = "apixo", tracking_uri: str | None = None
) -> Pushed:
    """Bring runs to MLflow: parameters, times, cost, ratings, the whole prompt, the pictures.

    A run that is there already is brought up to date if anything has changed, such as a rating; what has not
    changed is not sent again. Start and end are those of the run. A run that failed is FAILED there; one
    whose end nobody knows is KILLED, one that is under way RUNNING.

    Parameters
    ----------
    runs : iterable of Run
    images : Images
        The originals.
    experiment : str
        Made if there is none of that name.
    tracking_uri : str, optional
        MLflow's address, or the name of an SQLite file ending in .db; default: what MLflow is set to.

    Raises
    ------
    ApixoError
        MLflow is not installed, or refuses; what was brought there stays, and to do it again is safe.
    """
    chosen, notes = tracked_runs(runs, images)
    mlflow = _mlflow()
    address = _address(mlflow, tracking_uri)
    shown = without_secrets(address).strip("'\"")
    pushed = Pushed(f"MLflow at {shown}, experiment {printable(experiment, 60)}", notes=notes)
    try:
        client = mlflow.MlflowClient(address)
        where = _experiment(client, experiment, address)
        known = _known(client, where)
        for tracked in chosen:
            pushed.count(_push(client, where, tracked, known.get(tracked.run.run_id), images))
    except (mlflow.exceptions.MlflowException, OSError) as error:
        done = f"{pushed.new + pushed.updated} run(s) were brought there before; to do it again is safe."
        why = printable(without_secrets(str(error)).strip("'\""), 200)
        raise ApixoError(f"MLflow at {shown} refused: {why}", next_step=done) from None
    return pushed


def _mlflow() -> Any:
    try:
        with environment(MLFLOW_DISABLE_TELEMETRY="true"):  # nothing is sent but what was asked for
            import mlflow
    except ImportError:
        raise not_installed("MLflow", "mlflow") from None
    return mlflow


def _address(mlflow: Any, given: str | None) -> str:
    if given is None:
        return str(mlflow.get_tracking_uri())
    if "://" not in given and Path(given).suffix in (".db", ".sqlite"):
        return f"sqlite:///{Path(given).expanduser().absolute()}"
    return given


def _experiment(client: Any, name: str, address: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # Files beside the database, not in whatever folder the kernel happens to work.
    beside = None
    if address.startswith("sqlite:///"):
        beside = (Path(address.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=beside))


def _known(client: Any, where: str) -> dict[str, Any]:
    """The runs that are there, by the ids of ours."""
    found: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_runs([where], f"tags.`{_ID}` LIKE '%'", max_results=_PAGE, page_token=token)
        found.update((run.data.tags[_ID], run) for run in page)
        token = page.token
        if not token:
            return found


def _push(client: Any, where: str, tracked: TrackedRun, there: Any, images: Images) -> Outcome:
    known = there.data.tags if there is not None else {}
    if known.get(_DIGEST) == tracked.digest:
        return "same"
    run = tracked.run
    if there is None:
        name = run.name or run.run_id
        tags = {_ID: run.run_id}
        there = client.create_run(
            where, start_time=_ms(run.submitted_at or run.created_at), tags=tags, run_name=name
        )
    _files(client, there.info.run_id, tracked, known, images)
    _fields(client, there, tracked)
    _end(client, there.info.run_id, run)
    # Last: without it all is done again, which changes nothing that is there.
    client.set_tag(there.info.run_id, _DIGEST, tracked.digest)
    return "updated" if known.get(_DIGEST) else "new"


def _files(client: Any, there: str, tracked: TrackedRun, known: dict[str, str], images: Images) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, PROMPT).write_bytes(tracked.prompt_bytes)
        Path(folder, RECORD).write_text(json.dumps(tracked.record, indent=1), "utf-8")
        client.log_artifacts(there, folder)
    hashes = " ".join(image.sha256 for image in tracked.pictures)
    if hashes and known.get(_PICTURES) != hashes:
        for image in tracked.pictures:
            client.log_artifact(there, str(images.path(image)), "pictures")
        client.set_tag(there, _PICTURES, hashes)


def _fields(client: Any, there: Any, tracked: TrackedRun) -> None:
    mlflow = _mlflow()
    now = _ms(datetime.now().astimezone())
    figures = dict(tracked.figures)
    if "rating" in there.data.metrics and "rating" not in figures:
        figures["rating"] = float("nan")  # it was taken back; a metric cannot be
    changed = {name: value for name, value in figures.items() if there.data.metrics.get(name) != value}
    inputs = {_ODD.sub("_", name): value for name, value in tracked.inputs.items()}
    labels = {f"apixo.{name}": value for name, value in tracked.labels.items()}
    if tracked.run.note:
        labels["mlflow.note.content"] = tracked.run.note[:5000]
    client.log_batch(
        there.info.run_id,
        metrics=[mlflow.entities.Metric(name, value, now, 0) for name, value in changed.items()],
        params=[mlflow.entities.Param(*pair) for pair in inputs.items() if pair[0] not in there.data.params],
        tags=[mlflow.entities.RunTag(*pair) for pair in labels.items()],
    )


def _end(client: Any, there: str, run: Run) -> None:
    status = _STATUS.get(run.state)
    if status is None:
        client.update_run(there, status="RUNNING")
    else:
        client.set_terminated(there, status, _ms(run.finished_at or run.submitted_at or run.created_at))


def _ms(when: datetime) -> int:
    """As MLflow tells times: milliseconds since 1970."""
    return round(when.timestamp() * 1000)


# --- Weights & Biases -------------------------------------------------------------------------------

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
    chosen, notes = tracked_runs(runs, images)
    with environment(WANDB_ERROR_REPORTING="false"):
        wandb = _wandb()
        try:
            place = Path(folder).expanduser().absolute()
            (place / "wandb").mkdir(parents=True, exist_ok=True)  # else it would choose another folder
            pushed = Pushed(f"wandb offline in {printable(place / 'wandb', 200)}", notes=notes)
            for tracked in chosen:
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
