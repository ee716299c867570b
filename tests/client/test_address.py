"""Result URLs are followed to the public internet only, at the very address that was judged."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from apixo_nb.client import download as address
from apixo_nb.client.download import addressed, download_once, is_public
from apixo_nb.core.files import Downloaded, Limits
from apixo_nb.errors import APIConnectionError, ApixoError, ImageError
from tests.support.fault_server import PICTURE, FaultServer, answer, redirect

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "169.253.1.1",
    "2606:4700:4700::1111",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
]

PRIVATE = {
    "this machine": "127.0.0.1",
    "this machine by another number": "127.8.9.10",
    "this machine, IPv6": "::1",
    "no address": "0.0.0.0",
    "no address, but the first network": "0.1.2.3",
    "no address, IPv6": "::",
    "private 10": "10.0.0.1",
    "private 172.16": "172.16.0.1",
    "private 172.31": "172.31.255.255",
    "private 192.168": "192.168.1.1",
    "private, IPv6": "fd12:3456::1",
    "once private, IPv6": "fec0::1",
    "link": "169.254.1.1",
    "metadata of a cloud": "169.254.169.254",
    "metadata of a cloud, IPv6": "fd00:ec2::254",
    "link, IPv6": "fe80::1",
    "link, with its zone": "fe80::1%eth0",
    "this machine, with a zone": "::1%lo",
    "carrier": "100.64.0.1",
    "carrier, last": "100.127.255.255",
    "mapped this machine": "::ffff:127.0.0.1",
    "mapped private": "::ffff:10.0.0.1",
    "mapped metadata": "::ffff:a9fe:a9fe",
    "compatible this machine": "::127.0.0.1",
    "compatible private": "::10.0.0.1",
    "translated private": "::ffff:0:10.0.0.1",
    "NAT64 of a private one": "64:ff9b::10.0.0.1",
    "NAT64 of the metadata": "64:ff9b::a9fe:a9fe",
    "NAT64 of one's own": "64:ff9b:1::1",
    "6to4 of a private one": "2002:a00:1::1",
    "6to4 of this machine": "2002:7f00:1::",
    "Teredo": "2001:0:a00:1::1",
    "multicast": "224.0.0.251",
    "multicast of an organisation": "239.255.255.250",
    "multicast, IPv6": "ff02::1",
    "multicast of all, IPv6": "ff0e::1",
    "broadcast": "255.255.255.255",
    "reserved": "240.0.0.1",
    "benchmarks": "198.18.0.1",
    "examples": "203.0.113.5",
    "examples, IPv6": "2001:db8::1",
    "discarded": "100::1",
    "segments": "5f00::1",
    "no address at all": "picture.example",
    "nothing": "",
    "a number": "2130706433",
}


@pytest.mark.parametrize("ip", PUBLIC)
def test_address_of_the_public_internet_is_public(ip: str) -> None:
    assert is_public(ip)


@pytest.mark.parametrize("ip", PRIVATE.values(), ids=PRIVATE)
def test_address_of_anything_else_is_not(ip: str) -> None:
    assert not is_public(ip)


# --- names and the addresses they have ---------------------------------------------------------------


class Names:
    """What the resolver says: some names of ours; anything else as the machine's own resolver has it."""

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {}
        self.asked: list[tuple[str, int | None]] = []

    async def getaddrinfo(self, host: str, port: int | None, **options: Any) -> list[Any]:
        self.asked.append((host, port))
        if host not in self.known:
            return await asyncio.to_thread(socket.getaddrinfo, host, port, **options)
        kinds = [socket.AF_INET6 if ":" in ip else socket.AF_INET for ip in self.known[host]]
        return [
            (kind, socket.SOCK_STREAM, 6, "", (ip, port or 0))
            for kind, ip in zip(kinds, self.known[host], strict=True)
        ]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names()
    monkeypatch.setattr(
        asyncio.BaseEventLoop,
        "getaddrinfo",
        lambda _loop, host, port, **options: made.getaddrinfo(host, port, **options),
    )
    return made


