"""``python -m tests.peers``: measure every cell, and write tables and JSON. It takes a few minutes."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.peers.cells import FAULTS, Cell, Fault, What, measure
from tests.peers.peer import Peer
from tests.peers.peers import PEERS, load
from tests.peers.tables import report, worst

#: Those whose cells take longest go first, so that none is left over at the end.
SLOW = ("fal", "replicate", "comfy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; 1 if this package sent a request again that may have been billed."""
    given = _parser().parse_args(arguments)
    peers = {name: load(name) for name in given.peer or PEERS}
    cells = _measure_all(peers, given.limit, given.workers)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "peers.md").write_text(report(peers, cells), "utf-8")
    (given.out / "peers.json").write_text(json.dumps(_facts(peers, cells), indent=1) + "\n", "utf-8")
    sys.stdout.write(f"{report(peers, cells)}\nWritten to {given.out}\n")
    return int(worst(cells).get("apixo", 1) > 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("build/peers"), help="folder for peers.md and peers.json")
    add("--peer", action="append", choices=PEERS, help="only this one; may be given again")
    add("--limit", type=float, default=75.0, metavar="SECONDS", help="the most a cell may take")
    add("--workers", type=int, default=8, help="cells at a time; most of their time is waiting")
    return parser


def _measure_all(peers: dict[str, Peer], limit_s: float, workers: int) -> list[Cell]:
    calls: tuple[What, ...] = ("submit", "wait", "download")
    wanted: list[tuple[str, What, Fault]] = [
        (name, what, fault)
        for what, fault, (name, peer) in itertools.product(calls, FAULTS, peers.items())
        if peer.version and getattr(peer, what) is not None
    ]
    order = sorted(wanted, key=lambda cell: SLOW.index(cell[0]) if cell[0] in SLOW else len(SLOW))
    with ThreadPoolExecutor(workers) as pool:
        cells = [pool.submit(measure, name, what, fault, limit_s) for name, what, fault in order]
    return [cell.result() for cell in cells]


def _facts(peers: dict[str, Peer], cells: list[Cell]) -> dict[str, object]:
    clients = {name: {"version": peer.version, "settings": peer.settings} for name, peer in peers.items()}
    return {"clients": clients, "worst": worst(cells), "cells": [dataclasses.asdict(cell) for cell in cells]}


if __name__ == "__main__":
    sys.exit(main())
