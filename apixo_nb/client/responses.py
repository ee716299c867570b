"""What APIXO answers, read without trust: any bytes at all become an `Answer`, never an exception.

The envelope is ``{code, message, data}``. APIXO's pages show ``data`` as an object, a bare number, null, an
object with only ``error``, or absent; ``resultJson`` is a JSON string, and third-party clients also met an
object. Everything here accepts all of that, and keeps what it cannot use in `TaskStatus.raw`.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from apixo_nb.core.credentials import HIDDEN
from apixo_nb.core.models import FINAL_STATES
from apixo_nb.core.models import fail_code as fail_code_of
from apixo_nb.errors import (
    APIError,
    ApixoError,
    AuthenticationError,
    BadRequestError,
    InsufficientBalanceError,
    MalformedResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ResultError,
    ServerError,
    TaskFailedError,
)
from apixo_nb.text import printable, storable

_LARGEST = 2**53  # above it a JSON number is not exact
_LATEST_MS = 4_102_444_800_000  # the year 2100 as Unix time: later times are no times of a task
_LONGEST_TASK_MS = 30 * 86_400_000  # twice as long as results are kept
_LONGEST_ID = 2000  # characters; as long as an address may be that asks for the task
_MOST_EVIDENCE = 4096  # bytes of an answer that are kept for the record
_MOST_USD = 1e9  # of a balance; anything above is no sum of money
_LONGEST_PAUSE_S = 86_400.0  # whatever a header asks for, a kernel does not refuse submits for longer
_NO_FUNDS = re.compile(
    r"(insufficient|not[\s_-]enough|no)[\s_-]*(account[\s_-]+)?(credit|balance|fund|quota)", re.IGNORECASE
)


def _text(value: object) -> str:
    if value is None or isinstance(value, (bool, dict, list)):
        return ""
    return storable(str(value))


def _state(value: object) -> str:
    """The state verbatim; only the known words are recognised in any case."""
    text = _text(value)
    known = text.strip().casefold()
    return known if known in (*FINAL_STATES, "processing", "pending") else text


def _whole(value: object, below: int) -> int | None:
    """A whole number from 0 and less than `below`; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if math.isfinite(number) and 0 <= number < below else None


def _time(value: object) -> int | None:
    return _whole(value, _LATEST_MS)


def _duration(value: object) -> int | None:
    return _whole(value, _LONGEST_TASK_MS)


def _task_id(value: object) -> str:
    """A taskId as text: opaque, also a number; "" for what cannot be one.

    Zero and less say "none". An id that quotes the key is none either: without the key it names no task.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST:
        value = int(value)
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, str))
        or (isinstance(value, int) and value <= 0)
    ):
        return ""
    text = storable(str(value).strip())
    return text if len(text) <= _LONGEST_ID and HIDDEN not in text else ""


_Text = Annotated[str, BeforeValidator(_text)]
_Time = Annotated[int | None, BeforeValidator(_time)]  # Unix milliseconds
_Duration = Annotated[int | None, BeforeValidator(_duration)]  # milliseconds


# --- the answer of one HTTP exchange ----------------------------------------------------------------


class Answer(BaseModel):
    """One answer of the API, read as far as it can be read.

    Attributes
    ----------
    status : int
        The HTTP status.
    readable : bool
        Whether the body is a JSON object at all.
    code : int or None
        ``code`` of the body's envelope.
    message : str
        The most telling text: ``message``, ``data.error`` or ``failMsg``.
    fail_code : str
        A failure identifier in an immediate answer (a newer error page says it can occur).
    data : object
        ``data`` as it came.
    retry_after : str
        The Retry-After header, verbatim.
    """

    model_config = ConfigDict(frozen=True)

    status: int
    readable: bool
    code: int | None = None
    message: str = ""
    fail_code: str = ""
    data: Any = None
    retry_after: str = ""

    @property
    def accepted(self) -> bool:
        """HTTP status and body code are both 200."""
        return self.status == self.code == 200

    @property
    def verdict(self) -> int:
        """The number that decides: an HTTP status other than 200, else the body's code, else 200."""
        return self.status if self.status != 200 or self.code is None else self.code

    @property
    def task_id(self) -> str:
        """``data.taskId`` where it is usable, else "". Ids are opaque: 16 and 32 digits were seen."""
        return _task_id(self.data.get("taskId") if isinstance(self.data, dict) else None)

    @property
    def speaks_of_success(self) -> bool:
        """Whether the body claims that a task was made, whatever the status and however unusable its id."""
        data = self.data
        return self.code == 200 or (isinstance(data, dict) and bool(data.get("taskId")))

    @property
    def number(self) -> float | None:
        """``data`` where it is a bare number that may be a balance in US dollars, else None."""
        data = self.data
        if isinstance(data, bool) or not isinstance(data, (int, float)):
            return None
        try:
            return float(data) if abs(data) < _MOST_USD else None  # NaN is not below anything
        except OverflowError:
            return None


