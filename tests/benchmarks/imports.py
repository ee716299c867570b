"""What ``import`` and ``%load_ext`` cost in a real kernel, and what the first use adds, beside other magics.

Each sample is a kernel of its own, and the contestants take turns, so that a busy moment hits all of them.
Times are taken inside the kernel, around the import and around ``%load_ext``; what a first cell takes and
how long a kernel needs to its first answer are taken from outside, as a front end sees them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.kernels import bare_kernel, printed
from tests.benchmarks.table import Table, say
from tests.support.kernels import Kernel

HEAVY = ("pandas", "sqlalchemy", "PIL", "ipywidgets", "httpx2", "httpx", "pydantic", "numpy", "matplotlib")
OURS = "apixo_nb"
BARE = "bare kernel"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A package with a magic.

    Attributes
    ----------
    name : str
        Its distribution, as tables call it.
    module : str
        What is imported; "" for a kernel that does nothing.
    has_magic : bool
        Whether ``%load_ext`` takes it.
    first : tuple of str
        First cells after ``%load_ext``, that need no network.
    """

    name: str
    module: str
    has_magic: bool = True
    first: tuple[str, ...] = ()


CONTESTANTS = (
    Contestant(BARE, "", has_magic=False, first=("pass",)),
    Contestant(OURS, OURS, first=("%apixo status", "%%apixo --dry-run\na fox in the snow")),
    Contestant("jupyter_ai_magics", "jupyter_ai_magics", first=("%ai list",)),
    Contestant("jupysql", "sql", first=("%sql sqlite://",)),
    Contestant("wandb", "wandb", has_magic=False),
)

_TIMED = """
import json as _json, sys as _sys, time as _time
_before = set(_sys.modules)
_wall, _cpu = _time.perf_counter(), _time.process_time()
{work}
_wall, _cpu = _time.perf_counter() - _wall, _time.process_time() - _cpu
_new = set(_sys.modules) - _before
print("TIMED " + _json.dumps(dict(wall=_wall, cpu=_cpu, modules=len(_new),
    heavy=sorted({{name.partition(".")[0] for name in _new}} & set({heavy!r})))))
"""


def sample(who: Contestant) -> dict[str, Any]:
    """One kernel: import, ``%load_ext``, first cells. Seconds; counts of modules."""
    # What a first use leaves behind, such as a log, may still be written when the kernel ends.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        began = time.perf_counter()
        with bare_kernel(Path(name)) as kernel:
            imported = _timed(kernel, f"import {who.module}" if who.module else "pass")
            loading = f"get_ipython().run_line_magic('load_ext', {who.module!r})" if who.has_magic else "pass"
            loaded = _timed(kernel, loading)
            ready_s = time.perf_counter() - began
            first = {cell: _seen_from_outside(kernel, cell) for cell in who.first}
    both = {key: imported[key] + loaded[key] for key in ("wall", "cpu", "modules", "heavy")}
    return {"import": imported, "load_ext": both, "ready_s": ready_s, "first_s": first}


def _timed(kernel: Kernel, work: str) -> dict[str, Any]:
    text = printed(kernel.run(_TIMED.format(work=work, heavy=HEAVY)))
    found: dict[str, Any] = json.loads(text[text.rindex("TIMED ") + 6 :])
    return found


def _seen_from_outside(kernel: Kernel, cell: str) -> float:
    began = time.perf_counter()
    printed(kernel.run(cell))
    return time.perf_counter() - began


def collect(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Samples by contestant; all take their turn in each round, and the round that compiles is left out."""
    samples: dict[str, list[dict[str, Any]]] = {who.name: [] for who in CONTESTANTS}
    for number in range(rounds + 1):
        for who in CONTESTANTS:
            found = sample(who)
            if number:
                samples[who.name].append(found)
    return samples


class Medians:
    """The medians of the samples, in milliseconds or modules."""

    def __init__(self, samples: dict[str, list[dict[str, Any]]]) -> None:
        self._samples = samples

    def __call__(self, name: str, *path: str) -> float:
        """Of one contestant, by the keys that lead to the figure."""
        values = [_at(found, path) for found in self._samples[name]]
        return statistics.median(values) * (1 if path[-1] == "modules" else 1000)

    def heavy(self, name: str) -> str:
        """The heavy packages that its ``%load_ext`` brings, as text."""
        return ", ".join(self._samples[name][0]["load_ext"]["heavy"]) or "none"


def _at(found: Any, path: tuple[str, ...]) -> float:
    for key in path:
        found = found[key]
    return float(found)


PEERS = [who for who in CONTESTANTS if who.name not in (OURS, BARE)]
MAGICS = [who for who in PEERS if who.has_magic]


def tabulate(table: Table, middle: Medians) -> None:
    """All lines; each figure is the median of its samples."""

    def line(what: str, who: Contestant, *path: str, note: str = "") -> None:
        theirs, ours = (middle(name, *path) for name in (who.name, OURS))
        unit = "modules" if path[-1] == "modules" else "ms"
        table.add(what, who.name, theirs=theirs, ours=ours, unit=unit, note=note)

    for who in PEERS:
        note = "both put off what is heavy" if who.name == "jupyter_ai_magics" else ""
        line("import", who, "import", "wall", note=note)
        line("import, CPU", who, "import", "cpu")
    for who in MAGICS:
        line("%load_ext with its import", who, "load_ext", "wall")
        line("%load_ext with its import, CPU", who, "load_ext", "cpu")
    for who in MAGICS:
        heavy = f"heavy: theirs {middle.heavy(who.name)}; ours {middle.heavy(OURS)}"
        line("modules that %load_ext adds", who, "load_ext", "modules", note=heavy)
    for who in (CONTESTANTS[0], *MAGICS):
        line("kernel start until %load_ext is answered", who, "ready_s")
    _first_use(table, middle)


def _first_use(table: Table, middle: Medians) -> None:
    """What was put off at ``%load_ext`` is paid at the first use; so both are told, and their sum."""
    status, dry = next(who.first for who in CONTESTANTS if who.name == OURS)
    idle = middle(BARE, "first_s", "pass")
    took = [middle(OURS, "first_s", cell) for cell in (status, dry)]
    table.add(f"the first `{status}`", "a cell `pass`", theirs=idle, ours=took[0], unit="ms")
    table.add("then the first dry-run cell", "a cell `pass`", theirs=idle, ours=took[1], unit="ms")
    for who in MAGICS:
        (cell,) = who.first
        theirs = middle(who.name, "load_ext", "wall") + middle(who.name, "first_s", cell)
        ours = middle(OURS, "load_ext", "wall") + sum(took)
        note = f"theirs `{cell}`; ours `{status}` and a dry run"
        table.add("%load_ext and first cells", who.name, theirs=theirs, ours=ours, unit="ms", note=note)


def main() -> None:
    """Measure, print, and keep the samples."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.imports", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="kernels of each (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round, to see that it works")
    asked = parser.parse_args()
    table = Table("imports", ("ipykernel", "jupyter_ai_magics", "jupysql", "wandb"))
    samples = collect(1 if asked.quick else asked.rounds)
    tabulate(table, Medians(samples))
    own = [1000 * found["load_ext"]["wall"] for found in samples[OURS]]
    say(f"%load_ext {OURS} in {len(own)} kernels: {min(own):.0f} to {max(own):.0f} ms")
    table.write(samples=samples)


if __name__ == "__main__":
    main()
