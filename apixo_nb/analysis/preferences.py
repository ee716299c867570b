"""Blind votes between two pictures: which pairs to ask for, and what the votes say of an axis."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from apixo_nb.core.records import Image, Run, Vote

from .pivot import axis_value

#: Pairs that are asked for at a time: more than anybody votes on, and few enough to be put in order.
MOST_PAIRS = 5_000
_ALL_PAIRS = 100_000  # up to so many are all looked at; of more, some are drawn

_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that stands for election."""

    run: Run
    image: Image

    @property
    def key(self) -> tuple[str, int]:
        """Which one it is."""
        return self.run.run_id, self.image.index


def candidates(runs: Iterable[Run]) -> list[Picture]:
    """The pictures that are on disk."""
    return [Picture(run, image) for run in runs for image in run.images if image.file]


def pairs(
    pictures: Sequence[Picture], by: str, votes: Iterable[Vote], dice: random.Random
) -> list[tuple[Picture, Picture]]:
    """The pairs that are still to be asked for, in a fair order, each side drawn by lot.

    Only pictures that differ on the axis `by` meet, and where there are such pairs, only those that are alike
    in every other variable and parameter: else the vote would be about something else. Pairs whose pictures
    have met in `votes` are done. At most `MOST_PAIRS`: of more, a sample in which each is as likely.
    """
    met = {frozenset((vote.left, vote.right)) for vote in votes}
    sides = _sides(pictures, by, alike=True) or _sides(pictures, by, alike=False)
    if sum(side.pairs for side in sides) // 2 <= _ALL_PAIRS:
        drawn = [pair for side in sides for pair in side.all()]
        dice.shuffle(drawn)
    else:
        drawn = _sample(sides, dice)
    open_pairs = [pair for pair in drawn if frozenset((pair[0].key, pair[1].key)) not in met][:MOST_PAIRS]
    return [pair if dice.random() < 0.5 else (pair[1], pair[0]) for pair in _balanced(open_pairs)]


@dataclass(frozen=True, slots=True)
class _Side:
    """The pictures with one value on the axis, ``group[start:end]``; all others of the group may meet them.

    `pairs` is how many such meetings there are; each has two sides, and so stands twice in a group.
    """

    group: Sequence[Picture]
    start: int
    end: int

    @property
    def pairs(self) -> int:
        own = self.end - self.start
        return own * (len(self.group) - own)

    def all(self) -> Iterator[tuple[Picture, Picture]]:
        """Each meeting with what comes later in the group: so each pair once."""
        return itertools.product(self.group[self.start : self.end], self.group[self.end :])

    def one(self, dice: random.Random) -> tuple[Picture, Picture]:
        """One of the meetings, by lot."""
        own = self.end - self.start
        other = dice.randrange(len(self.group) - own)
        return self.group[dice.randrange(self.start, self.end)], self.group[
            other if other < self.start else other + own
        ]


def _sides(pictures: Sequence[Picture], by: str, *, alike: bool) -> list[_Side]:
    """All sides that somebody may meet; if `alike`, only among those that are alike in all but the axis."""
    groups: dict[Hashable, dict[str, list[Picture]]] = {}
    for picture in pictures:
        group = groups.setdefault(_rest(picture.run, by) if alike else None, {})
        group.setdefault(axis_value(picture.run, by), []).append(picture)
    found = []
    for group in groups.values():
        together = [picture for own in group.values() for picture in own]
        ends = list(itertools.accumulate(map(len, group.values())))
        found += [_Side(together, start, end) for start, end in itertools.pairwise([0, *ends])]
    return [side for side in found if side.pairs]


def _sample(sides: Sequence[_Side], dice: random.Random) -> list[tuple[Picture, Picture]]:
    """Different pairs, each as likely as any other; some more than are wanted, as some will have met."""
    chosen = dice.choices(sides, [side.pairs for side in sides], k=2 * MOST_PAIRS)
    drawn = [side.one(dice) for side in chosen]
    return list({frozenset((left.key, right.key)): (left, right) for left, right in drawn}.values())


