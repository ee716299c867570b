"""What may be asked of APIXO: one frozen, checked `Request`, and the JSON body it becomes."""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import json
import numbers
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from apixo_nb.errors import InvalidRequestError
from apixo_nb.text import printable, storable

from .models import DEFAULT_MODEL, MODELS, ModelSpec, Parameter, Value

_CALLBACK_MAX = 2000  # characters; longer ones are cut by proxies and servers on the way

RequestType = Literal["async", "callback"]


class Request(BaseModel):
    """One checked generation request. Make it with `make_request`, which raises our own errors.

    Attributes
    ----------
    model, prompt : str
    parameters : dict
        Wire name to value, for every parameter of the model's spec, e.g. ``{"aspect_ratio": "1:1"}``.
    image_urls : tuple of str
        Reference pictures, public http(s) URLs.
    request_type : "async" or "callback"
    callback_url : str or None
    """

    model_config = ConfigDict(frozen=True)

    model: str
    prompt: str
    parameters: dict[str, Value]
    image_urls: tuple[str, ...] = ()
    request_type: RequestType = "async"
    callback_url: str | None = None

    @property
    def spec(self) -> ModelSpec:
        """The facts of this request's model."""
        return MODELS[self.model]

    @property
    def num_images(self) -> int:
        """How many pictures this request asks for."""
        return self.spec.pictures(self.parameters)

    def body(self) -> dict[str, Any]:
        """The JSON body of ``POST /generateTask/{model}`` (model page, "Request body")."""
        given: dict[str, Any] = {"mode": self.spec.mode, "prompt": self.prompt}
        if self.image_urls:
            given["image_urls"] = list(self.image_urls)
        body: dict[str, Any] = {"request_type": self.request_type}
        if self.callback_url is not None:
            body["callback_url"] = self.callback_url
        return {**body, "input": {**given, **self.parameters}}

    def digest(self) -> str:
        """sha256 over what decides the picture: two requests with one digest are draws of the same thing."""
        asked = [self.model, self.prompt, dict(sorted(self.parameters.items())), self.image_urls]
        canonical = json.dumps(asked, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def make_request(
    prompt: str,
    *,
    model: str = DEFAULT_MODEL,
    image_urls: Iterable[str] = (),
    request_type: RequestType = "async",
    callback_url: str | None = None,
    allow_loopback: bool = False,
    **parameters: Any,
) -> Request:
    """Check a request against its model's spec, before anything is sent.

    `allow_loopback`: reference pictures may be on this machine, as the sandbox sees them and APIXO does not.

    Raises
    ------
    InvalidRequestError
        Names the field, the value and what is allowed.
    """
    facts = known_model(model)
    return Request(
        model=facts.id,
        prompt=_prompt(prompt, facts),
        parameters=_parameters(parameters, facts),
        image_urls=_references(image_urls, facts, allow_loopback=allow_loopback),
        request_type=_request_type(request_type),  # checked first: what follows compares it
        callback_url=_callback(callback_url, request_type),
    )


def _refuse(
    message: str, field: str, value: object, allowed: str, next_step: str = ""
) -> InvalidRequestError:
    return InvalidRequestError(message, field=field, value=value, allowed=allowed, next_step=next_step)


def known_model(model: object) -> ModelSpec:
    """The spec of a model; raises InvalidRequestError for one that is not known."""
    if isinstance(model, str) and model in MODELS:
        return MODELS[model]
    raise _refuse(f"Unknown model {_quoted(model)}", "model", model, ", ".join(MODELS))


def _quoted(value: object) -> str:
    """A refused value for a message: one short line, whatever it is."""
    return repr(value)[:80] if isinstance(value, str) else printable(value, 80)


def _prompt(prompt: object, facts: ModelSpec) -> str:
    allowed = f"text of 1 to {facts.prompt_max} characters"
    if not isinstance(prompt, str):
        raise _refuse(f"The prompt is a {type(prompt).__name__}, not text", "prompt", prompt, allowed)
    if not any(_is_ink(char) for char in prompt):
        what = f": {printable(prompt, 40)!r}" if prompt else ""
        raise _refuse(f"The prompt is blank{what}".replace("\\\\", "\\"), "prompt", prompt, allowed)
    if len(prompt) > facts.prompt_max:
        raise _refuse(f"The prompt has {len(prompt)} characters", "prompt", prompt, allowed)
    for position, char in enumerate(prompt):
        # A lone surrogate cannot be sent as UTF-8; NUL ends text in databases and C libraries.
        if char == "\0" or unicodedata.category(char) == "Cs":
            message = f"The prompt holds an unusable character, U+{ord(char):04X}, at position {position}"
            raise _refuse(message, "prompt", prompt, allowed)
    return prompt


def _is_ink(char: str) -> bool:
    """False for blanks, control and zero-width characters, which alone make no prompt."""
    return not char.isspace() and unicodedata.category(char) not in ("Cc", "Cf", "Zs")


def _parameters(given: dict[str, Any], facts: ModelSpec) -> dict[str, Value]:
    known = {parameter.wire: parameter for parameter in facts.parameters}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else ""
            raise _refuse(f"{facts.id} has no parameter {name!r:.80}", name, value, ", ".join(known), hint)
    return {wire: _choice(parameter, given.get(wire)) for wire, parameter in known.items()}


def _choice(parameter: Parameter, value: object) -> Value:
    if value is None:
        return parameter.default
    if not isinstance(value, bool) and isinstance(value, numbers.Integral):
        value = int(value)  # NumPy has integers of its own
    for allowed in parameter.values:
        if type(value) is type(allowed) and value == allowed:  # True == 1 and 2.0 == 2, but not here
            return allowed
    names = [str(choice) for choice in parameter.values]
    near = difflib.get_close_matches(printable(value, 80).strip(), names, n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]}?" if near else ""
    message = f"{parameter.help.capitalize()} ({parameter.flag}, {parameter.wire}) cannot be {_quoted(value)}"
    raise _refuse(message, parameter.wire, value, ", ".join(names), hint)


