"""The stored pictures: originals byte for byte, their facts beside them, small ones for the notebook."""

from __future__ import annotations

import base64
import concurrent.futures
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from apixo_nb.core.files import Downloaded
from apixo_nb.core.records import Image, Run, new_run
from apixo_nb.core.request import make_request
from apixo_nb.errors import ImageError
from apixo_nb.storage import originals
from apixo_nb.storage.originals import THUMBNAIL_PX, Images, read_sidecar

URL = "https://pictures.example/made/1.png?sig=x"
KILLED = """
import os, sys
from pathlib import Path
from apixo_nb.storage import originals
os.fsync = lambda _: os._exit(9)
originals._write_whole(Path(sys.argv[1]), "half")
"""


@pytest.fixture
def images(tmp_path: Path) -> Images:
    (tmp_path / "images").mkdir()
    return Images(tmp_path / "images")


def a_run(prompt: str = "a fox", **labels: Any) -> Run:
    request = make_request(prompt, aspect_ratio="3:2", num_images=2)
    return new_run(request, unit_price_micros=350_000, sandbox=True, **labels).replace(task_id="task_1")


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Pillow.linear_gradient("L").resize((width, height)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def downloaded(images: Images, run: Run, index: int, content: bytes, suffix: str = ".png") -> Downloaded:
    """A picture as `download_once` leaves it."""
    path = images.target(run.run_id, index).with_suffix(suffix)
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Downloaded(path, URL, digest, len(content), 600, 400, "PNG")


def stored(images: Images, content: bytes, file: str = "picture.png") -> Image:
    (images.folder / file).write_bytes(content)
    return Image(index=0, url=URL, file=file)


def thumbnail(images: Images, image: Image) -> str:
    """A data URI."""
    return images.thumbnails([(a_run(), image)])[0].data_uri


def small(images: Images, image: Image) -> Any:
    """The thumbnail, opened."""
    kind, _, text = thumbnail(images, image).partition(",")
    assert kind == "data:image/webp;base64"
    return Pillow.open(io.BytesIO(base64.b64decode(text)))


# --- originals and what stands beside them ---


def test_record_and_file_agree(images: Images):
    run, content = a_run(), png(60, 40)
    image = images.keep(run, 1, downloaded(images, run, 1, content))
    assert image.file == f"{run.run_id}-2.png"
    assert images.path(image).read_bytes() == content
    assert (image.index, image.bytes, image.sha256) == (1, len(content), hashlib.sha256(content).hexdigest())


def test_sidecar_holds_the_facts_of_run_and_picture(images: Images):
    run = a_run("a fox\nat night 🌙", tags=("x",), note="kept", variables={"time": "night"})
    image = images.keep(run, 0, downloaded(images, run, 0, png(60, 40)))
    facts = json.loads(images.path(image).with_suffix(".json").read_text(encoding="utf-8"))
    assert facts["image"] == image.model_dump(mode="json")
    assert {name: facts[name] for name in ("run_id", "task_id", "prompt", "note", "variables")} == {
        "run_id": run.run_id,
        "task_id": "task_1",
        "prompt": "a fox\nat night 🌙",
        "note": "kept",
        "variables": {"time": "night"},
    }
    assert facts["parameters"] == {"aspect_ratio": "3:2", "num_images": 2}


def test_run_can_be_rebuilt_from_a_sidecar(images: Images):
    run = a_run()
    image = images.keep(run, 0, downloaded(images, run, 0, png(60, 40)))
    facts = json.loads(images.path(image).with_suffix(".json").read_text(encoding="utf-8"))
    found = Image.model_validate(facts.pop("image"))
    assert Run.model_validate(facts).replace(images=(found,)) == run.replace(images=(image,))


def test_folder_holds_pictures_and_sidecars_and_nothing_else(images: Images):
    run = a_run()
    for index in range(2):
        images.keep(run, index, downloaded(images, run, index, png(60, 40)))
    names = sorted(path.name for path in images.folder.iterdir())
    assert names == [f"{run.run_id}-{number}.{kind}" for number in (1, 2) for kind in ("json", "png")]


def test_sidecar_that_cannot_be_written_is_an_image_error(images: Images):
    run = a_run()
    picture = downloaded(images, run, 0, png(60, 40))
    picture.path.with_suffix(".json").mkdir()
    with pytest.raises(ImageError) as refused:
        images.keep(run, 0, picture)
    assert (refused.value.run_id, refused.value.task_id) == (run.run_id, "task_1")
    assert picture.path.exists()


def test_many_threads_write_the_facts_of_one_picture(images: Images):
    run = a_run()
    image = images.keep(run, 0, downloaded(images, run, 0, png(60, 40)))
    run, start = run.replace(images=(image,)), threading.Barrier(8)

    def write(number: int) -> list[bool]:
        start.wait()
        return [images.rewrite_sidecar(run.replace(note=f"{number}"), 0) for _ in range(50)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(all(written) for written in pool.map(write, range(8)))
    assert json.loads(images.path(image).with_suffix(".json").read_text("utf-8"))["note"] in "01234567"
    assert len(list(images.folder.iterdir())) == 2


def test_facts_that_cannot_be_written_leave_nothing_behind(images: Images):
    run = a_run()
    picture = downloaded(images, run, 0, png(60, 40))
    beside = picture.path.with_suffix(".json")
    beside.mkdir()
    with pytest.raises(ImageError):
        images.keep(run, 0, picture)
    beside.rmdir()
    with pytest.raises(UnicodeEncodeError):
        originals._write_whole(beside, "\ud800")
    assert list(images.folder.iterdir()) == [picture.path]


def test_half_the_facts_that_a_kill_has_left_are_cleared_with_the_picture(images: Images):
    run = a_run()
    picture = downloaded(images, run, 0, png(60, 40))
    killed = [sys.executable, "-c", KILLED, str(picture.path.with_suffix(".json"))]
    assert subprocess.run(killed, check=False).returncode == 9
    assert [path.suffix for path in images.folder.iterdir() if path != picture.path] == [".part"]
    images.clear(run.run_id, 1)
    assert len(list(images.folder.iterdir())) == 2
    images.clear(run.run_id, 0)
    assert list(images.folder.iterdir()) == [picture.path]


def test_facts_are_written_though_a_new_download_clears_up_meanwhile(
    images: Images, monkeypatch: pytest.MonkeyPatch
):
    run = a_run()
    sync = os.fsync
    cleared: list[str] = []

    def clears(number: int) -> None:
        sync(number)
        if not cleared:
            cleared.append(run.run_id)
            images.clear(run.run_id, 0)

    monkeypatch.setattr(os, "fsync", clears)
    image = images.keep(run, 0, downloaded(images, run, 0, png(60, 40)))
    assert cleared
    assert images.path(image).with_suffix(".json").is_file()


def test_address_of_a_callback_is_not_among_the_facts(images: Images):
    run = a_run().replace(request_type="callback", callback_url="https://hooks.example/5ecret")
    image = images.keep(run, 0, downloaded(images, run, 0, png(60, 40)))
    beside = images.path(image).with_suffix(".json")
    assert "5ecret" not in beside.read_text("utf-8")
    facts = json.loads(beside.read_text("utf-8"))
    assert "callback_url" not in facts
    assert read_sidecar(beside) == (run.replace(callback_url=None), image)
    # Those of earlier versions have it, and are read as ever.
    beside.write_text(json.dumps({**facts, "callback_url": run.callback_url}), "utf-8")
    assert read_sidecar(beside) == (run, image)


def test_targets_are_made_of_run_and_number_only(images: Images):
    assert images.target("20261123-120000-0a1b2c3d", 3) == images.folder / "20261123-120000-0a1b2c3d-4"


# --- links ---


def test_link_is_relative_to_the_working_folder(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert images.link(Image(index=0, url=URL, file="a.png")) == "../images/a.png"


def test_link_is_percent_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    images = Images(tmp_path / 'my "images" #1 ü?<b>')
    link = images.link(Image(index=0, url=URL, file="a.png"))
    assert link == "my%20%22images%22%20%231%20%C3%BC%3F%3Cb%3E/a.png"


def test_folder_with_a_colon_is_not_taken_for_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert ":" not in Images(tmp_path / "javascript:x").link(Image(index=0, url=URL, file="a.png"))


# --- thumbnails ---


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1024, 1024), (384, 384)),
        ((1536, 1024), (384, 256)),
        ((1024, 1536), (256, 384)),
        ((60, 40), (60, 40)),
    ],
)
def test_thumbnail_is_webp_of_384_pixels_at_most(
    images: Images, size: tuple[int, int], expected: tuple[int, int]
):
    with small(images, stored(images, png(*size))) as opened:
        assert (opened.format, opened.size) == ("WEBP", expected)
    assert max(expected) <= THUMBNAIL_PX


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_every_kind_of_png_has_a_thumbnail(images: Images, mode: str):
    with small(images, stored(images, png(50, 50, mode))) as opened:
        assert opened.size == (50, 50)


