"""A real JupyterLab in a headless Chromium, for the promises that only a page can show.

Fixtures: `open_notebook(cells)` opens a new notebook in the one JupyterLab of the test session, and
`open_html(path)` opens an exported page from the disk. Both pages let nothing leave this machine: what they
tried to fetch from elsewhere is in `.blocked`, what they complained about in `.errors`. Override `lab_env` to
give the server and its kernels other environment variables.

Inside a test that has a page open, Playwright's own event loop is running in the test's thread, so that
`asyncio.run` does not work there. For the same reason the browser lives no longer than its test (which costs
half a second): kept for the session, it would take `asyncio.run` away from every other test.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Route,
    WebSocket,
    sync_playwright,
)
from playwright.sync_api import Error as PlaywrightError

SCREENSHOTS = Path(__file__).parent / "screenshots"
KERNEL = "apixo-tests"

_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
_CHROMIUM_ARGS = (
    "--no-sandbox",  # Chromium refuses to start as root with it, and the pages are ours
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Routes do not see web sockets; without names to resolve, those cannot leave the machine either.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
# A pattern rather than a function: it is matched inside the driver, so local requests stay fast.
_ELSEWHERE = re.compile(r"^(?!(https?|wss?)://(127\.0\.0\.1|localhost)[:/])(?!data:|blob:|file:|about:)")

_START_S = 60
_PANEL = "window.jupyterapp.shell.currentWidget"
_READY = f"""async () => {{
    const panel = {_PANEL};
    await panel.context.ready;
    await panel.sessionContext.ready;
    await panel.revealed;
}}"""
# The promise is not returned, so that the test goes on while cells run. Its settling is the only honest sign
# of the end: the kernel's status reads "idle" while a cell still runs if widget messages use a subshell.
_START = """command => {
    window.apixoCommand = {done: false, error: null};
    const settle = error => { window.apixoCommand = {done: true, error}; };
    window.jupyterapp.commands.execute(command).then(() => settle(null), error => settle(String(error)));
}"""


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab server without a token; notebooks live below `root`, one folder each."""

    url: str
    root: Path
    settings: Path

    @classmethod
    @contextmanager
    def running(cls, home: Path, env: dict[str, str] | None = None) -> Iterator[Self]:
        """Start JupyterLab with its folders below `home`; kernels run this interpreter and inherit `env`."""
        lab = cls(f"http://127.0.0.1:{_free_port()}", home / "notebooks", home / "settings")
        lab.root.mkdir(parents=True)
        lab.reset_settings()
        _write_kernelspec(home / "data")
        log_path = home / "jupyterlab.log"
        with log_path.open("wb") as log:
            # Its own process group, so that the end of the test reaches the server and nothing else.
            server = subprocess.Popen(
                lab._command(),
                env=_clean_environ() | lab._folders(home) | (env or {}),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            lab._wait_until_up(server, log_path)
            yield lab
        finally:
            _stop(server)

    def reset_settings(self) -> None:
        """Forget what earlier pages chose (a theme), and keep the news popup from covering the corner."""
        shutil.rmtree(self.settings, ignore_errors=True)
        notification = self.settings / "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
        notification.parent.mkdir(parents=True)
        notification.write_text('{"fetchNews": "false", "checkForUpdates": false}')

    def _command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
            f"--port={self.url.rpartition(':')[2]}",
            "--ServerApp.port_retries=0",
            "--IdentityProvider.token=",
            f"--ServerApp.root_dir={self.root}",
            "--LabApp.expose_app_in_browser=True",
        ]

    def _folders(self, home: Path) -> dict[str, str]:
        return {
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(self.settings),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        }

    def _wait_until_up(self, server: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + _START_S
        while server.poll() is None and time.monotonic() < deadline:
            with suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(f"{self.url}/api"):
                return
            time.sleep(0.1)
        pytest.fail(f"JupyterLab did not start. The end of its log:\n{log.read_text()[-3000:]}")


class WatchedPage:
    """A browser page that can reach only this machine and remembers what went wrong on it."""

    def __init__(self, context: BrowserContext) -> None:
        self.blocked: list[str] = []
        self.errors: list[str] = []
        context.route(_ELSEWHERE, self._block)
        self.page: Page = context.new_page()
        self.page.on("console", self._note_console)
        self.page.on("websocket", self._note_socket)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def screenshot(self, name: str, *, full_page: bool = False) -> Path:
        """Write tests/screenshots/<name>.png once every image has been loaded."""
        self.page.wait_for_function("Array.from(document.images).every(image => image.complete)")
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=full_page, animations="disabled")
        return path

    def _block(self, route: Route) -> None:
        self.blocked.append(route.request.url)
        route.abort()

    def _note_socket(self, opened: WebSocket) -> None:
        if _ELSEWHERE.match(opened.url):
            self.blocked.append(opened.url)

    def _note_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")


