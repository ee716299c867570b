"""What MLflow and Weights & Biases are given; that they read it back is in `tests/trackers/libraries.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from apixo_nb.core.records import Run
from apixo_nb.errors import ApixoError, InvalidRequestError
from apixo_nb.experiments.review import choose
from apixo_nb.export.tracked_runs import TrackedRun, short, tracked_runs
from apixo_nb.session.session import Session
from tests.support import picture_runs
from tests.support.factories import a_run
from tests.support.picture_runs import CALLBACK, a_success

here = picture_runs.here

LONG = "狐 & <b>\r\n" * 1_100


@pytest.mark.parametrize(("call", "extra"), [("to_mlflow", "mlflow"), ("to_wandb", "wandb")])
def test_library_that_is_missing_is_told_with_how_to_install_it(
    here: Session, monkeypatch: pytest.MonkeyPatch, call: str, extra: str, tmp_path: Path
):
    monkeypatch.setitem(sys.modules, extra, None)
    monkeypatch.chdir(tmp_path)
    a_success(here)
    with pytest.raises(ApixoError, match="is not installed") as refused:
        getattr(here, call)()
    assert f"pip install 'apixo-nb[{extra}]'" in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_what_is_no_run_is_refused(here: Session):
    with pytest.raises(InvalidRequestError, match="This is no run"):
        here.to_mlflow(["20261123-120000-12345678"])  # type: ignore[list-item]


# --- what they are told, without them ---------------------------------------------------------------


def a_tracked_run(run: Run) -> TrackedRun:
    return TrackedRun(run, tuple(image for image in run.images if image.file))


def test_digest_changes_with_all_there_is_to_tell_and_with_nothing_else(here: Session):
    run = a_success(here)
    tracked = a_tracked_run(run)
    assert a_tracked_run(here.run(run.run_id)).digest == tracked.digest
    assert a_tracked_run(run.replace(callback_url=CALLBACK, notebook="x.ipynb")).digest == tracked.digest
    chosen = choose(here, run.run_id, 0, starred=True)
    changed = [chosen, run.replace(note="x"), run.replace(state="failed"), run.replace(images=())]
    assert len({tracked.digest, *(a_tracked_run(each).digest for each in changed)}) == 5


def test_fields_are_short_and_the_record_is_whole(here: Session):
    run = a_success(here, LONG, variables={"mood": "x" * 9_000}, note="n" * 9_000)
    tracked = a_tracked_run(run)
    assert max(map(len, [*tracked.inputs.values(), *tracked.labels.values()])) == 250
    assert tracked.prompt_bytes.decode() == LONG
    assert tracked.record["variables"] == run.variables
    assert short("abc") == "abc"


def test_record_has_no_query_in_an_answer_within_an_answer(here: Session):
    inner = json.dumps({"resultUrls": ["https://pictures.example/1.png?sig=s3cret"], "cb": CALLBACK})
    run = a_success(here, raw=json.dumps({"taskId": "task_1", "resultJson": inner}), callback_url=CALLBACK)
    text = json.dumps(a_tracked_run(run).record)
    assert "https://pictures.example/1.png" in text
    assert "s3cret" not in text
    assert "hooks.example" not in text


def test_run_that_was_never_sent_is_left_out_and_one_given_twice_counts_once(here: Session):
    run = a_success(here)
    planned = a_run("x", state="planned")
    found, notes = tracked_runs([run, planned, run], here.images)
    assert [tracked.run.run_id for tracked in found] == [run.run_id]
    assert notes == []
