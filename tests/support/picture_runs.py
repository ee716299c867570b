"""Sessions that hold runs with picture files, made without a service."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from apixo_nb.core.records import Image, Run
from apixo_nb.core.settings import Apixo
from apixo_nb.experiments.review import choose
from apixo_nb.session.session import Session
from tests.support.factories import a_full_run, a_run

CALLBACK = "https://hooks.example/secret-path?token=abc"
NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
SUFFIX = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


def session_in(folder: Path) -> Session:
    return Session(Apixo(home=str(folder)))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Session]:
    with contextlib.closing(session_in(tmp_path / "here")) as made:
        yield made


def encoded(kind: str = "PNG", colour: str = "red", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (24, 16), colour).save(buffer, kind, **options)
    return buffer.getvalue()


def made_at(run: Run, when: datetime) -> Run:
    """The run as it would be if it had been made then: its id tells of it."""
    return run.replace(created_at=when, run_id=f"{when:%Y%m%d-%H%M%S}{run.run_id[15:]}")


def with_pictures(run: Run, pictures: list[bytes], kind: str = "PNG") -> Run:
    """The run as a success with these pictures, at their places."""
    urls = tuple(f"https://pictures.example/{number}.png?sig=s3cret" for number in range(len(pictures)))
    if run.sandbox:
        urls = tuple(url.replace("https://pictures.example", "http://127.0.0.1:9") for url in urls)
    images = tuple(
        Image(
            index=index,
            url=urls[index],
            file=f"{run.run_id}-{index + 1}{SUFFIX[kind]}",
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            width=24,
            height=16,
            format=kind,
        )
        for index, data in enumerate(pictures)
    )
    return run.replace(state="success", result_urls=urls, images=images, task_id=run.task_id or "task_1")


def keep(session: Session, run: Run, pictures: list[bytes]) -> Run:
    """Put a run and its files into a session."""
    session.images.folder.mkdir(parents=True, exist_ok=True)
    for image, data in zip(run.images, pictures, strict=True):
        session.images.path(image).write_bytes(data)
        assert session.images.rewrite_sidecar(run, image.index)
    assert session.ledger.insert(run)
    return session.run(run.run_id)


def a_success(
    session: Session, prompt: str = "a fox", count: int = 1, kind: str = "PNG", **changes: Any
) -> Run:
    colours = ["red", "green", "blue", "white"]
    pictures = [encoded(kind, colours[number]) for number in range(count)]
    run = a_run(prompt, **{"cost_micros": 350_000 * count, "sandbox": False, **changes})
    return keep(session, with_pictures(made_at(run, run.created_at), pictures, kind), pictures)


def fill(session: Session) -> list[Run]:
    """All kinds of runs, a value in every column of one, choices, odd texts."""
    full = a_full_run(callback_url=CALLBACK, request_type="callback", notebook="foxes.ipynb", take=3)
    full = made_at(full.replace(images=()), NOON)
    keep(
        session, with_pictures(full, [encoded(), encoded(colour="blue")]), [encoded(), encoded(colour="blue")]
    )
    a_success(session, 'odd: 🦊 "quoted", 日本語\r\n\u2028=1+1', kind="JPEG", created_at=NOON + timedelta(1))
    a_success(session, "on the sandbox", kind="WEBP", created_at=NOON + timedelta(2), sandbox=True)
    session.ledger.insert(a_run("failed", state="failed", fail_code="Timeout", fail_msg="late"))
    session.ledger.insert(a_run("never sent", state="planned"))
    session.ledger.insert(a_run("open", state="processing", task_id="task_9"))
    chosen = session.ledger.runs()[0]
    choose(session, chosen.run_id, 1, rating=5, starred=True, note="the one 🦊", tags=["best"])
    return session.ledger.runs()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
