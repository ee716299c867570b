"""Faults on demand: what words in square brackets in a prompt make the sandbox do.

Markers can be combined, and anything else in brackets is plain prompt text. A known marker with an
argument that makes no sense is refused with HTTP 400, so that a typing error does not pass for a success.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

REFUSALS = (400, 401, 402, 403, 404, 429, 500, 502, 503, 504)
LOSSES = (500, 502, 503, 504)

#: What can be written, without its brackets, and what it does.
MARKERS = {
    "fail:CODE": "the task ends failed, with this failCode",
    "http:STATUS": "the submit is refused with this HTTP status; nothing is accepted or charged",
    "busy:N": "the first N submits of this very prompt are refused with 429 and Retry-After: 1",
    "lost": "the submit is accepted and charged, then the connection closes without an answer",
    "lost:STATUS": "the submit is accepted and charged, but answered with this 5xx status",
    "seconds:N": "the task takes N seconds",
    "never": "the task never ends",
    "pictures:N": "the task succeeds with N result URLs, whatever was asked for; 0 is allowed",
    "gone": "the result URLs answer 404",
    "broken": "the picture host closes the connection halfway through each picture",
    "html": "the result URLs answer an HTML page with 200",
    "no-cost-time": "the finished status lacks costTime",
}

_NAMES = "|".join(sorted({re.escape(name.partition(":")[0]) for name in MARKERS}))
_MARKER = re.compile(rf"\[({_NAMES})(?::([^\[\]]*))?\]")


@dataclass(frozen=True, slots=True)
class Script:
    """What the markers of one prompt ask for; everything at its default is an ordinary task."""

    fail: str | None = None
    http: int | None = None
    busy: int = 0
    lost: bool = False
    lost_status: int | None = None
    seconds: float | None = None
    never: bool = False
    pictures: int | None = None
    gone: bool = False
    broken: bool = False
    html: bool = False
    no_cost_time: bool = False


def read(prompt: str) -> Script:
    """The script written in a prompt; ValueError names a marker whose argument makes no sense."""
    marks: dict[str, str] = dict(_MARKER.findall(prompt))
    return Script(
        fail=_text(marks, "fail"),
        http=_status(marks, "http", REFUSALS),
        busy=_whole(marks, "busy") or 0,
        lost="lost" in marks,
        lost_status=_status(marks, "lost", LOSSES) if marks.get("lost") else None,
        seconds=_seconds(marks),
        never="never" in marks,
        pictures=_whole(marks, "pictures"),
        gone="gone" in marks,
        broken="broken" in marks,
        html="html" in marks,
        no_cost_time="no-cost-time" in marks,
    )


def _text(marks: dict[str, str], name: str) -> str | None:
    if name in marks and not marks[name].strip():
        raise ValueError(f"marker [{name}] needs an argument: [{name}:…]")
    return marks[name].strip() if name in marks else None


def _whole(marks: dict[str, str], name: str) -> int | None:
    text = _text(marks, name)
    if text is not None and not re.fullmatch(r"[0-9]{1,4}", text):
        raise ValueError(f"marker [{name}:{text}] needs a whole number from 0 to 9999")
    return None if text is None else int(text)


def _status(marks: dict[str, str], name: str, allowed: tuple[int, ...]) -> int | None:
    status = _whole(marks, name)
    if status is not None and status not in allowed:
        raise ValueError(f"marker [{name}:{status}] needs one of {', '.join(map(str, allowed))}")
    return status


def _seconds(marks: dict[str, str]) -> float | None:
    text = _text(marks, "seconds")
    if text is not None and not re.fullmatch(r"[0-9]{1,6}(\.[0-9]*)?", text):
        raise ValueError(f"marker [seconds:{text}] needs a number of seconds, such as 0.5")
    return None if text is None else float(text)
