"""Callback delivery: the result is posted to the caller's own server when the task ends.

As on the real service (APIXO docs, "Webhooks"): the body is the status envelope, the expected answer is
HTTP 200 within 30 s, and up to three retries follow, the first after 30 s. The page calls the delays
growing without naming the later ones, so doubling them is a guess. All times shrink with the sandbox's own.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from urllib.parse import urlsplit

from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from apixo_nb.sandbox.account import Account, Delivery, SandboxOptions
from apixo_nb.sandbox.tasks import Task
from apixo_nb.sandbox.validation import is_local

REAL_SECONDS = 30.0
RETRY_DELAYS_S = (30.0, 60.0, 120.0)
ANSWER_WITHIN_S = 30.0
SHORTEST_WAIT_S = 2.0  # a scaled-down timeout still leaves a busy machine time to answer


class CallbackSender:
    """Waits for the tasks that want a callback, and delivers."""

    def __init__(self, options: SandboxOptions, account: Account, picture_url: str) -> None:
        self._scale = options.seconds / REAL_SECONDS
        self._hosts = options.hosts
        self._account = account
        self._picture_url = picture_url
        self._client = AsyncHTTPClient(force_instance=True, max_clients=100)
        self._deliveries: set[asyncio.Task[None]] = set()

    def schedule(self, task: Task) -> None:
        """Deliver this task's result once it is there; nothing to do for a task that is polled."""
        if task.callback_url is not None and task.ready_ms is not None:
            delivery = asyncio.create_task(self._deliver(task, task.callback_url, task.ready_ms))
            self._deliveries.add(delivery)
            delivery.add_done_callback(self._deliveries.discard)

    def close(self) -> None:
        """Drop what is not delivered yet."""
        for delivery in self._deliveries:
            delivery.cancel()
        self._client.close()

    async def _deliver(self, task: Task, url: str, ready_ms: int) -> None:
        await asyncio.sleep((ready_ms - self._account.now_ms()) / 1000)
        body = json.dumps(task.envelope(ready_ms, self._picture_url))
        for delay_s in (0.0, *RETRY_DELAYS_S):
            await asyncio.sleep(delay_s * self._scale)
            status = await self._post(url, body)
            self._account.deliveries.append(Delivery(task.task_id, status))
            if status == HTTPStatus.OK:
                return

    async def _post(self, url: str, body: str) -> int | None:
        if not is_local(urlsplit(url).hostname or "", self._hosts):  # of a journal that somebody has edited
            return None
        within_s = max(SHORTEST_WAIT_S, ANSWER_WITHIN_S * self._scale)
        request = HTTPRequest(
            url,
            method="POST",
            body=body,
            headers={"Content-Type": "application/json"},
            connect_timeout=within_s,
            request_timeout=within_s,
            follow_redirects=False,
            validate_cert=False,  # nobody certifies a loopback address
        )
        try:
            return (await self._client.fetch(request, raise_error=False)).code
        except (OSError, ValueError):
            return None
