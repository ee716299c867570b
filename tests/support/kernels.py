"""Real kernels for tests: whole notebooks by nbclient, or one kernel driven message by message."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from apixo_nb.core.records import Run
from apixo_nb.core.settings import Apixo
from apixo_nb.ledger.ledger import Ledger

#: For every wait in here; a busy machine may be slow, a hanging kernel shall not hang the tests.
PATIENCE_S = 60


def execute(cells: Sequence[str], folder: Path, *, allow_errors: bool = False) -> nbformat.NotebookNode:
    """Run cells as a notebook in `folder`, headless, as nbconvert and papermill do; returns it executed."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, resources=resources, allow_errors=allow_errors, timeout=PATIENCE_S)
    client.execute()
    return notebook


def rows() -> list[Run]:
    """What kernels wrote into the ledger, read by another process: this one."""
    ledger = Ledger(Apixo().home_path / "ledger.db")
    try:
        return ledger.runs()
    finally:
        ledger.close()


def text_of(cell: nbformat.NotebookNode) -> str:
    """Everything a cell put out, as text."""
    parts = [output.get("text", "") or output.get("evalue", "") for output in cell.outputs]
    bundles = [output.data for output in cell.outputs if "data" in output]
    return "\n".join([*parts, *(bundle.get("text/plain", "") for bundle in bundles)])


class Kernel:
    """One live kernel."""

    def __init__(self, manager: Any, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def start(self, code: str, *, allow_stdin: bool = False, cell_id: str | None = None) -> str:
        """Send a cell; returns its message id at once.

        `allow_stdin` tells a front end from a runner. `cell_id`: sent along, as JupyterLab does.
        """
        if cell_id is None:
            return str(self.client.execute(code, allow_stdin=allow_stdin))
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}}
        content |= {"allow_stdin": allow_stdin, "stop_on_error": True}
        message = self.client.session.msg("execute_request", content, metadata={"cellId": cell_id})
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def finish(self, message_id: str) -> list[dict[str, Any]]:
        """The messages a cell put out, once it is idle."""
        seen: list[dict[str, Any]] = []
        while True:
            message = self.client.get_iopub_msg(timeout=PATIENCE_S)
            if message["parent_header"].get("msg_id") != message_id:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return seen
            seen.append(message)

    def run(
        self, code: str, *, allow_stdin: bool = False, cell_id: str | None = None
    ) -> list[dict[str, Any]]:
        """Run a cell to its end; returns its messages."""
        return self.finish(self.start(code, allow_stdin=allow_stdin, cell_id=cell_id))

    def answering(self, code: str, answer: str, *, cell_id: str | None = None) -> list[str]:
        """Run a cell, giving every question this answer; returns the questions."""
        message, questions = self.start(code, allow_stdin=True, cell_id=cell_id), list[str]()
        while True:
            with contextlib.suppress(queue.Empty):
                asked = self.client.get_stdin_msg(timeout=0.05)
                questions.append(asked["content"]["prompt"])
                self.client.input(answer)
            with contextlib.suppress(queue.Empty):
                status = self.client.get_iopub_msg(timeout=0.05)
                of_cell = status["parent_header"].get("msg_id") == message
                if of_cell and status["content"].get("execution_state") == "idle":
                    return questions

    def wait_for(self, message_id: str, needle: str) -> None:
        """Wait until the cell has put out a text; that its code holds the text as well is not enough."""
        while True:
            message = self.client.get_iopub_msg(timeout=PATIENCE_S)
            of_cell = message["parent_header"].get("msg_id") == message_id
            if of_cell and message["msg_type"] != "execute_input" and needle in str(message["content"]):
                return

    def value(self, expression: str) -> str:
        """The text of an expression's value."""
        results = [message for message in self.run(expression) if message["msg_type"] == "execute_result"]
        return str(results[-1]["content"]["data"]["text/plain"])

    def reply(self, message_id: str) -> dict[str, Any]:
        """The content of the reply to a request on the shell channel."""
        while True:
            message = self.client.get_shell_msg(timeout=PATIENCE_S)
            if message["parent_header"].get("msg_id") == message_id:
                content: dict[str, Any] = message["content"]
                return content

    def interrupt(self) -> None:
        """What the Stop button does."""
        self.manager.interrupt_kernel()


@contextmanager
def kernel(folder: Path) -> Iterator[Kernel]:
    """A kernel whose working folder is `folder`, with the extension loaded."""
    manager, client = start_new_kernel(cwd=str(folder), startup_timeout=PATIENCE_S)
    try:
        running = Kernel(manager, client)
        running.run("%load_ext apixo_nb")
        yield running
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def error_of(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The error output among a cell's messages."""
    errors = [message["content"] for message in messages if message["msg_type"] == "error"]
    if not errors:
        raise AssertionError(f"no error among {[message['msg_type'] for message in messages]}")
    found: dict[str, Any] = errors[0]
    return found
