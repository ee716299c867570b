"""Requests: good ones become the page's own JSON, bad ones are refused here with field, value and rule."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from apixo_nb.core.request import Request, make_request
from apixo_nb.errors import InvalidRequestError

PROPERTY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
REFERENCE = "https://example.com/ref1.jpg"
PROMPT = "text of 1 to 10000 characters"
RATIOS = "1:1, 2:3, 3:2"
COUNTS = "1, 2, 4"
URLS = "public, direct http(s) URLs"
CALLBACK = "a public https URL, together with request_type callback"


def case(name: str, given: dict[str, Any], field: str, value: str, allowed: str):
    return pytest.param({"prompt": "a fox", **given}, field, value, allowed, id=name)


def prompt(name: str, text: object, value: str):
    return case(f"prompt, {name}", {"prompt": text}, "prompt", value, PROMPT)


def ratio(value: object):
    return case(f"ratio {value!r}", {"aspect_ratio": value}, "aspect_ratio", str(value), RATIOS)


def count(value: object):
    return case(f"count {value!r}", {"num_images": value}, "num_images", str(value), COUNTS)


def reference(name: str, url: object, value: str | None = None):
    shown = str(url) if value is None else value
    return case(f"reference, {name}", {"image_urls": [url]}, "image_urls", shown, URLS)


def callback(name: str, url: object, value: str):
    given = {"request_type": "callback", "callback_url": url}
    return case(f"callback, {name}", given, "callback_url", value, CALLBACK)


BAD = [
    prompt("empty", "", ""),
    prompt("blanks", " \t\n", "   "),
    prompt("zero-width space", "\u200b", "\\u200b"),
    prompt("joiners only", "\u200d\u200d", "\u200d\u200d"),
    prompt("control characters only", "\x1b\x07", "\\u001b\\u0007"),
    prompt("one too long", "x" * 10_001, "x" * 80 + "…"),
    prompt("one too long, not ASCII", "🦊" * 10_001, "🦊" * 80 + "…"),
    prompt("lone surrogate", "a \ud800 fox", "a \\ud800 fox"),
    prompt("NUL", "a\x00fox", "a\\u0000fox"),
    prompt("bytes", b"a fox", "b'a fox'"),
    prompt("None", None, "None"),
    prompt("list", ["a fox"], "['a fox']"),
    prompt("number", 7, "7"),
    *map(ratio, ["5:4", "1x1", "1:1 ", "01:1", "3\uff1a2", "", "16:9", "auto", "1:1,2:3", 1, 1.5, True]),
    *map(count, [0, 3, -1, 5, 2.0, "2", "two", "1e2", "", True, False, 10**20, float("nan"), [2]]),
    reference("local path", "/home/me/fox.png"),
    reference("relative path", "fox.png"),
    reference("Windows path", "C:\\fox.png"),
    reference("network path", "\\\\server\\fox.png"),
    reference("file URL", "file:///home/me/fox.png"),
    reference("data URL", "data:image/png;base64,iVBORw0KGgo="),
    reference("ftp", "ftp://example.com/fox.png"),
    reference("javascript", "javascript:alert(1)"),
    reference("no host", "https:///fox.png"),
    reference("empty", ""),
    reference("port too large", "https://example.com:99999/fox.png"),
    reference("user and password", "https://me:secret@example.com/fox.png"),
    reference("blank", "https://example.com/a fox.png"),
    reference("newline", "https://example.com/fox.png\n", "https://example.com/fox.png "),
    reference("backslash", "https://example.com\\@evil.example/fox.png"),
    reference("control character", "https://example.com/\x1b.png", "https://example.com/\\u001b.png"),
    reference("lone surrogate", "https://example.com/\ud800.png", "https://example.com/\\ud800.png"),
    reference("open bracket", "https://[::1/fox.png"),
    reference("number", 7),
    reference("None", None),
    case("references, six", {"image_urls": [REFERENCE] * 6}, "image_urls", "6", "at most 5"),
    case(
        "references, text",
        {"image_urls": REFERENCE},
        "image_urls",
        REFERENCE,
        "a list of public http(s) URLs",
    ),
    case("references, None", {"image_urls": None}, "image_urls", "None", "a list of public http(s) URLs"),
    case("model, unknown", {"model": "gpt-image-2"}, "model", "gpt-image-2", "gpt-image-1"),
    case("model, empty", {"model": ""}, "model", "", "gpt-image-1"),
    case("model, list", {"model": ["gpt-image-1"]}, "model", "['gpt-image-1']", "gpt-image-1"),
    case("parameter, unknown", {"quality": "hd"}, "quality", "hd", "aspect_ratio, num_images"),
    case("parameter, seed", {"seed": 1}, "seed", "1", "aspect_ratio, num_images"),
    case("request type, sync", {"request_type": "sync"}, "request_type", "sync", "async, callback"),
    case("request type, None", {"request_type": None}, "request_type", "None", "async, callback"),
    case(
        "callback URL with async", {"callback_url": REFERENCE}, "callback_url", REFERENCE, "none with async"
    ),
    callback("missing", None, "None"),
    callback("empty", "", ""),
    callback("http", "http://example.com/hook", "http://example.com/hook"),
    callback("no scheme", "example.com/hook", "example.com/hook"),
    callback("no host", "https:///hook", "https:///hook"),
    callback("user", "https://me@example.com/hook", "https://me@example.com/hook"),
    callback("blank", "https://example.com/a hook", "https://example.com/a hook"),
    callback("number", 7, "7"),
]


@pytest.mark.parametrize(("given", "field", "value", "allowed"), BAD)
def test_bad_input_is_refused_with_field_value_and_rule(given, field, value, allowed):
    with pytest.raises(InvalidRequestError) as caught:
        make_request(given.pop("prompt"), **given)
    error = caught.value
    assert (error.field, error.value, error.allowed) == (field, value, allowed)
    assert len(str(error).splitlines()) == 2
    assert str(error).endswith("Nothing was sent.")


class Table:
    """Stands for an array or a DataFrame: no plain truth value, many lines of text."""

    def __eq__(self, other: object):
        return self

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise ValueError("the truth value of a table is ambiguous")

    def __repr__(self):
        return "   a\n0  1\n1  2\x1b[31m"


@pytest.mark.parametrize("value", [Table(), 10**5000], ids=["table", "number of 5,000 digits"])
@pytest.mark.parametrize("field", ["prompt", "aspect_ratio", "num_images", "model", "request_type", "seed"])
def test_odd_object_is_refused_like_any_other(field, value):
    given: dict[str, Any] = {"prompt": "a fox", field: value}
    with pytest.raises(InvalidRequestError) as caught:
        make_request(given.pop("prompt"), **given)
    assert caught.value.field == field
    assert len(str(caught.value).splitlines()) == 2
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["x" * 10_000, "🦊" * 10_000, "é" * 10_000], ids=["ASCII", "emoji", "accents"]
)
def test_prompt_of_exactly_the_limit_passes(text):
    assert make_request(text).prompt == text


def test_too_long_prompt_shows_both_numbers():
    with pytest.raises(InvalidRequestError) as caught:
        make_request("x" * 10_001)
    assert "10001" in caught.value.message
    assert "10000" in caught.value.advice


def test_unusable_character_is_named_with_its_position():
    with pytest.raises(InvalidRequestError, match=r"U\+D800, at position 2"):
        make_request("a \ud800")


def test_prompt_is_kept_as_typed():
    text = "  a fox\n\n\tin {snow} \u202e👩‍🚀 =1+1 "
    assert make_request(text).body()["input"]["prompt"] == text


@pytest.mark.parametrize(
    ("parameter", "value", "near"),
    [("aspect_ratio", "3:3", "3:2"), ("aspect_ratio", "1:1 ", "1:1"), ("num_images", "4", "4")],
)
def test_near_miss_offers_the_nearest_value(parameter, value, near):
    with pytest.raises(InvalidRequestError) as caught:
        make_request("a fox", **{parameter: value})
    assert f"Did you mean {near}?" in caught.value.advice


def test_misspelt_parameter_offers_the_nearest_one():
    with pytest.raises(InvalidRequestError, match=r"Did you mean num_images\?"):
        make_request("a fox", num_image=2)


@pytest.mark.parametrize("path", ["/home/me/fox.png", "fox.png", "C:\\fox.png", "file:///fox.png"])
def test_local_file_has_a_message_of_its_own(path):
    with pytest.raises(InvalidRequestError, match="is on this machine") as caught:
        make_request("a fox", image_urls=[path])
    assert "APIXO takes no files" in caught.value.advice


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "https://example.com",
        "https://example.com:8443/a%20fox.webp?size=1#x",
        "https://[2001:db8::1]/a.png",
        "https://münchen.example/ä.png",
        "HTTPS://EXAMPLE.COM/A.PNG",
    ],
)
def test_usable_reference_is_kept_as_given(url):
    assert make_request("a fox", image_urls=[url]).image_urls == (url,)


@pytest.mark.parametrize("number", [0, 1, 5])
def test_none_to_five_references_pass(number):
    urls = [f"https://example.com/{index}.png" for index in range(number)]
    request = make_request("a fox", image_urls=iter(urls))
    assert request.body()["input"].get("image_urls", []) == urls


@pytest.mark.parametrize("parameters", [{}, {"aspect_ratio": None, "num_images": None}])
def test_parameters_not_given_are_the_defaults_of_the_model(parameters):
    request = make_request("a fox", **parameters)
    assert request.parameters == {"aspect_ratio": "1:1", "num_images": 1}
    assert request.num_images == 1


# --- the body ---------------------------------------------------------------------------------------


def test_body_is_the_sample_of_the_page():
    request = make_request("a cozy cyberpunk cafe with neon lights", aspect_ratio="3:2", num_images=1)
    assert request.body() == {
        "request_type": "async",
        "input": {
            "mode": "gpt-image-1",
            "prompt": "a cozy cyberpunk cafe with neon lights",
            "aspect_ratio": "3:2",
            "num_images": 1,
        },
    }


def test_body_with_references_is_the_sample_of_the_page():
    request = make_request(
        "turn these references into a futuristic cityscape at sunset",
        image_urls=["https://example.com/ref1.jpg", "https://example.com/ref2.png"],
        aspect_ratio="3:2",
        num_images=2,
    )
    assert request.body() == {
        "request_type": "async",
        "input": {
            "mode": "gpt-image-1",
            "prompt": "turn these references into a futuristic cityscape at sunset",
            "image_urls": ["https://example.com/ref1.jpg", "https://example.com/ref2.png"],
            "aspect_ratio": "3:2",
            "num_images": 2,
        },
    }


def test_body_with_a_callback_is_the_sample_of_the_page():
    url = "https://your-server.com/webhooks/apixo"
    prompt = "a clean product photo of wireless earbuds on soft stone"
    request = make_request(prompt, request_type="callback", callback_url=url)
    assert request.body() == {
        "request_type": "callback",
        "callback_url": url,
        "input": {"mode": "gpt-image-1", "prompt": prompt, "aspect_ratio": "1:1", "num_images": 1},
    }


# --- the digest -------------------------------------------------------------------------------------


def test_digest_is_the_same_in_every_process():
    # Written down once: rows of older versions must go on being found.
    digest = make_request("a fox", aspect_ratio="3:2", num_images=2).digest()
    assert digest == "7ad320d395906630d37e07654358c94dd2a64bb82974fa17a1937905ca78faa3"


def test_digest_does_not_know_how_the_result_is_delivered():
    plain = make_request("a fox")
    called = make_request("a fox", request_type="callback", callback_url="https://example.com/hook")
    assert plain.digest() == called.digest()


def test_digest_does_not_know_the_order_of_parameters_nor_which_were_default():
    one = make_request("a fox", aspect_ratio="1:1", num_images=1)
    two = make_request("a fox", num_images=1, aspect_ratio="1:1")
    assert one.digest() == two.digest() == make_request("a fox").digest()


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a  fox"},
        {"prompt": "a fox "},
        {"aspect_ratio": "2:3"},
        {"num_images": 2},
        {"image_urls": [REFERENCE]},
        {"image_urls": ["https://example.com/b.png", "https://example.com/a.png"]},
    ],
    ids=str,
)
def test_digest_knows_what_decides_the_picture(change):
    changed: dict[str, Any] = {
        "prompt": "a fox",
        "image_urls": ["https://example.com/a.png", "https://example.com/b.png"],
    }
    assert make_request(**changed).digest() != make_request(**{**changed, **change}).digest()


def test_request_cannot_be_changed_after_the_check():
    with pytest.raises(ValidationError):
        make_request("a fox").prompt = "a wolf"


@PROPERTY
@given(st.text(st.characters(), max_size=50))
@example("\ud800")
@example("\u200b\u00ad")
def test_any_text_is_refused_or_can_be_sent(text):
    try:
        request = make_request(text)
    except InvalidRequestError:
        return
    assert json.loads(json.dumps(request.body()).encode("utf-8"))["input"]["prompt"] == text
    request.prompt.encode("utf-8")


@PROPERTY
@given(st.text(st.characters(), max_size=50) | st.from_regex(r"\A(https?|file)?:?/{0,3}[\w.@:\[\]\\%]*\Z"))
def test_any_reference_is_refused_or_is_an_http_url(url):
    try:
        request = make_request("a fox", image_urls=[url])
    except InvalidRequestError:
        return
    assert isinstance(request, Request)
    assert url.casefold().startswith(("http://", "https://"))
