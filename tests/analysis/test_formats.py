"""The table in other files: each comes back as it was, and a spreadsheet alters none of its texts."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from apixo_nb.analysis import formats, frame
from apixo_nb.analysis import formats as formats_module
from apixo_nb.core.records import Run
from apixo_nb.errors import ApixoError, InvalidRequestError
from apixo_nb.session.session import Session
from tests.support.frames import CONTRACT, ODD_TEXTS, a_run, a_success, table, unwritable

Write = Callable[[pd.DataFrame, Path], Path]
Read = Callable[[Path], pd.DataFrame]
FORMATS: list[tuple[str, Write, Read]] = [
    ("excel.csv", formats.write_excel_csv, formats.read_excel_csv),
    ("runs.jsonl", formats.write_jsonl, formats.read_jsonl),
    ("runs.parquet", formats.write_parquet, formats.read_parquet),
]
FORMULAS = [
    *("=1+1", "+1+1", "-1+1", "@SUM(A1)", "=cmd|' /C calc'!A0", '=HYPERLINK("https://x.example";"y")'),
    *("  =1", "\u00a0=1", "\u3000=1", "\t=1", "\r=1", "\n=1", "\ttext", "\rtext", "\u200b=1", "\ufeff =1"),
    *("\uff1d1+1", "\uff0b1", "\uff0d1", "\uff20SUM(A1)", " \uff1d1", "-", "=", "- a list"),
]
NUMBERS = [
    *(
        "007",
        "1e5",
        "1E-3",
        "1234567890123456789",
        "1,5",
        "1.5",
        "1 000",
        "1\u00a0000",
        "1'000",
        "$5",
        "5 €",
        "5%",
    ),
    *(
        "(5)",
        "5-",
        "1:1",
        "3:2",
        "12:30",
        "12:30 PM",
        "1/2",
        "2026-11-23",
        "23.11.2026",
        "11/23/2026",
        "5 May",
    ),
    *(
        "May 5",
        "5-May-2026",
        "Mar-5",
        "sept 3",
        "2026-11-23T12:00:00",
        "5月3日",
        "TRUE",
        "false",
        " 7 ",
        "\uff11\uff12\uff13",
    ),
]
APOSTROPHES = ["'", "''", "'=1", "'text", "'007"]
HARMLESS = [
    *(
        "",
        " ",
        "a fox",
        "a fox = a fox",
        "2 cats",
        "may",
        "fox 5",
        "x-1",
        "[1]",
        "{a}",
        "日本語",
        "🦊",
        "\\=1",
    ),
    *("1 fox, 2 hens", "decorate 5", "am", "e", "task_1", '"', "1" * 100),
]
NASTY = [*ODD_TEXTS, *FORMULAS, *NUMBERS, *APOSTROPHES, *HARMLESS]

_CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
_SNIPPETS = st.sampled_from(
    [*" \t\r\n\"'=+-@,;\u00a0\u200b\u2028\x85\ufeff", "\r\n", "=cmd|", "1", "e5", "🦊", "狐"]
)
TEXTS = st.text(_CHARACTERS) | st.lists(_SNIPPETS, max_size=8).map("".join) | st.sampled_from(NASTY)
PROPERTY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def a_telling_run(text: str) -> Run:
    """A run with the same text wherever there is text."""
    labels: dict[str, Any] = {"name": text, "note": text, "tags": (text,), "variables": {text: text}}
    return a_run(text, prompt_template=text, fail_code=text, fail_msg=text, task_id=text, **labels)


def cells(path: Path) -> list[list[str]]:
    """The rows of a CSV file by Python's own reader."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


# --- there and back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form[0])
@pytest.mark.parametrize("runs", [(), (a_run(),), (a_success(), a_run(), a_success())], ids=[0, 1, 3])
def test_table_comes_back_as_it_was(form: tuple[str, Write, Read], runs: tuple[Run, ...], tmp_path: Path):
    name, write, read = form
    written, before = table(*runs), table(*runs)
    assert_frame_equal(read(write(written, tmp_path / name)), before)
    assert_frame_equal(written, before)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form[0])
