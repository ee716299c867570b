"""gpt-image-1 as data: what may be asked, what it costs, when to poll, what the fail codes mean.

Validation, the magic's options, tab completion, the cost estimate and the sandbox all read this page;
a second APIXO model is a second entry in `MODELS`. Every fact names its source. "Model page" is APIXO's
documentation of GPT Image 1 (read 2026-11); other APIXO pages are named, and where they differ it is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .cadence import Cadence

Value = str | int

DEFAULT_MODEL = "gpt-image-1"

#: Model page, "Tips": "Result URLs are normally stored for 15 days".
RESULT_DAYS = 15

#: Model page, "Status response fields"; other pages add ``pending``. Any other word is not final either.
FINAL_STATES = ("success", "failed")

#: A fresh task may answer "not found" for a while: seen at services of this kind, unconfirmed for APIXO.
NOT_FOUND_GRACE_S = 90.0


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
