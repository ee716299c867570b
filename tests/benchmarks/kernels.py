"""Real kernels, and a sandbox beside them, for benchmarks: none sees a folder or a setting of yours."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.manager import start_new_kernel

from tests.support.kernels import PATIENCE_S, Kernel


def environment(folder: Path, **more: str) -> dict[str, str]:
    """The variables of this process without settings of Jupyter and ours; all folders are in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("APIXO_", "JUPYTER"))}
    return {
        **kept,
        "APIXO_HOME": str(folder / "apixo"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_DATA_HOME": str(folder / "data"),
        # Nobody's keyring is asked.
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        **more,
    }


@contextmanager
def bare_kernel(folder: Path, **more: str) -> Iterator[Kernel]:
    """A kernel that has run nothing yet; `more` are variables of its own."""
    # It says on the terminal that it speaks TCP without encryption. It does, on this machine alone.
    with Path(os.devnull).open("w") as nowhere:
        manager, client = start_new_kernel(
            cwd=str(folder), env=environment(folder, **more), stderr=nowhere, startup_timeout=PATIENCE_S
        )
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def printed(messages: list[dict[str, Any]]) -> str:
    """What a cell printed; AssertionError if it raised."""
    for message in messages:
        if message["msg_type"] == "error":
            raise AssertionError("\n".join(message["content"]["traceback"]))
    return "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")


@contextmanager
def sandbox_beside(folder: Path, *options: str) -> Iterator[str]:
    """A sandbox as a process of its own, with these options of its program; yields its ``base_url``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "apixo_nb.sandbox", *options],
        env=environment(folder),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        first = process.stdout.readline() if process.stdout else ""
        if not first.startswith("base_url="):
            raise RuntimeError("the sandbox did not start")
        yield first.strip().removeprefix("base_url=")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE_S)
        if process.stdout:
            process.stdout.close()


logging.getLogger("traitlets").setLevel(logging.ERROR)