def test_transparency_is_kept(images: Images):
    buffer = io.BytesIO()
    Pillow.new("RGBA", (20, 20), (255, 0, 0, 0)).save(buffer, "PNG")
    with small(images, stored(images, buffer.getvalue())) as opened:
        assert opened.convert("RGBA").getpixel((10, 10))[3] == 0


def test_original_is_untouched_by_its_thumbnail(images: Images):
    content = png(800, 600)
    image = stored(images, content)
    thumbnail(images, image)
    assert images.path(image).read_bytes() == content


def broken_in_the_middle(content: bytes) -> bytes:
    """A good header and a little of the picture, then a chunk whose name no decoder knows."""
    start = content.index(b"IDAT")
    little = struct.pack(">I", 8) + content[start : start + 12]
    return content[: start - 4] + little + b"\0" * 8 + b"\xff" * 50


def huge(content: bytes) -> bytes:
    """The same picture with a header that says 60,000 by 60,000 pixels."""
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        png(600, 400)[:300],
        png(600, 400)[:-12],
        broken_in_the_middle(png(600, 400)),
        huge(png(600, 400)),
    ],
    ids=["empty", "html", "half", "tail", "chunk", "bomb"],
)
def test_unreadable_file_has_no_thumbnail_and_raises_nothing(images: Images, content: bytes):
    made = thumbnail(images, stored(images, content))
    assert made == "" or made.startswith("data:image/webp")


def test_missing_file_has_no_thumbnail(images: Images):
    assert thumbnail(images, Image(index=0, url=URL, file="gone.png")) == ""


def test_folder_in_place_of_the_file_has_no_thumbnail(images: Images):
    (images.folder / "odd.png").mkdir()
    assert thumbnail(images, Image(index=0, url=URL, file="odd.png")) == ""
