"""Work in line: bounded, fair to its batches, and without a task for what waits. No time passes in here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

import pytest

from apixo_nb.engine.submitter import Lane, Work
from tests.support.virtual_time import swiftly


class Diary:
    """Who began, who is at it, and how many there ever were at a time."""

    def __init__(self, takes_s: float = 1.0):
        self.takes_s = takes_s
        self.began: list[str] = []
        self.at: list[float] = []
        self.inside = self.most = self.tasks = 0

    def work(self, name: str, then: Callable[[], object] = lambda: None) -> Work:
        async def work() -> None:
            self.began.append(name)
            self.at.append(asyncio.get_running_loop().time())
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.tasks = max(self.tasks, len(asyncio.all_tasks()))
            await asyncio.sleep(self.takes_s)
            then()
            self.inside -= 1

        return work

    def line_up(self, lane: Lane, names: list[str], batch: Hashable = None) -> list[Work]:
        works = [self.work(name) for name in names]
        for work in works:
            lane.add(work, batch)
        return works

    async def over(self, count: int) -> None:
        """Wait until so many have ended."""
        while len(self.began) < count or self.inside:  # noqa: ASYNC110 - on this loop looking costs nothing
            await asyncio.sleep(0.1)


def names(letter: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in range(count)]


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_no_more_than_so_many_at_a_time_and_all_in_the_end(diary: Diary, at_once: int) -> None:
    async def main() -> None:
        diary.line_up(Lane(lambda: at_once), names("a", 50))
        await diary.over(50)

    swiftly(main())
    assert (diary.most, len(set(diary.began))) == (at_once, 50)


def test_what_waits_has_no_task(diary: Diary) -> None:
    async def main() -> None:
        diary.line_up(Lane(lambda: 4), names("a", 1000))
        assert len(asyncio.all_tasks()) <= 1 + 4
        await diary.over(1000)

    swiftly(main())
    assert diary.tasks <= 1 + 4 + 4  # those that have just ended count until the loop has looked


def test_first_come_first_served_within_a_batch(diary: Diary) -> None:
    async def main() -> None:
        diary.line_up(Lane(lambda: 1), names("a", 20))
        await diary.over(20)

    swiftly(main())
    assert diary.began == names("a", 20)


def test_batches_take_turns(diary: Diary) -> None:
    async def main() -> None:
        lane = Lane(lambda: 1)
        diary.line_up(lane, names("a", 4), "one cell")
        diary.line_up(lane, names("b", 2), "another")
        diary.line_up(lane, names("c", 1), "a third")
        await diary.over(7)

    swiftly(main())
    assert diary.began == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]


def test_a_batch_of_500_does_not_starve_a_single_cell(diary: Diary) -> None:
    async def main() -> None:
        lane = Lane(lambda: 8)
        diary.line_up(lane, names("a", 500), "sweep")
        diary.line_up(lane, ["single"], "cell")
        await diary.over(501)

    swiftly(main())
    assert diary.began.index("single") <= 8 + 1


def test_what_was_at_its_turn_before_goes_first_and_the_others_keep_their_order(diary: Diary) -> None:
    async def main() -> None:
        lane = Lane(lambda: 1)
        diary.line_up(lane, names("a", 3), "one")
        diary.line_up(lane, names("b", 2), "two")
        lane.add(diary.work("again"), "two", first=True)
        await diary.over(6)

    swiftly(main())
    assert diary.began == ["a0", "again", "a1", "b0", "a2", "b1"]


def test_what_was_taken_out_never_begins(diary: Diary) -> None:
    async def main() -> None:
        lane = Lane(lambda: 1)
        running, waiting, last = diary.line_up(lane, names("a", 3))
        assert lane.remove(waiting)
        assert not lane.remove(waiting)
        assert not lane.remove(running)
        await diary.over(2)
        assert not lane.remove(last)

    swiftly(main())
    assert diary.began == ["a0", "a2"]


def test_the_last_of_a_batch_taken_out_leaves_the_other_batches_their_turns(diary: Diary) -> None:
    async def main() -> None:
        lane = Lane(lambda: 1)
        diary.line_up(lane, ["a0"], "one")
        [only] = diary.line_up(lane, ["b0"], "two")
        diary.line_up(lane, ["c0", "c1"], "three")
        assert lane.remove(only)
        await diary.over(3)

    swiftly(main())
    assert diary.began == ["a0", "c0", "c1"]


def test_a_line_that_was_cleared_is_empty_and_can_be_used_again(diary: Diary) -> None:
    async def main() -> None:
        lane = Lane(lambda: 1)
        one = diary.line_up(lane, names("a", 3), "one")
        two = diary.line_up(lane, names("b", 2), "two")
        assert lane.clear() == [*one[1:], *two]
        await diary.over(1)
        diary.line_up(lane, ["c0"], "one")
        await diary.over(2)

    swiftly(main())
    assert diary.began == ["a0", "c0"]


def test_nothing_begins_before_its_time(diary: Diary) -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        lane = Lane(lambda: 8, lambda: max(0.0, 100.0 - clock()))
        diary.line_up(lane, names("a", 3))
        await diary.over(3)

    swiftly(main())
    assert diary.at == pytest.approx([100.0] * 3)


def test_a_time_that_is_put_off_while_they_wait_is_kept_too(diary: Diary) -> None:
    async def main() -> None:
        clock, opens_at = asyncio.get_running_loop().time, [10.0]
        lane = Lane(lambda: 8, lambda: max(0.0, opens_at[0] - clock()))
        diary.line_up(lane, ["a"])
        await asyncio.sleep(5.0)
        opens_at[0] = 60.0
        await diary.over(1)

    swiftly(main())
    assert diary.at == pytest.approx([60.0])


def test_places_that_become_free_are_taken_as_soon_as_it_is_said(diary: Diary) -> None:
    async def main() -> None:
        places = [1]
        lane = Lane(lambda: places[0])
        diary.line_up(lane, names("a", 4))
        await asyncio.sleep(0.5)
        places[0] = 4
        lane.go_on()
        await diary.over(4)

    swiftly(main())
    assert diary.at == pytest.approx([0.0, 0.5, 0.5, 0.5])


def test_fewer_places_are_waited_for(diary: Diary) -> None:
    async def main() -> None:
        places = [3]
        lane = Lane(lambda: places[0])
        diary.line_up(lane, names("a", 6))
        places[0] = 1
        await diary.over(6)

    swiftly(main())
    assert diary.at == pytest.approx([0.0, 0.0, 0.0, 1.0, 2.0, 3.0])


def test_work_may_line_up_more_work(diary: Diary) -> None:
    async def main() -> None:
        lane = Lane(lambda: 1)
        lane.add(diary.work("first", then=lambda: lane.add(diary.work("again"), first=True)))
        lane.add(diary.work("second"))
        await diary.over(3)

    swiftly(main())
    assert diary.began == ["first", "again", "second"]
