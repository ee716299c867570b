"""What differs between two prompts: nothing is lost, words stay whole, and long texts take no minutes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from apixo_nb.display.cards import difference, words

PROPERTY = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=300
)
# Few words, so that two texts have many of them in common; and whatever else there is.
TEXTS = st.one_of(
    st.lists(st.sampled_from(["fox", "a", " ", "  ", "\n", "red", "-", "光", "影", "é", "👩‍🚀"])).map(
        "".join
    ),
    st.text(max_size=60),
    st.text(st.characters(), max_size=20),  # lone surrogates too
)
LONG = 10_000  # characters: the longest prompt that APIXO takes


@PROPERTY
@given(TEXTS, TEXTS)
@example("", "")
@example("a", "")
@example("ab " * 3_333, "ab cd " * 1_666)
@example("光" * LONG, "光影" * 5_000)
def test_each_text_can_be_read_from_it(before: str, after: str):
    pieces = difference(before, after)
    assert "".join(text for kind, text in pieces if kind != "added") == before
    assert "".join(text for kind, text in pieces if kind != "removed") == after
    assert all(text for _, text in pieces)
    assert all(one[0] != other[0] for one, other in pairwise(pieces))


@PROPERTY
@given(TEXTS)
def test_a_text_does_not_differ_from_itself(text: str):
    assert difference(text, text) == ([("same", text)] if text else [])


@PROPERTY
@given(TEXTS)
def test_pieces_joined_are_the_text(text: str):
    assert "".join(words(text)) == text


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a red fox", ["a", " ", "red", " ", "fox"]),
        ("don't, it\u2019s", ["don't", ",", " ", "it\u2019s"]),
        ("'quoted'", ["'", "quoted", "'"]),
        ("Größe_2 été", ["Größe_2", " ", "été"]),
        ("cafe\u0301s", ["cafe\u0301s"]),  # an accent that is a character of its own
        ("Καφές кафе", ["Καφές", " ", "кафе"]),
        ("3:2  x", ["3", ":", "2", "  ", "x"]),
        ("光と影", ["光", "と", "影"]),
        ("한국어", ["한", "국", "어"]),
        ("SF小説", ["SF", "小", "説"]),
        ("", []),
    ],
)
def test_words_are_whole_and_characters_stand_alone_where_there_are_no_blanks(text: str, pieces: list[str]):
    assert words(text) == pieces


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (
            "a red fox",
            "a blue fox",
            [("same", "a "), ("removed", "red"), ("added", "blue"), ("same", " fox")],
        ),
        ("a fox", "a fox runs", [("same", "a fox"), ("added", " runs")]),
        ("a fox runs", "fox runs", [("removed", "a "), ("same", "fox runs")]),
        ("foxes", "fox", [("removed", "foxes"), ("added", "fox")]),
        ("夜の猫", "夜の犬", [("same", "夜の"), ("removed", "猫"), ("added", "犬")]),
        ("a\nb", "a b", [("same", "a"), ("removed", "\n"), ("added", " "), ("same", "b")]),
        ("", "a fox", [("added", "a fox")]),
    ],
)
def test_the_difference_is_told_by_words(before: str, after: str, found: list[tuple[str, str]]):
    assert difference(before, after) == found


def test_small_changes_of_a_long_text_are_found_exactly():
    many = [f"word{number % 700}" for number in range(1_400)]
    changed = [*many[:500], "new", *many[505:900], "other", *many[901:]]
    pieces = difference(" ".join(many), " ".join(changed))
    assert [text for kind, text in pieces if kind == "added"] == ["new", "other"]
    assert [text for kind, text in pieces if kind == "removed"] == [" ".join(many[500:505]), many[900]]