def test_nasty_texts_come_back_as_they_were(form: tuple[str, Write, Read], tmp_path: Path):
    name, write, read = form
    written = table(*map(a_telling_run, NASTY))
    assert_frame_equal(read(write(written, tmp_path / name)), written)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form[0])
@PROPERTY
@given(texts=st.lists(TEXTS, max_size=4))
def test_any_texts_come_back_as_they_were(form: tuple[str, Write, Read], texts: list[str], tmp_path: Path):
    name, write, read = form
    written = table(*map(a_telling_run, texts))
    assert_frame_equal(read(write(written, tmp_path / name)), written)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form[0])
@PROPERTY
@given(micros=st.integers(0, 10**12), milliseconds=st.none() | st.integers(0, 2**53))
def test_any_numbers_come_back(
    form: tuple[str, Write, Read], micros: int, milliseconds: int | None, tmp_path: Path
):
    name, write, read = form
    run = a_run(cost_micros=micros, unit_price_micros=micros, cost_time_ms=milliseconds)
    written = table(run, a_run())
    assert_frame_equal(read(write(written, tmp_path / name)), written, check_exact=True)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form[0])
def test_path_that_is_no_unicode_does_not_stop_an_export(form: tuple[str, Write, Read], tmp_path: Path):
    name, write, read = form
    written = frame.history_frame([a_success()], lambda file: f"\udcff/{file}")
    if name.endswith("parquet"):  # its strings are UTF-8 and nothing else
        with pytest.raises(ApixoError, match="could not be written"):
            write(written, tmp_path / name)
        assert list(tmp_path.iterdir()) == []
    else:
        assert read(write(written, tmp_path / name))["files"][0] == ["\udcff/a.png"]


# --- CSV for spreadsheets ---------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*FORMULAS, *NUMBERS, *APOSTROPHES], ids=repr)
def test_what_a_spreadsheet_would_alter_has_a_mark_before_it(text: str):
    assert formats.guarded(text) == f"'{text}"


@pytest.mark.parametrize("text", HARMLESS, ids=repr)
def test_plain_text_has_none(text: str):
    assert formats.guarded(text) == text


@PROPERTY
@given(text=TEXTS)
def test_mark_is_taken_away_exactly(text: str):
    assert formats.guarded(text).removeprefix("'") == text


@PROPERTY
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_no_cell_is_a_formula(texts: list[str], tmp_path: Path):
    path = formats.write_excel_csv(table(*map(a_telling_run, texts)), tmp_path / "runs.csv")
    for row in cells(path):
        assert not [cell for cell in row if cell.lstrip().startswith(tuple("=+-@\uff1d\uff0b\uff0d\uff20"))]
        assert not [cell for cell in row if cell.startswith(("\t", "\r"))]


def test_file_has_a_mark_of_its_encoding_and_rows_as_windows_ends_them(tmp_path: Path):
    path = formats.write_excel_csv(table(a_run("für"), a_run("🦊")), tmp_path / "runs.csv")
    assert path.read_bytes().startswith(b'\xef\xbb\xbf"run_id","task_id"')
    assert path.read_bytes().count(b"\r\n") == path.read_bytes().count(b"\n") == 3
    assert path.read_bytes().count(b"\xef\xbb\xbf") == 1


def test_aspect_ratio_is_no_time_of_day_and_numbers_are_numbers(tmp_path: Path):
    path = formats.write_excel_csv(table(a_success()), tmp_path / "runs.csv")
    row = dict(zip(*cells(path), strict=True))
    assert (row["aspect_ratio"], row["cost_usd"], row["costTime"]) == ("'1:1", "0.35", "30123")
    assert ",30123,31000,0.35,0.35," in path.read_text("utf-8")


def test_own_columns_are_guarded_too(tmp_path: Path):
    shown = table(a_run())[["prompt"]].assign(plain=[-3])
    shown["=1+1"] = ["=2"]
    assert cells(formats.write_excel_csv(shown, tmp_path / "runs.csv")) == [
        ["prompt", "plain", "'=1+1"],
        ["a fox", "-3", "'=2"],
    ]


# --- JSON Lines -------------------------------------------------------------------------------------


