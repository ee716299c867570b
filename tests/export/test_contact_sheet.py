"""Contact sheets: one picture of all, labelled, bounded, whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from apixo_nb.analysis.pivot import lay_out
from apixo_nb.core import fonts
from apixo_nb.core.records import Run
from apixo_nb.errors import ApixoError, InvalidRequestError
from apixo_nb.export import contact_sheet as sheet
from apixo_nb.export.contact_sheet import write_sheet
from apixo_nb.storage.originals import Images
from tests.support.browser import SCREENSHOTS
from tests.support.hostile import HOSTILE_HTML
from tests.support.sweep_runs import chosen, drawn, failed, planned

GOLD = (200, 150, 30)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def sweep(folder: Path) -> list[Run]:
    runs = [drawn(folder, style, ratio) for style in ("oil", "水墨画 ink") for ratio in ("1:1", "3:2")]
    runs += [
        chosen(drawn(folder, "oil", take=2, count=2), 1, rating=5),
        failed("cut paper"),
        failed("cut paper"),
    ]
    return [
        *runs,
        drawn(folder, "a very long style, as wide as the evening sky over the northern sea", "3:2"),
    ]


def colours(path: Path) -> set[Any]:
    with Pillow.open(path) as opened:
        found = opened.convert("RGB").getcolors(1 << 24)
    assert found is not None
    return {colour for _, colour in found}


@pytest.mark.parametrize("end", ["png", "webp", "jpg", "jpeg"])
def test_sheet_is_a_picture_of_the_kind_that_its_name_says(
    end: str, sweep: list[Run], folder: Path, tmp_path: Path
):
    path = write_sheet(lay_out(sweep), tmp_path / "out" / f"sheet.{end}", Images(folder), px=96)
    with Pillow.open(path) as opened:
        assert opened.format == {"png": "PNG", "webp": "WEBP"}.get(end, "JPEG")
        assert opened.width > 4 * 96
        assert opened.height > 2 * 96
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_every_picture_is_on_it_and_the_winner_is_framed(sweep: list[Run], folder: Path, tmp_path: Path):
    path = write_sheet(lay_out(sweep), tmp_path / "sheet.png", Images(folder), px=128)
    seen = colours(path)
    for run in sweep:
        for image in run.images:
            with Pillow.open(folder / image.file) as original:
                assert original.getpixel((9, 9)) in seen
    assert GOLD in seen
    plain = write_sheet(lay_out(sweep[:4]), tmp_path / "plain.png", Images(folder), px=128)
    assert GOLD not in colours(plain)


def test_sheet_to_look_at(sweep: list[Run], folder: Path):
    assert write_sheet(lay_out(sweep), SCREENSHOTS / "sheet.png", Images(folder)).stat().st_size > 5_000


@pytest.mark.parametrize("text", HOSTILE_HTML, ids=range(len(HOSTILE_HTML)))
def test_any_text_can_be_a_label(text: str, folder: Path, tmp_path: Path):
    runs = [failed(text, fail_msg=text), failed("x", "3:2"), failed(f"夜の狐 🦊 {text}").replace(state=text)]
    assert write_sheet(lay_out(runs), tmp_path / "sheet.png", Images(folder), px=64).exists()


def test_machine_without_fonts_of_its_own_will_do(
    sweep: list[Run], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fonts, "FONTS", ("",))
    fonts._installed.cache_clear()
    try:
        assert write_sheet(lay_out(sweep), tmp_path / "sheet.png", Images(folder), px=64).exists()
    finally:
        fonts._installed.cache_clear()


def test_sections_and_wrapped_rows_have_their_place(folder: Path, tmp_path: Path):
    axes = [(style, ratio, mood) for style in "ab" for ratio in ("1:1", "3:2") for mood in ("calm", "wild")]
    three = [planned(style, ratio, mood=mood) for style, ratio, mood in axes]
    flow = [drawn(folder, f"style {n}") for n in range(10)]
    for name, runs in {"three": three, "flow": flow, "none": []}.items():
        path = write_sheet(lay_out(runs), tmp_path / f"{name}.png", Images(folder), px=64)
        with Pillow.open(path) as opened:
            assert max(opened.size) < 600


def test_cell_of_many_takes_shows_them_side_by_side(folder: Path, tmp_path: Path):
    runs = [drawn(folder, "oil", take=take) for take in range(1, 31)]
    path = write_sheet(lay_out(runs), tmp_path / "sheet.png", Images(folder), px=256)
    with Pillow.open(folder / runs[sheet.TAKES].files[0]) as hidden:
        assert hidden.getpixel((9, 9)) not in colours(path)
    with Pillow.open(folder / runs[sheet.TAKES - 1].files[0]) as shown:
        assert shown.getpixel((9, 9)) in colours(path)


def test_picture_that_cannot_be_read_leaves_the_others(sweep: list[Run], folder: Path, tmp_path: Path):
    (folder / sweep[0].files[0]).write_bytes(b"no picture")
    (folder / sweep[1].files[0]).unlink()
    stray = sweep[2].images[0].model_copy(update={"file": f"../images/{sweep[2].files[0]}"})
    runs = [*sweep[:2], sweep[2].replace(images=(stray,)), *sweep[3:]]
    path = write_sheet(lay_out(runs), tmp_path / "sheet.png", Images(folder), px=96)
    with Pillow.open(folder / sweep[3].files[0]) as original:
        assert original.getpixel((9, 9)) in colours(path)


def test_sheet_that_no_program_could_open_is_refused_with_a_size_that_fits(tmp_path: Path):
    runs = [planned(f"style {n}", ratio) for n in range(100) for ratio in ("1:1", "2:3", "3:2")]
    with pytest.raises(InvalidRequestError, match=r"would be .* pixels") as refused:
        write_sheet(lay_out(runs), tmp_path / "sheet.png", Images(tmp_path))
    fits = int(refused.value.allowed.removeprefix("px=").split()[0])
    assert write_sheet(lay_out(runs), tmp_path / "sheet.webp", Images(tmp_path), px=fits).exists()
    many = [planned(f"style {n}", ratio) for n in range(400) for ratio in ("1:1", "2:3", "3:2")]
    with pytest.raises(InvalidRequestError, match="would be") as refused:
        write_sheet(lay_out(many), tmp_path / "many.png", Images(tmp_path))
    assert ".report(folder)" in refused.value.advice
    assert not (tmp_path / "many.png").exists()


@pytest.mark.parametrize("px", [47, 2049, 0, -1, 96.5, "256", True, None])
def test_cells_of_no_sensible_size_are_refused(px: Any, tmp_path: Path):
    with pytest.raises(InvalidRequestError, match="contact sheet cannot be"):
        write_sheet(lay_out([]), tmp_path / "sheet.png", Images(tmp_path), px=px)


@pytest.mark.parametrize("name", ["sheet.gif", "sheet", "sheet.csv", "sheet.html", "a\0.png"])
def test_names_of_other_files_are_refused(name: str, tmp_path: Path):
    with pytest.raises(ApixoError) as refused:
        write_sheet(lay_out([]), f"{tmp_path}/{name}", Images(tmp_path))
    assert len(str(refused.value).splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_the_old_sheet(
    sweep: list[Run], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_sheet(lay_out(sweep), tmp_path / "sheet.png", Images(folder), px=64)
    old = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Pillow.Image, "save", full)
    with pytest.raises(ApixoError, match="contact sheet could not be written"):
        write_sheet(lay_out(sweep), path, Images(folder), px=96)
    assert path.read_bytes() == old
    assert {found.name for found in tmp_path.iterdir()} == {"images", "sheet.png"}
