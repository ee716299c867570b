"""Loops that people write by hand: submit, sleep two seconds, ask, and so on."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.benchmarks.clients.known import BODY, KEY, STATUS, SUBMIT, Known

PAUSE_S = 2.0
MOST_THREADS = 1000
_HEADERS = {"Authorization": f"Bearer {KEY}"}


def requests_threads(url: str, count: int, scale: float) -> Known:
    """`requests`, a thread and a session for each task; from a thousand on, the threads are shared."""
    requests: Any = importlib.import_module("requests")

    known = Known()

    def one(_number: int) -> None:
        try:
            with requests.Session() as session:
                session.headers.update(_HEADERS)
                answer = session.post(url + SUBMIT, json=BODY, timeout=60)
                task_id = answer.json()["data"]["taskId"]
                state = "processing"
                while state not in ("success", "failed"):
                    time.sleep(PAUSE_S / scale)
                    answer = session.get(url + STATUS, params={"taskId": task_id}, timeout=60)
                    state = answer.json()["data"]["state"]
                known.done(task_id)
        except Exception as error:  # noqa: BLE001 - counted
            known.failed(error)

    with ThreadPoolExecutor(min(count, MOST_THREADS)) as pool:
        list(pool.map(one, range(count)))
    return known


def httpx_loop(url: str, count: int, scale: float) -> Known:
    """httpx and asyncio: one client, its limits as they are (100 connections), 60 s for each step."""
    httpx: Any = importlib.import_module("httpx")

    async def all_of_them(known: Known) -> None:
        async with httpx.AsyncClient(headers=_HEADERS, timeout=60) as client:

            async def one() -> None:
                task_id = (await client.post(url + SUBMIT, json=BODY)).json()["data"]["taskId"]
                state = "processing"
                while state not in ("success", "failed"):
                    await asyncio.sleep(PAUSE_S / scale)
                    answer = await client.get(url + STATUS, params={"taskId": task_id})
                    state = answer.json()["data"]["state"]
                known.done(task_id)

            await together(one, count, known)

    return run(all_of_them)


def aiohttp_loop(url: str, count: int, scale: float) -> Known:
    """aiohttp and asyncio: one session, its limits as they are (100 connections). HTTP in C, and no more."""
    return _aiohttp(url, count, lambda _answer: PAUSE_S / scale)


def aiohttp_told(url: str, count: int, scale: float) -> Known:
    """As `aiohttp_loop`, but told how long each task takes: one poll, which nobody can do in earnest."""
    del scale
    return _aiohttp(url, count, lambda answer: float(answer.headers["X-Task-Seconds"]) + 0.001)


def _aiohttp(url: str, count: int, pause_s: Callable[[Any], float]) -> Known:
    aiohttp: Any = importlib.import_module("aiohttp")

    async def all_of_them(known: Known) -> None:
        async with aiohttp.ClientSession(headers=_HEADERS) as session:

            async def one() -> None:
                async with session.post(url + SUBMIT, json=BODY) as answer:
                    task_id = (await answer.json())["data"]["taskId"]
                    pause = pause_s(answer)
                state = "processing"
                while state not in ("success", "failed"):
                    await asyncio.sleep(pause)
                    async with session.get(url + STATUS, params={"taskId": task_id}) as answer:
                        state = (await answer.json())["data"]["state"]
                known.done(task_id)

            await together(one, count, known)

    return run(all_of_them)


async def together(one: Callable[[], Awaitable[None]], count: int, known: Known) -> None:
    """So many at once, as ``asyncio.gather`` has them; errors are counted."""
    for outcome in await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True):
        if outcome is not None:
            known.failed(outcome)


def run(work: Callable[[Known], Awaitable[None]]) -> Known:
    """Run it on an event loop of its own."""
    known = Known()

    async def whole() -> None:
        await work(known)

    asyncio.run(whole())
    return known
