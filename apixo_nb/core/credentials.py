"""The API key: it prints as dots, does not pickle, and is read for the request header and the key store."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any
from urllib.parse import quote

from apixo_nb.errors import ConfigurationError, MissingKeyError

from .files import atomic

KEY_VARIABLE = "APIXO_API_KEY"

#: What stands where a text quoted the key. With a blank, so that an address that quoted it is none any more.
HIDDEN = "[API key]"

_LEAST_SECRET = 8  # characters; a shorter key is a word of a sandbox, which may be part of other words


class ApiKey:
    """An API key that cannot be printed, compared in a log, pickled or copied by accident."""

    __slots__ = ("_secret", "_spellings", "source")

    def __init__(self, text: str, source: str = "given in code") -> None:
        self._secret, problem = _clean_key(text)
        text = ""  # tracebacks may show local variables; this one shall be empty by then
        self.source = source
        self._spellings = _spellings(self._secret)
        if problem:
            raise ConfigurationError(f"The API key {source} {problem}", next_step=_COPY_AGAIN)

    def bearer(self) -> str:
        """The value of the Authorization header."""
        return f"Bearer {self._secret}"

    def secret(self) -> str:
        """The key itself, for the key store alone. Call it where it is used, and keep it in no variable."""
        return self._secret

    def stored(self, source: str) -> ApiKey:
        """The same key, with the place where it lies now."""
        return ApiKey(self._secret, source)

    def hide(self, text: str) -> str:
        """A text of a server with the key taken out, as it is, as JSON writes it, and as addresses do."""
        for written in self._spellings:
            if written not in text:
                continue
            if len(self._secret) < _LEAST_SECRET:
                text = re.sub(rf"(?<!\w){re.escape(written)}(?!\w)", HIDDEN, text)
            else:
                text = text.replace(written, HIDDEN)
        return text

    def __repr__(self) -> str:
        return f"ApiKey(•••• from {self.source})"

    def __reduce__(self) -> Any:
        raise TypeError("an API key is not pickled; make a new client from the environment there")


def _spellings(secret: str) -> list[str]:
    """The key as texts may quote it, the longest first; texts of a server are searched for each."""
    quoted = json.dumps(secret)[1:-1]
    found = {secret, quoted, quoted.replace("/", r"\/"), quote(secret, safe=""), quote(secret)}
    return sorted(found - {""}, key=len, reverse=True)


def asked_key() -> ApiKey:
    """Ask the person at the notebook for a key, which is not shown.

    Raises
    ------
    ConfigurationError
        Nobody can be asked here, the question was stopped, or what was typed is no key.
    """
    import getpass

    try:
        return ApiKey(getpass.getpass("APIXO API key (not shown): "), "you typed")
    except KeyboardInterrupt:
        problem = "No key was given: the question was stopped"
        raise ConfigurationError(problem, next_step="Run %apixo login again when you have it.") from None
    except (EOFError, NotImplementedError) as error:
        # ipykernel raises a subclass of NotImplementedError where the front end takes no input.
        step = f"Set {KEY_VARIABLE} before Jupyter starts."
        raise ConfigurationError("There is nobody to ask for the key here", next_step=step) from error


_COPY_AGAIN = "Copy the key again from your APIXO dashboard, without the text around it."


def _clean_key(text: str) -> tuple[str, str]:
    """The key without what people paste along, and what is wrong with it, or ""."""
    # Strip what people paste along: blanks, quotes, "Bearer". Whatever is left unusable is refused here,
    # because HTTP libraries quote the whole header, and so the key, in their own complaint.
    key = text.strip().strip("\"'").strip()
    if key[:6].casefold() == "bearer" and not key[6:7].strip():
        key = key[6:].strip().strip("\"'").strip()
    if not key or key.upper() in ("YOUR_API_KEY", "YOUR-API-KEY") or len(key) > 1000:
        return "", "is empty, a placeholder or far too long"
    if not all("!" <= char <= "~" for char in key):
        return "", "holds a blank or a character that no key has (keys are plain ASCII)"
    return key, ""


def usable_key(given: object) -> ApiKey | ConfigurationError:
    """The key given, else the one found, else the error that says what to do.

    Returned, not raised: the caller drops its own variable first, so that no traceback can show the key.
    """
    try:
        if given is not None and not isinstance(given, (str, ApiKey)):
            # bytes of a file, say: unchecked, they would come to light as a lost submit
            kind = type(given).__name__
            return ConfigurationError(f"The API key is {kind}, not text", next_step="Give it as a str.")
        found = ApiKey(given) if isinstance(given, str) else given or find_key()
    except ConfigurationError as error:
        return error.with_traceback(None)
    return found or MissingKeyError("There is no APIXO API key")


def find_key() -> ApiKey | None:
    """The key from ``APIXO_API_KEY``, else from the system's keyring, else from the key file; or None."""
    if os.environ.get(KEY_VARIABLE, "").strip():
        return ApiKey(os.environ[KEY_VARIABLE], f"in {KEY_VARIABLE}")
    stored = _keyring_read()
    if stored:
        return ApiKey(stored, "in the system keyring")
    path = key_file()
    with contextlib.suppress(OSError):
        # A damaged byte becomes a character no key has: a UnicodeDecodeError would carry the file's content.
        return ApiKey(path.read_text(encoding="utf-8", errors="replace"), "in the key file")
    return None


def key_file() -> Path:
    """Where a key is kept on machines without a keyring; readable by its owner only."""
    from platformdirs import user_config_path

    return user_config_path("apixo_nb") / "key"


def store_key(key: ApiKey) -> ApiKey:
    """Keep a key for later kernels: in the system's keyring, else in a file that only its owner can read.

    Raises ConfigurationError where neither can be written.
    """
    if _keyring_write(key):
        with contextlib.suppress(OSError):
            key_file().unlink()  # an older key in the open, should there be one
        return key.stored("in the system keyring")
    try:
        _write_private(key_file(), key)
    except OSError as error:
        raise ConfigurationError(
            f"The key could not be stored: {error.strerror}",
            next_step=f"Set {KEY_VARIABLE} before Jupyter starts.",
        ) from None
    return key.stored("in the key file")


def forget_key() -> None:
    """Remove the stored key, wherever it is. The environment variable is not ours to remove."""
    _keyring_forget()
    with contextlib.suppress(OSError):
        key_file().unlink()


def _write_private(path: Path, key: ApiKey) -> None:
    """Write the key to a new file that takes the place of `path`.

    A link at `path` is replaced, not followed; whoever has the older file open, or another name of it, does
    not see the key.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=stat.S_IRWXU)
    with atomic(path, mode=stat.S_IRUSR | stat.S_IWUSR) as file:
        file.write(key.secret().encode())


def _keyring_read() -> str | None:
    try:
        import keyring

        return keyring.get_password("apixo_nb", "api-key")
    except Exception:  # noqa: BLE001 - no backend, locked, no D-Bus: each of them means "no key here"
        return None


def _keyring_write(key: ApiKey) -> bool:
    try:
        import keyring

        keyring.set_password("apixo_nb", "api-key", key.secret())
        # Read back, as the null backend of some servers takes everything and keeps nothing.
        return keyring.get_password("apixo_nb", "api-key") == key.secret()
    except Exception:  # noqa: BLE001 - as above; the caller falls back to the file
        return False


def _keyring_forget() -> None:
    with contextlib.suppress(Exception):  # as above
        import keyring

        keyring.delete_password("apixo_nb", "api-key")
