"""Faults by the script: rules that say which requests meet which trouble. What each does: `failures`.

    >>> from apixo_nb.sandbox import Fault, Sandbox, SandboxOptions
    >>> busy = Fault("submit", "refuse", status=429, retry_after=2, times=3)
    >>> with Sandbox(SandboxOptions(faults=(busy,))) as sandbox:
    ...     sandbox.faults.add(Fault("picture", "half", match="a fox"))

Rules are read in their order and the first one that is due takes the request, so rules for the same requests
are a script: the second begins where the first has hit as often as it should. Only requests with the right
key and method count. All of them are in the account, whatever they meet.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from apixo_nb.sandbox.fault_kinds import KINDS, PLACES, REQUIRED, VARIANTS, Kind

REMEMBERED_HITS = 10_000


@dataclass(frozen=True, slots=True, repr=False)
class Fault:
    """One rule. ValueError says which field cannot be used, and what is allowed.

    Parameters
    ----------
    on
        The requests it is about: submit, status, picture or balance.
    kind
        What they meet, one of `fault_kinds.KINDS`.
    times
        How many requests it hits; None or "always": all of them.
    after
        How many requests it lets pass first; None: as the kind has it, which is 0 but for ``backwards``.
    match
        Text that the prompt of the task, or the address asked for, must contain.
    per_task
        `times` and `after` count for each task by itself (for a submit: for each prompt).

    All others are arguments of the kinds; None: as the kind has it.
    """

    on: str
    kind: str
    times: int | Literal["always"] | None = 1
    after: int | None = None
    match: str = ""
    per_task: bool = False
    accept: bool | None = None
    as_date: bool | None = None
    body: str | None = None
    bytes: int | None = None
    code: int | None = None
    count: int | None = None
    fail_code: str | None = None
    length: str | None = None
    location: str | None = None
    megabytes: int | None = None
    message: str | None = None
    pixels: int | None = None
    retry_after: float | str | None = None
    seconds: float | None = None
    state: str | None = None
    status: int | None = None
    task_id: str | None = None
    variant: str | None = None

    def __post_init__(self) -> None:
        _check("on", self.on, _one_of(PLACES))
        _check("kind", self.kind, _one_of(tuple(sorted(KINDS))))
        _check(f"on of {self.kind}", self.on, _one_of(self.spec.on))
        for rule in fields(self)[2:]:
            value = getattr(self, rule.name)
            if value is not rule.default:
                self._check_field(rule.name, value)
        for name, value in self.arguments().items():
            if value is REQUIRED:
                _check(name, None, _RULES[name])

    def __repr__(self) -> str:
        given = [
            f"{rule.name}={value!r}"
            for rule in fields(self)[2:]
            if (value := getattr(self, rule.name)) != rule.default
        ]
        return f"Fault({', '.join([repr(self.on), repr(self.kind), *given])})"

    def _check_field(self, name: str, value: object) -> None:
        own = tuple(self.spec.arguments)
        if name not in (*_COMMON, *own):
            _check(f"an argument of {self.kind}", name, _one_of((*_COMMON, *own)))
        if name == "accept":
            _check("on of a rule with accept", self.on, _one_of(("submit",)))
        _check(name, value, _one_of(self.spec.statuses) if name == "status" else _RULES[name])

    @property
    def spec(self) -> Kind:
        """What is known of its kind."""
        return KINDS[self.kind]

    @property
    def passes(self) -> int:
        """How many requests it lets pass first."""
        return self.spec.after if self.after is None else self.after

    @property
    def limit(self) -> float:
        """How many requests it hits, infinity included."""
        return float("inf") if self.times in (None, "always") else float(self.times or 0)

    def arguments(self) -> dict[str, Any]:
        """The arguments of its kind, with what was left out."""
        given = {name: getattr(self, name) for name in self.spec.arguments}
        return {name: self.spec.arguments[name] if given[name] is None else given[name] for name in given}

    def is_about(self, request: RequestFacts) -> bool:
        """Whether a request is one of those that it hits or lets pass."""
        return (
            self.on == request.on
            and (self.match in request.prompt or self.match in request.address)
            and (not self.spec.states or request.state in self.spec.states)
        )


def read(path: Path) -> tuple[Fault, ...]:
    """The faults of a JSON file, a list of objects; ValueError says in one line what is wrong with it."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    _check(f"{path}", entries, ("a JSON list of objects", lambda value: isinstance(value, list)))
    return tuple(_entry(f"{path}, entry {number}", entry) for number, entry in enumerate(entries, 1))


def _entry(place: str, entry: Any) -> Fault:
    _check(place, entry, ("an object, with on and kind at least", lambda value: isinstance(value, dict)))
    try:
        for name in entry:
            _check("field", name, _one_of(tuple(rule.name for rule in fields(Fault))))
        return Fault(**({"on": None, "kind": None} | entry))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


