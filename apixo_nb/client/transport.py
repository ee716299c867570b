"""The network under the API: connections, limits and proxies, and what a flow asks to be sent.

Submits go out on a connection of their own, because on a kept-alive one that the server has just closed a
lost answer and an unsent request look the same. Pictures are fetched by a client that has no key.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from apixo_nb.core.credentials import ApiKey
from apixo_nb.core.files import Downloaded, Limits
from apixo_nb.errors import ApixoError, ConfigurationError
from apixo_nb.text import is_loopback

from . import protocol
from .download import download_once

T = TypeVar("T")

# More wait outside httpx2, whose pool looks through all its connections and requests for each of them.
_SUBMITS_AT_ONCE = 50
_POLLS_AT_ONCE = 20
_MAX_ANSWER_BYTES = 4_000_000  # decoded; real answers have a few hundred bytes
_NEVER_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)


class _BearerAuth(httpx2.Auth):
    """Writes the key into the request; tracebacks and reprs of a client then never hold it."""

    def __init__(self, key: ApiKey) -> None:
        self._key = key

    def auth_flow(self, request: httpx2.Request) -> Any:
        request.headers["Authorization"] = self._key.bearer()
        yield request


class Transport:
    """Drives flows over real connections.

    Parameters
    ----------
    key : ApiKey
        Sent to the API, and to nobody else.
    base_url : str
        In its normal form.
    request_timeout_s : float
        Deadline of one request, all of it.
    limits : Limits
        Of one picture.
    """

    def __init__(self, key: ApiKey, base_url: str, request_timeout_s: float, limits: Limits) -> None:
        self._key = key
        self._base_url = base_url
        self._request_timeout_s = request_timeout_s
        here = is_loopback(urlsplit(base_url).hostname)
        self._limits = dataclasses.replace(limits, public_only=not here)
        # A proxy from the environment serves https only: over plain http, which is allowed to this machine
        # alone, it would be handed the key.
        self._trust_env = urlsplit(base_url).scheme == "https"
        self._clients: _Clients | None = None

    async def aclose(self) -> None:
        """Close all connections of the running loop."""
        clients, self._clients = self._clients, None
        if clients is not None and clients.loop is asyncio.get_running_loop():
            for client in (clients.submits, clients.polls, clients.pictures, *clients.proxied.values()):
                await client.aclose()

    async def drive(self, flow: protocol.Flow[T]) -> T:
        """Run a flow to its end: its value, or the error it raises."""
        answer: Any = None
        try:
            while True:
                answer = await self._carry_out(flow.send(answer))
        except StopIteration as done:
            result: T = done.value
            return result
        except (ApixoError, asyncio.CancelledError) as error:
            # Without the frames below and the last answer: they hold headers, and whatever a server quotes.
            answer = None
            raise error.with_traceback(None) from None

    async def _carry_out(self, command: protocol.Command) -> Any:
        if isinstance(command, protocol.Sleep):
            return await asyncio.sleep(command.seconds)
        if isinstance(command, protocol.Fetch):
            return await self._fetch(command)
        return await self.exchange(command)

    async def exchange(self, send: protocol.Send) -> protocol.Reply | protocol.Fault:
        """Send one request: its answer, or why there is none."""
        clients = self._open()
        timeout_s = min(self._request_timeout_s, send.timeout_s or self._request_timeout_s)
        # httpx2 takes an address apart once more for `params`, which costs as much as to read the answer.
        query = f"?{urlencode(send.query)}" if send.query else ""
        url = f"{self._base_url}/{send.path}{query}"
        try:
            if send.body is None:
                async with asyncio.timeout(timeout_s), clients.poll_turns:
                    reply = await _request(clients.polls, "GET", url, send)
            else:
                # The deadline begins with its turn: one that ends before that would look like a lost answer.
                async with clients.submit_turns, asyncio.timeout(timeout_s):
                    if clients.submits.is_closed:
                        return protocol.Fault("unsent", "the client was closed")
                    reply = await _request(clients.submits, "POST", url, send)
        except _NEVER_CONNECTED as error:
            host = urlsplit(self._base_url).netloc
            return protocol.Fault("unsent", f"no connection to {host} ({type(error).__name__})")
        except (TimeoutError, httpx2.TimeoutException):
            return protocol.Fault("timeout", "no answer in time")
        except Exception as error:  # noqa: BLE001 - whatever it is: for a POST the answer is lost, and that is said
            return protocol.Fault("lost", f"the connection broke ({type(error).__name__})")
        return dataclasses.replace(reply, hide=self._key.hide)

    async def _fetch(self, fetch: protocol.Fetch) -> Downloaded | ApixoError:
        clients = self._open()
        return await download_once(
            clients.pictures, fetch.url, fetch.target, self._limits, clients.picture_proxy
        )

    def _open(self) -> _Clients:
        running = asyncio.get_running_loop()
        if self._clients is None or self._clients.loop is not running:
            # Connections belong to the loop they were made on, and are not shared with a forked child.
            try:
                self._clients = self._connect(running)
            except (ImportError, OSError, ValueError, httpx2.InvalidURL) as error:
                step = "Check HTTPS_PROXY, ALL_PROXY and the certificates that the environment names."
                text = f"The environment's proxy or certificates cannot be used ({type(error).__name__})"
                raise ConfigurationError(text, next_step=step) from None
        return self._clients

    def _connect(self, running: asyncio.AbstractEventLoop) -> _Clients:
        timeout_s = self._request_timeout_s
        common: dict[str, Any] = {"trust_env": self._trust_env, "verify": _tls(trust_env=self._trust_env)}
        api = common | {
            "auth": _BearerAuth(self._key),
            "headers": {"Accept": "application/json", "Accept-Encoding": "identity"},
            "timeout": httpx2.Timeout(timeout_s, connect=min(15.0, timeout_s)),
        }
        fresh = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        pool = httpx2.Limits(max_connections=_POLLS_AT_ONCE, max_keepalive_connections=_POLLS_AT_ONCE)
        pictures = {
            "trust_env": False,  # which proxy is used, if any, is decided for each address
            "verify": common["verify"],
            "headers": {"Accept": "image/png,image/jpeg,image/webp", "Accept-Encoding": "identity"},
            "timeout": httpx2.Timeout(30.0, connect=15.0),
        }
        proxies = Proxies.of_environment() if self._trust_env else Proxies()
        proxied = {
            url: httpx2.AsyncClient(**pictures, cookies=_no_cookies(), limits=fresh, proxy=url)
            for url in set(proxies.urls.values())
        }
        return _Clients(
            running,
            httpx2.AsyncClient(**api, cookies=_no_cookies(), limits=fresh),
            httpx2.AsyncClient(**api, cookies=_no_cookies(), limits=pool),
            # Each on its own connection: they are kept by address, and a second name there is another host.
            httpx2.AsyncClient(**pictures, cookies=_no_cookies(), limits=fresh),
            asyncio.Semaphore(_SUBMITS_AT_ONCE),
            asyncio.Semaphore(_POLLS_AT_ONCE),
            proxies,
            proxied,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Clients:
    """The connections on one loop: submits, each on its own; polls; and pictures, which carry no key.

    `pictures` goes to no proxy; `proxied` are clients for each of the proxies, by its address.
    """

    loop: asyncio.AbstractEventLoop
    submits: httpx2.AsyncClient
    polls: httpx2.AsyncClient
    pictures: httpx2.AsyncClient
    submit_turns: asyncio.Semaphore
    poll_turns: asyncio.Semaphore
    proxies: Proxies
    proxied: dict[str, httpx2.AsyncClient]

    def picture_proxy(self, url: str) -> httpx2.AsyncClient | None:
        """The client that fetches a picture through a proxy; None where it is fetched directly."""
        proxy = self.proxies.proxy_of(url)
        return None if proxy is None else self.proxied[proxy]


@functools.cache  # it takes 30 ms
def _tls(*, trust_env: bool) -> ssl.SSLContext:
    return httpx2.create_ssl_context(verify=True, trust_env=trust_env)


def _no_cookies() -> CookieJar:
    """A jar that stays empty. Cookies know no ports: on one machine they would reach other hosts."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


