"""Runs and sessions as tests need them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from apixo_nb.client.protocol import RetryPolicy
from apixo_nb.core import event_loop as loop
from apixo_nb.core import settings as config
from apixo_nb.core.records import Run, expiry, new_run
from apixo_nb.core.request import make_request
from apixo_nb.sandbox import Sandbox
from apixo_nb.session.session import Session

STATES = [
    "planned",
    "submitting",
    "submitted",
    "processing",
    "success",
    "failed",
    "unknown",
    "cancelled",
    "timeout",
]
#: Made up, odd enough to be searched for, and never valid anywhere.
KEY = "sk-test-7Gq2-Zebra-Pelican-91x"


def a_run(prompt: str = "a fox", *, sandbox: bool = True, **changes: Any) -> Run:
    run = new_run(make_request(prompt), unit_price_micros=350_000, sandbox=sandbox)
    return run.replace(**{"state": "submitting", **changes})


def a_full_run(**changes: Any) -> Run:
    """A row with a value in every column."""
    noon = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
    request = make_request("a fox", num_images=2, image_urls=["https://example.com/a b.png".replace(" ", "")])
    labels: dict[str, Any] = {"name": "foxes", "tags": ("red", "grün"), "note": "a note"}
    run = new_run(request, unit_price_micros=350_000, sandbox=False, variables={"mood": "calm"}, **labels)
    facts: dict[str, Any] = {
        "created_at": noon,
        "submitted_at": noon,
        "finished_at": noon + timedelta(seconds=30),
        "expires_at": noon + timedelta(days=15),
        "state": "success",
        "task_id": "task_1",
        "cost_time_ms": 30_000,
        "wait_ms": 31_000,
        "cost_micros": 700_000,
        "result_urls": ("https://pictures.example/1.png", "https://pictures.example/2.png"),
        "rating": 4,
        "raw": '{"state": "success"}',
    }
    return run.replace(**facts, **changes)


def a_session(**traits: Any) -> Session:
    session = Session(config.Apixo(**({"first_poll": 0.05, "poll_interval": 0.05} | traits)), key=KEY)
    session.client.retry = RetryPolicy(attempts=2, base_s=0.01, cap_s=0.02)
    return session


def with_task(session: Session, prompt: str) -> Run:
    """A run whose task was made, as a program leaves it that died then; not in the ledger yet."""
    planned = session.plan(make_request(prompt))
    task_id = loop.run(session.client.submit(prompt))
    return planned.replace(state="submitted", task_id=task_id, submitted_at=planned.created_at, take=1)


def finished(sandbox: Sandbox, run: Run, *, days: float = 0) -> Run:
    """The same, ended so many days ago, its pictures not downloaded."""
    done = run.created_at - timedelta(days=days)
    urls = sandbox.account.tasks[str(run.task_id)].result_urls(sandbox.picture_url)
    facts: dict[str, Any] = {"finished_at": done, "expires_at": expiry(done), "cost_micros": run.price_micros}
    return run.replace(state="success", result_urls=tuple(urls), **facts)
