"""Slots of a limit: bounded, fair to batches, and without tasks of the queue. No time passes in here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

import pytest

from apixo_nb.engine.fair_queue import AtMost, FairQueue
from tests.support.virtual_time import run_in_virtual_time


class Limited:
    """A limit that a test changes; keeps count of what was reserved and what was given back."""

    def __init__(self, at_once: Callable[[], int], wait_s: Callable[[], float] = lambda: 0.0):
        self._at_once, self.wait_s = at_once, wait_s
        self.reserved = self.given_back = 0

    @property
    def at_once(self) -> int:
        return self._at_once()

    def reserve(self) -> None:
        self.reserved += 1

    def give_back(self) -> None:
        self.given_back += 1


class Diary:
    """Who began, who is at it, and how many there ever were at a time."""

    def __init__(self, takes_s: float = 1.0):
        self.takes_s = takes_s
        self.began: list[str] = []
        self.at: list[float] = []
        self.inside = self.most = self.tasks = 0

    async def work(self, queue: FairQueue, name: str, batch: Hashable = None, *, first: bool = False) -> None:
        with await queue.acquire(batch, first=first) as slot:
            slot.used = True
            self.began.append(name)
            self.at.append(asyncio.get_running_loop().time())
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.tasks = max(self.tasks, len(asyncio.all_tasks()))
            await asyncio.sleep(self.takes_s)
            self.inside -= 1

    async def start(
        self, queue: FairQueue, names: list[str], batch: Hashable = None, *, first: bool = False
    ) -> list[asyncio.Task[None]]:
        """Their tasks, each at its work or waiting for a slot."""
        tasks = [asyncio.ensure_future(self.work(queue, name, batch, first=first)) for name in names]
        await asyncio.sleep(0)
        return tasks

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
        await diary.start(FairQueue(AtMost(at_once)), names("a", 50))
        await diary.over(50)

    run_in_virtual_time(main())
    assert (diary.most, len(set(diary.began))) == (at_once, 50)


def test_the_queue_itself_needs_no_task_for_what_waits(diary: Diary) -> None:
    async def main() -> None:
        queue = FairQueue(AtMost(4))
        await diary.start(queue, names("a", 1000))
        assert len(queue) == 1000 - 4
        assert len(asyncio.all_tasks()) == 1 + 1000
        await diary.over(1000)

    run_in_virtual_time(main())
    assert diary.tasks <= 1 + 1000


def test_first_come_first_served_within_a_batch(diary: Diary) -> None:
    async def main() -> None:
        await diary.start(FairQueue(AtMost(1)), names("a", 20))
        await diary.over(20)

    run_in_virtual_time(main())
    assert diary.began == names("a", 20)


def test_batches_take_turns(diary: Diary) -> None:
    async def main() -> None:
        queue = FairQueue(AtMost(1))
        await diary.start(queue, names("a", 4), "one cell")
        await diary.start(queue, names("b", 2), "another")
        await diary.start(queue, names("c", 1), "a third")
        await diary.over(7)

    run_in_virtual_time(main())
    assert diary.began == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]


def test_a_batch_of_500_does_not_starve_a_single_cell(diary: Diary) -> None:
    async def main() -> None:
        queue = FairQueue(AtMost(8))
        await diary.start(queue, names("a", 500), "sweep")
        await diary.start(queue, ["single"], "cell")
        await diary.over(501)

    run_in_virtual_time(main())
    assert diary.began.index("single") <= 8 + 1


def test_what_had_a_slot_before_goes_first_and_the_others_keep_their_order(diary: Diary) -> None:
    async def main() -> None:
        queue = FairQueue(AtMost(1))
        await diary.start(queue, names("a", 3), "one")
        await diary.start(queue, names("b", 2), "two")
        await diary.start(queue, ["again"], "two", first=True)
        await diary.over(6)

    run_in_virtual_time(main())
    assert diary.began == ["a0", "again", "a1", "b0", "a2", "b1"]


def test_what_was_cancelled_while_it_waited_never_begins(diary: Diary) -> None:
    async def main() -> None:
        queue = FairQueue(AtMost(1))
        _running, waiting, last = await diary.start(queue, names("a", 3))
        assert len(queue) == 2
        assert waiting.cancel()
        assert len(queue) == 1
        await diary.over(2)
        assert waiting.cancelled()
        assert not last.cancel()
        assert len(queue) == 0

    run_in_virtual_time(main())
    assert diary.began == ["a0", "a2"]


def test_the_last_of_a_batch_cancelled_leaves_the_other_batches_their_turns(diary: Diary) -> None:
    async def main() -> None:
        queue = FairQueue(AtMost(1))
        await diary.start(queue, ["a0"], "one")
        [only] = await diary.start(queue, ["b0"], "two")
        await diary.start(queue, ["c0", "c1"], "three")
        assert only.cancel()
        await diary.over(3)

    run_in_virtual_time(main())
    assert diary.began == ["a0", "c0", "c1"]


def test_when_all_are_refused_each_meets_its_own_error_and_the_queue_can_be_used_again(diary: Diary) -> None:
    async def main() -> None:
        queue = FairQueue(AtMost(1))
        one = await diary.start(queue, names("a", 3), "one")
        two = await diary.start(queue, names("b", 2), "two")
        assert queue.refuse_all(lambda: OSError("quota")) == 4
        assert len(queue) == 0
        errors = await asyncio.gather(*one[1:], *two, return_exceptions=True)
        assert [str(error) for error in errors] == ["quota"] * 4
        assert len(set(map(id, errors))) == 4
        await diary.over(1)
        await diary.start(queue, ["c0"], "one")
        await diary.over(2)

    run_in_virtual_time(main())
    assert diary.began == ["a0", "c0"]


def test_what_is_cancelled_in_the_moment_of_its_slot_gives_the_slot_back(diary: Diary) -> None:
    async def main() -> None:
        slots = [0]
        limit = Limited(lambda: slots[0])
        queue = FairQueue(limit)
        [waiting] = await diary.start(queue, ["a"])
        slots[0] = 1
        queue.admit()
        assert (limit.reserved, limit.given_back) == (1, 0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (limit.reserved, limit.given_back) == (1, 1)
        await diary.start(queue, ["b"])
        await diary.over(1)
        assert (limit.reserved, limit.given_back) == (2, 1)

    run_in_virtual_time(main())
    assert diary.began == ["b"]


def test_a_slot_is_given_back_unless_it_was_used_and_released_either_way() -> None:
    async def main() -> None:
        limit = Limited(lambda: 1)
        queue = FairQueue(limit)
        for used in (False, True, False):
            with await queue.acquire() as slot:
                slot.used = used
        with pytest.raises(OSError, match="disk"), await queue.acquire():
            raise OSError("disk")
        assert (limit.reserved, limit.given_back) == (4, 3)

    run_in_virtual_time(main())


def test_nothing_begins_before_its_time(diary: Diary) -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        queue = FairQueue(Limited(lambda: 8, lambda: max(0.0, 100.0 - clock())))
        await diary.start(queue, names("a", 3))
        await diary.over(3)

    run_in_virtual_time(main())
    assert diary.at == pytest.approx([100.0] * 3)


def test_a_time_that_is_put_off_while_they_wait_is_kept_too(diary: Diary) -> None:
    async def main() -> None:
        clock, opens_at = asyncio.get_running_loop().time, [10.0]
        queue = FairQueue(Limited(lambda: 8, lambda: max(0.0, opens_at[0] - clock())))
        await diary.start(queue, ["a"])
        await asyncio.sleep(5.0)
        opens_at[0] = 60.0
        await diary.over(1)

    run_in_virtual_time(main())
    assert diary.at == pytest.approx([60.0])


def test_slots_that_become_free_are_taken_as_soon_as_the_queue_is_told(diary: Diary) -> None:
    async def main() -> None:
        slots = [1]
        queue = FairQueue(Limited(lambda: slots[0]))
        await diary.start(queue, names("a", 4))
        await asyncio.sleep(0.5)
        slots[0] = 4
        queue.admit()
        await diary.over(4)

    run_in_virtual_time(main())
    assert diary.at == pytest.approx([0.0, 0.5, 0.5, 0.5])


def test_fewer_slots_are_waited_for(diary: Diary) -> None:
    async def main() -> None:
        slots = [3]
        queue = FairQueue(Limited(lambda: slots[0]))
        await diary.start(queue, names("a", 6))
        slots[0] = 1
        await diary.over(6)

    run_in_virtual_time(main())
    assert diary.at == pytest.approx([0.0, 0.0, 0.0, 1.0, 2.0, 3.0])


def test_who_releases_a_slot_may_acquire_the_next_one_before_all_others(diary: Diary) -> None:
    async def again(queue: FairQueue) -> None:
        await diary.work(queue, "first")
        await diary.work(queue, "again", first=True)

    async def main() -> None:
        queue = FairQueue(AtMost(1))
        both = asyncio.ensure_future(again(queue))
        await diary.start(queue, ["second"])
        await diary.over(3)
        await both

    run_in_virtual_time(main())
    assert diary.began == ["first", "again", "second"]