# --- what is allowed ---------------------------------------------------------------------------------

#: What a field may hold, in words and as a test.
_Rule = tuple[str, Callable[[Any], bool]]


def _check(name: str, value: object, rule: _Rule) -> None:
    allowed, fits = rule
    if not fits(value):
        shown = json.dumps(value, default=repr)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise ValueError(f"{name} is {shown}; allowed is {allowed}")


def _whole(low: int, high: int) -> _Rule:
    return (
        f"a whole number from {low} to {high}",
        lambda value: type(value) is int and low <= value <= high,
    )


def _one_of(values: tuple[object, ...] | range) -> _Rule:
    if isinstance(values, range):
        return _whole(values.start, values.stop - 1)
    # By type as well: in Python True == 1.
    kinds = {type(value) for value in values}
    return ", ".join(map(str, values)), lambda value: type(value) in kinds and value in values


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value) and value >= 0


def _is_header(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and value.isascii()


_YES_NO = ("true or false", lambda value: type(value) is bool)
_TEXT = ("a text", lambda value: isinstance(value, str))
_COMMON = ("times", "after", "match", "per_task")

_RULES: dict[str, _Rule] = {
    "times": (
        'a whole number from 1 on, "always" or null',
        lambda value: value in (None, "always") or (type(value) is int and value > 0),
    ),
    "after": _whole(0, 1_000_000),
    "match": _TEXT,
    "per_task": _YES_NO,
    "accept": _YES_NO,
    "as_date": _YES_NO,
    "body": _TEXT,
    "bytes": _whole(1, 1_000_000_000),
    "code": _whole(-1_000_000, 1_000_000),
    "count": _whole(0, 10_000),
    "fail_code": _TEXT,
    "length": _one_of(("true", "short")),
    "location": ("a printable ASCII text", _is_header),
    "megabytes": _whole(1, 10_000),
    "message": _TEXT,
    "pixels": _whole(1, 2**31 - 1),
    "retry_after": (
        "a number of seconds from 0 on, or a printable ASCII text",
        lambda value: _is_number(value) or _is_header(value),
    ),
    "seconds": ("a number of seconds from 0 on", _is_number),
    "state": _TEXT,
    "task_id": _TEXT,
    "variant": _one_of(tuple(VARIANTS)),
}


# --- the rules at work -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """A request, as far as rules look at it.

    `task` tells tasks apart: the taskId, or for a submit its prompt. `state` is that of the task, or "".
    """

    on: str
    prompt: str
    address: str
    task: str = ""
    state: str = ""


@dataclass(eq=False, slots=True)
class _Script:
    fault: Fault
    passed: Counter[str] = field(default_factory=Counter)
    hit: Counter[str] = field(default_factory=Counter)

    def takes(self, request: RequestFacts) -> bool:
        if not self.fault.is_about(request):
            return False
        key = self.key(request)
        if self.passed[key] < self.fault.passes:
            self.passed[key] += 1
            return False
        if self.hit[key] >= self.fault.limit:
            return False
        self.hit[key] += 1
        return True

    def key(self, request: RequestFacts) -> str:
        return request.task if self.fault.per_task else ""


@dataclass(frozen=True, eq=False, slots=True)
class Hit:
    """One request that a fault hits."""

    fault: Fault
    rule: _Script
    request: RequestFacts


class Faults:
    """The rules of a sandbox, and what they have done. Its methods may be called from any thread."""

    def __init__(self, faults: tuple[Fault, ...] = ()) -> None:
        self._lock = Lock()
        self._rules = [_Script(fault) for fault in faults]
        self._hits: deque[Hit] = deque(maxlen=REMEMBERED_HITS)

    def __repr__(self) -> str:
        return f"<Faults: {len(self._rules)} rules, {len(self._hits)} hits>"

    def add(self, *faults: Fault) -> None:
        """More rules, read after those there are."""
        with self._lock:
            self._rules += map(_Script, faults)

    def clear(self) -> None:
        """No more faults; `hits` stay, and so do requests that are held."""
        with self._lock:
            self._rules.clear()

    @property
    def hits(self) -> tuple[Fault, ...]:
        """The rule of each request that was hit, in order; the last 10,000."""
        with self._lock:
            return tuple(hit.fault for hit in self._hits)

    def hit(self, request: RequestFacts) -> Hit | None:
        """The fault that this request meets; it counts as hit."""
        with self._lock:
            rule = next((rule for rule in self._rules if rule.takes(request)), None)
            if rule is None:
                return None
            hit = Hit(rule.fault, rule, request)
            self._hits.append(hit)
            return hit

    def take_back(self, hit: Hit) -> None:
        """The request was not hit after all."""
        with self._lock:
            with suppress(ValueError):
                self._hits.remove(hit)
            hit.rule.hit[hit.rule.key(hit.request)] -= 1
