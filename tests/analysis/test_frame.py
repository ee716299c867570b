"""The table and its CSV: the contract's columns, and every text exactly as it was."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from apixo_nb.analysis import formats, frame
from apixo_nb.core.records import Image, Run
from apixo_nb.errors import ApixoError
from tests.support.frames import CONTRACT, ODD_TEXTS, a_run, a_success, table, unwritable

#: What pandas makes of texts: "str", and before pandas 3 "object".
TEXT = str(pd.Series(["a"]).dtype)

TEXTS = [
    "run_id",
    "task_id",
    "model",
    "mode",
    "prompt",
    "prompt_template",
    "aspect_ratio",
    "request_type",
    "state",
    "fail_code",
    "fail_msg",
    "name",
    "note",
]
LISTS = ["image_urls", "result_urls", "files", "tags"]
MILLISECONDS = ("costTime", "wait_ms")
TIMES = ("created_at", "expires_at")


def plainly_read(path: Path) -> pd.DataFrame:
    """The file as somebody reads it who has pandas only."""
    return pd.read_csv(path, keep_default_na=False, dtype=dict.fromkeys(TEXTS, str))


# --- the table ---


def test_columns_are_the_contract_in_its_order():
    assert list(table(a_run()).columns) == CONTRACT


@pytest.mark.parametrize("runs", [(), (a_run(),), (a_success(), a_run())], ids=["empty", "one", "two"])
def test_dtypes_do_not_depend_on_what_is_in_the_table(runs: tuple[Run, ...]):
    found = table(*runs).dtypes.astype(str).to_dict()
    expected: dict[str, str] = dict.fromkeys(TEXTS, TEXT) | dict.fromkeys(LISTS, "object")
    expected |= dict.fromkeys(MILLISECONDS, "Int64") | dict.fromkeys(TIMES, "datetime64[us, UTC]")
    expected |= {"variables": "object", "num_images": "int64", "schema_version": "int64", "sandbox": "bool"}
    expected |= {"rating": "Int64", "cost_usd": "Float64", "unit_price_usd": "float64"}
    assert found == expected


def test_one_row_a_run_in_the_order_given():
    assert table(a_run("one"), a_run("two"), a_run("three"))["prompt"].tolist() == ["one", "two", "three"]


def test_times_are_milliseconds_and_prices_dollars():
    row = table(a_success()).iloc[0]
    assert (row["costTime"], row["wait_ms"]) == (30_123, 31_000)
    assert (row["cost_usd"], row["unit_price_usd"]) == (0.35, 0.35)
    assert row["created_at"] == pd.Timestamp("2026-11-23T12:00:00.000005Z")


def test_what_is_not_known_is_empty_text_or_missing():
    row = table(a_run()).iloc[0]
    assert row["task_id"] == row["fail_code"] == row["note"] == ""
    assert all(row.isna()[["costTime", "wait_ms", "cost_usd", "rating", "expires_at"]])
    assert row["files"] == row["result_urls"] == row["tags"] == []


def test_cost_of_a_failed_task_is_zero_and_not_missing():
    assert table(a_run(state="failed", cost_micros=0)).iloc[0]["cost_usd"] == 0


def test_lists_and_dicts_are_python_values():
    row = table(a_success()).iloc[0]
    assert (row["tags"], row["variables"], row["files"]) == (
        ["x", "y, z"],
        {"mood": "calm"},
        ["images/a.png"],
    )


def test_empty_ledger_is_an_empty_table():
    assert table().empty
    assert table()["cost_usd"].sum() == 0


def test_table_sums_and_groups_as_people_expect():
    shown = table(a_success(), a_success(), a_run())
    assert shown["cost_usd"].sum() == 0.7
    assert shown.groupby("state")["cost_usd"].sum()["success"] == 0.7


def test_collector_of_garbage_goes_on_after_a_table_was_made_or_could_not_be():
    table(a_run())
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        frame.history_frame([a_success()], lambda _name: str(1 // 0))
    assert gc.isenabled()
    gc.disable()
    try:
        table(a_run())
        assert not gc.isenabled()
    finally:
        gc.enable()


# --- the table of pictures ---

IMAGE_CONTRACT = {
    "run_id": TEXT,
    "index": "int64",
    "file": TEXT,
    "url": TEXT,
    "rating": "Int64",
    "starred": "bool",
    "note": TEXT,
    "tags": "object",
    "sha256": TEXT,
    "bytes": "Int64",
    "width": "Int64",
    "height": "Int64",
    "format": TEXT,
    "error": TEXT,
    "prompt": TEXT,
    "variables": "object",
    "aspect_ratio": TEXT,
    "model": TEXT,
    "created_at": "datetime64[us, UTC]",
    "cost_usd": "Float64",
    "name": TEXT,
    "state": TEXT,
    "sandbox": "bool",
    "expires_at": "datetime64[us, UTC]",
}


def pictures(*runs: Run) -> pd.DataFrame:
    return frame.images_frame(runs, lambda name: f"images/{name}")


@pytest.mark.parametrize("runs", [(), (a_run(),), (a_success(), a_run())], ids=["empty", "none", "one"])
def test_columns_and_dtypes_of_pictures_are_the_contract_whatever_is_in_it(runs: tuple[Run, ...]):
    assert pictures(*runs).dtypes.astype(str).to_dict() == IMAGE_CONTRACT
    assert list(pictures(*runs).columns) == list(IMAGE_CONTRACT)


def test_one_row_a_picture_with_what_is_said_of_it_and_what_its_run_is():
    urls = ("https://pictures.example/1.png", "https://pictures.example/2.png")
    size: dict[str, Any] = {"bytes": 9, "width": 3, "height": 2, "format": "PNG", "sha256": "ab"}
    one = Image(index=0, url=urls[0], file="a.png", **size)
    two = Image(index=1, url=urls[1], error="gone", rating=4, starred=True, note="n", tags=("best",))
    found = pictures(a_run(), a_success(images=(one, two), result_urls=urls, note="of the run"))
    assert found["index"].tolist() == [0, 1]
    assert found["file"].tolist() == ["images/a.png", ""]
    assert found[["width", "height", "bytes"]].iloc[0].tolist() == [3, 2, 9]
    row = found.iloc[1]
    assert (row["rating"], row["starred"], row["note"], row["tags"]) == (4, True, "n", ["best"])
    assert (row["prompt"], row["name"], row["state"], row["error"]) == ("a fox", "foxes", "success", "gone")
    assert pd.isna(row["width"])


def test_picture_of_which_only_the_address_is_known_has_a_row():
    urls = ("https://pictures.example/1.png", "https://pictures.example/2.png")
    found = pictures(a_success(images=(Image(index=1, url=urls[1], file="b.png"),), result_urls=urls))
    assert found[["index", "file", "url"]].to_numpy().tolist() == [
        [0, "", urls[0]],
        [1, "images/b.png", urls[1]],
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shares_of_pictures_add_up_to_what_the_run_cost(count: int):
    found = pictures(a_success(images=(), result_urls=("u",) * count, cost_micros=350_001))
    assert found["cost_usd"].sum() == pytest.approx(0.350001)
    assert len(set(found["cost_usd"])) == 1


def test_pictures_come_back_from_csv_as_they_were(tmp_path: Path):
    for written in (pictures(), pictures(a_success(), a_success(images=()))):
        assert_frame_equal(formats.read_csv(formats.write_csv(written, tmp_path / "images.csv")), written)


# --- CSV ---


@pytest.mark.parametrize("runs", [(), (a_run(),), (a_success(), a_run(), a_success())], ids=[0, 1, 3])
def test_table_comes_back_from_csv_as_it_was(runs: tuple[Run, ...], tmp_path: Path):
    written = table(*runs)
    found = formats.read_csv(formats.write_csv(written, tmp_path / "runs.csv"))
    assert_frame_equal(found, written)


def test_writing_leaves_the_table_alone(tmp_path: Path):
    shown, before = table(a_success()), table(a_success()).drop(columns="run_id")
    formats.write_csv(shown, tmp_path / "runs.csv")
    assert_frame_equal(shown.drop(columns="run_id"), before)


@pytest.mark.parametrize("text", ODD_TEXTS, ids=range(len(ODD_TEXTS)))
def test_odd_text_survives_both_ways_of_reading(text: str, tmp_path: Path):
    run = a_run(text, note=text, name=text, tags=(text,), variables={text: text})
    path = formats.write_csv(table(a_run(), run, a_run()), tmp_path / "runs.csv")
    ours, plain = formats.read_csv(path), plainly_read(path)
    for found in (ours, plain):
        assert found["prompt"].tolist() == ["a fox", text, "a fox"]
        assert (found["note"][1], found["name"][1]) == (text, text)
    assert ours["tags"][1] == json.loads(plain["tags"][1]) == [text]
    assert ours["variables"][1] == json.loads(plain["variables"][1]) == {text: text}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=5)
)
def test_any_prompts_survive_both_ways_of_reading(tmp_path: Path, prompts: list[str]):
    path = formats.write_csv(
        table(*(a_run(prompt, tags=(prompt,)) for prompt in prompts)), tmp_path / "runs.csv"
    )
    assert formats.read_csv(path)["prompt"].tolist() == prompts
    assert formats.read_csv(path)["tags"].tolist() == [[prompt] for prompt in prompts]
    assert plainly_read(path)["prompt"].tolist() == prompts


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(micros=st.integers(0, 10**12), milliseconds=st.none() | st.integers(0, 2**53))
def test_any_numbers_survive(tmp_path: Path, micros: int, milliseconds: int | None):
    run = a_run(cost_micros=micros, unit_price_micros=micros, cost_time_ms=milliseconds)
    written = table(run, a_run())
    assert_frame_equal(
        formats.read_csv(formats.write_csv(written, tmp_path / "runs.csv")), written, check_exact=True
    )


def test_numbers_are_plain_and_text_is_quoted(tmp_path: Path):
    path = formats.write_csv(table(a_success()), tmp_path / "runs.csv")
    [header, line] = path.read_text(encoding="utf-8").splitlines()
    assert header.startswith('"run_id","task_id"')
    assert ',30123,31000,0.35,0.35,"",""' in line
    assert '"2026-11-23T12:00:00.000005+00:00"' in line


def test_file_is_utf_8_without_a_mark(tmp_path: Path):
    path = formats.write_csv(table(a_run("🦊 für dich")), tmp_path / "runs.csv")
    assert path.read_bytes().startswith(b'"run_id"')
    assert "🦊 für dich" in path.read_text(encoding="utf-8")


def test_table_with_own_columns_and_rows_left_out_can_be_written(tmp_path: Path):
    shown = table(a_success(), a_run())[["prompt", "tags"]].assign(mine=[1, 2]).head(1)
    found = pd.read_csv(formats.write_csv(shown, tmp_path / "runs.csv"))
    assert found.to_dict("records") == [{"prompt": "a fox", "tags": '["x", "y, z"]', "mine": 1}]


# --- where it is written ---


def test_file_is_replaced_and_nothing_else_is_left(tmp_path: Path):
    for prompt in ("one", "two"):
        path = formats.write_csv(table(a_run(prompt)), tmp_path / "runs.csv")
    assert formats.read_csv(path)["prompt"].tolist() == ["two"]
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made_and_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert formats.write_csv(table(), "~/new/folder/runs.csv") == tmp_path / "new" / "folder" / "runs.csv"


@pytest.mark.parametrize("case", range(6), ids=["folder", "beneath", "long", "none", "root", "proc"])
def test_unwritable_place_is_an_error_of_two_lines(
    case: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    place = unwritable(tmp_path)[case]
    with pytest.raises(ApixoError, match="could not be written") as refused:
        formats.write_csv(table(a_run()), place)
    assert len(str(refused.value).splitlines()) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_old_file_stays_whole_when_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = formats.write_csv(table(a_run("old")), tmp_path / "runs.csv")

    def breaks(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", breaks)
    with pytest.raises(ApixoError, match="No space left"):
        formats.write_csv(table(a_run("new")), path)
    assert formats.read_csv(path)["prompt"].tolist() == ["old"]
    assert list(tmp_path.iterdir()) == [path]
