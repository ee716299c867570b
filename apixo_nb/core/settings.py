"""Settings: from the environment and from ``%config Apixo``. The API key is none: see `credentials`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from traitlets import Bool, Enum, Float, TraitError, Unicode, default, observe, validate
from traitlets.config import Configurable

from apixo_nb.errors import ConfigurationError
from apixo_nb.text import is_loopback, without_secrets

#: APIXO's page of GPT Image 1, "Endpoint and authentication".
BASE_URL = "https://api.apixo.ai/api/v1"

MIN_INTERVAL_S = 0.05  # a guard against a poll loop without a pause; APIXO's page allows 3-10 s

_MAX_PRICE_USD = 1_000_000  # micro-dollars and sums of many runs stay within 64 bits

T = TypeVar("T")


# --- the rules of values ----------------------------------------------------------------------------


class SettingError(ConfigurationError, TraitError):
    """A setting of `Apixo` cannot be used. As a TraitError it makes traitlets keep the old value."""


def _from_environment(name: str, read: Callable[[str], T], otherwise: T) -> T:
    text = os.environ.get(name, "").strip()
    return _checked(name, read, text) if text else otherwise


def _checked(name: str, read: Callable[[Any], T], value: Any) -> T:
    try:
        return read(value)
    except ValueError as rule:
        raise SettingError(
            f"{name} is {without_secrets(value)}, which cannot be used: it must be {rule}",
            next_step=f"Set {name} to such a value, or remove it to use the default.",
        ) from None


def _seconds(at_least: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        rule = f"a number of seconds, {at_least:g} or more"
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(rule) from None
        if not math.isfinite(number) or number < at_least:
            raise ValueError(rule)
        return number

    return read


def _price(value: Any) -> float:
    if not math.isfinite(value) or not 0 <= value <= _MAX_PRICE_USD:
        raise ValueError(f"a price in US dollars, 0 or more and {_MAX_PRICE_USD} at most")
    return float(value)


def _switch(text: str) -> bool:
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    if text.casefold() not in words:
        raise ValueError("1 or 0")
    return words[text.casefold()]


def _some_folder(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("a folder")
    return text


def _plain_folder(text: str) -> str:
    if "://" in text:
        raise ValueError("a folder on this machine")
    return text


def checked_base_url(text: object) -> str:
    """`normal_base_url`; raises ConfigurationError, with the address but no secret of it."""
    return _checked("base_url", normal_base_url, text)


def normal_base_url(text: object) -> str:
    """``APIXO_BASE_URL`` in its one form: scheme, host, ``/api/v1``. Third-party clients use both forms.

    Raises ValueError with the rule: https (plain http to this machine only), no user, query or fragment.
    """
    rule = f"an https URL such as {BASE_URL} (plain http only to this machine)"
    if not isinstance(text, str):
        raise ValueError(rule)  # noqa: TRY004 - as for every other value
    if any(char.isspace() or char == "\\" or not char.isprintable() for char in text.strip()):
        raise ValueError(rule)
    try:
        parts = urlsplit(text.strip())
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(rule) from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(rule)
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{rule}, without user, query or fragment")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError(f"{rule}, as plain http would show the key to everybody on the way")
    path = parts.path.rstrip("/")
    if path not in ("", "/api/v1"):
        raise ValueError(f"{rule}, with the path /api/v1 or none")
    return f"{parts.scheme}://{parts.netloc}/api/v1"


#: Setting -> what makes a value of it from what was given, or raises ValueError with the rule.
_RULES: dict[str, Callable[[Any], Any]] = {
    "base_url": normal_base_url,
    "home": _some_folder,
    "images": _plain_folder,
    "first_poll": _seconds(0.0),
    "poll_interval": _seconds(MIN_INTERVAL_S),
    "request_timeout": _seconds(MIN_INTERVAL_S),
    "timeout": _seconds(MIN_INTERVAL_S),
    "unit_price_usd": _price,
    "ask_above_usd": _price,
}


# --- settings --------------------------------------------------------------------------------------

DEFAULT_HOME = "apixo-runs"
_PLACES = ("home", "images", "ledger")  # settings that may be relative to a folder
_RELATIVE_FILE = re.compile(r"(?P<scheme>sqlite(\+\w+)?:///)(?P<file>(?!file:|:memory:)[^?]+)(?P<rest>\?.*)?")


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was removed
        return Path()


def notebook_folder(notebook: str) -> Path | None:
    """The folder of a notebook, if a front end has told its whole path; else None."""
    folder = Path(notebook).parent
    return folder if notebook and folder.is_absolute() and folder.is_dir() else None


class Apixo(Configurable):
    """Settings of apixo_nb: ``%config Apixo`` lists them, ``%config Apixo.timeout = 1200`` changes one.

    Each starts from its environment variable where there is one. The API key is not here on purpose.
    """

    # The first argument is the static default. traitlets takes a value equal to it for "no change" and does
    # not check it, so it has to be one that is good; the real default is made below.
    base_url = Unicode(BASE_URL, help="Where the API is (APIXO_BASE_URL), with or without /api/v1.").tag(
        config=True
    )
    home = Unicode(DEFAULT_HOME, help="Folder of ledger.db and images/ (APIXO_HOME).").tag(config=True)
    ledger = Unicode(help="SQLAlchemy URL in place of HOME/ledger.db (APIXO_LEDGER).").tag(config=True)
    images = Unicode(help="Folder in place of HOME/images (APIXO_IMAGES).").tag(config=True)
    first_poll = Float(
        allow_none=True, help="Seconds to the first poll (APIXO_FIRST_POLL); None: as APIXO advises."
    ).tag(config=True)
    poll_interval = Float(
        None, allow_none=True, help="Seconds between polls (APIXO_POLL_INTERVAL); None: as APIXO advises."
    ).tag(config=True)
    request_timeout = Float(60.0, help="Seconds for one HTTP request, all of it.").tag(config=True)
    timeout = Float(900.0, help="Seconds to wait for a task before giving up; it can be resumed.").tag(
        config=True
    )
    unit_price_usd = Float(
        allow_none=True, default_value=None, help="Your price per picture; None: APIXO's list price."
    ).tag(config=True)
    ask_above_usd = Float(
        5.0, help="A sweep that would newly cost more than so many US dollars asks first; --yes does not."
    ).tag(config=True)
    rerun = Enum(
        ("reuse", "ask", "buy"),
        "reuse",
        help="A cell that is run again shows what it has (reuse), asks whether to buy another (ask), or "
        "buys another (buy).",
    ).tag(config=True)
    replay = Bool(
        default_value=True, help="False is another way to say that a cell that is run again buys (rerun)."
    ).tag(config=True)
    notebook = Unicode(
        help="Which notebook this is, for its budget (APIXO_NOTEBOOK); Jupyter Server tells it by itself."
    ).tag(config=True)
    sandbox = Bool(help="Work against the sandbox on this machine (APIXO_SANDBOX=1).").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        # A relative folder is that of now, whatever `%cd` follows: a ledger that moves would buy all anew.
        here = _working_folder()
        self._bases = dict.fromkeys(_PLACES, here)
        if "home" not in kwargs and not os.environ.get("APIXO_HOME", "").strip():
            self._bases["home"] = notebook_folder(os.environ.get("JPY_SESSION_NAME", "")) or here
        super().__init__(**kwargs)

    @observe(*_PLACES)
    def _placed(self, change: Any) -> None:
        self._bases[change["name"]] = _working_folder()

    @default("base_url")
    def _base_url(self) -> str:
        return _from_environment("APIXO_BASE_URL", normal_base_url, BASE_URL)

    @default("home")
    def _home(self) -> str:
        return _from_environment("APIXO_HOME", _some_folder, DEFAULT_HOME)

    @default("ledger")
    def _ledger(self) -> str:
        return _from_environment("APIXO_LEDGER", str, "")

    @default("images")
    def _images(self) -> str:
        return _from_environment("APIXO_IMAGES", _plain_folder, "")

    @default("first_poll")
    def _first_poll(self) -> float | None:
        return _from_environment("APIXO_FIRST_POLL", _seconds(0.0), None)

    @default("poll_interval")
    def _poll_interval(self) -> float | None:
        return _from_environment("APIXO_POLL_INTERVAL", _seconds(MIN_INTERVAL_S), None)

    @default("notebook")
    def _notebook(self) -> str:
        return _from_environment("APIXO_NOTEBOOK", str, os.environ.get("JPY_SESSION_NAME", ""))

    @default("sandbox")
    def _sandbox(self) -> bool:
        return _from_environment("APIXO_SANDBOX", _switch, otherwise=False)

    @validate(*_RULES)
    def _check(self, proposal: Any) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        return None if value is None else _checked(f"Apixo.{name}", _RULES[name], value)

    def frozen_copy(self) -> Apixo:
        """These settings as they are now, with absolute folders."""
        values = self.trait_values(config=True)
        values["home"] = str(self.home_path)
        values["images"] = str(self.images_path)
        values["ledger"] = self.ledger_url
        return Apixo(**values)

    def use_folder_of(self, notebook: str) -> None:
        """Keep runs beside a notebook, where nothing else was said; for front ends that tell of it late."""
        folder = notebook_folder(notebook)
        if folder is not None and self.home == DEFAULT_HOME and not os.environ.get("APIXO_HOME", "").strip():
            self._bases["home"] = folder

    @property
    def ledger_url(self) -> str:
        """The SQLAlchemy URL of the ledger, with the whole path of an SQLite file; "" where there is none."""
        found = _RELATIVE_FILE.fullmatch(self.ledger)
        if found is None or Path(found["file"]).is_absolute():
            return self.ledger
        file = (self._bases["ledger"] / found["file"]).as_posix()
        return f"{found['scheme']}{file}{found['rest'] or ''}"

    @property
    def home_path(self) -> Path:
        """The folder that holds the ledger and the pictures, absolute."""
        return self._bases["home"] / os.path.expanduser(self.home)  # noqa: PTH111 - Path raises for an unknown ~user

    @property
    def images_path(self) -> Path:
        """The folder of the originals, absolute."""
        folder = os.path.expanduser(self.images)  # noqa: PTH111 - as above
        return self._bases["images"] / folder if folder else self.home_path / "images"


# --- the process's settings -------------------------------------------------------------------------

_settings: Apixo | None = None


def settings() -> Apixo:
    """The settings that everything in this process shares."""
    global _settings  # noqa: PLW0603 - one per process is the point
    if _settings is None:
        _settings = Apixo()
    return _settings