def request_for(url: str) -> httpx2.Request:
    async def ask() -> httpx2.Request:
        async with httpx2.AsyncClient() as client:
            return await addressed(client, url)

    return asyncio.run(ask())


def test_request_goes_to_the_judged_address_under_the_name_that_was_asked_for(names: Names) -> None:
    names.known["r2.example"] = ["8.8.8.8", "1.1.1.1"]
    request = request_for("https://r2.example/a/b.png?token=x%20y")
    assert str(request.url) == "https://8.8.8.8/a/b.png?token=x%20y"
    assert request.headers["Host"] == "r2.example"
    assert request.extensions["sni_hostname"] == "r2.example"
    assert (request.method, "Authorization" in request.headers) == ("GET", False)


def test_port_is_kept_in_the_address_and_in_the_host(names: Names) -> None:
    names.known["r2.example"] = ["8.8.8.8"]
    request = request_for("http://r2.example:8080/a.png")
    assert str(request.url) == "http://8.8.8.8:8080/a.png"
    assert request.headers["Host"] == "r2.example:8080"
    assert names.asked == [("r2.example", 8080)]


def test_ipv6_address_is_written_in_brackets(names: Names) -> None:
    names.known["r2.example"] = ["2606:4700::1111"]
    request = request_for("https://r2.example/a.png")
    assert str(request.url) == "https://[2606:4700::1111]/a.png"
    assert request.headers["Host"] == "r2.example"


def test_name_in_letters_of_other_scripts_is_asked_for_and_sent_in_its_ascii_form(names: Names) -> None:
    names.known |= {"xn--strae-oqa.example": ["8.8.8.8"], "straße.example": ["1.1.1.1"]}
    request = request_for("https://straße.example/a.png")
    # The resolver and the TLS of Python would each make "strasse" of it, which is another host.
    assert names.asked == [("xn--strae-oqa.example", None)]
    assert request.headers["Host"] == "xn--strae-oqa.example"
    assert request.extensions["sni_hostname"] == "xn--strae-oqa.example"


@pytest.mark.parametrize(
    "ips",
    [
        ["8.8.8.8", "10.0.0.1"],
        ["10.0.0.1", "8.8.8.8"],
        ["2606:4700::1111", "::1"],
        ["8.8.8.8", "fe80::1%eth0"],
        ["169.254.169.254"],
        [],
    ],
    ids=str,
)
def test_name_with_any_private_address_is_refused(names: Names, ips: list[str]) -> None:
    names.known["r2.example"] = ips
    with pytest.raises(ImageError, match="private network") as refused:
        request_for("https://r2.example/a.png")
    assert not refused.value.retryable


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "127.0.0.1.",
        "①②⑦.⓪.⓪.①",
    ],
)
def test_this_machine_in_any_spelling_leads_nowhere(host: str) -> None:
    with pytest.raises((ImageError, httpx2.ConnectError, httpx2.InvalidURL, ValueError)):
        request_for(f"http://{host}/a.png")


