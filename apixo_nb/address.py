"""Pictures come from the public internet only: a result URL must not make this machine ask its neighbours.

The name is resolved here, every address it has is judged, and the connection goes to the one that was judged:
a name that changes its mind between the look and the connection changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import httpx2

from .errors import ImageError

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
