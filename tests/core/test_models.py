"""The facts of gpt-image-1, against the numbers on APIXO's own page."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apixo_nb.core import cadence, models

MODEL = models.MODELS["gpt-image-1"]

# "Task failure codes" of the model page, and the two generations of APIXO's error page.
CATEGORIES = {
    "SensitiveContent": "content",
    "SensitiveContentDetected": "content",
    "InputImageSensitiveContentDetected": "content",
    "InputOutputSensitiveContentDetected": "content",
    "NSFW": "content",
    "ProhibitedContentDetected": "content",
    "CONTENT_VIOLATION": "content",
    "NSFW_DETECTED": "content",
    "PromptInvalid": "prompt",
    "PromptLengthExceeded": "prompt",
    "PROMPT_TOO_LONG": "prompt",
    "INVALID_PROMPT": "prompt",
    "ImageNotAccess": "reference",
    "INVALID_IMAGE_URL": "reference",
    "IMAGE_DOWNLOAD_FAILED": "reference",
    "ImageFormatIncorrect": "reference",
    "IMAGE_TOO_LARGE": "reference",
    "UNSUPPORTED_FORMAT": "reference",
    "RateLimited": "rate",
    "Timeout": "timeout",
    "PROCESSING_TIMEOUT": "timeout",
    "MODEL_UNAVAILABLE": "provider",
    "GENERATION_FAILED": "provider",
    "Unknown error": "provider",
    "INSUFFICIENT_CREDITS": "funds",
}


def test_limits_are_those_of_the_page():
    assert (MODEL.id, MODEL.mode, models.DEFAULT_MODEL) == ("gpt-image-1",) * 3
    assert MODEL.prompt_max == 10_000
    assert MODEL.references.maximum == 5
    assert MODEL.references.max_bytes in (10_000_000, 10 * 2**20)
    assert set(MODEL.references.suffixes) == {".jpg", ".jpeg", ".png", ".webp"}
    assert models.RESULT_DAYS == 15


def test_parameters_are_those_of_the_page():
    assert [parameter.wire for parameter in MODEL.parameters] == ["aspect_ratio", "num_images"]
    assert MODEL.parameter("aspect_ratio").values == ("1:1", "2:3", "3:2")
    assert MODEL.parameter("num_images").values == (1, 2, 4)
    assert (MODEL.parameter("aspect_ratio").flag, MODEL.parameter("num_images").flag) == ("--ar", "-n")
    assert (MODEL.parameter("aspect_ratio").default, MODEL.parameter("num_images").default) == ("1:1", 1)


def test_price_is_that_of_the_page():
    assert MODEL.unit_price_micros == 350_000


def test_rhythm_is_that_of_the_page():
    assert MODEL.cadence == cadence.Cadence(30.0, 20.0, 5.0, (3.0, 10.0))


def test_only_success_and_failed_are_final():
    assert models.FINAL_STATES == ("success", "failed")


def test_unknown_parameter_is_a_key_error():
    with pytest.raises(KeyError):
        MODEL.parameter("quality")


@pytest.mark.parametrize(("given", "pictures"), [({"num_images": 4}, 4), ({"num_images": 1}, 1), ({}, 1)])
def test_pictures_are_counted_by_the_count_parameter(given, pictures):
    assert MODEL.pictures(given) == pictures


# --- rhythm -----------------------------------------------------------------------------------------


def test_scaled_rhythm_scales_every_number():
    half = MODEL.cadence.scaled(0.5)
    assert half == cadence.Cadence(15.0, 10.0, 2.5, (1.5, 5.0))


def test_own_interval_is_its_own_bounds():
    own = MODEL.cadence.override(None, 1.0)
    assert (own.interval_s, own.interval_bounds_s) == (1.0, (0.8, 1.2))
    assert (own.first_poll_s, own.expected_s) == (20.0, 30.0)


def test_own_first_poll_changes_nothing_else():
    own = MODEL.cadence.override(0.0, None)
    assert own == cadence.Cadence(30.0, 0.0, 5.0, (3.0, 10.0))


def test_no_override_keeps_the_page():
    assert MODEL.cadence.override(None, None) == MODEL.cadence


# --- fail codes -------------------------------------------------------------------------------------


def test_every_code_on_the_pages_is_known():
    assert {code: models.fail_code(code).category for code in models.FAIL_CODES} == CATEGORIES


@pytest.mark.parametrize("code", CATEGORIES)
@pytest.mark.parametrize(
    "respell",
    [str.upper, str.lower, str.swapcase, lambda code: f" {code}\n", "_ -".join],
    ids=["upper", "lower", "swapped", "blanks around", "parted"],
)
def test_spelling_of_a_fail_code_does_not_matter(code, respell):
    assert models.fail_code(respell(code)) == models.fail_code(code)


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        ("SensitiveContent", False),
        ("PromptInvalid", False),
        ("ImageNotAccess", False),
        ("ImageFormatIncorrect", False),
        ("INSUFFICIENT_CREDITS", False),
        ("RateLimited", True),
        ("Timeout", True),
        ("Unknown error", True),
    ],
)
def test_trying_again_makes_sense_where_the_page_says_so(code, retryable):
    assert models.fail_code(code).retryable is retryable


@pytest.mark.parametrize("code", ["", "SomethingNew", "Sensitive", "💥", "\x00", "\ud800", "TIMEOUT_2"])
def test_unknown_fail_code_has_a_category_of_its_own(code):
    assert models.fail_code(code).category == "unknown"


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters()))
def test_no_fail_code_raises(code):
    assert models.fail_code(code).advice