def _rest(run: Run, by: str) -> tuple[tuple[str, str], ...]:
    """All that decides the picture but this axis."""
    known = {**run.parameters, **run.variables}
    return tuple(sorted((name, str(known[name])) for name in known if name != by))


def _balanced(open_pairs: list[tuple[Picture, Picture]]) -> list[tuple[Picture, Picture]]:
    """So that each picture is seen about as often as the others, wherever one stops."""
    seen: Counter[tuple[str, int]] = Counter()
    left, ordered = list(open_pairs), []
    # Looking at a window of the shuffled pairs is as fair, and does not take the square of their number.
    while left:
        at = min(range(min(64, len(left))), key=lambda index: sum(seen[side.key] for side in left[index]))
        pair = left.pop(at)
        seen.update(side.key for side in pair)
        ordered.append(pair)
    return ordered


# --- what came of it --------------------------------------------------------------------------------


def results(pictures: Sequence[Picture], by: str, votes: Iterable[Vote]) -> list[dict[str, Any]]:
    """One row a value of the axis, best first.

    ``value``, ``votes``, ``wins``, ``losses``, ``ties``; ``win_rate`` counts a tie as half a win; ``low`` and
    ``high`` bound it with 95 % confidence (Wilson's interval). All three are None where nobody has voted.
    """
    values = {picture.key: axis_value(picture.run, by) for picture in pictures}
    counts = {value: Counter[str]() for value in values.values()}
    for vote in votes:
        left, right = values.get(vote.left), values.get(vote.right)
        if left is None or right is None or left == right:
            continue
        for value, won, lost in ((left, "left", "right"), (right, "right", "left")):
            counts[value][{won: "wins", lost: "losses"}.get(vote.outcome, "ties")] += 1
    rows = [{"value": value, **_row(count)} for value, count in counts.items()]
    rates = {row["value"]: -1.0 if row["win_rate"] is None else row["win_rate"] for row in rows}
    return sorted(rows, key=lambda row: rates[row["value"]], reverse=True)


def _row(count: Counter[str]) -> dict[str, Any]:
    total = count.total()
    rate = (count["wins"] + count["ties"] / 2) / total if total else None
    low, high = _interval(rate, total) if rate is not None else (None, None)
    kinds = {kind: count[kind] for kind in ("wins", "losses", "ties")}
    return {"votes": total, **kinds, "win_rate": rate, "low": low, "high": high}


def _interval(rate: float, total: int) -> tuple[float, float]:
    middle = (rate + _Z**2 / (2 * total)) / (1 + _Z**2 / total)
    half = _Z * math.sqrt(rate * (1 - rate) / total + _Z**2 / (4 * total**2)) / (1 + _Z**2 / total)
    # At a rate of 0 or 1 the rate is a bound itself, and rounding must not put it outside.
    return min(rate, max(0.0, middle - half)), max(rate, min(1.0, middle + half))


def preferences(pictures: Sequence[Picture], votes: Iterable[Vote]) -> list[dict[str, Any]]:
    """Each vote that was no tie as a preference: what was chosen, and what was rejected.

    ``prompt`` is there where both have the same, as trainers of preference models want it.
    """
    known = {picture.key: picture for picture in pictures}
    found = []
    for vote in votes:
        left, right = known.get(vote.left), known.get(vote.right)
        if left is None or right is None or vote.outcome not in ("left", "right"):
            continue
        chosen, rejected = (left, right) if vote.outcome == "left" else (right, left)
        found.append(
            {
                "prompt": chosen.run.prompt if chosen.run.prompt == rejected.run.prompt else None,
                "chosen": _facts(chosen),
                "rejected": _facts(rejected),
                "ballot": vote.ballot,
                "voted_at": vote.voted_at.isoformat(),
            }
        )
    return found


def _facts(picture: Picture) -> dict[str, Any]:
    run = picture.run
    return {
        "run_id": run.run_id,
        "index": picture.image.index,
        "file": picture.image.file,
        "prompt": run.prompt,
        "prompt_template": run.prompt_template,
        "variables": run.variables,
        "parameters": run.parameters,
        "model": run.model,
    }
