"""Pictures as an ImageFolder: what a training tool or a dataset viewer finds in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from apixo_nb.analysis import frame
from apixo_nb.core import files as folder
from apixo_nb.errors import ApixoError
from apixo_nb.experiments.review import choose
from apixo_nb.session.session import Session
from tests.support import picture_runs
from tests.support.factories import a_full_run, a_run
from tests.support.picture_runs import CALLBACK, a_success, encoded, files, fill, keep, with_pictures

here = picture_runs.here

#: Columns of the table that have another name in a line, as the name is the picture's there.
RENAMED = {"files": "file_name", "rating": "run_rating", "note": "run_note", "tags": "run_tags"}


def lines(place: Path) -> list[dict[str, Any]]:
    """As any reader takes them: parted at line feeds, each for itself."""
    text = (place / "metadata.jsonl").read_bytes().decode("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_names_a_picture_that_opens_and_is_the_original(here: Session, tmp_path: Path):
    runs = fill(here)
    place = here.export(tmp_path / "set", "imagefolder")
    found = lines(place)
    assert [line["file_name"] for line in found] == [name for run in runs for name in run.files]
    for line in found:
        with Pillow.open(place / line["file_name"]) as picture:
            assert (picture.size, picture.format) == ((line["width"], line["height"]), line["format"])
        assert (place / line["file_name"]).read_bytes() == (
            here.images.folder / line["file_name"]
        ).read_bytes()
    names = {*(line["file_name"] for line in found), "metadata.jsonl", folder.MANIFEST}
    assert {path.name for path in place.iterdir()} == names


def test_line_has_all_columns_of_the_table_and_the_name_comes_first(here: Session, tmp_path: Path):
    fill(here)
    first = lines(here.export(tmp_path / "set", "imagefolder"))[0]
    assert next(iter(first)) == "file_name"
    assert {RENAMED.get(column, column) for column in frame.COLUMNS} <= set(first)


def test_values_are_those_of_the_ledger(here: Session, tmp_path: Path):
    run = a_success(
        here, 'odd: 🦊 "日本語"\r\n\u2028x', variables={"mood": "calm"}, tags=("a", "b"), cost_time_ms=7
    )
    choose(here, run.run_id, 0, rating=4, starred=True, tags=["best"])
    [line] = lines(here.export(tmp_path / "set", "imagefolder"))
    assert (line["prompt"], line["run_id"], line["index"]) == (run.prompt, run.run_id, 0)
    assert (json.loads(line["variables"]), json.loads(line["parameters"])) == (run.variables, run.parameters)
    assert (line["rating"], line["starred"], line["tags"], line["run_tags"]) == (
        4,
        True,
        ["best"],
        ["a", "b"],
    )
    assert (line["costTime"], line["cost_usd"], line["run_rating"]) == (7, 0.35, 4)


def test_columns_keep_one_type_from_line_to_line(here: Session, tmp_path: Path):
    a_success(here, variables={"mood": "calm"})
    a_success(here, variables={"style": "oil", "size": "2"})
    kinds = [
        {name: type(value) for name, value in line.items() if value is not None}
        for line in lines(here.export(tmp_path / "set", "imagefolder"))
    ]
    assert kinds[0] == kinds[1]


def test_neither_callback_nor_query_of_an_address_is_in_it(here: Session, tmp_path: Path):
    full = a_full_run(
        callback_url=CALLBACK,
        image_urls=("https://user:pw@files.example/a.png?sig=s3cret",),
        fail_msg=f"no answer from {CALLBACK}",
    )
    keep(here, with_pictures(full, [encoded()]), [encoded()])
    place = here.export(tmp_path / "set", "imagefolder")
    text = (place / "metadata.jsonl").read_text()
    assert "https://files.example/a.png" in text
    for secret in ("hooks.example", "s3cret", "user:pw", str(tmp_path)):
        assert secret not in text


def test_runs_without_a_picture_have_no_line(here: Session, tmp_path: Path):
    here.ledger.insert(a_run("failed", state="failed"))
    with pytest.raises(ApixoError, match="None of these runs has a picture on disk"):
        here.export(tmp_path / "set", "imagefolder")
    assert not (tmp_path / "set").exists()
    run = a_success(here)
    assert [line["run_id"] for line in lines(here.export(tmp_path / "set", "imagefolder"))] == [run.run_id]


# --- the folder -------------------------------------------------------------------------------------


def test_export_again_takes_the_place_of_the_earlier_one(here: Session, tmp_path: Path):
    one = a_success(here, "one")
    here.export(tmp_path / "set", "imagefolder")
    two = a_success(here, "two")
    place = here.export(tmp_path / "set", "imagefolder", runs=[two])
    assert [line["run_id"] for line in lines(place)] == [two.run_id]
    assert not (place / one.files[0]).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "set"]


@pytest.mark.parametrize("kind", ["imagefolder", "embed"])
def test_folder_with_anything_else_in_it_is_left_alone(here: Session, tmp_path: Path, kind: str):
    a_success(here)
    place = here.export(tmp_path / "set", kind)
    (place / "notes.txt").write_text("mine")
    before = files(place)
    with pytest.raises(ApixoError, match=r"the folder also holds notes\.txt, and nothing of yours"):
        here.export(place, kind)
    assert files(place) == before


@pytest.mark.parametrize("where", ["images", "home", "inside", "in use", "file", "link"])
@pytest.mark.parametrize("kind", ["imagefolder", "embed"])
def test_no_folder_of_yours_is_replaced_least_of_all_the_originals(
    here: Session, tmp_path: Path, where: str, kind: str
):
    a_success(here)
    (tmp_path / "in use").mkdir()
    (tmp_path / "in use" / "a.txt").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "in use")
    places = {
        "images": here.images.folder,
        "home": here.images.folder.parent,
        "inside": here.images.folder / "new",
    }
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ApixoError, match="The pictures could not be written to") as refused:
        here.export(places.get(where, tmp_path / where), kind)
    assert len(str(refused.value).splitlines()) == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("path", [None, 5, "", "nul\0", "~nobody-at-all/x"])
def test_name_that_is_none_is_refused(here: Session, path: Any, tmp_path: Path):
    a_success(here)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ApixoError, match="could not be written"):
        here.export(path, "imagefolder")
    assert sorted(tmp_path.rglob("*")) == before


def test_export_that_breaks_off_leaves_the_earlier_one(
    here: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    a_success(here)
    place = here.export(tmp_path / "set", "imagefolder")
    before = files(place)

    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("apixo_nb.export.export.shutil.copyfile", full)
    with pytest.raises(ApixoError, match="No space left on device"):
        here.export(place, "imagefolder")
    assert files(place) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "set"]


def test_row_of_others_that_names_a_file_elsewhere_copies_nothing(here: Session, tmp_path: Path):
    """A ledger can be shared, and what somebody writes into it is their word."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded())
    run = with_pictures(a_run("a fox", sandbox=False), [encoded()])
    image = run.images[0].model_copy(update={"file": "../../secret.png"})
    here.ledger.insert(run.replace(images=(image,)))
    a_success(here)
    with pytest.warns(UserWarning, match="1 picture"):
        place = here.export(tmp_path / "set", "imagefolder")
    assert len(lines(place)) == 1