def read_answer(
    status: int, headers: Mapping[str, str], body: bytes, hide: Callable[[str], str] = str
) -> Answer:
    """Read one HTTP answer; never raises. `headers` has lower-case names.

    `hide` takes the key out of all texts, ids and URLs included, before anything else sees them.
    """
    retry_after = headers.get("retry-after", "")
    envelope = _json(body, hide)
    if not isinstance(envelope, dict):
        return Answer(status=status, readable=False, retry_after=retry_after)
    data = envelope.get("data")
    inner = data if isinstance(data, dict) else {}
    texts = (inner.get("error"), inner.get("failMsg"), envelope.get("failMsg"), envelope.get("message"))
    codes = (inner.get("failCode"), envelope.get("failCode"))
    return Answer(
        status=status,
        readable=True,
        code=_whole(envelope.get("code"), _LARGEST),
        message=next((text for text in map(_text, texts) if text), ""),
        fail_code=next((code for code in map(_text, codes) if code), ""),
        data=data,
        retry_after=retry_after,
    )


def _json(body: bytes | str, hide: Callable[[str], str] = str) -> Any:
    """The JSON value of an answer without the key; None for what is no JSON."""
    try:
        return _without_key(json.loads(body), hide)
    except (ValueError, RecursionError):  # not JSON, wrong encoding, a 5,000-digit number, 100,000 brackets
        return None


def _without_key(value: Any, hide: Callable[[str], str]) -> Any:
    """A JSON value with the key taken out of all its texts, also out of a number of 8 digits or more."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, list):
        return [_without_key(each, hide) for each in value]
    if isinstance(value, dict):
        return {hide(name): _without_key(each, hide) for name, each in value.items()}
    if isinstance(value, int) and abs(value) >= 10**7 and hide(str(value)) != str(value):
        return HIDDEN
    return value


def evidence(body: bytes, hide: Callable[[str], str] = str) -> str:
    """The body of an answer as text for the record: without the key, at most 4 kB of UTF-8."""
    value = _json(body, hide)
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(RecursionError):
        text = text if value is None else json.dumps(value, ensure_ascii=False)
    kept = storable(hide(text)).encode()[:_MOST_EVIDENCE]
    return kept.decode("utf-8", "ignore")


_KINDS: dict[int, type[APIError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: InsufficientBalanceError,
    403: PermissionDeniedError,
    404: NotFoundError,
    408: ServerError,  # like 499, a proxy's word for "cut off": worth another try
    429: RateLimitError,
    499: ServerError,
}


def problem_of(answer: Answer, doing: str) -> APIError:
    """The error for an answer that is not what was asked for; `doing` names the request in a few words."""
    facts: dict[str, Any] = {"status": answer.status, "code": answer.code}
    said = ": ".join(printable(text) for text in (answer.fail_code, answer.message) if text)
    if not answer.readable and answer.verdict == 200:
        return MalformedResponseError(f"{doing}: the answer is not APIXO's JSON", **facts)
    kind = _kind(answer)
    if answer.fail_code:
        facts["next_step"] = fail_code_of(answer.fail_code).advice
    return kind(f"{doing}: {said or 'no reason was given'}", **facts)


def _kind(answer: Answer) -> type[APIError]:
    # A lack of money comes as 402, as a 400 with "Insufficient credits", or as a failCode.
    by_code = fail_code_of(answer.fail_code).category if answer.fail_code else None
    client_side = 400 <= answer.verdict < 500
    if client_side and (by_code == "funds" or (answer.verdict == 400 and _NO_FUNDS.search(answer.message))):
        return InsufficientBalanceError
    if answer.verdict in _KINDS:
        return _KINDS[answer.verdict]
    if client_side:
        return BadRequestError
    return ServerError if answer.verdict >= 500 else MalformedResponseError


def retry_after_s(header: str, wall: float) -> float | None:
    """Seconds from a Retry-After header, given as seconds or as an HTTP date; None where it is of no use.

    At most a day: a header may name the year 9999, and no kernel should refuse submits until then.
    `wall` is now, in Unix seconds. APIXO documents no such header; proxies before it may send one.
    """
    text = header.strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - wall
        except (ValueError, TypeError, OverflowError):
            return None
    return min(seconds, _LONGEST_PAUSE_S) if math.isfinite(seconds) and seconds >= 0 else None


# --- the status of a task ---------------------------------------------------------------------------


class TaskStatus(BaseModel):
    """What ``statusTask`` says of one task. Times are APIXO's own, Unix milliseconds, and may be missing.

    Attributes
    ----------
    task_id, state : str
        `state` verbatim; only ``success`` and ``failed`` are final.
    result_urls : tuple of str
        http(s) URLs in the order given, each once.
    result_problem : str
        Why the result cannot be used as it is, or "".
    cost_time_ms : int or None
        ``costTime``; where it is missing, completeTime - createTime.
    raw : str
        ``data`` as JSON text, for the record.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    task_id: Annotated[str, BeforeValidator(_task_id)] = Field("", alias="taskId")
    state: Annotated[str, BeforeValidator(_state)] = ""
    fail_code: _Text = Field("", alias="failCode")
    fail_msg: _Text = Field("", alias="failMsg")
    created_ms: _Time = Field(None, alias="createTime")
    completed_ms: _Time = Field(None, alias="completeTime")
    cost_time_ms: _Duration = Field(None, alias="costTime")
    result_urls: tuple[str, ...] = ()
    result_problem: str = ""
    raw: str = ""

    @property
    def final(self) -> bool:
        """Whether the task has ended; an unknown state has not."""
        return self.state in FINAL_STATES

    def error(self) -> ApixoError | None:
        """The error of a task that ended without a usable result, else None."""
        if self.state == "failed":
            meaning = fail_code_of(self.fail_code)
            said = f"{self.fail_code or 'no failCode'}: {self.fail_msg or 'no failMsg'}"
            return TaskFailedError(
                f"The task failed, {printable(said)}",
                fail_code=self.fail_code,
                category=meaning.category,
                task_id=self.task_id,
                retryable=meaning.retryable,
                next_step=meaning.advice,
            )
        if self.state == "success" and not self.result_urls:
            return ResultError(f"The task succeeded, but {self.result_problem}", task_id=self.task_id)
        return None


