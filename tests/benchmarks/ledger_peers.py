"""What trackers of experiments take for the same rows: MLflow on SQLite, and wandb offline.

Both keep a run as parameters, metrics and tags. MLflow is used as its documentation says, a run as a context,
parameters and metrics each in one call. wandb writes a file for each run, offline, and has no way to read it
back without its server.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apixo_nb.ledger.query import Query
from tests.benchmarks import ledger
from tests.benchmarks.table import say

if TYPE_CHECKING:
    from tests.benchmarks.ledger import Measured


def measure(measured: Measured, in_mlflow: int, in_wandb: int) -> None:
    """Write so many rows with each, and read MLflow's back."""
    _mlflow(measured, in_mlflow)
    _wandb(measured, in_wandb)


def _facts(number: int, chance: random.Random) -> tuple[dict[str, Any], dict[str, float]]:
    """Parameters and metrics of a run."""
    run = ledger.made_up(number, chance)
    parameters: dict[str, Any] = {"prompt": run.prompt, "model": run.model, "aspect_ratio": run.aspect_ratio}
    parameters |= {"num_images": run.num_images, "name": run.name, "digest": run.digest}
    metrics = {"cost_usd": (run.cost_micros or 0) / 1e6, "wait_ms": run.wait_ms or 0}
    return parameters, metrics


def _mlflow(measured: Measured, count: int) -> None:
    try:
        import mlflow
    except ImportError:
        say("mlflow is not installed here")
        return
    chance = random.Random(1)
    facts = [_facts(number, chance) for number in range(count)]
    with _folder() as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.set_experiment("apixo")  # makes the database, which is not counted

        def write() -> None:
            for parameters, metrics in facts:
                with mlflow.start_run():
                    mlflow.log_params(parameters)
                    mlflow.log_metrics(metrics)

        theirs = ledger.seconds(write)
        read = ledger.seconds(lambda: mlflow.search_runs(max_results=count))
        like = f"params.prompt LIKE '%{facts[0][0]['prompt'][:12]}%'"
        found = ledger.seconds(lambda: mlflow.search_runs(filter_string=like, max_results=50))
    with ledger.ledger_of(count) as (session, _):
        planned = ledger.some_runs(min(count, ledger.ONE_BY_ONE))
        ours = ledger.seconds(lambda: ledger.buy(session, planned)) / len(planned) * count
        history = ledger.seconds(session.history)
        page = ledger.seconds(lambda: session.find(Query(text=facts[0][0]["prompt"][:12])))
    measured.keep(count, "one run after another", ours, theirs, "MLflow, SQLite", per=count)
    measured.keep(count, "history()", history, read, "MLflow search_runs")
    measured.keep(count, "a page for common words", page, found, "MLflow search_runs", note="no total")


def _wandb(measured: Measured, count: int) -> None:
    try:
        import wandb
    except ImportError:
        say("wandb is not installed here")
        return
    chance = random.Random(1)
    facts = [_facts(number, chance) for number in range(count)]
    with _folder() as folder, _quiet():

        def write() -> None:
            for parameters, metrics in facts:
                run = wandb.init(project="apixo", mode="offline", dir=str(folder), config=parameters)
                run.log(metrics)
                run.finish()

        theirs = ledger.seconds(write)
    with ledger.ledger_of(count) as (session, _):
        ours = ledger.seconds(lambda: ledger.buy(session, ledger.some_runs(count)))
    measured.keep(
        count, "one run after another", ours, theirs, "wandb offline", per=count, note="cannot be read back"
    )


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without wandb's greetings."""
    before = dict(os.environ)
    os.environ |= {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
