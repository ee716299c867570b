"""The servers that show notebooks: JupyterLab, Jupyter Notebook 7 and Voila, each a process of its own.

None of them sees a folder, a setting or a key of the machine it runs on. Their kernels run this interpreter.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import nbformat
import pytest
from nbformat import NotebookNode

START_S = 60
KERNEL = "apixo-tests"


@dataclass(frozen=True)
class Server:
    """A running server without a token; notebooks live below `root`, one folder each.

    Attributes
    ----------
    url : str
        Its address, without a slash at the end.
    root, home : Path
        The folder of the notebooks, and the one of everything, which no other server has.
    """

    url: str
    home: Path

    program: ClassVar[str]  #: a module, for ``python -m``
    before: ClassVar[tuple[str, ...]] = ()  #: a command that starts the program
    page: ClassVar[str]  #: the path of its pages, to which a notebook's path is added
    signs: ClassVar[str] = "api"  #: a path that answers as soon as the server is up
    #: What its pages do by themselves, whatever the notebook: addresses elsewhere that they ask for, and one
    #: complaint, as its text and a part of the address of the script that makes it.
    fetches: ClassVar[frozenset[str]] = frozenset()
    complaint: ClassVar[tuple[str, str] | None] = None

    @classmethod
    @contextmanager
    def running(cls, home: Path, env: dict[str, str] | None = None) -> Iterator[Self]:
        """Start a server with its folders below `home`; its kernels inherit `env`."""
        server = cls(f"http://127.0.0.1:{_free_port()}", home)
        server.root.mkdir(parents=True)
        server.reset_settings()
        server.add_kernel(KERNEL)
        log_path = home / f"{cls.program}.log"
        with log_path.open("wb") as log:
            # Its own process group, so that the end of the test reaches the server and nothing else.
            process = subprocess.Popen(
                [*cls.before, *(sys.executable, "-m", cls.program), *server.options()],
                env=_clean_environ() | server._folders() | (env or {}),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            server._wait_until_up(process, log_path)
            yield server
        finally:
            _stop(process)

    @property
    def root(self) -> Path:
        """The folder of the notebooks."""
        return self.home / "notebooks"

    @property
    def port(self) -> str:
        """The last part of the address."""
        return self.url.rpartition(":")[2]

    def options(self) -> list[str]:
        """The arguments of the program."""
        return [
            *("--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={self.port}"),
            "--ServerApp.port_retries=0",
            "--IdentityProvider.token=",
            f"--ServerApp.root_dir={self.root}",
        ]

    def write(self, notebook: NotebookNode, folder: str, env: dict[str, str] | None = None) -> Path:
        """Write a notebook into a new folder below `root`; `env` is for its kernel alone."""
        kernel = f"{KERNEL}-{folder}" if env else KERNEL
        if env:
            self.add_kernel(kernel, env)
        notebook.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
        path = self.root / folder / "notebook.ipynb"
        path.parent.mkdir()
        nbformat.write(notebook, path)
        return path

    def address(self, notebook: Path) -> str:
        """The page of a notebook below `root`."""
        return f"{self.url}/{self.page}/{notebook.relative_to(self.root).as_posix()}"

    def reset_settings(self) -> None:
        """Forget what earlier pages chose (a theme), and keep the news popup from covering the corner."""
        settings = self.home / "settings"
        shutil.rmtree(settings, ignore_errors=True)
        notification = settings / "@jupyterlab/apputils-extension/notification.jupyterlab-settings"
        notification.parent.mkdir(parents=True)
        notification.write_text('{"fetchNews": "false", "checkForUpdates": false}')

    def add_kernel(self, name: str, env: dict[str, str] | None = None) -> None:
        """Make known a kernel that runs this interpreter."""
        # A name of its own: "python3" may be found elsewhere first, and then run another interpreter.
        folder = self.home / "data" / "kernels" / name
        folder.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": name, "language": "python", "env": env or {}}
        (folder / "kernel.json").write_text(json.dumps(spec))

    def _folders(self) -> dict[str, str]:
        return {
            "IPYTHONDIR": str(self.home / "ipython"),
            "JUPYTER_CONFIG_DIR": str(self.home / "config"),
            "JUPYTER_DATA_DIR": str(self.home / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.home / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(self.home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self.home / "workspaces"),
        }

    def _wait_until_up(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + START_S
        while process.poll() is None and time.monotonic() < deadline:
            with (
                suppress(urllib.error.URLError, ConnectionError),
                urllib.request.urlopen(f"{self.url}/{self.signs}"),
            ):
                return
            time.sleep(0.1)
        pytest.fail(f"{self.program} did not start. The end of its log:\n{log.read_text()[-3000:]}")


class Lab(Server):
    """JupyterLab."""

    program = "jupyterlab"
    page = "doc/tree"

    def options(self) -> list[str]:
        """With the application within reach of the tests, as ``window.jupyterapp``."""
        return [*super().options(), "--LabApp.expose_app_in_browser=True"]


class Notebook7(Server):
    """Jupyter Notebook 7: made of the same parts, arranged otherwise."""

    program = "notebook"
    page = "notebooks"
    # Its keyboard shortcuts look at their own settings whenever others are loaded, even before their own are.
    # That is an error on every page, and no more: they look again when their own come.
    complaint = ("Cannot read properties of undefined (reading 'schema')", "/static/notebook/notebook_core.")

    def options(self) -> list[str]:
        """With the application within reach of the tests, as ``window.jupyterapp``."""
        return [*super().options(), "--JupyterNotebookApp.expose_app_in_browser=True"]


class Voila(Server):
    """Voila: runs a notebook, and shows what it put out as a page without cells."""

    program = "voila"
    page = "voila/render"
    signs = ""  # the list of its notebooks
    # Its template asks for these, for icons in buttons. Without a network there are none; all else works.
    fetches = frozenset(
        f"https://cdn.jsdelivr.net/npm/@fortawesome/fontawesome-free@%5E5/css/{name}.min.css"
        for name in ("all", "v4-shims")
    )

    def options(self) -> list[str]:
        """Not a Jupyter server, so its options have other names."""
        return [
            *(str(self.root), "--no-browser", "--Voila.ip=127.0.0.1", f"--port={self.port}"),
            *("--Voila.port_retries=0", "--token=", "--show_tracebacks=True"),
            # It loads what is installed for JupyterLab. This part of Notebook 7 adds a button to JupyterLab's
            # toolbar, and fails on each page of Voila, where there is none.
            "--VoilaConfiguration.extension_denylist=@jupyter-notebook/lab-extension",
        ]


def _clean_environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("APIXO_", "JUPYTER"))}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _stop(process: subprocess.Popen[bytes]) -> None:
    for end in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, end)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
            return
