"""This package: the bare API, and with ledger and originals."""

from __future__ import annotations

import os
import tempfile

from tests.benchmarks.clients.known import KEY, PROMPT, Known
from tests.benchmarks.clients.loops import PAUSE_S, run, together


def bare(url: str, count: int, scale: float) -> Known:
    """``AsyncClient.submit`` and ``wait`` at the pace of the page: first after 20 s, then every 5 s."""
    return _bare(url, count, scale, None)


def bare_often(url: str, count: int, scale: float) -> Known:
    """As `bare`, but after the first poll as often as the loops of others: every 2 s."""
    return _bare(url, count, scale, PAUSE_S)


def _bare(url: str, count: int, scale: float, interval_s: float | None) -> Known:
    from apixo_nb import AsyncClient
    from apixo_nb.spec import MODELS

    cadence = MODELS["gpt-image-1"].cadence.override(None, interval_s).scaled(1 / scale)

    async def all_of_them(known: Known) -> None:
        async with AsyncClient(KEY, base_url=f"{url}/api/v1", cadence=cadence) as client:

            async def one() -> None:
                task_id = await client.submit(PROMPT, aspect_ratio="1:1")
                await client.wait(task_id)
                known.done(task_id)

            await together(one, count, known)

    return run(all_of_them)


def session(url: str, count: int, scale: float) -> Known:
    """``Session.begin``: each with its row, its picture of one pixel, and the facts beside it."""
    from apixo_nb.config import Apixo
    from apixo_nb.run import Run
    from apixo_nb.session import Session

    known = Known()
    with tempfile.TemporaryDirectory() as folder:
        settings = Apixo(
            home=os.fspath(folder), base_url=f"{url}/api/v1", first_poll=20 / scale, poll_interval=5 / scale
        )

        def heard(run: Run) -> None:
            if run.state == "success" and run.task_id and run.task_id not in known.at:
                known.done(run.task_id)

        with Session(settings, key=KEY) as opened:
            opened.listen(heard)
            for job in [opened.begin(PROMPT, aspect_ratio="1:1") for _ in range(count)]:
                try:
                    job.wait()
                except Exception as error:  # noqa: BLE001 - counted
                    known.failed(error)
    return known
