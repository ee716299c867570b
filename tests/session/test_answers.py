"""What a session keeps of answers: evidence about submits that may have been paid, and never the key."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apixo_nb.client.protocol import RetryPolicy
from apixo_nb.core.formatting import remark_of
from apixo_nb.core.records import UNKNOWN
from apixo_nb.core.settings import Apixo
from apixo_nb.errors import ApixoError, SubmitUnknownError
from apixo_nb.notebook.maintenance import unresolved_lines
from apixo_nb.session.session import Session
from tests.support.factories import KEY
from tests.support.fault_server import FaultServer, answer, envelope


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def session(server: FaultServer, tmp_path: Path) -> Iterator[Session]:
    settings = Apixo(
        base_url=server.base_url, home=str(tmp_path / "runs"), first_poll=0.05, poll_interval=0.05
    )
    with contextlib.closing(Session(settings, key=KEY)) as made:
        made.client.retry = RetryPolicy(attempts=2, base_s=0.01, cap_s=0.02)
        yield made


@pytest.mark.parametrize(
    "body",
    [
        {"code": 200, "data": {"task_id": "task_7"}},
        {"code": 200, "data": {"id": "task_7"}},
        {"code": 200, "taskId": "task_7"},
        {"code": 200, "data": "task_7"},
        {"code": 200, "data": ["task_7"]},
        {"code": 200, "data": {"taskId": "task_7" + "x" * 2000}},
        "accepted as task_7",
    ],
    ids=["task_id", "id", "top", "text", "list", "long", "no JSON"],
)
def test_answer_that_was_not_understood_is_kept_and_listed(server: FaultServer, session: Session, body: Any):
    server.always("submit", answer(200, body if isinstance(body, str) else json.dumps(body)))
    with pytest.raises(SubmitUnknownError):
        session.begin("a fox").wait()
    [run] = session.lost()
    assert (run.state, run.task_id, "task_7" in run.raw) == (UNKNOWN, None, True)
    assert "task_7" in "\n".join(unresolved_lines([run]))
    assert "task_7" in remark_of(run)
    assert len(server.seen("submit")) == 1


def test_task_id_that_is_a_number_is_waited_for(server: FaultServer, session: Session):
    server.always("submit", envelope(200, {"taskId": 12345678}))
    server.always("status", envelope(200, {"taskId": 12345678, "state": "failed", "failCode": "X"}))
    with pytest.raises(ApixoError):
        session.begin("a fox").wait()
    [run] = session.ledger.runs()
    assert (run.task_id, run.state) == ("12345678", "failed")


STATUSES: dict[str, dict[str, Any]] = {
    "state": {"state": f"waiting {KEY}"},
    "failMsg": {"state": "failed", "failCode": KEY, "failMsg": f"who is {KEY}?"},
    "result": {
        "state": "success",
        "resultJson": json.dumps({"resultUrls": [f"http://127.0.0.1:9/{KEY}.png"]}),
    },
    "id of another": {"taskId": f"task_{KEY}", "state": "success"},
    "other": {"state": "failed", KEY: [KEY]},
}


@pytest.mark.parametrize("status", STATUSES.values(), ids=STATUSES)
def test_key_that_a_status_quotes_reaches_no_file(
    server: FaultServer,
    session: Session,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    status: dict[str, Any],
):
    server.always("submit", envelope(200, {"taskId": "task_1"}))
    server.always("status", envelope(200, {"taskId": "task_1"} | status))
    with pytest.raises(ApixoError) as caught:
        session.begin("a fox", timeout_s=0.3).wait()
    assert KEY not in str(caught.value) + caplog.text
    check_files(session, tmp_path)


@pytest.mark.parametrize("data", [{"taskId": f"task_{KEY}"}, {"task_id": KEY}, KEY, [KEY]])
def test_key_that_an_acceptance_quotes_reaches_no_file(
    server: FaultServer, session: Session, tmp_path: Path, data: Any
):
    server.always("submit", envelope(200, data))
    with pytest.raises(SubmitUnknownError) as caught:
        session.begin("a fox").wait()
    assert KEY not in str(caught.value) + caught.value.answer
    check_files(session, tmp_path)


def check_files(session: Session, folder: Path) -> None:
    """The key is in no file, tables included."""
    session.export(folder / "runs.csv")
    session.export(folder / "runs.jsonl")
    session.close()
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) >= 3
    assert not [file for file in files if KEY.encode() in file.read_bytes()]