class NotebookPage(WatchedPage):
    """One notebook, open in JupyterLab, with its kernel running."""

    def __init__(self, context: BrowserContext, lab: Lab, path: Path) -> None:
        super().__init__(context)
        self.path = path
        self.page.goto(f"{lab.url}/doc/tree/{path.relative_to(lab.root).as_posix()}")
        self._wait_until_ready()

    def run_all(self, *, timeout_s: float = 60) -> None:
        """Run all cells and wait for the end; a cell that fails stops the run and shows in `outputs()`."""
        self.start_run_all()
        self.wait_finished(timeout_s)

    def run_cell(self, index: int, *, timeout_s: float = 60) -> None:
        """Run one cell, as Shift+Enter does, and wait for its end."""
        self.start_run_cell(index)
        self.wait_finished(timeout_s)

    def start_run_all(self) -> None:
        """Run all cells without waiting; see `finished` and `wait_finished`."""
        self.page.evaluate(_START, "notebook:run-all-cells")

    def start_run_cell(self, index: int) -> None:
        """Run one cell without waiting."""
        self.page.evaluate(f"index => {{ {_PANEL}.content.activeCellIndex = index; }}", index)
        self.page.evaluate(_START, "notebook:run-cell")

    def finished(self) -> bool:
        """Whether what was started last has ended."""
        return bool(self.page.evaluate("window.apixoCommand.done"))

    def wait_finished(self, timeout_s: float = 60) -> None:
        """Wait for the end of what was started last; playwright's TimeoutError if it takes longer."""
        self.page.wait_for_function("window.apixoCommand.done", timeout=timeout_s * 1000)
        error = self.page.evaluate("window.apixoCommand.error")
        assert error is None, f"JupyterLab could not run the cells: {error}"

    def interrupt(self) -> None:
        """Press Stop."""
        self.page.evaluate(f"{_PANEL}.sessionContext.session.kernel.interrupt()")

    def restart_kernel(self) -> None:
        """Restart the kernel and wait until it is back; outputs stay."""
        self.page.evaluate(f"{_PANEL}.sessionContext.restartKernel()")

    def notebook(self) -> NotebookNode:
        """The notebook as the page holds it now: its model, for the DOM has only the cells in view."""
        model = self.page.evaluate(f"{_PANEL}.context.model.toJSON()")
        return nbformat.reads(json.dumps(model), as_version=4)

    def outputs(self, cell: int | None = None) -> list[dict[str, Any]]:
        """The outputs of one cell, or of all cells in order, as nbformat has them."""
        cells = self.notebook().cells
        chosen = cells if cell is None else [cells[cell]]
        return [output for each in chosen for output in each.get("outputs", [])]

    def save(self) -> NotebookNode:
        """Save as Ctrl+S does and read the file back."""
        self.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        return nbformat.read(self.path, as_version=4)

    def reload(self) -> None:
        """Open the page again from the saved file: what a reader sees tomorrow (the kernel goes on)."""
        self.page.reload()
        self._wait_until_ready()

    def set_theme(self, theme: str) -> None:
        """Change the theme, as to "JupyterLab Dark"; the next notebook starts with the default again."""
        execute = "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})"
        self.page.evaluate(execute, theme)
        self.page.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)

    def shut_down(self) -> None:
        """End the kernel; a page that has gone elsewhere leaves that to the end of the server."""
        with suppress(PlaywrightError):
            self.page.evaluate(f"{_PANEL}.sessionContext.shutdown()")

    def _wait_until_ready(self) -> None:
        opened = f"window.jupyterapp && {_PANEL} && {_PANEL}.sessionContext"
        self.page.wait_for_function(opened, timeout=_START_S * 1000)
        self.page.evaluate(_READY)


OpenNotebook = Callable[..., NotebookPage]
OpenHtml = Callable[..., WatchedPage]


@pytest.fixture(scope="session")
def lab_env() -> dict[str, str]:
    """Environment variables for JupyterLab and its kernels; no stored key is within their reach."""
    return {"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, lab_env: dict[str, str]) -> Iterator[Lab]:
    """The one JupyterLab of the test session."""
    with Lab.running(tmp_path_factory.mktemp("lab"), lab_env) as running:
        yield running


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A headless Chromium; its absence is a failure, because a skipped browser test promises nothing."""
    found = next(filter(None, map(shutil.which, _CHROMIUM_NAMES)), None)
    if found is None:
        names = ", ".join(_CHROMIUM_NAMES)
        pytest.fail(f"No Chromium on the PATH (looked for {names}); run `sh tests/install.sh chromium`.")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=_CHROMIUM_ARGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_notebook(lab: Lab, browser: Browser, tmp_path: Path) -> Iterator[OpenNotebook]:
    """Write and open notebooks: `open_notebook(["1 + 1"])`, or a NotebookNode, each in its own folder.

    Options: `size=(width, height)` of the view, in CSS pixels.
    """
    opened: list[NotebookPage] = []

    def open_one(cells: Sequence[str] | NotebookNode, *, size: tuple[int, int] = (1280, 900)) -> NotebookPage:
        lab.reset_settings()
        # tmp_path is named after the test, which makes a failing notebook easy to find below lab.root.
        path = lab.root / f"{tmp_path.name}-{len(opened)}" / "notebook.ipynb"
        path.parent.mkdir()
        nbformat.write(_notebook(cells), path)
        opened.append(NotebookPage(_context(browser, size), lab, path))
        return opened[-1]

    yield open_one
    for page in opened:
        page.shut_down()


@pytest.fixture
def open_html(browser: Browser) -> OpenHtml:
    """Open an exported page from the disk: `open_html(path).screenshot("name", full_page=True)`."""

    def open_one(path: Path, *, size: tuple[int, int] = (1280, 900)) -> WatchedPage:
        page = WatchedPage(_context(browser, size))
        page.page.goto(path.resolve().as_uri())
        return page

    return open_one


def _context(browser: Browser, size: tuple[int, int]) -> BrowserContext:
    width, height = size
    return browser.new_context(viewport={"width": width, "height": height})


def _notebook(cells: Sequence[str] | NotebookNode) -> NotebookNode:
    notebook = cells if isinstance(cells, NotebookNode) else new_notebook(cells=[*map(new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": KERNEL, "display_name": KERNEL, "language": "python"}
    return notebook


def _write_kernelspec(data: Path) -> None:
    # A name of its own: "python3" may be found elsewhere first, and then run another interpreter.
    folder = data / "kernels" / KERNEL
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": KERNEL, "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))


def _clean_environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("APIXO_", "JUPYTER"))}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _stop(server: subprocess.Popen[bytes]) -> None:
    for end in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, end)
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=15)
            return
