"""Proxies of the environment: which URLs go through one, and that all others stay out of private networks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from apixo_nb.client.protocol import Fetch
from apixo_nb.client.transport import Proxies, Transport
from apixo_nb.core.credentials import ApiKey
from apixo_nb.core.files import Downloaded, Limits
from apixo_nb.errors import ApixoError, ImageError
from tests.support import fault_server as faults
from tests.support.factories import KEY
from tests.support.fault_server import FaultServer, Step, answer

P, Q = "http://proxy.corp:3128", "http://other.corp:8080"
TEN = "10.0.0.0/8"

#: Environment, URL, and the proxy that the URL goes through; None: it is fetched directly, and guarded.
CASES = [
    ({}, "https://r2.apixo.ai/a.png", None),
    ({"NO_PROXY": "corp.example"}, "https://r2.apixo.ai/a.png", None),
    ({"NO_PROXY": "corp.example"}, "http://127.0.0.1/a.png", None),
    ({"no_proxy": "*"}, "https://r2.apixo.ai/a.png", None),
    ({"HTTPS_PROXY": P, "no_proxy": "*"}, "https://r2.apixo.ai/a.png", None),
    ({"HTTPS_PROXY": P}, "https://r2.apixo.ai/a.png", P),
    ({"https_proxy": P}, "https://r2.apixo.ai/a.png", P),
    ({"https_proxy": "proxy.corp:3128"}, "https://r2.apixo.ai/a.png", P),
    ({"HTTPS_PROXY": P}, "http://r2.apixo.ai/a.png", None),
    ({"HTTP_PROXY": P}, "http://r2.apixo.ai/a.png", P),
    ({"HTTP_PROXY": P}, "https://r2.apixo.ai/a.png", None),
    ({"ALL_PROXY": P}, "http://r2.apixo.ai/a.png", P),
    ({"all_proxy": P}, "https://r2.apixo.ai/a.png", P),
    ({"ALL_PROXY": P, "HTTPS_PROXY": Q}, "https://r2.apixo.ai/a.png", Q),
    ({"ALL_PROXY": P, "NO_PROXY": TEN}, "https://r2.apixo.ai/a.png", P),
    ({"ALL_PROXY": P, "NO_PROXY": TEN}, "http://10.1.2.3/a.png", None),
    ({"ALL_PROXY": P, "NO_PROXY": f"x, {TEN}"}, "http://10.1.2.3:8080/a.png", None),
    ({"ALL_PROXY": P, "no_proxy": "fd00::/8"}, "http://[fd00::1]/a.png", None),
    ({"ALL_PROXY": P, "NO_PROXY": "no/network"}, "http://10.1.2.3/a.png", P),
    ({"ALL_PROXY": P, "NO_PROXY": "apixo.ai"}, "https://r2.apixo.ai/a.png", None),
    ({"ALL_PROXY": P, "NO_PROXY": ".apixo.ai"}, "https://r2.apixo.ai/a.png", None),
    ({"ALL_PROXY": P, "NO_PROXY": "apixo.ai"}, "https://notapixo.ai/a.png", P),
    ({"ALL_PROXY": P, "NO_PROXY": "r2.apixo.ai:8443"}, "https://r2.apixo.ai:8443/a.png", None),
    ({"ALL_PROXY": P, "NO_PROXY": "r2.apixo.ai:8443"}, "https://r2.apixo.ai/a.png", P),
    ({"ALL_PROXY": P, "NO_PROXY": "localhost,127.0.0.1"}, "http://127.0.0.1:9/a.png", None),
    ({"FTP_PROXY": P}, "https://r2.apixo.ai/a.png", None),
]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def fetch(url: str, target: Path) -> Downloaded | ApixoError:
    async def download() -> Downloaded | ApixoError:
        transport = Transport(ApiKey(KEY), "https://api.adv.test/api/v1", 2.0, Limits())
        try:
            found: Downloaded | ApixoError = await transport._carry_out(Fetch(url, target))
            return found
        finally:
            await transport.aclose()

    return asyncio.run(download())


@pytest.mark.parametrize(("environment", "url", "proxy"), CASES)
def test_each_url_has_its_own_proxy_or_none(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, proxy: str | None
) -> None:
    use(monkeypatch, environment)
    assert Proxies.of_environment().proxy_of(url) == proxy


NOT_THROUGH_A_PROXY = [
    {},
    {"NO_PROXY": "corp.example"},
    {"no_proxy": "corp.example"},
    {"no_proxy": "*"},
    {"NO_PROXY": "127.0.0.0/8", "ALL_PROXY": P},
    {"NO_PROXY": "127.0.0.1", "HTTP_PROXY": P},
    {"no_proxy": "*", "http_proxy": P},
    {"HTTPS_PROXY": P},
]


@pytest.mark.parametrize("environment", NOT_THROUGH_A_PROXY, ids=repr)
def test_private_address_that_no_proxy_is_asked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch, server: FaultServer, tmp_path: Path, environment: dict[str, str]
) -> None:
    use(monkeypatch, environment)
    error = fetch(f"{server.url}/a.png", tmp_path / "a.png")
    assert isinstance(error, ImageError)
    assert "private network" in str(error)
    assert (server.connections, list(tmp_path.iterdir())) == (0, [])


def picture() -> Step:
    return answer(200, faults.picture(), content_type="image/png")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_picture_comes_through_the_proxy_which_sees_no_key(
    monkeypatch: pytest.MonkeyPatch, server: FaultServer, tmp_path: Path, name: str
) -> None:
    use(monkeypatch, {name: server.url, "NO_PROXY": "corp.example"})
    server.always("picture", picture())
    found = fetch("http://r2.apixo.ai/a.png", tmp_path / "a.png")
    assert isinstance(found, Downloaded), found
    [received] = server.journal
    assert received.headers["host"] == "r2.apixo.ai"
    assert "authorization" not in received.headers


def test_redirect_from_the_proxy_to_an_address_of_our_own_network_is_refused(
    monkeypatch: pytest.MonkeyPatch, server: FaultServer, tmp_path: Path
) -> None:
    with FaultServer() as inside:
        use(monkeypatch, {"HTTP_PROXY": server.url, "NO_PROXY": "127.0.0.0/8"})
        server.always("picture", faults.redirect(302, f"{inside.url}/a.png"))
        error = fetch("http://r2.apixo.ai/a.png", tmp_path / "a.png")
        assert isinstance(error, ImageError)
        assert "private network" in str(error)
        assert inside.connections == 0
