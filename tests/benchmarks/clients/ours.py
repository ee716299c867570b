"""This package: the bare API, and with ledger and originals."""

from __future__ import annotations

import dataclasses
import itertools
import os
import tempfile
from typing import TYPE_CHECKING

from tests.benchmarks.clients.known import KEY, PROMPT, Known
from tests.benchmarks.clients.loops import run, together
from tests.benchmarks.protocols import durations

if TYPE_CHECKING:
    from apixo_nb.core.cadence import Cadence

_SEEN = 200  # tasks of earlier sweeps, whose durations are known


def bare(url: str, count: int, scale: float) -> Known:
    """``AsyncClient.submit`` and ``wait`` at the pace of the page: first after 20 s, then every 5 s."""
    from apixo_nb.core.models import MODELS

    return _bare(url, count, MODELS["gpt-image-1"].cadence.scaled(1 / scale))


def prompt(url: str, count: int, scale: float) -> Known:
    """As quick to know as a loop of 2 s, though that is more often than the page advises."""
    return _bare(url, count, _learned(interval_s=0.6).scaled(1 / scale))


def hasty(url: str, count: int, scale: float) -> Known:
    """As quick to know as the SDKs that poll every 0.1 s and 0.5 s."""
    return _bare(url, count, _learned(interval_s=0.2).scaled(1 / scale))


def _learned(interval_s: float) -> Cadence:
    """The package's poll times after tasks of the same kind, where polls may be as close as that."""
    from apixo_nb.core.models import MODELS

    page = MODELS["gpt-image-1"].cadence
    free = dataclasses.replace(
        page, first_poll_s=interval_s, interval_s=interval_s, interval_bounds_s=(interval_s, 10.0)
    )
    return free.learned(itertools.islice(durations(seed=1, scale=1.0), _SEEN))


def _bare(url: str, count: int, cadence: Cadence) -> Known:
    from apixo_nb import AsyncClient

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
    from apixo_nb.core.records import Run
    from apixo_nb.core.settings import Apixo
    from apixo_nb.session.session import Session

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
