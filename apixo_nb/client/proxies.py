"""Which pictures are fetched through a proxy of the environment, and which directly.

It decides two things at once: where a request goes, and whether the addresses of its host are judged. A proxy
resolves names itself, and may be the only way out; what goes directly is kept out of private networks.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


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
