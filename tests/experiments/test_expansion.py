"""The product of a sweep: every combination once, and whatever is wrong with it is said before."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apixo_nb.core.models import DEFAULT_MODEL, MODELS
from apixo_nb.errors import InvalidRequestError
from apixo_nb.experiments.cell_options import Listed, mark
from apixo_nb.experiments.plan import is_csv, is_table, templates_of_csv, templates_of_table
from apixo_nb.experiments.prompts import MOST_TASKS, Cell, Template, expand, values_in, values_of

MODEL = MODELS[DEFAULT_MODEL]


def cells(*texts: str, known: dict[str, Any] | None = None, **options: Any) -> list[Cell]:
    sets, lists = options.pop("sets", {}), options.pop("lists", {})
    return expand([Template(text) for text in texts], sets, lists, known=known, **options)


def refusal(*texts: str, **options: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        cells(*texts, **options)
    return caught.value


# --- the product -------------------------------------------------------------------------------------


def test_all_combinations_come_once_and_the_last_list_changes_fastest():
    found = cells("{a}-{b}", sets={"b": [1, 2], "a": ["x", "y"]}, lists={"aspect_ratio": ["1:1", "3:2"]})
    assert [(cell.prompt, cell.parameters["aspect_ratio"]) for cell in found] == [
        (f"{a}-{b}", ratio) for a in "xy" for b in (1, 2) for ratio in ("1:1", "3:2")
    ]
    assert found[0].variables == {"a": "x", "b": "1"}


def test_a_template_takes_part_in_the_variables_that_it_uses():
    found = cells("{a} fox", "a cat", "{a} {b}", sets={"a": ["x", "y"], "b": ["1", "2"]})
    assert [cell.prompt for cell in found] == ["x fox", "y fox", "a cat", "x 1", "x 2", "y 1", "y 2"]


def test_what_the_sweep_sets_goes_before_the_notebook():
    [cell] = cells("{a} {b}", sets={"a": ["mine"]}, known={"a": "theirs", "b": 7})
    assert (cell.prompt, cell.variables) == ("mine 7", {"a": "mine", "b": "7"})


def test_raw_prompts_are_not_filled():
    [cell] = cells("{a} }", raw=True)
    assert (cell.prompt, cell.variables) == ("{a} }", {})


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from("abcd"), st.lists(st.integers(0, 50), min_size=1, max_size=4, unique=True), min_size=1
    )
)
def test_the_product_is_as_large_as_its_factors_and_holds_nothing_twice(sets: dict[str, list[int]]):
    found = cells(" ".join(f"{name}={{{name}}}" for name in sets), sets=sets)
    assert len({cell.prompt for cell in found}) == len(found) == math.prod(map(len, sets.values()))


# --- what is wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "texts", "options"),
    [
        ("No prompt uses {stile}", ["a {style}"], {"sets": {"stile": ["a"]}, "known": {"style": ""}}),
        ("stands twice in the list of x", ["{x}"], {"sets": {"x": ["a", "b", "a"]}}),
        ("stands twice in the list of x", ["{x}"], {"sets": {"x": [1, "1"]}}),
        ("stands twice", ["a"], {"lists": {"num_images": [1, 1]}}),
        ("The list of x is empty", ["{x}"], {"sets": {"x": []}}),
        ("nothing is given for it", ["{x}"], {}),
        ("no variable x", ["{x}"], {"known": {"y": 1}}),
        ("Two cells ask for the same", ["a fox", "a fox"], {}),
        ("Two cells ask for the same", ["{a}{b}"], {"sets": {"a": ["1", "11"], "b": ["1", "11"]}}),
        ("10,201 tasks are too many", ["{a}{b}"], {"sets": {"a": range(101), "b": range(101)}}),
        ("10,100 tasks are too many", ["{a}"], {"sets": {"a": range(101)}, "repeat": 100}),
        ("No prompt uses {x}", ["{x}"], {"sets": {"x": ["a"]}, "raw": True}),
        ("brace without its partner", ["{x"], {"sets": {"x": ["a"]}}),
    ],
)
def test_mistake_is_named_before_anything_is_made(told: str, texts: list[str], options: dict[str, Any]):
    error = refusal(*texts, **options)
    assert told in error.message
    assert "Nothing was sent." in error.advice


def test_a_variable_nobody_uses_offers_the_nearest_name():
    assert "Did you mean style?" in refusal("a {style}", sets={"stile": ["a"], "style": ["b"]}).advice


def test_a_huge_product_is_refused_before_it_is_made():
    sets = {name: range(10_000) for name in "abcdef"}
    assert "too many" in refusal("{a}{b}{c}{d}{e}{f}", sets=sets).message


# --- lists by name -----------------------------------------------------------------------------------


def test_lists_of_the_notebook_are_found_by_name():
    frame = pd.DataFrame({"mood": ["calm", "wild"]})
    notebook = {"a": ["x", 2], "t": ("x",), "s": {"b", "a"}, "r": range(2), "f": frame, "d": {"k": ["v"]}}
    named = {
        "a": ["x", 2],
        "t": ["x"],
        "s": ["a", "b"],
        "r": [0, 1],
        "f.mood": ["calm", "wild"],
        "d.k": ["v"],
    }
    assert {name: values_of("x", Listed(name=name), notebook) for name in named} == named
    assert values_in("x", frame["mood"]) == ["calm", "wild"]
    assert values_in("x", (str(n) for n in range(2))) == ["0", "1"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("moods", "no variable 'moods'"),
        ("text", "are no list"),
        ("number", "are no list"),
        ("frame", "are a whole table"),
        ("frame.colour", "has no column 'colour'"),
        ("text.upper", "has no column 'upper'"),
        ("gaps", "is missing"),
        ("table_gaps", "is missing"),
        ("endless", "is too long"),
    ],
)
def test_what_is_no_list_is_refused(name: str, told: str):
    notebook = {
        "text": "abc",
        "number": 3,
        "frame": pd.DataFrame({"mood": ["calm"]}),
        "gaps": ["a", None],
        "table_gaps": pd.Series(["a", pd.NA], dtype="string"),
        "endless": itertools.count(),
        "mood": ["a"],
    }
    with pytest.raises(InvalidRequestError, match=told):
        values_of("--set x", Listed(name=name), notebook)


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), min_size=1, max_size=4
    )
)
@settings(deadline=None, max_examples=200)
def test_any_quoted_value_of_a_list_comes_back(values: list[str]):
    import shlex

    marked, marks = mark("x=" + ",".join(f"'{v}'" if "'" not in v else shlex.quote(v) for v in values))
    [word] = shlex.split(marked)
    assert marks.listed(word.removeprefix("x="), "--set x").texts == tuple(values)


# --- tables ------------------------------------------------------------------------------------------


def test_a_row_of_a_dataframe_is_a_template_with_what_belongs_to_it():
    table = pd.DataFrame(
        {
            "prompt": ["a {style} fox", "a cat"],
            "style": ["oil", None],
            "aspect_ratio": ["3:2", None],
            "num_images": [2, None],  # with a gap a column of floats
            "image_urls": ['["https://e.com/a b.png"]', "https://e.com/1.png https://e.com/2.png"],
            "tags": [["x", "y"], None],
            "name": ["n", None],
            "note": [None, "m"],
        }
    )
    first, second = templates_of_table(table, MODEL)
    assert first == Template(
        "a {style} fox",
        variables={"style": "oil"},
        parameters={"aspect_ratio": "3:2", "num_images": 2},
        image_urls=("https://e.com/a b.png",),
        name="n",
        tags=("x", "y"),
        where="row 1",
    )
    assert (second.variables, second.parameters, second.note) == ({}, {}, "m")
    assert second.image_urls == ("https://e.com/1.png", "https://e.com/2.png")
    [cell, _] = expand([first, second], {}, {})
    assert (cell.prompt, cell.parameters) == ("a oil fox", {"aspect_ratio": "3:2", "num_images": 2})


@pytest.mark.parametrize("sign", [",", ";", "\t"])
@pytest.mark.parametrize("head", ["", "\ufeff"])
def test_a_csv_file_is_read_as_spreadsheets_write_it(tmp_path: Path, sign: str, head: str):
    rows = [["prompt", "style", "num_images", "tags"], ["a {style} 狐", "", "4", "x y"], ["b", "", "", ""]]
    text = head + "\r\n".join(sign.join(row) for row in rows) + "\r\n" + sign * 3 + "\r\n"
    path = tmp_path / "prompts.csv"
    path.write_bytes(text.encode())
    first, second = templates_of_csv(path, MODEL)
    assert (first.text, first.variables, first.parameters) == (
        "a {style} 狐",
        {"style": ""},
        {"num_images": 4},
    )
    assert (first.tags, first.where, second.parameters, second.tags) == (("x", "y"), "row 2", {}, ())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no column prompt"),
        ("text,style\na,b\n", "Its columns are: text, style."),
        ("prompt,prompt\na,b\n", "two columns 'prompt'"),
        ("prompt\n", "has no rows"),
        ("prompt,x\n,b\n", "no prompt in row 2"),
        ('prompt,image_urls\na,"[1]"\n', "no list of texts"),
        ('prompt,tags\na,"[""x"\n', "no JSON"),
        ('prompt\n"' + "x" * 200_000 + '"\n', "cannot be read"),
        (b"prompt\n\xff\xfe\n", "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_csv_file_names_the_row(tmp_path: Path, text: str | bytes, told: str):
    path = tmp_path / "prompts.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidRequestError) as caught:
        templates_of_csv(path, MODEL)
    assert told in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InvalidRequestError, match=r"nowhere\.csv cannot be read"):
        templates_of_csv(tmp_path / "nowhere.csv", MODEL)


def test_texts_tables_and_paths_are_told_apart(tmp_path: Path):
    assert (is_csv("prompts.csv"), is_csv("a.CSV"), is_csv(tmp_path)) == (True, True, True)
    assert (is_csv("a fox"), is_csv("a\nfox.csv"), is_csv(["a.csv"])) == (False, False, False)
    assert (is_table(pd.DataFrame()), is_table("x"), is_table({"prompt": []})) == (True, False, False)


def test_what_the_row_says_is_not_said_for_the_sweep_as_well():
    row = Template("{x}", variables={"x": "a"}, parameters={"num_images": 2}, where="row 1")
    for options in ({"sets": {"x": ["b"]}, "lists": {}}, {"sets": {}, "lists": {"num_images": [1, 2]}}):
        with pytest.raises(InvalidRequestError, match="both for the sweep and in row 1"):
            expand([row], **options)


def test_an_endless_table_is_refused():
    table = pd.DataFrame({"prompt": [f"fox {number}" for number in range(MOST_TASKS + 1)]})
    with pytest.raises(InvalidRequestError, match="too long"):
        templates_of_table(table, MODEL)
