"""The panel's page without a browser: speaks to a live kernel as a front end does, and keeps all it hears."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from tests.support.kernels import PATIENCE_S, Kernel

Found = TypeVar("Found")
VIEW = "application/vnd.jupyter.widget-view+json"


class Page:
    """A page that shows the panel of a kernel.

    Attributes
    ----------
    state : dict
        The traits of the widget, as the kernel has told them.
    seen : list of dict
        Every message of the kernel, in its order.
    cell : str
        The message id of the cell that showed the panel.
    subshell : str
        Where it speaks from; "" for the main thread.
    """

    def __init__(self, kernel: Kernel, code: str = "%apixo panel") -> None:
        self.kernel = kernel
        self.state: dict[str, Any] = {}
        self.subshell = ""
        self.seen: list[dict[str, Any]] = []
        self._states: dict[str, dict[str, Any]] = {}
        self.cell = kernel.start(code, allow_stdin=True)
        self.finish(self.cell)
        outputs = self.outputs(self.cell)
        bundle: dict[str, Any] = next(
            (output["data"] for output in outputs if VIEW in output.get("data", {})), {}
        )
        assert bundle, f"the cell shows no panel: {outputs}"
        self.text = bundle["text/plain"]
        self._comm = bundle[VIEW]["model_id"]
        self.state = self._states[self._comm]
        self.request("hello")

    # --- hearing ---

    def wait(self, look: Callable[[], Found], what: str) -> Found:
        """Hear the kernel until `look` finds something."""
        until = time.monotonic() + PATIENCE_S
        while not (found := look()):
            assert time.monotonic() < until, f"waited too long for {what}"
            self._hear(self.kernel.client.get_iopub_msg(timeout=PATIENCE_S))
        return found

    def _hear(self, message: dict[str, Any]) -> None:
        self.seen.append(message)
        content = message["content"]
        if message["msg_type"] == "comm_open":
            self._states[content["comm_id"]] = dict(content["data"].get("state", {}))
        elif message["msg_type"] == "comm_msg" and content["data"].get("method") == "update":
            self._states[content["comm_id"]].update(content["data"]["state"])

    def run(self, code: str) -> list[dict[str, Any]]:
        """Run a cell to its end; returns its outputs."""
        cell = self.kernel.start(code, allow_stdin=True)
        self.finish(cell)
        return self.outputs(cell)

    def finish(self, cell: str) -> None:
        """Hear the kernel until a cell has ended."""
        self.wait(lambda: self.has_ended(cell), "the end of a cell")

    def has_ended(self, cell: str) -> bool:
        """Whether the end of a cell was heard."""
        return any(
            message["parent_header"].get("msg_id") == cell
            and message["content"].get("execution_state") == "idle"
            for message in self.seen
        )

    def outputs(self, cell: str) -> list[dict[str, Any]]:
        """What a cell put out so far, whenever it came."""
        kinds = ("display_data", "execute_result", "stream", "error")
        return [
            message["content"]
            for message in self.seen
            if message["msg_type"] in kinds and message["parent_header"].get("msg_id") == cell
        ]

    def lasting(self) -> list[str]:
        """The lasting outputs in the panel's cell, as HTML."""
        pages = [output.get("data", {}).get("text/html", "") for output in self.outputs(self.cell)]
        return [page for page in pages if "apixo-nb-lasting" in page]

    def custom(self) -> list[tuple[dict[str, Any], list[bytes]]]:
        """Replies and events, with the bytes beside them."""
        return [
            (message["content"]["data"]["content"], [bytes(part) for part in message["buffers"]])
            for message in self.seen
            if message["msg_type"] == "comm_msg" and message["content"]["data"].get("method") == "custom"
        ]

    def everything(self) -> str:
        """All that the kernel has said, as one text."""
        return json.dumps(self.seen, default=repr)

    # --- requests ---

    def send_request(self, name: str, **given: Any) -> str:
        """Send a request, and do not wait; returns its id."""
        request_id = uuid.uuid4().hex
        if name in ("generate", "retry"):  # a click agrees to what the page shows
            given.setdefault("settings_id", self.state["facts"]["settings_id"])
        self.send({"method": "custom", "content": {"method": name, "id": request_id, **given}})
        return request_id

    def send(self, data: Any) -> None:
        """Any message to the widget."""
        session = self.kernel.client.session
        message = session.msg("comm_msg", {"comm_id": self._comm, "data": data})
        if self.subshell:
            message["header"]["subshell_id"] = self.subshell
        self.kernel.client.shell_channel.send(message)

    def new_subshell(self) -> str:
        """A subshell: there messages are heard although a cell runs, as in JupyterLab."""
        client = self.kernel.client
        message = client.session.msg("create_subshell_request", {})
        client.control_channel.send(message)
        while True:
            reply = client.get_control_msg(timeout=PATIENCE_S)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return str(reply["content"]["subshell_id"])

    def reply(self, request_id: str) -> dict[str, Any]:
        """The reply to a request."""
        [said] = self.wait(
            lambda: [said for said, _ in self.custom() if said.get("id") == request_id], "a reply"
        )
        return said

    def request(self, name: str, **given: Any) -> dict[str, Any]:
        """Send a request, and wait for the reply."""
        return self.reply(self.send_request(name, **given))

    def generate(self, prompt: str, *, micros: int = 350_000, token: str = "", **form: Any) -> dict[str, Any]:
        """A click on Generate."""
        token = token or uuid.uuid4().hex
        return self.request("generate", form={"prompt": prompt, **form}, token=token, price_micros=micros)

    # --- looking ---

    def card(self, run_id: str) -> dict[str, Any]:
        """The card of a run, or {}."""
        return next((card for card in self.state["cards"] if card["run_id"] == run_id), {})

    def ended(self, run_id: str) -> dict[str, Any]:
        """The card of a run, once it has ended."""
        self.wait(lambda: self.card(run_id).get("kind", "live") != "live", f"the end of run {run_id}")
        return self.card(run_id)
