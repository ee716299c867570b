"""Foreign text made safe to show, and sums as people write them."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import unicodedata
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_MOST_USD = 1e12  # so that a sum in micro-dollars fits any database
SHOWN_CHARACTERS = 300  # of a text that came from a server; the ledger keeps all of it


def printable(text: object, limit: int = SHOWN_CHARACTERS) -> str:
    """Foreign text made safe to print: one line, control and bidi characters visible, cut at `limit`."""
    try:
        whole = str(text)
    except Exception:  # noqa: BLE001 - a number of 5,000 digits, an object that cannot be shown
        whole = f"a {type(text).__name__}"
    shown = "".join(_visible(char) for char in whole[: limit + 1])
    return shown if len(whole) <= limit else shown[:limit] + "…"


def dollars(micros: int) -> str:
    """Micro-dollars as $0.35; more digits where the sum has them."""
    usd = micros / 1e6
    return f"${usd:.2f}" if micros % 10_000 == 0 else f"${usd:.6f}".rstrip("0")


def to_usd(micros: float) -> float:
    """Micro-dollars, as sums are kept and added, in US dollars, as people and tables have them."""
    return micros / 1e6


def to_micros(usd: float) -> int:
    """US dollars in micro-dollars; more than any sum is the largest one."""
    return round(min(usd, _MOST_USD) * 1e6)


def _visible(char: str) -> str:
    if char in "\n\t":
        return " "
    # Cc, Cf: ESC sequences, right-to-left overrides, zero-width characters; Cs: lone surrogates;
    # Zl, Zp: line ends of Unicode's own.
    # Zero-width joiners (U+200D) stay, as emoji are built with them.
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char != "\u200d":
        return f"\\u{ord(char):04x}"
    return char


_QUERY = re.compile(r"(https?://[^\s?#]+)[?#]\S*", re.IGNORECASE)
_USER = re.compile(r"(https?://)[^\s/?#@]+@", re.IGNORECASE)


def bare_address(url: str) -> str:
    """An address without user, query and fragment, which may be keys; "" for one that cannot be read."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_callback(text: str, callback_url: str | None) -> str:
    """A text without the address of the callback, whole or without its query, also as JSON writes it."""
    if not callback_url:
        return text
    for address in (callback_url, callback_url.partition("?")[0]):
        quoted = json.dumps(address)[1:-1]
        for written in (address, quoted, quoted.replace("/", r"\/")):
            text = text.replace(written, "(callback address)")
    return text


def redacted(text: str, callback_url: str | None) -> str:
    """A server's text without the callback's address, and without users and queries in other addresses."""
    return _USER.sub(r"\1", _QUERY.sub(r"\1", without_callback(text, callback_url)))


def without_secrets(value: Any) -> str:
    """The value for a message; of a URL, neither user nor query, where people put keys."""
    text = re.sub(r"//[^/?#]*@", "//•••@", value) if isinstance(value, str) else value
    text = re.sub(r"\?.*", "?•••", text, flags=re.DOTALL) if isinstance(text, str) else text
    return printable(repr(text), 80)


# --- addresses -------------------------------------------------------------------------------------


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address is this machine itself."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host or "").is_loopback
    return False


# --- lenient fields: a value of the wrong kind is absent, not an error ------------------------------


def storable(text: str) -> str:
    """Text that any database and any CSV takes: lone surrogates and NUL become the replacement character."""
    if text.isascii() and "\0" not in text:  # nearly all of it, and each poll brings some
        return text
    return "".join("\ufffd" if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in text)
