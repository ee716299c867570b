"""What a group of runs came to: the figures are right, in the units that are promised."""

from __future__ import annotations

import statistics
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apixo_nb.analysis.summary import SPENT, SUMMARY, spending, summary
from apixo_nb.core.formatting import at_stake_micros, spent_micros
from apixo_nb.core.records import Image, Run
from apixo_nb.errors import InvalidRequestError
from tests.support.factories import a_run

PRICE = 350_000


def done(style: str = "oil", *ratings: int | None, ms: int | None = 30_000, **changes: Any) -> Run:
    """A success with a picture for each rating, or with one."""
    pictures = tuple(
        Image(index=index, url="u", rating=rating) for index, rating in enumerate(ratings or (None,))
    )
    facts: dict[str, Any] = {"state": "success", "task_id": "t", "cost_micros": PRICE * len(pictures)}
    facts |= {"variables": {"style": style}, "images": pictures, "result_urls": ("u",) * len(pictures)}
    return a_run(cost_time_ms=ms, **(facts | changes))


def failed(style: str = "oil") -> Run:
    return a_run(state="failed", task_id="t", cost_micros=0, cost_time_ms=None, variables={"style": style})


def by_style(*runs: Run) -> dict[str, Any]:
    """The one row of a summary."""
    [row] = summary(runs, "style").to_dict("records")
    return {str(column): value for column, value in row.items()}


def test_figures_of_a_group_are_counts_rates_milliseconds_and_dollars():
    row = by_style(
        done("oil", 5, 2, ms=20_000),
        done("oil", None, ms=40_000),
        failed(),
        a_run(state="submitted", variables={"style": "oil"}),
    )
    assert (row["runs"], row["pictures"], row["ended"], row["failed"]) == (4, 3, 3, 1)
    assert row["failure_rate"] == pytest.approx(1 / 3)
    assert (row["costTime_mean"], row["costTime_median"]) == (30_000, 30_000)
    assert row["costTime_std"] == pytest.approx(statistics.stdev([20_000, 40_000]))
    assert (row["cost_usd"], row["picture_usd"]) == (pytest.approx(1.05), pytest.approx(0.35))
    assert (row["rated"], row["rating_mean"]) == (2, 3.5)
    assert row["rating_std"] == pytest.approx(statistics.stdev([5, 2]))


def test_what_nobody_knows_is_missing_and_not_zero():
    row = by_style(a_run(state="submitted", variables={"style": "oil"}))
    for column in ("failure_rate", "costTime_mean", "costTime_median", "picture_usd", "rating_mean"):
        assert pd.isna(row[column]), column
    assert (row["ended"], row["failed"], row["rated"], row["cost_usd"]) == (0, 0, 0, 0)


def test_one_value_has_no_spread():
    row = by_style(done("oil", 4))
    assert pd.isna(row["costTime_std"])
    assert pd.isna(row["rating_std"])
    assert row["rating_mean"] == 4


def test_groups_come_in_the_order_of_the_runs():
    found = summary([done("oil"), done("ink"), done("cut paper"), done("ink")], "style")
    assert found["style"].tolist() == ["oil", "ink", "cut paper"]
    assert found["runs"].tolist() == [1, 2, 1]


def test_several_axes_make_a_group_of_each_combination():
    wide: dict[str, Any] = {"parameters": {"aspect_ratio": "3:2", "num_images": 1}}
    found = summary([done("oil"), done("oil", **wide), done("ink"), done("oil")], ["style", "aspect_ratio"])
    assert found[["style", "aspect_ratio", "runs"]].to_numpy().tolist() == [
        ["oil", "1:1", 2],
        ["oil", "3:2", 1],
        ["ink", "1:1", 1],
    ]


def test_without_a_word_it_is_by_what_the_runs_differ_in():
    assert list(summary([done("oil"), done("ink")]).columns)[:1] == ["style"]
    assert summary([done("oil"), done("oil")])["runs"].tolist() == [2]


def test_run_with_several_tags_counts_in_each():
    found = summary([done(tags=("a", "b")), done(tags=("b",)), done()], "tag")
    assert dict(zip(found["tag"], found["runs"], strict=True)) == {"a": 1, "b": 2, "(no tag)": 1}


def test_variable_goes_before_a_grouping_of_that_name():
    runs = [done(variables={"tag": "x"}, tags=("a",)), done(variables={"tag": "y"}, tags=("a",))]
    assert summary(runs, "tag")["tag"].tolist() == ["x", "y"]
    assert spending(runs, "tag")["tag"].tolist() == ["x", "y"]


@pytest.mark.parametrize("runs", [[], [done("oil", 3), failed("ink")]], ids=["empty", "two"])
def test_dtypes_do_not_depend_on_what_is_in_it(runs: list[Run]):
    assert summary(runs, "style").dtypes.astype(str).to_dict() == {"style": "str"} | SUMMARY
    assert spending(runs, "day").dtypes.astype(str).to_dict() == {"day": "str"} | SPENT


@pytest.mark.parametrize("by", ["mood", "runs", "spent_usd", 3, ("style",)])
def test_unknown_group_is_an_error_of_two_lines(by: Any):
    runs = [done()]
    with pytest.raises(InvalidRequestError) as refused:
        spending(runs, by)
    assert len(str(refused.value).splitlines()) == 2


runs_of_all_states = st.lists(
    st.builds(
        lambda state, known, count, style: a_run(
            state=state,
            task_id="t",
            cost_micros=count * PRICE if known else None,
            variables={"style": style},
        ),
        st.sampled_from(["success", "failed", "submitted", "unknown", "planned"]),
        st.booleans(),
        st.integers(0, 4),
        st.sampled_from(["oil", "ink", ""]),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=50)
@given(runs=runs_of_all_states)
def test_groups_add_up_to_the_whole(runs: list[Run]):
    spent = spending(runs, "style") if runs else spending(runs, "state")
    assert spent["runs"].sum() == len(runs)
    assert spent["spent_usd"].sum() == pytest.approx(spent_micros(runs) / 1e6)
    assert spent["at_stake_usd"].sum() == pytest.approx(at_stake_micros(runs) / 1e6)
    assert summary(runs, "state")["cost_usd"].sum() == pytest.approx(spent_micros(runs) / 1e6)