async def _request(client: httpx2.AsyncClient, method: str, url: str, send: protocol.Send) -> protocol.Reply:
    body = {"json": dict(send.body)} if send.body is not None else {}
    async with client.stream(method, url, **body) as response:  # type: ignore[arg-type]
        content = bytearray()
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > _MAX_ANSWER_BYTES:  # no answer of APIXO's; what is cut off cannot be parsed
                break
        headers = {name.lower(): value for name, value in response.headers.items()}
        return protocol.Reply(response.status_code, headers, bytes(content))


# --- proxies ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of the environment, as they were when this was made.

    Attributes
    ----------
    urls : mapping
        Scheme ("http", "https") to the address of its proxy.
    """

    urls: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_environment(cls) -> Proxies:
        """Those of HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, in any case, or of the system's settings."""
        found = getproxies()  # NO_PROXY is among them, as "no"
        chosen = {scheme: found.get(scheme) or found.get("all", "") for scheme in ("http", "https")}
        return cls({scheme: _with_scheme(url) for scheme, url in chosen.items() if url})

    def proxy_of(self, url: str) -> str | None:
        """The address of the proxy for this URL; None where it is fetched directly."""
        parts = urlsplit(url)
        proxy, host = self.urls.get(parts.scheme), parts.hostname or ""
        if proxy is None or not host:
            return None
        port = f":{parts.port}" if parts.port is not None else ""
        return None if proxy_bypass(f"{host}{port}") or _in_excluded_network(host) else proxy


def _with_scheme(url: str) -> str:
    return url if "://" in url else f"http://{url}"


def _in_excluded_network(host: str) -> bool:
    """Whether it is an IP address in a network that NO_PROXY names, such as 10.0.0.0/8."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    names = [name.strip() for name in getproxies().get("no", "").split(",")]
    return any(_holds(name, address) for name in names if "/" in name)


def _holds(network: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
