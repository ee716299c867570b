"""Runs in MLflow and Weights & Biases, read back with their own libraries.

Those live in an environment of their own, which `make trackers` makes before it runs this file.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from apixo_nb.core.records import Run
from apixo_nb.experiments.review import choose
from apixo_nb.session.session import Session
from tests.support import picture_runs
from tests.support.factories import a_full_run, a_run
from tests.support.picture_runs import CALLBACK, NOON, encoded, keep, with_pictures

here = picture_runs.here

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-trackers" / "bin" / "python"
LONG = "狐 & <b>\r\n" * 1_100

Library = Callable[..., Any]


def place(library: str, tmp_path: Path) -> Path:
    return tmp_path / ("runs.db" if library == "mlflow" else "offline")


def done(library: str, session: Session, where: Path, *steps: str, prefix: tuple[str, ...] = ()) -> list[Any]:
    """What the libraries' own environment makes of some steps, see `tests.trackers`."""
    session.close()
    told = [library, session.settings.home, str(where), *steps]
    command = [*prefix, str(PYTHON), "-m", "tests.trackers", *told]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


ALL_NEW = {"new": 3, "updated": 0, "same": 0, "notes": []}
ALL_SAME = {"new": 0, "updated": 0, "same": 3, "notes": []}
ONE_UPDATED = {"new": 0, "updated": 1, "same": 2, "notes": []}


def fill(session: Session) -> tuple[Run, Run, Run]:
    """A success with everything, a failure, and one that is open."""
    full = a_full_run(callback_url=CALLBACK, notebook="/home/me/foxes.ipynb").replace(
        prompt=LONG, raw=f'{{"callBackUrl": "{CALLBACK}"}}'
    )
    pictures = [encoded(), encoded(colour="blue")]
    success = keep(session, with_pictures(full, pictures), pictures)
    ended = {"submitted_at": NOON + timedelta(1), "finished_at": NOON + timedelta(1, 5)}
    failed = a_run("b", sandbox=False, state="failed", fail_code="Timeout", fail_msg="late", **ended)
    session.ledger.insert(failed.replace(created_at=NOON + timedelta(1), task_id="task_2", cost_micros=0))
    opened = a_run("c", sandbox=False, state="processing", task_id="task_3")
    session.ledger.insert(opened.replace(created_at=NOON + timedelta(2)))
    session.ledger.insert(a_run("never sent", sandbox=False, state="planned"))
    choose(session, success.run_id, 1, rating=5, tags=["best"])
    one, two, three, _ = session.ledger.runs()
    return one, two, three


# --- MLflow -----------------------------------------------------------------------------------------


def test_mlflow_has_all_of_a_run(here: Session, tmp_path: Path):
    run, failed, opened = fill(here)
    where = place("mlflow", tmp_path)
    pushed, found = done("mlflow", here, where, "push", "read")
    assert pushed == ALL_NEW
    one, two, three = found
    assert [each["status"] for each in found] == ["FINISHED", "FAILED", "RUNNING"]
    assert [each["tags"]["apixo.run_id"] for each in found] == [run.run_id, failed.run_id, opened.run_id]
    assert run.submitted_at
    assert run.finished_at
    times = (round(run.submitted_at.timestamp() * 1000), round(run.finished_at.timestamp() * 1000))
    assert (one["start_time"], one["end_time"]) == times
    assert two["end_time"] - two["start_time"] == 5_000
    assert three["end_time"] is None
    figures = {"cost_usd": 0.7, "cost_time_ms": 30_000, "wait_ms": 31_000, "rating": 5, "pictures": 2}
    assert one["metrics"] == figures
    assert one["params"] == {
        **{name: str(value) for name, value in run.parameters.items()},
        "model": "gpt-image-1",
        "references": "1",
        "take": "0",
        "variable.mood": "calm",
    }
    assert (two["tags"]["apixo.fail_code"], two["tags"]["apixo.fail_msg"]) == ("Timeout", "late")
    assert one["tags"]["mlflow.note.content"] == "a note"


def test_mlflow_has_the_whole_prompt_and_the_originals(here: Session, tmp_path: Path):
    run, *_ = fill(here)
    where = place("mlflow", tmp_path)
    _, [one, *_] = done("mlflow", here, where, "push", "read")
    prompt = bytes.fromhex(one["files"].pop("prompt.txt"))
    assert prompt.decode() == LONG
    assert one["tags"]["apixo.prompt_sha256"] == hashlib.sha256(prompt).hexdigest()
    assert len(one["tags"]["apixo.prompt"]) == 250
    record = json.loads(bytes.fromhex(one["files"].pop("run.json")))
    assert (record["prompt"], record["images"][1]["tags"]) == (LONG, ["best"])
    originals = {f"pictures/{name}": (here.images.folder / name).read_bytes().hex() for name in run.files}
    assert one["files"] == originals


def test_mlflow_twice_is_once_and_a_rating_is_brought_up_to_date(here: Session, tmp_path: Path):
    fill(here)
    again = [step for rating in ("2", "", "4") for step in (f"rate={rating}", "push", "read")]
    first, second, *rest = done("mlflow", here, place("mlflow", tmp_path), "push", "push", *again)
    assert (first, second) == (ALL_NEW, ALL_SAME)
    for rating, pushed, found in zip(["2", "", "4"], rest[1::3], rest[2::3], strict=True):
        assert pushed == ONE_UPDATED
        assert len(found) == 3
        assert found[0]["tags"]["apixo.rating"] == rating
        metric = found[0]["metrics"]["rating"]
        assert metric == float(rating) if rating else math.isnan(metric)


