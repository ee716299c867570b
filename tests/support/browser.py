"""Real front ends in a headless Chromium, for the promises that only a page can show.

Fixtures, each of which is a function: `open_notebook` opens a notebook in the one JupyterLab of the test
session, `open_notebook7` in its one Jupyter Notebook 7, `open_voila` shows it with its one Voila, and
`open_html` opens an exported page from the disk. Notebooks are given as cells, as a NotebookNode, or as a
file, of which a copy is opened. ``env={...}`` is for the kernel of one notebook, `lab_env` is for all.

No page lets anything leave this machine: what it tried to fetch from elsewhere is in `.blocked`, what it
complained about in `.errors`; except for what a front end does on every page (see
`tests.support.notebook_servers`).

Inside a test that has a page open, Playwright's own event loop is running in the test's thread, so that
`asyncio.run` does not work there. For the same reason the browser lives no longer than its test (which costs
half a second): kept for the session, it would take `asyncio.run` away from every other test.
"""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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

from tests.support.notebook_servers import START_S, Lab, Notebook7, Server, Voila

SCREENSHOTS = Path(__file__).parents[1] / "screenshots"

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

# Voila's page carries the outputs as data in script elements, in whose place they are drawn, widgets last.
_DRAWN = """() => {
    const data = document.querySelector("script[type='application/vnd.voila.cell-output+json']");
    return !data && !document.getElementById("rendered_cells").innerText.includes("Loading widget...");
}"""


class WatchedPage:
    """A browser page that can reach only this machine and remembers what went wrong on it."""

    def __init__(self, context: BrowserContext, server: Server | None = None) -> None:
        self.blocked: list[str] = []
        self.errors: list[str] = []
        self._usual = server or Server
        context.route(_ELSEWHERE, self._block)
        self.page: Page = context.new_page()
        self.page.on("console", self._note_console)
        self.page.on("websocket", self._note_socket)
        self.page.on("pageerror", self._note_error)

    def screenshot(self, name: str, *, full_page: bool = False) -> Path:
        """Write tests/screenshots/<name>.png once every image has been loaded."""
        self.page.wait_for_function("Array.from(document.images).every(image => image.complete)")
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=full_page, animations="disabled")
        return path

    def _block(self, route: Route) -> None:
        if route.request.url not in self._usual.fetches:
            self.blocked.append(route.request.url)
        route.abort()

    def _note_socket(self, opened: WebSocket) -> None:
        if _ELSEWHERE.match(opened.url):
            self.blocked.append(opened.url)

    def _note_console(self, message: ConsoleMessage) -> None:
        address = message.location.get("url", "")
        if message.type == "error" and address not in self._usual.fetches:
            self.errors.append(f"{message.text} ({address})")

    def _note_error(self, error: PlaywrightError) -> None:
        text, script = self._usual.complaint or ("", "")
        if not text or error.message != text or script not in (error.stack or ""):
            self.errors.append(str(error))


class NotebookPage(WatchedPage):
    """One notebook, open in JupyterLab or Jupyter Notebook 7, with its kernel running."""

    def __init__(self, context: BrowserContext, server: Server, path: Path) -> None:
        super().__init__(context, server)
        self.path = path
        self.page.goto(server.address(path))
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
        assert error is None, f"The cells could not be run: {error}"

    def interrupt(self) -> None:
        """Press Stop."""
        self.page.evaluate(f"{_PANEL}.sessionContext.session.kernel.interrupt()")

    def restart_kernel(self) -> None:
        """Restart the kernel and wait until it is back; outputs stay."""
        self.page.evaluate(f"{_PANEL}.sessionContext.restartKernel()")

    def notebook(self) -> NotebookNode:
        """The notebook as the page holds it now: its model, for the DOM has only the cells in view."""
        # As text: what is undefined in it, as attachments of a cell, would come as null otherwise.
        text = self.page.evaluate(f"JSON.stringify({_PANEL}.context.model.toJSON())")
        return nbformat.reads(text, as_version=4)

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
        self.page.wait_for_function(opened, timeout=START_S * 1000)
        self.page.evaluate(_READY)