def test_line_is_an_object_with_the_columns_of_the_table(tmp_path: Path):
    path = formats.write_jsonl(table(a_success(prompt="狐"), a_run()), tmp_path / "runs.jsonl")
    full, bare = (json.loads(line) for line in path.read_text("utf-8").splitlines())
    assert list(full) == list(bare) == CONTRACT
    assert (full["tags"], full["variables"], full["files"]) == (
        ["x", "y, z"],
        {"mood": "calm"},
        ["images/a.png"],
    )
    assert (full["created_at"], full["sandbox"]) == ("2026-11-23T12:00:00.000005+00:00", True)
    assert (full["costTime"], full["cost_usd"], full["rating"]) == (30_123, 0.35, 5)
    assert [bare[name] for name in ("costTime", "cost_usd", "rating", "expires_at")] == [None] * 4
    assert (bare["task_id"], bare["tags"]) == ("", [])
    assert "狐" in path.read_text("utf-8")


def test_no_text_parts_a_line_for_any_reader(tmp_path: Path):
    texts = ["a\u2028b", "a\u2029b", "a\x85b", "a\nb", "a\rb", "a\x0bb", "a\x1cb"]
    path = formats.write_jsonl(table(*map(a_run, texts)), tmp_path / "runs.jsonl")
    assert [json.loads(line)["prompt"] for line in path.read_text("utf-8").splitlines()] == texts


