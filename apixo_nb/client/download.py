"""One attempt to bring one picture to disk: streamed beside its target, verified, then renamed.

The client used here has no API key and knows nothing of the API: result URLs point to hosts of anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import httpx2

from .address import addressed
from .config import without_secrets
from .errors import APIConnectionError, APITimeoutError, ApixoError, ImageError, RateLimitError, ServerError
from .spec import RESULT_DAYS
from .wire import retry_after_s

_CHUNK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (403, 404, 410)
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a picture may be at most: bytes, pixels, redirects, and seconds for all of it.

    `public_only`: it comes from an address of the public internet, never from a machine of this network.
    `keep_unreadable`: bytes that came in place of a picture are kept, as they may have been paid for.
    """

    max_bytes: int = 100_000_000
    max_pixels: int = 40_000_000
    max_redirects: int = 5
    total_s: float = 300.0
    public_only: bool = False
    keep_unreadable: bool = False


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


async def download_once(
    client: httpx2.AsyncClient, url: str, target: Path, limits: Limits
) -> Downloaded | ApixoError:
    """Download `url` to `target`, which is replaced only by a whole, decodable picture.

    A target without a suffix gets the one its bytes call for. Errors are returned, not raised, as the caller
    decides about another attempt.
    """
    try:
        async with asyncio.timeout(limits.total_s):
            return await _download(client, url, target, limits)
    except ApixoError as error:
        return error
    except (TimeoutError, httpx2.TimeoutException):
        return APITimeoutError("The picture did not arrive in time")
    except (httpx2.InvalidURL, ValueError):  # UnicodeError from the resolver is a ValueError too
        return _no_address(url)
    except httpx2.HTTPError as error:
        return APIConnectionError(f"The picture did not arrive whole: {type(error).__name__}")
    except OSError as error:
        return _not_saved(target, error)


async def _download(client: httpx2.AsyncClient, url: str, target: Path, limits: Limits) -> Downloaded:
    if not target.name or "\0" in str(target):
        raise ImageError("The picture has no file to go to", retryable=False, next_step="Give a file name.")
    part = new_part(target)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            digest = await _transfer(client, url, file, limits)
        try:
            final, length, size, kind = await asyncio.to_thread(_settle, part, target, limits)
        except ImageError:
            if limits.keep_unreadable:
                _set_aside(part, target)
            raise
        if limits.keep_unreadable:
            unreadable(target).unlink(missing_ok=True)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return Downloaded(final, url, digest, length, *size, kind)


def new_part(target: Path) -> Path:
    """A name for half of what belongs to this target; nobody else's, and found by `clear_parts`."""
    return target.with_name(f".{_mark(target)}-{secrets.token_hex(6)}.part")


def _mark(target: Path) -> str:
    """What the names of parts of this target begin with; short, as the target may use all that a name can."""
    return hashlib.blake2s(target.name.encode("utf-8", "replace"), digest_size=6).hexdigest()


def clear_parts(target: Path) -> None:
    """Remove what a killed process has left of its download of `target`; nobody must be at it now."""
    for part in target.parent.glob(f".{_mark(target)}-*.part"):
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def unreadable(target: Path) -> Path:
    """Where the bytes go that came in place of a picture."""
    return target.with_suffix(".unreadable")


def _set_aside(part: Path, target: Path) -> None:
    with contextlib.suppress(OSError):
        if part.stat().st_size:
            part.replace(unreadable(target))


def _not_saved(target: Path, error: OSError) -> ImageError:
    step = f"Check {target.parent}; the task is paid and its URLs are kept: `%apixo resume`."
    text = f"The picture could not be saved: {error.strerror or type(error).__name__}"
    return ImageError(text, retryable=False, unsaved=True, next_step=step)


async def _transfer(client: httpx2.AsyncClient, url: str, file: BinaryIO, limits: Limits) -> str:
    """Stream the body into `file`, over at most a few hops; returns its sha256."""
    hop = url
    for _ in range(limits.max_redirects + 1):
        _check_address(hop, url)
        request = await addressed(client, hop) if limits.public_only else client.build_request("GET", hop)
        response = await client.send(request, stream=True)
        try:
            if response.status_code not in _REDIRECTS:
                return await _body(response, file, limits)
            hop = urljoin(hop, response.headers.get("location", ""))
        finally:
            await response.aclose()
    raise ImageError("The picture's address redirects in circles", retryable=False)


async def _body(response: httpx2.Response, file: BinaryIO, limits: Limits) -> str:
    if response.status_code != 200:
        raise _refusal(response)
    digest, received = hashlib.sha256(), 0
    async for chunk in response.aiter_bytes(_CHUNK):
        received += len(chunk)
        if received > limits.max_bytes:
            raise ImageError(
                f"The picture is larger than {limits.max_bytes // 1_000_000} MB", retryable=False
            )
        digest.update(chunk)
        # The disk, too, is waited for on a worker thread: a slow one must hold up no poll and no submit.
        await asyncio.to_thread(file.write, chunk)
    announced = response.headers.get("content-length", "")
    if "content-encoding" not in response.headers and announced.isdigit() and int(announced) != received:
        raise ImageError(f"The picture has {received} bytes in place of {announced}")
    file.flush()
    return digest.hexdigest()


def _check_address(hop: str, first: str) -> None:
    try:
        scheme, host, _port = urlsplit(hop).scheme, urlsplit(hop).hostname, urlsplit(hop).port
    except ValueError:  # also for a port such as 99999
        scheme, host = "", None
    downgraded = urlsplit(first).scheme == "https" and scheme != "https"
    if scheme not in ("http", "https") or not host or downgraded:
        raise _no_address(hop)


def _no_address(url: str) -> ImageError:
    text = f"The picture's address {without_secrets(url)} is no http(s) address, so it was not followed"
    return ImageError(text, retryable=False)


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


def _settle(part: Path, target: Path, limits: Limits) -> tuple[Path, int, tuple[int, int], str]:
    """Verify what has arrived, make it durable, rename it; returns file, bytes, size in pixels, format."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    size, kind = verify(part, limits)
    final = target if target.suffix else target.with_suffix(_SUFFIXES[kind])
    length = part.stat().st_size
    part.replace(final)
    _sync_folder(final.parent)
    return final, length, size, kind


def verify(path: Path, limits: Limits) -> tuple[tuple[int, int], str]:
    """Size in pixels and format of a whole picture; raises ImageError for anything else."""
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
        # MPO is Pillow's name for a JPEG with more pictures behind the first.
        size, kind = image.size, "JPEG" if image.format == "MPO" else str(image.format)
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
