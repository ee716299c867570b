"""gpt-image-1 as data: what may be asked, what it costs, when to poll, what the fail codes mean.

Validation, the magic's options, tab completion, the cost estimate and the sandbox all read this page;
a second APIXO model is a second entry in `MODELS`. Every fact names its source. "Model page" is APIXO's
documentation of GPT Image 1 (read 2026-11); other APIXO pages are named, and where they differ it is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from .timetable import Timetable, timetable

Value = str | int

DEFAULT_MODEL = "gpt-image-1"

#: Model page, "Endpoint and authentication".
BASE_URL = "https://api.apixo.ai/api/v1"

#: Model page, "Tips": "Result URLs are normally stored for 15 days".
RESULT_DAYS = 15

#: Model page, "Status response fields"; other pages add ``pending``. Any other word is not final either.
FINAL_STATES = ("success", "failed")

#: A fresh task may answer "not found" for a while: seen at services of this kind, unconfirmed for APIXO.
NOT_FOUND_GRACE_S = 90.0

#: So many durations of tasks are needed before they foretell the next one.
ENOUGH_DURATIONS = 8

_LATE = 4.0  # times its expected duration; a task so late is polled as seldom as the page allows


@dataclass(frozen=True, slots=True)
class Parameter:
    """One generation parameter with a closed list of values.

    `wire` is its name in the JSON body, `flag` its option in the cell magic.
    """

    wire: str
    flag: str
    values: tuple[Value, ...]
    default: Value
    help: str

    def typed(self, text: str) -> Value:
        """The text as one of the values where it is one; what it may be is checked with the request."""
        return next((value for value in self.values if str(value) == text), text)


@dataclass(frozen=True, slots=True)
class References:
    """How many reference pictures a model takes, and which."""

    maximum: int
    suffixes: tuple[str, ...]
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Cadence:
    """When to poll, in seconds.

    `expected_s` is the typical duration of a task. `durations_s` are those that tasks of this kind were seen
    to take, sorted; with enough of them a timetable sends the polls where tasks end, within the bounds of the
    page.
    """

    expected_s: float
    first_poll_s: float
    interval_s: float
    interval_bounds_s: tuple[float, float]
    durations_s: tuple[float, ...] = ()
    timetable: Timetable | None = None

    @property
    def slow_s(self) -> float | None:
        """What 9 of 10 tasks stay under, where that is known."""
        return _quantile(self.durations_s, 0.9) if self.durations_s else None

    def learned(self, durations_s: Iterable[float]) -> Cadence:
        """With the durations seen so far; unchanged while they are too few to tell anything.

        The page advises a first poll after 20 s of typically 30. Where tasks take longer, it moves to where
        they end; where they are faster than the page says, it is as much earlier, and no earlier than that.
        """
        known = tuple(sorted(durations_s))
        if len(known) < ENOUGH_DURATIONS:
            return self
        typical_s = _quantile(known, 0.5)
        earliest_s = self.first_poll_s * min(1.0, typical_s / self.expected_s)
        best = timetable(known, earliest_s, self.interval_bounds_s, self.interval_s)
        return replace(
            self, expected_s=typical_s, first_poll_s=best.first_s, durations_s=known, timetable=best
        )

    def pause_s(self, age_s: float) -> float:
        """How long to wait for the next poll of a task of this age, before jitter, within the bounds."""
        low, high = self.interval_bounds_s
        if self.timetable is not None:
            return min(high, max(low, self.timetable.next_at(age_s) - age_s))
        late = age_s > _LATE * max(self.expected_s, self.first_poll_s)
        return high if late else self.interval_s

    def scaled(self, factor: float) -> Cadence:
        """The same rhythm, faster or slower: the sandbox works in a fraction of the real time."""
        low, high = self.interval_bounds_s
        return Cadence(
            self.expected_s * factor,
            self.first_poll_s * factor,
            self.interval_s * factor,
            (low * factor, high * factor),
            tuple(duration * factor for duration in self.durations_s),
            self.timetable and self.timetable.scaled(factor),
        )

    def override(self, first_poll_s: float | None, interval_s: float | None) -> Cadence:
        """The user's own numbers in place of the page's; an own interval is its own bounds, and is kept."""
        cadence = self
        if first_poll_s is not None:
            cadence = replace(cadence, first_poll_s=first_poll_s)
        if interval_s is not None:
            bounds = (interval_s * 0.8, interval_s * 1.2)
            cadence = replace(cadence, interval_s=interval_s, interval_bounds_s=bounds, timetable=None)
        return cadence


def _quantile(known: tuple[float, ...], share: float) -> float:
    return known[min(len(known) - 1, int(share * len(known)))]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What one model accepts, costs and takes in time.

    `count` names the parameter that says how many pictures a task makes. Prices are integer micro-dollars
    (1 USD = 1,000,000), so sums are exact.
    """

    id: str
    mode: str
    prompt_max: int
    parameters: tuple[Parameter, ...]
    count: str
    references: References
    unit_price_micros: int
    cadence: Cadence

    def parameter(self, wire: str) -> Parameter:
        """The parameter of that wire name; KeyError if the model has none."""
        return {parameter.wire: parameter for parameter in self.parameters}[wire]

    def pictures(self, parameters: Mapping[str, Value]) -> int:
        """How many pictures a request with these parameters asks for."""
        return int(parameters.get(self.count, 1))