# --- Parquet ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [(), (a_run(),), (a_success(),)], ids=["empty", "bare", "full"])
def test_types_do_not_depend_on_what_is_in_the_table(runs: tuple[Run, ...], tmp_path: Path):
    schema = pyarrow.parquet.read_schema(formats.write_parquet(table(*runs), tmp_path / "runs.parquet"))
    types = {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
    assert list(types) == CONTRACT
    assert {types[name] for name in ("tags", "files", "image_urls", "result_urls")} <= {
        "list<element: string>",
        "list<item: string>",
    }
    assert types["variables"] == types["prompt"] == "string"
    assert types["created_at"] == "timestamp[us, tz=UTC]"
    assert (types["costTime"], types["cost_usd"], types["sandbox"]) == ("int64", "double", "bool")


def test_pandas_alone_reads_the_same_dtypes(tmp_path: Path):
    written = table(a_success(), a_run())
    found = pd.read_parquet(formats.write_parquet(written, tmp_path / "runs.parquet"))
    lists = ["variables", "tags", "files", "image_urls", "result_urls"]
    assert_frame_equal(found.drop(columns=lists), written.drop(columns=lists))
    assert json.loads(found["variables"][0]) == {"mood": "calm"}


@pytest.mark.parametrize("use", [formats.write_parquet, lambda _table, path: formats.read_parquet(path)])
def test_without_pyarrow_it_is_said_how_to_get_it(use: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ApixoError, match="Parquet needs pyarrow") as refused:
        use(table(a_run()), tmp_path / "runs.parquet")
    assert "pip install 'apixo-nb[parquet]'" in refused.value.advice
    assert list(tmp_path.iterdir()) == []


# --- where it is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form[0])
@pytest.mark.parametrize("case", range(6), ids=["folder", "beneath", "long", "none", "root", "proc"])
def test_unwritable_place_is_an_error_of_two_lines(
    form: tuple[str, Write, Read], case: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    place = unwritable(tmp_path)[case].removesuffix(".csv")
    with pytest.raises(ApixoError, match="could not be written") as refused:
        form[1](table(a_run()), place)  # type: ignore[arg-type]
    assert len(str(refused.value).splitlines()) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form[0])
def test_old_file_stays_whole_when_the_new_one_cannot_be_written(
    form: tuple[str, Write, Read], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name, write, read = form
    path = write(table(a_run("old")), tmp_path / name)

    def breaks(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("apixo_nb.core.files.os.fsync", breaks)
        with pytest.raises(ApixoError, match="No space left"):
            write(table(a_run("new")), path)
    assert read(path)["prompt"].tolist() == ["old"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form[0])
@pytest.mark.parametrize("end", [".xlsx", ".html", ".json"])
def test_name_of_another_kind_of_file_is_refused(form: tuple[str, Write, Read], end: str, tmp_path: Path):
    with pytest.raises(ApixoError, match="the name of another kind of file"):
        form[1](table(), tmp_path / f"runs{end}")
    assert list(tmp_path.iterdir()) == []


# --- Session.export ---------------------------------------------------------------------------------


@pytest.fixture
def session() -> Iterator[Session]:
    with contextlib.closing(Session()) as made:
        made.ledger.insert(a_run("one"))
        made.ledger.insert(a_run("two"))
        yield made


@pytest.mark.parametrize(
    ("name", "kind", "read"),
    [
        ("runs.csv", None, formats_module.read_csv),
        ("RUNS.CSV", None, formats_module.read_csv),
        ("runs", None, formats_module.read_csv),
        ("runs.txt", "csv", formats_module.read_csv),
        ("runs.csv", "excel", formats.read_excel_csv),
        ("runs.jsonl", None, formats.read_jsonl),
        ("runs.ndjson", None, formats.read_jsonl),
        ("runs.parquet", None, formats.read_parquet),
        ("runs.data", "parquet", formats.read_parquet),
    ],
)
def test_kind_is_that_of_the_name_or_the_one_that_is_said(
    session: Session, name: str, kind: str | None, read: Read, tmp_path: Path
):
    path = session.export(tmp_path / "new" / name, kind)
    assert path == tmp_path / "new" / name
    assert_frame_equal(read(path), session.history())


@pytest.mark.parametrize("name", ["runs.html", "runs.HTM"])
def test_page_is_a_kind_too(session: Session, name: str, tmp_path: Path):
    page = session.export(tmp_path / name).read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert page.count("<article") == 2


def test_some_runs_are_written_in_the_order_given(session: Session, tmp_path: Path):
    one, two = session.ledger.runs()
    path = session.export(tmp_path / "runs.csv", runs=(run for run in (two, one, two)))
    assert formats_module.read_csv(path)["prompt"].tolist() == ["two", "one", "two"]
    assert formats_module.read_csv(session.export(path, runs=two))["prompt"].tolist() == ["two"]  # type: ignore[arg-type]
    assert formats_module.read_csv(session.export(path, runs=[])).empty


def test_exact_csv_is_the_one_of_export_csv(session: Session, tmp_path: Path):
    exact = session.export_csv(tmp_path / "a.csv").read_bytes()
    assert session.export(tmp_path / "b.csv").read_bytes() == exact


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("runs.xlsx", None, ".csv, .jsonl, .parquet, .html, .zip or .png; --excel"),
        ("runs.pdf", None, ".csv, .jsonl, .parquet, .html, .zip or .png"),
        ("runs.json", None, ".jsonl"),
        ("runs.xlsx", "excel", "end it in .csv"),
        ("runs.parquet", "csv", "end it in .csv"),
        ("runs.csv", "html", "end it in .html"),
        ("nul\0.csv", None, "is no file name"),
        (None, None, "is no file name"),
        (5, "html", "is no file name"),
    ],
)
def test_name_that_cannot_be_is_told_with_what_can(
    session: Session, name: Any, kind: str | None, said: str, tmp_path: Path
):
    before = sorted(tmp_path.iterdir())
    with contextlib.chdir(tmp_path), pytest.raises(ApixoError, match="could not be written to") as refused:
        session.export(name, kind)
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 2
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["xlsx", "", "CSV", 5, ["csv"]])
def test_kind_that_is_none_is_refused(session: Session, kind: Any, tmp_path: Path):
    with pytest.raises(InvalidRequestError) as refused:
        session.export(tmp_path / "runs.csv", kind)
    assert (refused.value.field, refused.value.allowed) == (
        "kind",
        "csv, excel, jsonl, parquet, html, bundle, sheet, imagefolder, embed, site",
    )


@pytest.mark.parametrize("runs", ["abc", 5, ["20261123-120000-12345678"]])
def test_what_is_no_run_is_refused(session: Session, runs: Any, tmp_path: Path):
    with pytest.raises(InvalidRequestError, match="This is no run") as refused:
        session.export(tmp_path / "runs.csv", runs=runs)
    assert refused.value.field == "runs"
