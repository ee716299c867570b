"""Rows and files that others have written: no reader of pictures leaves the folder because of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import EpsImagePlugin
from PIL import Image as Pillow

from apixo_nb.analysis.pivot import lay_out
from apixo_nb.core.files import Limits, open_picture
from apixo_nb.core.records import Image, Run
from apixo_nb.display.cards import card, compared
from apixo_nb.display.gallery import gallery, thumbs
from apixo_nb.errors import ApixoError, ImageError
from apixo_nb.experiments.review import grid
from apixo_nb.experiments.sweep_view import SweepOutput
from apixo_nb.export.contact_sheet import write_sheet
from apixo_nb.export.pages import write_site
from apixo_nb.sandbox import Sandbox
from apixo_nb.session import maintenance
from apixo_nb.session.maintenance import download_missing
from apixo_nb.session.session import Session
from apixo_nb.storage.originals import GONE, Images, is_bare_name
from apixo_nb.widgets import controller
from tests.support.factories import a_session
from tests.support.sweep_runs import drawn

SECRET = (255, 0, 255)
NAMES: dict[str, Callable[[Path], str]] = {
    "parent": lambda _: "../secret.png",
    "absolute": lambda folder: str(folder.parent / "secret.png"),
    "subfolder": lambda _: "sub/secret.png",
    "windows parent": lambda _: "..\\secret.png",
    "drive": lambda _: "C:secret.png",
    "long way": lambda folder: f"../{folder.name}/mine.png",
    "NUL": lambda _: "secret\0.png",
    "dots": lambda _: "..",
    "folder": lambda _: ".",
    "no UTF-8": lambda _: "\ud800.png",
    "too long": lambda _: "x" * 5_000,
}


@pytest.fixture
def session(sandbox: Sandbox) -> Iterator[Session]:
    made = a_session(base_url=sandbox.base_url)
    yield made
    made.close()


@pytest.fixture
def images(session: Session) -> Images:
    """A folder with a picture in it, and others where hostile names lead."""
    folder = session.images.folder
    (folder / "sub").mkdir(parents=True)
    for name in ("mine.png", "../secret.png", "sub/secret.png", "..\\secret.png", "C:secret.png"):
        Pillow.new("RGB", (40, 40), SECRET).save(folder / name)
    return session.images


def with_name(images: Images, file: str) -> Run:
    run = drawn(images.folder, "oil")
    return run.replace(images=(run.images[0].model_copy(update={"file": file}),))


def of_folder(folder: Path) -> str:
    """All files of a page, as one text."""
    return "".join(path.read_text("utf-8", "replace") for path in folder.rglob("*") if path.is_file())


def as_panel(session: Session, run: Run, _: Path) -> str:
    data = [controller.picture_bytes(session, run, 0, size)[1] for size in ("full", "card", "row")]
    return "".join(each.hex() for each in data)


def as_site(session: Session, run: Run, place: Path) -> str:
    write_site(lay_out([run]), place / "site", session.images)
    return ", ".join(path.name for path in (place / "site" / "pictures").iterdir())


def as_sheet(session: Session, run: Run, place: Path) -> str:
    path = write_sheet(lay_out([run]), place / "sheet.png", session.images)
    with Pillow.open(path) as sheet:
        return "SECRET" if SECRET in {colour for _, colour in sheet.getcolors(1 << 24) or ()} else ""


def as_sweep(session: Session, run: Run, _: Path) -> str:
    job: Any = SimpleNamespace(run=run, done=True, ended=Future(), answer=Future(), stopped=False)
    job.ended.set_result(None)
    job.answer.set_result(run)
    plan: Any = SimpleNamespace(decisions=[], bought=[], size="1 task", free=[], summary="")
    return SweepOutput(session, plan, [job], []).lasting()["text/html"]


def as_thumbs(session: Session, run: Run, _: Path) -> str:
    import pandas as pd

    return thumbs(pd.DataFrame({"a": [1]}), [[(run, run.images[0])]], session.images, ["a"], 0).html


#: What makes something to see of a run, as one text.
READERS: dict[str, Callable[[Session, Run, Path], str]] = {
    "card": lambda session, run, _: card(session, run)["text/html"],
    "gallery": lambda session, run, _: gallery([(run, run.images[0])], [], session.images, 9).html,
    "thumbs": as_thumbs,
    "compare": lambda session, run, _: compared([(run, run.images)] * 2, session.images).html,
    "grid": lambda session, run, _: grid([run], images=session.images)._repr_mimebundle_()["text/html"],
    "report": lambda session, run, place: session.export(place / "r.html", runs=[run]).read_text("utf-8"),
    "site": as_site,
    "sheet": as_sheet,
    "sweep": as_sweep,
    "panel": as_panel,
}


@pytest.mark.parametrize("name", NAMES)
def test_folder_has_no_picture_of_such_a_name(images: Images, name: str):
    file = NAMES[name](images.folder)
    run = with_name(images, file)
    image = run.images[0]
    assert not is_bare_name(file) or name == "too long"
    assert images.small(run.run_id, image, 96) == b""
    assert images.thumbnails([(run, image)])[0].problem == GONE
    assert not images.has(image)
    assert not images.has_sidecar(image)
    assert not images.is_intact(run, image)
    assert not images.rewrite_sidecar(run, 0)
    assert images.stored([run]) == ([], [file])
    if name != "too long":
        assert images.link(image) == ""
        with pytest.raises(FileNotFoundError):
            images.path(image)


@pytest.mark.parametrize(
    "name", ["picture.png", "20261123-120000-0a1b2c3d-1.png", "ä b.png", ".hidden.png", "-1"]
)
def test_bare_names_stay_names_of_the_folder(images: Images, name: str):
    assert images.path(Image(index=0, url="", file=name)) == images.folder / name


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_shows_a_picture_of_such_a_name(
    session: Session, images: Images, tmp_path: Path, reader: str
):
    for number, (name, made) in enumerate(NAMES.items()):
        run = with_name(images, made(images.folder))
        place = tmp_path / f"{number}"
        place.mkdir()
        seen = READERS[reader](session, run, place)
        assert "data:image" not in seen, name
        assert reader not in ("site", "sheet", "panel") or not seen, name
        assert 'href="../' not in seen or name == "too long", name
        assert "secret.png" not in seen.replace(run.prompt, ""), name


@pytest.mark.parametrize("reader", READERS)
def test_readers_show_what_is_there(session: Session, images: Images, tmp_path: Path, reader: str):
    run = with_name(images, "mine.png")
    seen = READERS[reader](session, run, tmp_path)
    assert "data:image" in seen or reader in ("site", "sheet", "panel")
    assert seen


@pytest.mark.parametrize("name", sorted(NAMES.keys() - {"no UTF-8"}))  # of which no JSON can be made
def test_bundle_leaves_such_a_picture_out_and_says_so(
    session: Session, images: Images, tmp_path: Path, name: str
):
    run = with_name(images, NAMES[name](images.folder))
    written = session.write(tmp_path / "bundle.zip", runs=[run])
    assert "1 picture(s) left out" in written.notes[0]


def test_maintenance_takes_such_a_picture_for_one_that_is_gone(session: Session, images: Images):
    for name in ("parent", "absolute", "windows parent", "drive", "too long"):
        run = with_name(images, NAMES[name](images.folder)).replace(sandbox=True)
        session.ledger.insert(run)
        wrong = maintenance.check(session).wrong
        assert any("missing file: " in line and run.run_id in line for line in wrong), name
        assert [job.run.run_id for job in download_missing(session)][-1:] == [run.run_id], name


def test_pictures_of_a_hostile_run_id_are_not_stored(images: Images):
    for run_id in ("../../x", "/x", "a\\b", "c:x", "x\0"):
        with pytest.raises(ImageError, match="no file name"):
            images.target(run_id, 0)
        with pytest.raises(ApixoError):
            images.clear(run_id, 0)


# --- files that are no pictures ---------------------------------------------------------------------

POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 40 40
%%EndComments
0 0 40 40 rectfill
%%EOF
"""


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mark that a program called gs leaves when it is started."""
    programs, mark = tmp_path / "programs", tmp_path / "gs was here"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch '{mark}'\n", "utf-8")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # what Pillow remembers of an earlier search
    return mark


@pytest.mark.skipif(os.name != "posix", reason="The program is a shell script")
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_starts_another_program(
    session: Session, images: Images, tmp_path: Path, ghostscript: Path, reader: str
):
    run = drawn(images.folder, "oil")
    for name in ("mine.png", run.files[0]):
        (images.folder / name).write_bytes(POSTSCRIPT)
    seen = READERS[reader](session, run, tmp_path)
    assert not ghostscript.exists()
    assert "data:image" not in seen
    assert not seen or reader not in ("site", "sheet")
    with Pillow.open(images.path(run.images[0])) as opened, pytest.raises(OSError):  # noqa: PT011
        opened.load()
    assert ghostscript.exists()  # so it would have been


def test_limit_on_pixels_stands_whatever_that_of_pillow_is(images: Images, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", None)
    path = images.folder / "mine.png"  # 40 by 40 pixels
    open_picture(path, Limits(max_pixels=1_600)).close()
    with pytest.raises(ImageError, match="million pixels"):
        open_picture(path, Limits(max_pixels=1_599))