def test_mlflow_hears_of_the_end_of_an_open_run(here: Session, tmp_path: Path):
    *_, opened = fill(here)
    where = place("mlflow", tmp_path)
    done("mlflow", here, where, "push")
    here.ledger.update(opened.run_id, state="failed", finished_at=NOON + timedelta(3), fail_code="Timeout")
    pushed, found = done("mlflow", here, where, "push", "read")
    assert pushed == ONE_UPDATED
    assert [each["status"] for each in found] == ["FINISHED", "FAILED", "FAILED"]


def test_mlflow_keeps_its_files_beside_its_database(here: Session, tmp_path: Path):
    fill(here)
    before = {path.name for path in ROOT.iterdir()}
    (tmp_path / "elsewhere").mkdir()
    done("mlflow", here, tmp_path / "elsewhere" / "runs.db", "push")
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {"runs.db", "mlartifacts"}
    assert {path.name for path in ROOT.iterdir()} == before


# --- Weights & Biases -------------------------------------------------------------------------------


def test_wandb_has_all_of_a_run(here: Session, tmp_path: Path):
    run, failed, opened = fill(here)
    where = place("wandb", tmp_path)
    pushed, read = done("wandb", here, where, "push", "read")
    assert pushed == ALL_NEW
    found = {each["run_id"]: each for each in read}
    assert set(found) == {run.run_id, failed.run_id, opened.run_id}
    one, two = found[run.run_id], found[failed.run_id]
    assert (one["project"], one["name"], one["notes"], one["tags"]) == (
        "apixo",
        "foxes",
        "a note",
        ["red", "grün"],
    )
    assert (one["config"]["prompt"], one["config"]["aspect_ratio"]) == (LONG, "1:1")
    assert one["config"]["variables"] == {"mood": "calm"}
    summary = one["summary"]
    figures = {"cost_usd": 0.7, "cost_time_ms": 30_000, "rating": 5, "pictures": 2, "state": "success"}
    assert {name: summary[name] for name in figures} == figures
    assert (one["exit_code"], two["exit_code"]) == (0, 1)
    assert (two["summary"]["state"], two["summary"]["fail_code"]) == ("failed", "Timeout")


def test_wandb_has_the_whole_prompt_and_the_originals(here: Session, tmp_path: Path):
    run, *_ = fill(here)
    where = place("wandb", tmp_path)
    _, found = done("wandb", here, where, "push", "read")
    [one] = [each for each in found if each["run_id"] == run.run_id]
    assert bytes.fromhex(one["files"].pop("prompt.txt")).decode() == LONG
    assert json.loads(bytes.fromhex(one["files"].pop("run.json")))["run_id"] == run.run_id
    originals = sorted((here.images.folder / name).read_bytes().hex() for name in run.files)
    assert sorted(one["files"].values()) == originals
    assert [one["summary"][f"picture_{n}"]["sha256"] for n in (1, 2)] == [
        image.sha256 for image in run.images
    ]


def test_wandb_twice_is_once_and_a_rating_is_brought_up_to_date(here: Session, tmp_path: Path):
    run, *_ = fill(here)
    again = [step for rating in ("2", "") for step in (f"rate={rating}", "push", "read")]
    first, second, *rest = done("wandb", here, place("wandb", tmp_path), "push", "push", *again)
    assert (first, second) == (ALL_NEW, ALL_SAME)
    for rating, pushed, found in zip([2, None], rest[1::3], rest[2::3], strict=True):
        assert pushed == ONE_UPDATED
        assert len(found) == 3
        [one] = [each for each in found if each["run_id"] == run.run_id]
        assert one["summary"].get("rating") == rating


def test_wandb_run_that_was_synced_is_kept_beside_the_newer_one(here: Session, tmp_path: Path):
    run, *_ = fill(here)
    where = place("wandb", tmp_path)
    done("wandb", here, where, "push")
    [log] = (where / "wandb").glob(f"offline-run-*-{run.run_id}/*.wandb")
    log.with_name(f"{log.name}.synced").touch()
    done("wandb", here, where, "rate=1", "push")
    assert log.exists()
    assert len(list((where / "wandb").glob(f"offline-run-*{run.run_id}*"))) == 2


# --- both -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["mlflow", "wandb"])
def test_secrets_and_places_stay_at_home(here: Session, tmp_path: Path, library: str):
    fill(here)
    where = place(library, tmp_path)
    done(library, here, where, "push")
    written = [path for path in tmp_path.rglob("*") if path.is_file() and "here" not in path.parts]
    # Their own logs, which stay on this machine, are not ours to keep quiet.
    whole = b"".join(path.read_bytes() for path in written if path.suffix != ".log")
    assert b"task_1" in whole
    for secret in (b"hooks.example", b"secret-path", b"s3cret", b"foxes.ipynb"):
        assert secret not in whole


@pytest.mark.parametrize("library", ["mlflow", "wandb"])
def test_nothing_is_sent_anywhere(here: Session, tmp_path: Path, library: str):
    fill(here)
    trace = tmp_path / "trace"
    watched = ("strace", "-f", "-e", "connect", "-o", str(trace))
    done(library, here, place(library, tmp_path), "push", prefix=watched)
    asked = re.findall(r"connect\(.*sin6?_addr.*", trace.read_text())
    assert [line for line in asked if "127.0.0.1" not in line and "::1" not in line] == []


@pytest.mark.parametrize("library", ["mlflow", "wandb"])
def test_picture_that_is_gone_is_named_and_the_rest_goes_along(here: Session, tmp_path: Path, library: str):
    run, *_ = fill(here)
    here.images.path(run.images[0]).unlink()
    [pushed] = done(library, here, place(library, tmp_path), "push")
    assert pushed["new"] == 3
    assert run.files[0] in pushed["notes"][0]
