"""Fixtures that every test file shares."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from apixo_nb.core import settings as config
from apixo_nb.sandbox import Sandbox, SandboxOptions
from apixo_nb.session import session as shared

pytest.register_assert_rewrite("tests.support")
pytest_plugins = ["tests.support.browser"]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Files with slow tests begin first, whatever the order of the rest: no worker is left alone with one."""
    yield
    marks = ("slow", "browser")
    slow = Counter(item.path for item in items if any(map(item.get_closest_marker, marks)))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test sees a key, a setting or a ledger of the machine it runs on, nor leaves one behind."""
    for name in [name for name in os.environ if name.startswith("APIXO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("APIXO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    monkeypatch.setattr(config, "_settings", None)
    shared.reset()
    yield
    if shared._current is not None:
        shared._current[0].close()
    shared.reset()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox that is quick: tasks of 0.1 s, pictures of a quarter of the size."""
    with Sandbox(SandboxOptions(seconds=0.1, picture_scale=0.25)) as running:
        yield running


@pytest.fixture
def service(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sandbox:
    """A quick sandbox where kernels and other processes, which inherit the environment, look for APIXO."""
    monkeypatch.setenv("APIXO_BASE_URL", sandbox.base_url)
    monkeypatch.setenv("APIXO_API_KEY", "test-key")
    monkeypatch.setenv("APIXO_FIRST_POLL", "0.05")
    monkeypatch.setenv("APIXO_POLL_INTERVAL", "0.05")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return sandbox
