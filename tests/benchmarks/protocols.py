"""A server for benchmarks that speaks APIXO, Replicate and fal: ``python -m tests.benchmarks.protocols``.

The k-th task that is submitted takes as long whoever submits it and in whichever protocol. Requests are
read by a few lines in place of an HTTP library, so that the clients are measured; its own CPU is reported.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import struct
import sys
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

from tests.peers.replicate import prediction

MEAN_S, SPREAD, LONGEST_S = 30.0, 0.3, 60.0
_ANSWER = b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nX-Task-Seconds: %s\r\n\r\n"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


#: One grey pixel as PNG; whoever downloads gets it.
_PICTURE = b"".join(
    (
        b"\x89PNG\r\n\x1a\n",
        _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
        _chunk(b"IDAT", zlib.compress(b"\x00\x80")),
        _chunk(b"IEND", b""),
    )
)


def durations(seed: int, scale: float) -> Any:
    """Seconds that task after task takes: log-normal with a mean of 30 s, at most 60 s, by `scale`."""
    chance = random.Random(seed)
    middle = -(SPREAD**2) / 2  # of the logarithm, so that the mean is 1
    while True:
        yield min(LONGEST_S, MEAN_S * chance.lognormvariate(middle, SPREAD)) / scale


@dataclass(slots=True)
class Account:
    """What the server knows: the tasks, when each is done, and how many requests there were.

    Times are seconds of the monotonic clock, which all processes of a machine share.
    """

    seconds: Any
    done_at: dict[str, float] = field(default_factory=dict)
    submits: int = 0
    polls: int = 0
    others: int = 0
    connections: int = 0
    last_s: float = 0.0

    def submit(self) -> str:
        """A new task."""
        self.submits += 1
        self.last_s = next(self.seconds)
        task_id = f"task_{self.submits:08d}"
        self.done_at[task_id] = time.monotonic() + self.last_s
        return task_id

    def done(self, task_id: str) -> bool:
        """Whether it is done; a poll."""
        self.polls += 1
        return time.monotonic() >= self.done_at[task_id]

    def report(self) -> dict[str, Any]:
        """All of it, and what it cost: CPU in seconds."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        requests = {name: getattr(self, name) for name in ("submits", "polls", "others", "connections")}
        return {**requests, "cpu_s": used.ru_utime + used.ru_stime, "done_at": self.done_at}


class Speaker(asyncio.Protocol):
    """One connection; the request line says which protocol is spoken."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        """Count it."""
        self._account.connections += 1
        self._transport = transport
        self._host = f"http://127.0.0.1:{transport.get_extra_info('sockname')[1]}"

    def data_received(self, data: bytes) -> None:
        """Answer each request as soon as it is complete."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            whole = end + 4 + (int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0)
            if len(self._buffer) < whole:
                return
            method, target = self._buffer[:end].split(b" ", 2)[:2]
            self._buffer = self._buffer[whole:]
            self._answer(method.decode(), target.decode())
            if b"\r\nconnection: close" in head:
                self._transport.close()

    def _answer(self, method: str, target: str) -> None:
        kind, status = b"application/json", b"200 OK"
        if target.endswith(".png"):
            self._account.others += 1
            kind, body = b"image/png", _PICTURE
        else:
            if method == "POST" and target == "/v1/predictions":
                status = b"201 Created"
            body = json.dumps(self._said(method, target)).encode()
        seconds = b"%.6f" % self._account.last_s
        self._transport.write(_ANSWER % (status, kind, len(body), seconds) + body)

    def _said(self, method: str, target: str) -> dict[str, Any]:
        if target.startswith("/api/v1/"):
            return {"code": 200, "message": "success", "data": self._apixo(method, target)}
        if target.startswith("/v1/predictions"):
            return self._replicate(method, target)
        if target.startswith("/fal-ai/"):
            return self._fal(method, target)
        return self._account.report()  # the last request: it is not counted

    def _apixo(self, method: str, target: str) -> dict[str, Any]:
        if method == "POST":
            return {"taskId": self._account.submit()}
        task_id = target.rpartition("=")[2]
        if not self._account.done(task_id):
            return {"taskId": task_id, "state": "processing", "createTime": 1767965610929}
        return {
            "taskId": task_id,
            "state": "success",
            "resultJson": json.dumps({"resultUrls": [f"{self._host}/{task_id}.png"]}),
            "createTime": 1767965610929,
            "completeTime": 1767965652317,
            "costTime": 41388,
        }

    def _replicate(self, method: str, target: str) -> dict[str, Any]:
        new = method == "POST"
        task_id = self._account.submit() if new else target.rpartition("/")[2]
        done = not new and self._account.done(task_id)
        return prediction(self._host, task_id, f"{self._host}/{task_id}.png" if done else None)

    def _fal(self, method: str, target: str) -> dict[str, Any]:
        target = target.partition("?")[0]
        if method == "POST":
            task_id = self._account.submit()
            base = f"{self._host}/fal-ai/gpt-image-1/requests/{task_id}"
            urls = {"response_url": base, "status_url": f"{base}/status", "cancel_url": f"{base}/cancel"}
            return {"request_id": task_id, **urls}
        if target.endswith("/status"):
            done = self._account.done(target.split("/")[-2])
            return {"status": "COMPLETED" if done else "IN_PROGRESS", "logs": []}
        self._account.others += 1
        return {"images": [{"url": f"{self._host}/{target.rpartition('/')[2]}.png"}]}


async def serve(seed: int, scale: float) -> None:
    """Serve until this is killed; prints its address first."""
    account = Account(durations(seed, scale))
    server = await asyncio.get_running_loop().create_server(
        lambda: Speaker(account), "127.0.0.1", 0, backlog=4096
    )
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--scale", type=float, default=10.0)
    asked = parser.parse_args()
    asyncio.run(serve(asked.seed, asked.scale))