def test_name_without_an_address_is_no_connection(names: Names) -> None:
    async def nothing(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    names.getaddrinfo = nothing  # type: ignore[method-assign]
    with pytest.raises(httpx2.ConnectError, match="no address"):
        request_for("https://nobody.example/a.png")


# --- downloads ---------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def port_of(server: FaultServer) -> int:
    return int(server.url.rpartition(":")[2])


@pytest.fixture
def public(names: Names, server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's address under a name of the public internet; its number passes for a public one."""
    names.known["r2.example"] = ["127.0.0.1"]
    names.known["inside.example"] = ["127.0.0.2"]
    monkeypatch.setattr(address, "is_public", lambda ip: ip == "127.0.0.1" or is_public(ip))
    return f"http://r2.example:{port_of(server)}"


def fetch(url: str, target: Path) -> Downloaded | ApixoError:
    async def download() -> Downloaded | ApixoError:
        async with httpx2.AsyncClient(trust_env=False) as client:
            return await download_once(client, url, target, Limits(public_only=True))

    return asyncio.run(download())


def test_picture_of_a_public_host_is_fetched_under_its_name(
    public: str, server: FaultServer, tmp_path: Path
) -> None:
    found = fetch(f"{public}/a.png", tmp_path / "a.png")
    assert isinstance(found, Downloaded)
    assert found.path.read_bytes() == PICTURE
    [received] = server.journal
    assert received.headers["host"] == f"r2.example:{port_of(server)}"
    assert found.url == f"{public}/a.png"


def test_private_host_is_refused_before_anything_is_sent(server: FaultServer, tmp_path: Path) -> None:
    error = fetch(f"{server.url}/a.png", tmp_path / "a.png")
    assert isinstance(error, ImageError)
    assert "private network" in str(error)
    assert (server.journal, server.connections, list(tmp_path.iterdir())) == ([], 0, [])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_to_a_private_address_is_refused_and_never_arrives(
    public: str, server: FaultServer, tmp_path: Path, status: int
) -> None:
    with FaultServer() as inside:
        server.script("picture", redirect(status, f"http://127.0.0.2:{port_of(inside)}/a.png"))
        error = fetch(f"{public}/a.png", tmp_path / "a.png")
        assert isinstance(error, ImageError)
        assert "private network" in str(error)
        assert (inside.journal, inside.connections) == ([], 0)
    assert len(server.journal) == 1


def test_redirect_to_a_name_with_a_private_address_is_refused(
    public: str, server: FaultServer, tmp_path: Path
) -> None:
    server.script("picture", redirect(302, f"http://inside.example:{port_of(server)}/a.png"))
    assert isinstance(fetch(f"{public}/a.png", tmp_path / "a.png"), ImageError)
    assert len(server.journal) == 1


def test_redirect_on_the_same_host_is_followed_under_its_name(
    public: str, server: FaultServer, tmp_path: Path
) -> None:
    server.script("picture", redirect(302, "/other.png"))
    assert isinstance(fetch(f"{public}/a.png", tmp_path / "a.png"), Downloaded)
    assert [received.target for received in server.journal] == ["/a.png", "/other.png"]
    assert {received.headers["host"] for received in server.journal} == {f"r2.example:{port_of(server)}"}


def test_name_that_changes_its_mind_after_the_look_changes_nothing(
    public: str, names: Names, tmp_path: Path
) -> None:
    original = names.getaddrinfo

    async def rebound(host: str, port: int | None, **options: Any) -> list[Any]:
        found = await original(host, port, **options)
        names.known["r2.example"] = ["127.0.0.2"]  # whoever asks once more would be led inside
        return found

    names.getaddrinfo = rebound  # type: ignore[method-assign]
    assert isinstance(fetch(f"{public}/a.png", tmp_path / "a.png"), Downloaded)
    assert [host for host, _ in names.asked if host == "r2.example"] == ["r2.example"]


def test_each_hop_is_looked_up_and_judged_anew(
    public: str, names: Names, server: FaultServer, tmp_path: Path
) -> None:
    server.script("picture", redirect(302, f"{public}/b.png"), answer(200, PICTURE))
    original = names.getaddrinfo

    async def rebound(host: str, port: int | None, **options: Any) -> list[Any]:
        found = await original(host, port, **options)
        names.known["r2.example"] = ["127.0.0.2"]
        return found

    names.getaddrinfo = rebound  # type: ignore[method-assign]
    assert isinstance(fetch(f"{public}/a.png", tmp_path / "a.png"), ImageError)
    assert len(server.journal) == 1


def test_name_without_an_address_may_be_tried_again(names: Names, tmp_path: Path) -> None:
    async def nothing(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    names.getaddrinfo = nothing  # type: ignore[method-assign]
    error = fetch("https://r2.example/a.png", tmp_path / "a.png")
    assert isinstance(error, APIConnectionError)
    assert error.retryable