MODELS: dict[str, ModelSpec] = {
    "gpt-image-1": ModelSpec(
        id="gpt-image-1",
        mode="gpt-image-1",
        prompt_max=10_000,
        parameters=(
            Parameter("aspect_ratio", "--ar", ("1:1", "2:3", "3:2"), "1:1", "aspect ratio"),
            Parameter("num_images", "-n", (1, 2, 4), 1, "pictures per task"),
        ),
        count="num_images",
        # Model page, "Tips": JPG, PNG and WebP, up to 10 MB each, public direct http(s) URLs.
        references=References(maximum=5, suffixes=(".jpg", ".jpeg", ".png", ".webp"), max_bytes=10_000_000),
        # Model page, "Billing": $0.35 an image. An older page said 0.035, and routes can differ: an estimate.
        unit_price_micros=350_000,
        # Model page, "Latency and polling": about 30 s; first poll at 20 s; then every 3-10 s.
        cadence=Cadence(expected_s=30.0, first_poll_s=20.0, interval_s=5.0, interval_bounds_s=(3.0, 10.0)),
    )
}


Category = Literal["content", "prompt", "reference", "funds", "rate", "timeout", "provider", "unknown"]


@dataclass(frozen=True, slots=True)
class FailCode:
    """What a task's failCode means for the person who paid for it."""

    category: Category
    advice: str
    retryable: bool = False


# Model page, "Task failure codes", "What to do".
_CONTENT = FailCode("content", "Change the prompt or the reference picture.")
_PROMPT = FailCode("prompt", "Revise the prompt.")
_UNREACHED = FailCode("reference", "Use a public, direct picture URL.")
_FORMAT = FailCode("reference", "Use a supported picture format (JPG, PNG, WebP, up to 10 MB).")
_RATE = FailCode("rate", "Try again later, more slowly.", retryable=True)
_TIMEOUT = FailCode("timeout", "Try again, with a simpler prompt or fewer references.", retryable=True)
_PROVIDER = FailCode("provider", "Try again later, or another route.", retryable=True)
_FUNDS = FailCode("funds", "Add balance, or switch to another account or key.")
_UNKNOWN = FailCode(
    "unknown", "The code is not on APIXO's pages; read the message, then try again.", retryable=True
)

# Both naming generations: the model page and the newer error page use PascalCase, the older page UPPER_CASE.
_FAIL_CODES: dict[str, FailCode] = {
    "SensitiveContent": _CONTENT,
    "SensitiveContentDetected": _CONTENT,
    "InputImageSensitiveContentDetected": _CONTENT,
    "InputOutputSensitiveContentDetected": _CONTENT,
    "NSFW": _CONTENT,
    "ProhibitedContentDetected": _CONTENT,
    "CONTENT_VIOLATION": _CONTENT,
    "NSFW_DETECTED": _CONTENT,
    "PromptInvalid": _PROMPT,
    "PromptLengthExceeded": _PROMPT,
    "PROMPT_TOO_LONG": _PROMPT,
    "INVALID_PROMPT": _PROMPT,
    "ImageNotAccess": _UNREACHED,
    "INVALID_IMAGE_URL": _UNREACHED,
    "IMAGE_DOWNLOAD_FAILED": _UNREACHED,
    "ImageFormatIncorrect": _FORMAT,
    "IMAGE_TOO_LARGE": _FORMAT,
    "UNSUPPORTED_FORMAT": _FORMAT,
    "RateLimited": _RATE,
    "Timeout": _TIMEOUT,
    "PROCESSING_TIMEOUT": _TIMEOUT,
    "MODEL_UNAVAILABLE": _PROVIDER,
    "GENERATION_FAILED": _PROVIDER,
    "Unknown error": _PROVIDER,
    "INSUFFICIENT_CREDITS": _FUNDS,
}


def _normalised(code: str) -> str:
    return "".join(char for char in code.casefold() if char.isalnum())


_BY_NORMALISED = {_normalised(code): meaning for code, meaning in _FAIL_CODES.items()}

#: The spellings on APIXO's pages, newest first; the set is open, so any other string may come too.
FAIL_CODES = tuple(_FAIL_CODES)


def fail_code(code: str) -> FailCode:
    """What a failCode means, whatever its case, blanks and underscores; unknown ones have their category."""
    return _BY_NORMALISED.get(_normalised(code), _UNKNOWN)