def read_task(answer: Answer, hide: Callable[[str], str] = str) -> TaskStatus | None:
    """The task in an accepted answer; None where ``data`` is no task.

    `hide` as in `read_answer`; here for ``resultJson``, which is JSON in a text of JSON.
    """
    if not answer.accepted or not isinstance(answer.data, dict) or not answer.data:
        return None
    named = {field: answer.data.get(field) for field in _WIRE_FIELDS}
    status = TaskStatus.model_validate(named)
    result = answer.data.get("resultJson")
    urls, problem = _results(result, hide) if status.state == "success" else ((), "")
    if status.cost_time_ms is None and status.final:
        status = status.model_copy(update={"cost_time_ms": _span(status.created_ms, status.completed_ms)})
    raw = hide(storable(json.dumps(answer.data, ensure_ascii=False)))
    return status.model_copy(update={"result_urls": urls, "result_problem": problem, "raw": raw})


_WIRE_FIELDS = ("taskId", "state", "failCode", "failMsg", "createTime", "completeTime", "costTime")


def _span(created_ms: int | None, completed_ms: int | None) -> int | None:
    if created_ms is None or completed_ms is None or completed_ms < created_ms:
        return None
    return _duration(completed_ms - created_ms)


def _results(result: object, hide: Callable[[str], str]) -> tuple[tuple[str, ...], str]:
    """The URLs in ``resultJson``, and what is wrong with it."""
    if result in (None, ""):
        return (), "it names no result"
    for _ in range(2):  # a JSON string, and once in a while a JSON string in a JSON string
        if isinstance(result, str):
            result = _json(result, hide)
    if isinstance(result, dict):
        result = result.get("resultUrls")
    if isinstance(result, str):
        result = [result]
    if not isinstance(result, list):
        return (), "its result cannot be read"
    urls = tuple(dict.fromkeys(storable(url) for url in result if _is_web_url(url)))
    if urls and len(urls) == len(result):
        return urls, ""
    problem = "its result has no picture URL" if not urls else "some of its result URLs cannot be used"
    quotes_key = any(isinstance(url, str) and HIDDEN in url for url in result)
    return urls, f"{problem}, as they quote the API key" if quotes_key else problem


def _is_web_url(url: object) -> bool:
    if not isinstance(url, str) or any(
        char.isspace() or char == "\\" or not char.isprintable() for char in url
    ):
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
