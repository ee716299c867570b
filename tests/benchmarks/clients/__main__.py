"""One client at work, in a process of its own: ``python -m tests.benchmarks.clients NAME URL COUNT SCALE``.

Prints one line of JSON: what it knew when, its CPU and its peak memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable

from tests.benchmarks.clients import loops, ours, sdks
from tests.benchmarks.clients.known import Known

Client = Callable[[str, int, float], Known]

CLIENTS: dict[str, Client] = {
    "ours": ours.bare,
    "ours-prompt": ours.prompt,
    "ours-hasty": ours.hasty,
    "ours-session": ours.session,
    "requests": loops.requests_threads,
    "httpx": loops.httpx_loop,
    "aiohttp": loops.aiohttp_loop,
    "aiohttp-told": loops.aiohttp_told,
    "replicate": sdks.replicate,
    "fal-client": sdks.fal,
}


def cpu_s() -> float:
    """Seconds of CPU that this process has used, in all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Let it work, and report."""
    name, url, count, scale = sys.argv[1:]
    began = time.monotonic()
    known = CLIENTS[name](url, int(count), float(scale))
    report = {
        "makespan_s": time.monotonic() - began,
        # All of it, with the start of Python and the imports: a notebook pays them as well.
        "cpu_s": cpu_s(),
        # Linux counts KiB, macOS bytes.
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        / (2**20 if sys.platform == "darwin" else 1024),
        "at": known.at,
        "errors": known.errors,
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