class VoilaPage(WatchedPage):
    """What a notebook has put out, as an app; all its cells have run, and its widgets are drawn."""

    def __init__(self, context: BrowserContext, server: Voila, path: Path) -> None:
        super().__init__(context, server)
        self.path = path
        self.page.goto(server.address(path), timeout=START_S * 1000)
        self.page.locator("#rendered_cells").wait_for(timeout=START_S * 1000)
        self.page.wait_for_function(_DRAWN)


Source = Sequence[str] | NotebookNode | Path
OpenNotebook = Callable[..., NotebookPage]
OpenVoila = Callable[..., VoilaPage]
OpenHtml = Callable[..., WatchedPage]


@pytest.fixture(scope="session")
def lab_env() -> dict[str, str]:
    """Environment variables for the servers and their kernels; no stored key is within their reach."""
    return {"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, lab_env: dict[str, str]) -> Iterator[Lab]:
    """The one JupyterLab of the test session."""
    with Lab.running(tmp_path_factory.mktemp("lab"), lab_env) as running:
        yield running


@pytest.fixture(scope="session")
def notebook7(tmp_path_factory: pytest.TempPathFactory, lab_env: dict[str, str]) -> Iterator[Notebook7]:
    """The one Jupyter Notebook 7 of the test session."""
    with Notebook7.running(tmp_path_factory.mktemp("notebook7"), lab_env) as running:
        yield running


@pytest.fixture(scope="session")
def voila(tmp_path_factory: pytest.TempPathFactory, lab_env: dict[str, str]) -> Iterator[Voila]:
    """The one Voila of the test session; each page has a kernel of its own."""
    with Voila.running(tmp_path_factory.mktemp("voila"), lab_env) as running:
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
    """Write and open notebooks in JupyterLab: `open_notebook(["1 + 1"])`, each in its own folder.

    Options: `size=(width, height)` of the view, in CSS pixels; `env={...}` for its kernel.
    """
    with _opening(lab, browser, tmp_path) as open_one:
        yield open_one


@pytest.fixture
def open_notebook7(notebook7: Notebook7, browser: Browser, tmp_path: Path) -> Iterator[OpenNotebook]:
    """As `open_notebook`, in Jupyter Notebook 7."""
    with _opening(notebook7, browser, tmp_path) as open_one:
        yield open_one


@contextmanager
def _opening(server: Server, browser: Browser, tmp_path: Path) -> Iterator[OpenNotebook]:
    opened: list[NotebookPage] = []

    def open_one(
        source: Source, *, size: tuple[int, int] = (1280, 900), env: dict[str, str] | None = None
    ) -> NotebookPage:
        server.reset_settings()
        # tmp_path is named after the test, which makes a failing notebook easy to find below the root.
        path = server.write(_notebook(source), f"{tmp_path.name}-{len(opened)}", env)
        opened.append(NotebookPage(_context(browser, size), server, path))
        return opened[-1]

    yield open_one
    for page in opened:
        page.shut_down()


@pytest.fixture
def open_voila(voila: Voila, browser: Browser, tmp_path: Path) -> OpenVoila:
    """Show notebooks with Voila: `open_voila(path)`, each from a folder of its own; options as above."""
    opened: list[VoilaPage] = []

    def open_one(
        source: Source, *, size: tuple[int, int] = (1280, 900), env: dict[str, str] | None = None
    ) -> VoilaPage:
        path = voila.write(_notebook(source), f"{tmp_path.name}-{len(opened)}", env)
        opened.append(VoilaPage(_context(browser, size), voila, path))
        return opened[-1]

    return open_one


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


def _notebook(source: Source) -> NotebookNode:
    if isinstance(source, Path):
        return nbformat.read(source, as_version=4)
    return source if isinstance(source, NotebookNode) else new_notebook(cells=[*map(new_code_cell, source)])
