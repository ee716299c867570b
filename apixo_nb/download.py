"""One attempt to bring one picture to disk: streamed beside its target, verified, then renamed.

The client used here has no API key and knows nothing of the API: result URLs point to hosts of anybody.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import httpx2

from .errors import APIConnectionError, APITimeoutError, ApixoError, ImageError, RateLimitError, ServerError
from .spec import RESULT_DAYS
from .wire import retry_after_s

_CHUNK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (403, 404, 410)
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a picture may be at most: bytes, pixels, redirects, and seconds for all of it."""

    max_bytes: int = 100_000_000
    max_pixels: int = 40_000_000
    max_redirects: int = 5
    total_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A verified picture on disk. `format` is PNG, JPEG or WEBP, read from the bytes, not from the name."""

    path: Path
    url: str
    sha256: str
    bytes: int
    width: int
    height: int
    format: str


def download_client(*, trust_env: bool) -> httpx2.Client:
    """The client for picture hosts: no key, no cookies kept, no redirects followed by itself."""
    headers = {"Accept": "image/png,image/jpeg,image/webp", "Accept-Encoding": "identity"}
    return httpx2.Client(headers=headers, timeout=httpx2.Timeout(30, connect=10), trust_env=trust_env)


def download_once(
    client: httpx2.Client, url: str, target: Path, limits: Limits, abandoned: threading.Event
) -> Downloaded | ApixoError:
    """Download `url` to `target`, which is replaced only by a whole, decodable picture.

    A target without a suffix gets the one its bytes call for. Errors are returned, not raised, as the caller
    decides about another attempt. Setting `abandoned` ends the transfer at the next chunk.
    """
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            digest = _Transfer(client, limits, abandoned).run(url, file)
            os.fsync(file.fileno())
        size, kind = _verify(part, limits)
        final = target if target.suffix else target.with_suffix(_SUFFIXES[kind])
        length = part.stat().st_size
        part.replace(final)
        _sync_folder(final.parent)
    except ApixoError as error:
        return error
    except httpx2.TimeoutException:
        return APITimeoutError("The picture host did not answer in time")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return APIConnectionError(f"The picture did not arrive whole: {type(error).__name__}")
    except OSError as error:
        step = "Make room or check the folder; the task is paid and its URLs are kept: `%apixo resume`."
        text = f"The picture could not be saved in {target.parent}: {error.strerror or error}"
        return ImageError(text, retryable=False, next_step=step)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return Downloaded(final, url, digest, length, *size, kind)


class _Transfer:
    """One download over at most a few hops, counted in bytes and seconds."""

    def __init__(self, client: httpx2.Client, limits: Limits, abandoned: threading.Event) -> None:
        self._client = client
        self._limits = limits
        self._abandoned = abandoned
        self._deadline = time.monotonic() + limits.total_s

    def run(self, url: str, file: BinaryIO) -> str:
        """Stream the body into `file`; returns its sha256."""
        hop = url
        for _ in range(self._limits.max_redirects + 1):
            _check_address(hop, url)
            with self._client.stream("GET", hop) as response:
                if response.status_code not in _REDIRECTS:
                    return self._body(response, file)
                hop = urljoin(hop, response.headers.get("location", ""))
        raise ImageError("The picture's address redirects in circles", retryable=False)

    def _body(self, response: httpx2.Response, file: BinaryIO) -> str:
        if response.status_code != 200:
            raise _refusal(response)
        digest, received = hashlib.sha256(), 0
        for chunk in response.iter_bytes(_CHUNK):
            received += len(chunk)
            self._check(received)
            digest.update(chunk)
            file.write(chunk)
        announced = response.headers.get("content-length", "")
        if "content-encoding" not in response.headers and announced.isdigit() and int(announced) != received:
            raise ImageError(f"The picture has {received} bytes in place of {announced}")
        file.flush()
        return digest.hexdigest()

    def _check(self, received: int) -> None:
        if self._abandoned.is_set():
            raise ImageError("The download was abandoned", retryable=False)
        if received > self._limits.max_bytes:
            megabytes = self._limits.max_bytes // 1_000_000
            raise ImageError(f"The picture is larger than {megabytes} MB", retryable=False)
        if time.monotonic() > self._deadline:
            raise ImageError(f"The picture took longer than {self._limits.total_s:g} s")


def _check_address(hop: str, first: str) -> None:
    try:
        scheme, host = urlsplit(hop).scheme, urlsplit(hop).hostname
    except ValueError:
        scheme, host = "", None
    downgraded = urlsplit(first).scheme == "https" and scheme != "https"
    if scheme not in ("http", "https") or not host or downgraded:
        raise ImageError(
            "The picture's address leads away from the web, so it was not followed", retryable=False
        )


def _refusal(response: httpx2.Response) -> ApixoError:
    status = response.status_code
    if status in _GONE:
        step = f"Result URLs live about {RESULT_DAYS} days. `%apixo resume` asks APIXO for it once more."
        gone = "The picture is gone from its address"
        return ImageError(gone, status=status, retryable=False, next_step=step)
    if status == 429:
        asked = retry_after_s(response.headers.get("retry-after", ""), time.time())
        return RateLimitError("The picture host asks for a pause", status=status, retry_after_s=asked)
    if status >= 500:
        return ServerError("The picture host is in trouble", status=status)
    return ImageError("The picture host refused", status=status, retryable=False)


def _verify(path: Path, limits: Limits) -> tuple[tuple[int, int], str]:
    from PIL import Image

    try:
        return _decode(path, limits)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(limits) from None
    except Exception as error:  # noqa: BLE001 - decoders raise OSError, SyntaxError, ValueError, struct.error...
        raise ImageError(f"What arrived is not a whole picture ({type(error).__name__})") from None


def _decode(path: Path, limits: Limits) -> tuple[tuple[int, int], str]:
    """Decode the whole picture. verify() and load() notice different damage, so both are asked."""
    from PIL import Image

    formats = list(_SUFFIXES)
    with Image.open(path, formats=formats) as image:
        size, kind = image.size, str(image.format)
        if size[0] * size[1] > limits.max_pixels:
            raise _too_large(limits)
        image.verify()
    with Image.open(path, formats=formats) as image:
        image.load()
    return size, kind


def _too_large(limits: Limits) -> ImageError:
    return ImageError(
        f"The picture has more than {limits.max_pixels // 1_000_000} million pixels", retryable=False
    )


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; Windows has no such call."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
