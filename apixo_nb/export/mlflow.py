"""Runs into MLflow: one of its runs for each of ours, found again by a tag, so that twice is once."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from apixo_nb.core.records import CANCELLED, FAILED, SUCCESS, TIMEOUT, UNKNOWN, Run
from apixo_nb.errors import ApixoError
from apixo_nb.storage.originals import Images
from apixo_nb.text import printable, without_secrets

from .trackers import PROMPT, RECORD, Outcome, Pushed, TrackedRun, environment, not_installed, tracked_runs

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
    told, notes = tracked_runs(runs, images)
    mlflow = _mlflow()
    address = _address(mlflow, tracking_uri)
    shown = without_secrets(address).strip("'\"")
    pushed = Pushed(f"MLflow at {shown}, experiment {printable(experiment, 60)}", notes=notes)
    try:
        client = mlflow.MlflowClient(address)
        where = _experiment(client, experiment, address)
        known = _known(client, where)
        for tracked in told:
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