def _references(urls: object, facts: ModelSpec, *, allow_loopback: bool) -> tuple[str, ...]:
    if isinstance(urls, str) or not isinstance(urls, Iterable):
        message = f"image_urls is not a list of URLs: {_quoted(urls)}"
        raise _refuse(message, "image_urls", urls, "a list of public http(s) URLs")
    checked = tuple(_reference(url, allow_loopback=allow_loopback) for url in urls)
    if len(checked) > facts.references.maximum:
        message = f"{len(checked)} reference pictures are too many"
        raise _refuse(message, "image_urls", len(checked), f"at most {facts.references.maximum}")
    return checked


def _reference(url: object, *, allow_loopback: bool) -> str:
    allowed = "public, direct http(s) URLs"
    text = url if isinstance(url, str) else ""
    parts = _split(text)
    if parts is None or parts.scheme not in ("http", "https"):
        local = parts is None or parts.scheme in ("", "file") or len(parts.scheme) == 1  # C:\...
        what = "is on this machine" if local and text else "is not an http(s) URL"
        hint = "APIXO takes no files: put the picture on a public web host first." if local else ""
        raise _refuse(f"The reference {_quoted(url)} {what}", "image_urls", url, allowed, hint)
    if not parts.hostname or parts.username is not None or _is_untidy(text):
        raise _refuse(f"The reference {_quoted(url)} is not a usable URL", "image_urls", url, allowed)
    if _is_private(parts.hostname, loopback=not allow_loopback):
        hint = "APIXO cannot reach it from outside: put the picture on a public web host first."
        raise _refuse(
            f"The reference {_quoted(url)} is on a private network", "image_urls", url, allowed, hint
        )
    if parts.path.casefold().endswith(_OTHER_KINDS):
        kinds = "JPG, PNG or WebP"
        raise _refuse(
            f"The reference {_quoted(url)} is not a picture that APIXO reads", "image_urls", url, kinds
        )
    return text


def _is_private(host: str, *, loopback: bool = True) -> bool:
    """Whether a host is this machine (`loopback`), or in a private network. Names are not resolved here."""
    if host.casefold().rstrip(".") == "localhost" or host.casefold().endswith((".localhost", ".local")):
        return loopback
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (ip.is_loopback and loopback) or ip.is_link_local or any(ip in network for network in _PRIVATE)


_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)


#: Endings that surely are no JPG, PNG or WebP; any other ending, or none, may be one.
_OTHER_KINDS = (".tif", ".tiff", ".gif", ".svg", ".bmp", ".heic", ".pdf", ".psd")


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port  # the property that finds a port such as 99999
    except ValueError:
        return None
    return parts


def _is_untidy(url: str) -> bool:
    return any(char.isspace() or unicodedata.category(char) in ("Cc", "Cs") or char == "\\" for char in url)


def _request_type(value: object) -> RequestType:
    if isinstance(value, str) and value == "async":
        return "async"
    if isinstance(value, str) and value == "callback":
        return "callback"
    raise _refuse(f"request_type cannot be {_quoted(value)}", "request_type", value, "async, callback")


def _callback(url: object, request_type: str) -> str | None:
    if request_type != "callback":
        if url is not None:
            raise _refuse(
                f"callback_url is {_quoted(url)}, but request_type is async",
                "callback_url",
                url,
                "none with async",
            )
        return None
    allowed = "a public https URL, together with request_type callback"
    parts = _split(url) if isinstance(url, str) else None
    if parts is None or not parts.hostname or parts.username is not None or _is_untidy(str(url)):
        raise _refuse(f"callback_url {_quoted(url)} is not a usable URL", "callback_url", url, allowed)
    if parts.scheme != "https":
        raise _refuse(f"callback_url {_quoted(url)} is not https", "callback_url", url, allowed)
    if _is_private(parts.hostname, loopback=False):  # the sandbox calls this machine
        hint = "Polling needs no address: leave request_type as it is."
        raise _refuse(
            f"callback_url {_quoted(url)} is on a private network", "callback_url", url, allowed, hint
        )
    if len(str(url)) > _CALLBACK_MAX:
        message = f"callback_url {_quoted(url)} has {len(str(url))} characters"
        raise _refuse(message, "callback_url", url, f"at most {_CALLBACK_MAX} characters")
    return str(url)


@dataclass(frozen=True, slots=True)
class Labels:
    """What a run's row says beside the request."""

    name: str = ""
    tags: tuple[str, ...] = ()
    note: str = ""


def make_labels(name: object, tags: object, note: object) -> Labels:
    """Checked labels; raises InvalidRequestError for what is no text."""
    return Labels(_text(name, "name"), _tags(tags), _text(note, "note"))


def _tags(tags: object) -> tuple[str, ...]:
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidRequestError(
            f"tags is not a list of words: {printable(repr(tags), 80)}",
            field="tags",
            value=tags,
            allowed='e.g. ["draft"]',
        )
    return tuple(_text(tag, "tags") for tag in tags)


def _text(text: object, field: str) -> str:
    if not isinstance(text, str):
        message = f"{field} is no text: {text!r:.80}"
        raise InvalidRequestError(message, field=field, value=text, allowed="text")
    return storable(text)
