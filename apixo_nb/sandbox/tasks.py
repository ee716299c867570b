"""One task, from acceptance to its result: all it answers follows from the time of the question.

The journal keeps accepted tasks on disk, one JSON line each: a sandbox that is started again knows them.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from apixo_nb.core.models import ModelSpec
from apixo_nb.sandbox import markers

Json = dict[str, Any]

# Model page, "Poll for result" (the first) and "Task failure codes", "Meaning" (the others).
FAIL_MESSAGES = {
    "SensitiveContent": "Content violates provider policy, please adjust the prompt",
    "PromptInvalid": "Prompt format or content was rejected",
    "ImageNotAccess": "A reference image URL could not be reached",
    "ImageFormatIncorrect": "Image format is incorrect",
    "RateLimited": "Provider or account rate limit was reached",
    "Timeout": "Generation did not finish in time",
    "Unknown error": "Unmapped provider-side failure",
}


def success(data: object) -> Json:
    """The envelope of every good answer and of every callback."""
    return {"code": 200, "message": "success", "data": data}


@dataclass(frozen=True)
class Task:
    """An accepted, and so a billed, request.

    `request` is the JSON body as it came, `pictures` the number of result URLs, `ready_ms` the Unix
    time in milliseconds at which the task ends; None is a task that never ends.
    """

    task_id: str
    model: str
    request: Json
    created_ms: int
    ready_ms: int | None
    pictures: int
    price_micros: int

    @classmethod
    def accept(cls, spec: ModelSpec, request: Json, now_ms: int, seconds: float) -> Task:
        """A new task for a checked request; it takes about `seconds`, the same for the same taskId."""
        task_id = f"task_{secrets.token_hex(8)}"
        script = markers.read(request["input"]["prompt"])
        asked = spec.pictures(request["input"])
        typical = seconds * random.Random(task_id).uniform(0.7, 1.3)  # noqa: S311 - no secret
        took_ms = round(1000 * (typical if script.seconds is None else script.seconds))
        return cls(
            task_id=task_id,
            model=spec.id,
            request=request,
            created_ms=now_ms,
            ready_ms=None if script.never else now_ms + took_ms,
            pictures=asked if script.pictures is None else script.pictures,
            price_micros=spec.unit_price_micros * asked,
        )

    @property
    def prompt(self) -> str:
        """The prompt, markers and all."""
        return str(self.request["input"]["prompt"])

    @cached_property
    def script(self) -> markers.Script:
        """What the markers in the prompt ask for."""
        return markers.read(self.prompt)

    @property
    def callback_url(self) -> str | None:
        """Where the result is to be posted; None for a task that is polled."""
        return self.request.get("callback_url")

    @cached_property
    def token(self) -> str:
        """The folder of its pictures, fixed by the taskId, so URLs survive a restart on the same port."""
        return hashlib.blake2s(self.task_id.encode(), digest_size=8).hexdigest()

    def state(self, now_ms: int) -> str:
        """``processing``, ``success`` or ``failed``."""
        if self.ready_ms is None or now_ms < self.ready_ms:
            return "processing"
        return "success" if self.script.fail is None else "failed"

    def envelope(self, now_ms: int, picture_url: str) -> Json:
        """The answer to a status request, which is also the body of a callback.

        Shapes: model page, "Poll for result"; "Response format". Times are integer milliseconds.
        """
        state = self.state(now_ms)
        data: Json = {"taskId": self.task_id, "state": state}
        if state == "success":
            data["resultJson"] = json.dumps({"resultUrls": self.result_urls(picture_url)})
        if state == "failed":
            code = self.script.fail or ""
            data |= {"failCode": code, "failMsg": FAIL_MESSAGES.get(code, f"The task failed: {code}")}
        return success(data | self._times(state))

    def result_urls(self, picture_url: str) -> list[str]:
        """Where its pictures are, on the picture host that runs now."""
        folder = f"{picture_url}/{self.token}/{self.task_id}"
        return [f"{folder}-{index}.png" for index in range(1, self.pictures + 1)]

    def _times(self, state: str) -> Json:
        times: Json = {"createTime": self.created_ms}
        if state != "processing" and self.ready_ms is not None:
            times["completeTime"] = self.ready_ms
            if not self.script.no_cost_time:
                times["costTime"] = self.ready_ms - self.created_ms
        return times


# --- the tasks on disk ---


def read_journal(path: Path) -> Iterator[Task]:
    """The tasks of a journal, oldest first; none if there is no file yet.

    A line cut short by a crash is passed over: its submit was never answered. ValueError if the file
    holds anything else.
    """
    if not path.exists():
        return
    lines = path.read_bytes()
    if lines and not lines.endswith(b"\n"):
        _write(path, b"\n")  # so that the next record starts on a line of its own
    for line in lines.splitlines():
        try:
            yield Task(**json.loads(line))
        except ValueError:
            continue
        except TypeError:
            raise ValueError(f"{path} is not the journal of a sandbox") from None


def append_to_journal(path: Path, task: Task) -> None:
    """Write one task; when this returns, it is on the disk."""
    _write(path, json.dumps(asdict(task)).encode() + b"\n")


def _write(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
