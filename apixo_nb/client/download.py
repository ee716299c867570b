"""One attempt to bring one picture to disk: streamed beside its target, verified, then renamed.

The client used here has no API key and knows nothing of the API: result URLs point to hosts of anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import httpx2

from apixo_nb.core.files import IMAGE_SUFFIXES, Downloaded, Limits, new_part, sync_folder, verify
from apixo_nb.core.models import RESULT_DAYS
from apixo_nb.errors import (
    APIConnectionError,
    APITimeoutError,
    ApixoError,
    ImageError,
    RateLimitError,
    ServerError,
)
from apixo_nb.text import without_secrets

from .responses import retry_after_s

_DISGUISES = tuple(
    # IPv6 addresses that stand for IPv4 ones, which Python calls global whatever they stand for.
    ipaddress.ip_network(network)
    for network in (
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",
        "2002::/16",  # 6to4
        "2001::/32",  # Teredo
        "::/96",  # IPv4-compatible
        "::ffff:0:0:0/96",  # IPv4-translated
        "fec0::/10",  # site-local, once
        "5f00::/16",  # segment routing
    )
)


async def addressed(client: httpx2.AsyncClient, url: str) -> httpx2.Request:
    """A GET of `url` that goes to an address which was judged; certificate and Host stay those of its name.

    Raises
    ------
    ImageError
        One of its addresses is not public.
    httpx2.ConnectError
        It has none.
    """
    there = httpx2.URL(url)
    host = there.raw_host.decode("ascii")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, there.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpx2.ConnectError(f"no address ({type(error).__name__})") from None
    hosts = [str(address[0]) for *_, address in found]
    if not hosts or not all(map(is_public, hosts)):
        text = "The picture's address leads into a private network, so it was not followed"
        raise ImageError(text, retryable=False)
    headers = {"Host": there.netloc.decode("ascii")}
    name = {"sni_hostname": host}
    return client.build_request("GET", there.copy_with(host=hosts[0]), headers=headers, extensions=name)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_global and not ip.is_multicast and not any(ip in disguise for disguise in _DISGUISES)


_CHUNK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (403, 404, 410)


async def download_once(
    client: httpx2.AsyncClient,
    url: str,
    target: Path,
    limits: Limits,
    proxied: Callable[[str], httpx2.AsyncClient | None] = lambda _url: None,
) -> Downloaded | ApixoError:
    """Download `url` to `target`, which is replaced only by a whole, decodable picture.

    `proxied` gives the client for an address that is fetched through a proxy, which judges it itself; all
    others are fetched by `client`, which must use none. A target without a suffix gets the one its bytes call
    for. Errors are returned, not raised, as the caller decides about another attempt.
    """
    try:
        async with asyncio.timeout(limits.total_s):
            return await _download(_Route(client, proxied), url, target, limits)
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


@dataclass(frozen=True, slots=True)
class _Route:
    """How a picture is fetched: directly by `client`, or by one of `proxied`."""

    client: httpx2.AsyncClient
    proxied: Callable[[str], httpx2.AsyncClient | None]

    async def send(self, url: str, *, public_only: bool) -> httpx2.Response:
        """GET it; each hop is judged anew, as a redirect may lead from a proxy into a network of ours."""
        if (proxy := self.proxied(url)) is not None:
            return await proxy.send(proxy.build_request("GET", url), stream=True)
        request = await addressed(self.client, url) if public_only else self.client.build_request("GET", url)
        return await self.client.send(request, stream=True)


async def _download(route: _Route, url: str, target: Path, limits: Limits) -> Downloaded:
    if not target.name or "\0" in str(target):
        raise ImageError("The picture has no file to go to", retryable=False, next_step="Give a file name.")
    part = new_part(target)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            digest = await _transfer(route, url, file, limits)
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


async def _transfer(route: _Route, url: str, file: BinaryIO, limits: Limits) -> str:
    """Stream the body into `file`, over at most a few hops; returns its sha256."""
    hop = url
    for _ in range(limits.max_redirects + 1):
        _check_address(hop, url)
        response = await route.send(hop, public_only=limits.public_only)
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
    final = target if target.suffix else target.with_suffix(IMAGE_SUFFIXES[kind])
    length = part.stat().st_size
    part.replace(final)
    sync_folder(final.parent)
    return final, length, size, kind
