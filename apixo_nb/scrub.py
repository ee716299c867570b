"""What is nobody else's, taken out of texts that travel: callback addresses, signed queries, users."""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit, urlunsplit

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


def scrubbed(text: str, callback_url: str | None) -> str:
    """A server's text without the callback's address, and without users and queries in other addresses."""
    return _USER.sub(r"\1", _QUERY.sub(r"\1", without_callback(text, callback_url)))
