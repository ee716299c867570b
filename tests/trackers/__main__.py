"""Exports to MLflow and wandb, and what these libraries read of it afterwards; needs their own environment.

``python -m tests.trackers mlflow HOME PLACE push rate=3 push read``, and the same with ``wandb``: takes the
steps one after the other, and prints what came of each as a list in JSON. `libraries.py` beside it calls it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from apixo_nb.core.settings import Apixo
from apixo_nb.experiments.review import choose
from apixo_nb.session.session import Session


def push(library: str, home: str, place: str) -> Any:
    with Session(Apixo(home=home)) as session:
        if library == "mlflow":
            done = session.to_mlflow(session.ledger.runs(), tracking_uri=place)
        else:
            done = session.to_wandb(session.ledger.runs(), folder=place)
    return {"new": done.new, "updated": done.updated, "same": done.same, "notes": done.notes}


def read_mlflow(place: str) -> list[dict[str, Any]]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{place}")
    experiment = client.get_experiment_by_name("apixo")
    assert experiment is not None
    found = []
    for run in client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]):
        with tempfile.TemporaryDirectory() as folder:
            client.download_artifacts(run.info.run_id, "", folder)
            files = {
                path.relative_to(folder).as_posix(): path.read_bytes().hex()
                for path in Path(folder).rglob("*")
                if path.is_file()
            }
        found.append(
            {
                **{
                    name: getattr(run.info, name) for name in ("status", "start_time", "end_time", "run_name")
                },
                "params": run.data.params,
                "metrics": run.data.metrics,
                "tags": run.data.tags,
                "files": files,
            }
        )
    return found


def read_wandb(place: str) -> list[dict[str, Any]]:
    found = []
    for log in sorted(Path(place, "wandb").glob("offline-run-*/*.wandb")):
        command = [
            str(Path(sys.executable).with_name("wandb")),
            "leet",
            "inspect",
            "--summary",
            "--json",
            str(log),
        ]
        read = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
        files = {
            path.relative_to(log.parent / "files").as_posix(): path.read_bytes().hex()
            for path in (log.parent / "files").rglob("*")
            if path.is_file()
        }
        found.append({**json.loads(read.stdout), "files": files})
    return found


def rate(home: str, rating: str) -> None:
    """The second picture of the first run is rated; "" takes the rating away."""
    with Session(Apixo(home=home)) as session:
        choose(session, session.ledger.runs()[0].run_id, 1, rating=int(rating) if rating else None)


def main() -> None:
    library, home, place, *steps = sys.argv[1:]
    answers: list[Any] = []
    for step in steps:
        if step == "push":
            answers.append(push(library, home, place))
        elif step == "read":
            answers.append(read_mlflow(place) if library == "mlflow" else read_wandb(place))
        else:
            rate(home, step.removeprefix("rate="))
            answers.append(None)
    print(json.dumps(answers))  # noqa: T201 - a program that is read by another


main()
