"""replicate and fal-client, called as their documentation does, at their own pace."""

from __future__ import annotations

import importlib
from typing import Any

from tests.benchmarks.clients.known import KEY, PROMPT, Known
from tests.benchmarks.clients.loops import run, together


def replicate(url: str, count: int, scale: float) -> Known:
    """``predictions.async_create`` and ``async_wait``, which asks every 0.5 s."""
    module: Any = importlib.import_module("replicate.client")

    async def all_of_them(known: Known) -> None:
        client = module.Client(api_token=KEY, base_url=url)
        client.poll_interval /= scale

        async def one() -> None:
            made = await client.predictions.async_create(version="0" * 64, input={"prompt": PROMPT})
            await made.async_wait()
            known.done(made.id)

        await together(one, count, known)

    return run(all_of_them)


def fal(url: str, count: int, scale: float) -> Known:
    """``AsyncClient.subscribe``, which asks every 0.1 s and then for the result."""
    api: Any = importlib.import_module("fal_client.client")
    api.QUEUE_URL_FORMAT = f"{url}/"  # it is fixed to https; a variable changes the host alone
    interval_s = api.DEFAULT_QUEUE_POLL_INTERVAL / scale

    async def all_of_them(known: Known) -> None:
        client = api.AsyncClient(key=KEY)

        async def one() -> None:
            result = await client.subscribe("fal-ai/gpt-image-1", {"prompt": PROMPT}, interval=interval_s)
            known.done(result["images"][0]["url"].rpartition("/")[2].removesuffix(".png"))

        await together(one, count, known)

    return run(all_of_them)
