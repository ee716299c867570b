"""What a client came to know, and the little that all of them share."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

KEY = "a-made-up-key"
PROMPT = "a fox in the snow"
BODY: dict[str, Any] = {
    "request_type": "async",
    "input": {"mode": "gpt-image-1", "prompt": PROMPT, "aspect_ratio": "1:1", "num_images": 1},
}
SUBMIT = "/api/v1/generateTask/gpt-image-1"
STATUS = "/api/v1/statusTask/gpt-image-1"


@dataclass(slots=True)
class Known:
    """When the client knew of each task that it was done (monotonic clock, seconds); and its errors."""

    at: dict[str, float] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)

    def done(self, task_id: str) -> None:
        """This one is done."""
        self.at[task_id] = time.monotonic()

    def failed(self, error: BaseException) -> None:
        """One of them is lost to this client."""
        self.errors[type(error).__name__] += 1
