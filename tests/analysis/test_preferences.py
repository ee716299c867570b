"""Votes between pictures: fair pairs, and results that follow from the votes."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apixo_nb.analysis import pivot as axes
from apixo_nb.analysis import preferences
from apixo_nb.analysis.preferences import Picture
from apixo_nb.core import records
from apixo_nb.core.records import SUCCESS, Image, Run, Vote, new_run
from apixo_nb.core.request import make_request
from apixo_nb.ledger.ledger import Ledger

_number = count()


def a_run(style: str, ratio: str = "1:1", pictures: int = 1) -> Run:
    request = make_request(f"a fox, {style}", aspect_ratio=ratio)
    run = new_run(
        request,
        unit_price_micros=350_000,
        sandbox=True,
        prompt_template="a fox, {style}",
        variables={"style": style},
    )
    images = [
        Image(index=at, url="https://x.test/a.png", file=f"{next(_number)}.png") for at in range(pictures)
    ]
    return run.replace(state=SUCCESS, images=tuple(images))


def a_vote(left: Picture, right: Picture, outcome: str) -> Vote:
    return Vote(f"v{next(_number)}", datetime.now(UTC), "style", *left.key, *right.key, outcome)


def pictures_of(*runs: Run) -> list[Picture]:
    return preferences.candidates(runs)


def test_pictures_that_are_not_on_disk_do_not_stand():
    run = a_run("ink").replace(images=(Image(index=0, url="https://x.test/a.png"),))
    assert preferences.candidates([run]) == []


def test_pairs_differ_on_the_axis_and_nowhere_else():
    runs = [a_run(style, ratio) for style in ("ink", "oil", "wax") for ratio in ("1:1", "3:2")]
    found = preferences.pairs(pictures_of(*runs), "style", [], random.Random(1))
    assert len(found) == 6
    for left, right in found:
        assert axes.axis_value(left.run, "style") != axes.axis_value(right.run, "style")
        assert left.run.aspect_ratio == right.run.aspect_ratio


def test_pictures_that_are_alike_in_nothing_still_meet():
    found = preferences.pairs(
        pictures_of(a_run("ink", "1:1"), a_run("oil", "3:2")), "style", [], random.Random(1)
    )
    assert len(found) == 1


def test_pairs_that_have_met_are_done_whichever_side_they_were_on():
    ink, oil, wax = pictures_of(a_run("ink"), a_run("oil"), a_run("wax"))
    found = preferences.pairs([ink, oil, wax], "style", [a_vote(oil, ink, "tie")], random.Random(1))
    assert {frozenset((left.key, right.key)) for left, right in found} == {
        frozenset((ink.key, wax.key)),
        frozenset((oil.key, wax.key)),
    }


def test_of_very_many_pairs_a_fair_sample_is_asked_for():
    runs = [a_run(style, ratio) for style in ("ink", "oil", "wax") for ratio in ("1:1", "3:2")]
    images = tuple(
        Image(index=at, url="https://x.test/a.png", file=f"{next(_number)}.png") for at in range(7_000)
    )
    pictures = pictures_of(*(run.replace(images=images) for run in runs))
    assert len(pictures) == 42_000  # 294 million pairs that differ in nothing but the style
    found = preferences.pairs(pictures, "style", [], random.Random(1))
    keys = {frozenset((left.key, right.key)) for left, right in found}
    assert len(found) == len(keys) == preferences.MOST_PAIRS
    kinds: Counter[str] = Counter()
    for left, right in found:
        assert axes.axis_value(left.run, "style") != axes.axis_value(right.run, "style")
        assert left.run.aspect_ratio == right.run.aspect_ratio
        kinds[left.run.run_id] += 1
    assert set(kinds) == {run.run_id for run in runs}
    assert min(kinds.values()) > 0.8 * max(kinds.values())
    votes = [a_vote(left, right, "tie") for left, right in found[:50]]
    again = preferences.pairs(pictures, "style", votes, random.Random(1))
    assert not {frozenset((left.key, right.key)) for left, right in again} & {
        frozenset((vote.left, vote.right)) for vote in votes
    }


def test_pairs_are_the_same_as_one_by_one():
    runs = [a_run(style, ratio, 2) for style, ratio in zip("aabbbc", ["1:1", "3:2"] * 3, strict=True)]
    pictures = pictures_of(*runs)
    expected = {
        frozenset((one.key, other.key))
        for one in pictures
        for other in pictures
        if one.run.variables != other.run.variables and one.run.aspect_ratio == other.run.aspect_ratio
    }
    found = preferences.pairs(pictures, "style", [], random.Random(1))
    assert len(found) == len(expected)
    assert {frozenset((left.key, right.key)) for left, right in found} == expected


def test_sides_are_drawn_by_lot():
    pictures = pictures_of(*(a_run("ink") for _ in range(12)), *(a_run("oil") for _ in range(12)))
    found = preferences.pairs(pictures, "style", [], random.Random(7))
    left = Counter(axes.axis_value(pair[0].run, "style") for pair in found)
    assert len(found) == 144
    assert min(left.values()) > 45


def test_whoever_stops_early_has_seen_each_picture_about_as_often():
    pictures = pictures_of(*(a_run(style) for style in "abcdefgh"))
    found = preferences.pairs(pictures, "style", [], random.Random(3))[:8]
    seen = Counter(picture.key for pair in found for picture in pair)
    assert max(seen.values()) - min(seen[picture.key] for picture in pictures) <= 2


def test_results_count_wins_losses_and_ties_of_each_value():
    ink, oil, wax = pictures_of(a_run("ink"), a_run("oil"), a_run("wax"))
    votes = [
        a_vote(ink, oil, "left"),
        a_vote(oil, ink, "right"),
        a_vote(ink, oil, "tie"),
    ]
    first, second, last = preferences.results([ink, oil, wax], "style", votes)
    assert (first["value"], first["wins"], first["losses"], first["ties"]) == ("ink", 2, 0, 1)
    assert first["win_rate"] == pytest.approx(2.5 / 3)
    assert first["low"] < first["win_rate"] < first["high"] <= 1
    assert (second["value"], second["win_rate"]) == ("oil", pytest.approx(0.5 / 3))
    assert (last["value"], last["votes"], last["win_rate"]) == ("wax", 0, None)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from(records.OUTCOMES)), max_size=40)
)
def test_every_vote_is_counted_once_on_each_side(cast: list[tuple[int, int, str]]):
    pictures = pictures_of(*(a_run(style) for style in ("a", "a", "b", "b", "c", "c")))
    votes = [a_vote(pictures[left], pictures[right], outcome) for left, right, outcome in cast]
    counted = [vote for vote, (left, right, _) in zip(votes, cast, strict=True) if left // 2 != right // 2]
    rows = preferences.results(pictures, "style", votes)
    assert sum(row["votes"] for row in rows) == 2 * len(counted)
    assert sum(row["wins"] for row in rows) == sum(row["losses"] for row in rows)
    for row in rows:
        assert row["votes"] == row["wins"] + row["losses"] + row["ties"]
        if row["votes"]:
            assert 0 <= row["low"] <= row["win_rate"] + 1e-9
            assert row["win_rate"] - 1e-9 <= row["high"] <= 1


def test_rounding_does_not_put_a_rate_outside_its_interval():
    left, right = pictures_of(a_run("a"), a_run("b"))
    rows = preferences.results([left, right], "style", [a_vote(left, right, "left") for _ in range(6)])
    assert [(row["low"] <= row["win_rate"] <= row["high"]) for row in rows] == [True, True]


def test_preferences_name_what_was_chosen_and_leave_ties_out():
    ink, oil = pictures_of(a_run("ink"), a_run("oil"))
    [one] = preferences.preferences([ink, oil], [a_vote(ink, oil, "right"), a_vote(ink, oil, "tie")])
    assert one["chosen"]["variables"] == {"style": "oil"}
    assert one["rejected"]["file"] == ink.image.file
    assert one["prompt"] is None


def test_votes_outlive_the_kernel(tmp_path):
    ink, oil = pictures_of(a_run("ink"), a_run("oil"))
    first, second = a_vote(ink, oil, "left"), a_vote(oil, ink, "tie")
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.record_vote(first)
    ledger.record_vote(second)
    ledger.remove_vote(first.vote_id)
    ledger.close()
    again = Ledger(tmp_path / "ledger.db")
    assert again.votes("style") == again.votes() == [second]
    assert again.votes("another") == []
    again.close()
