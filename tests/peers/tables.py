"""The measured cells as Markdown."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from tests.peers.cells import FAULTS, Cell, What
from tests.peers.peer import Peer

Found = Mapping[tuple[What, str, str], Cell]

SUBMIT_NOTE = """\
How many POSTs reach the server when one picture is asked for, once, and the server fails in the same way each
time; then what the caller meets. **Bold**: sent again though the first may have been accepted and billed.
A 429 says that nothing was accepted, so sending it again cannot pay twice, however often.
*key*: the POSTs carry an idempotency key, one for all of them, with which a service that honours it would
bill them once. "dropped": the connection is closed without an answer, or in the middle of it."""

WAIT_NOTE = """\
One such fault in the middle of a wait, at the second of four polls; the service is healthy before and after.
openai's images come with the answer of the submit: there is nothing to poll."""

DOWNLOAD_NOTE = """\
One such fault at the first attempt to fetch a picture; the picture must arrive whole. The other clients hand
out addresses and fetch nothing."""


def report(peers: Mapping[str, Peer], cells: Sequence[Cell]) -> str:
    """All three tables, with their versions and settings."""
    found: Found = {(cell.what, cell.fault, cell.peer): cell for cell in cells}
    parts = [
        _head(peers),
        "### One request asked for: POSTs that reach the server",
        SUBMIT_NOTE,
        _table(peers, found, "submit"),
        "### One fault while waiting",
        WAIT_NOTE,
        _table(peers, found, "wait"),
        "### One fault while downloading",
        DOWNLOAD_NOTE,
        _table(peers, found, "download"),
    ]
    return "\n\n".join(parts) + "\n"


def _head(peers: Mapping[str, Peer]) -> str:
    lines = [
        f"Measured on {datetime.now(UTC):%Y-%m-%d} with Python {platform.python_version()}.",
        "",
        "| client | version | what is called; every setting not named is the default |",
        "|---|---|---|",
        *(
            f"| {peer.name} | {peer.version or 'not installed'} | {peer.settings} |"
            for peer in peers.values()
        ),
    ]
    return "\n".join(lines)


def _table(peers: Mapping[str, Peer], found: Found, what: What) -> str:
    head = ["fault", *(peer.name for peer in peers.values())]
    body = [[fault.name, *(_text(found.get((what, fault.name, name))) for name in peers)] for fault in FAULTS]
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _text(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    if cell.what != "submit":
        return cell.met or "survives"
    doubtful = cell.posts > 1 and not cell.fault.startswith("429")
    count = f"**{cell.posts}**" if doubtful else str(cell.posts)
    return f"{count} {'key ' if cell.keys == 1 else ''}{cell.met or 'answered'}"


def worst(cells: Iterable[Cell]) -> dict[str, int]:
    """Of each peer, the most POSTs for one request that may have been billed at the first."""
    most: dict[str, int] = {}
    for cell in cells:
        if cell.what == "submit" and not cell.fault.startswith("429"):
            most[cell.peer] = max(most.get(cell.peer, 0), cell.posts)
    return most
