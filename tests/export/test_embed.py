"""Copies that say how they were made, read back with Pillow; the originals stay what they were."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageCms, PngImagePlugin

from apixo_nb.core.records import Run
from apixo_nb.export import embed as chunks
from apixo_nb.export import embed as provenance
from apixo_nb.sandbox import Sandbox
from apixo_nb.session.session import Session
from tests.support import picture_runs, sandboxes
from tests.support.commands import printed
from tests.support.factories import KEY, a_full_run, a_run
from tests.support.picture_runs import CALLBACK, a_success, encoded, files, keep, with_pictures

here, session = picture_runs.here, sandboxes.session

ODD = 'a fox 🦊, "quoted": yes; <b>&amp; 日本語\r\n\u2028 second line\nSteps: 20, Size: 1x1'
LONG = "🦊" * 10_000
AI = "http://cv.iptc.org/newscodes/digitalsourcetype/"
KINDS = ["PNG", "JPEG", "WEBP"]


def copy_of(session: Session, run: Run, place: Path) -> Path:
    return session.export(place / "copies", "embed", runs=[run]) / run.files[0]


def xmp_of(path: Path) -> dict[str, Any]:
    with Pillow.open(path) as picture:
        return picture.getxmp()["xmpmeta"]["RDF"]["Description"]


def comment_of(path: Path) -> str:
    with Pillow.open(path) as picture:
        raw = picture.getexif().get_ifd(0x8769)[0x9286]
    assert raw.startswith(b"UNICODE\0")
    assert b"\x92\x86\0\x07" in path.read_bytes()  # of the type that a comment has by the book
    return raw[8:].decode("utf-16-be")


def record_in(path: Path) -> dict[str, Any]:
    with Pillow.open(path) as picture:
        if picture.format == "PNG":
            return json.loads(picture.text["apixo"])  # type: ignore[attr-defined]
    return json.loads(xmp_of(path)["record"])


def text_in(path: Path) -> str:
    with Pillow.open(path) as picture:
        if picture.format == "PNG":
            return picture.text["parameters"]  # type: ignore[attr-defined]
    return comment_of(path)


def decoded(data: bytes | Path) -> tuple[Any, ...]:
    with Pillow.open(io.BytesIO(data) if isinstance(data, bytes) else data) as picture:
        picture.load()
        return picture.mode, picture.size, picture.tobytes(), picture.info.get("icc_profile")


# --- what a copy says -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_copy_says_how_it_was_made_and_shows_the_same(here: Session, kind: str, tmp_path: Path):
    run = a_success(here, ODD, kind=kind, tags=("red", "grün"), variables={"mood": "calm"})
    before = files(here.images.folder)
    copy = copy_of(here, run, tmp_path)
    record = record_in(copy)
    assert (record["prompt"], record["run_id"], record["variables"]) == (ODD, run.run_id, {"mood": "calm"})
    assert record["image"]["sha256"] == run.images[0].sha256
    assert text_in(copy).startswith(f"{ODD}\n")
    assert xmp_of(copy)["DigitalSourceType"] == f"{AI}trainedAlgorithmicMedia"
    assert decoded(copy) == decoded(here.images.path(run.images[0]))
    assert files(here.images.folder) == before


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_is_the_description_that_search_programs_find(here: Session, kind: str, tmp_path: Path):
    copy = copy_of(here, a_success(here, ODD, kind=kind, tags=("red", "grün")), tmp_path)
    assert xmp_of(copy)["description"]["Alt"]["li"]["text"] == ODD
    assert xmp_of(copy)["subject"]["Bag"]["li"] == ["red", "grün"]


@pytest.mark.parametrize("kind", KINDS)
def test_picture_made_from_others_is_called_composite(here: Session, kind: str, tmp_path: Path):
    urls = ("https://files.example/a.png?sig=s3cret",)
    copy = copy_of(here, a_success(here, kind=kind, image_urls=urls), tmp_path)
    assert xmp_of(copy)["DigitalSourceType"] == f"{AI}compositeWithTrainedAlgorithmicMedia"
    assert record_in(copy)["image_urls"] == ["https://files.example/a.png"]


@pytest.mark.parametrize("kind", KINDS)
def test_longest_prompt_is_in_it_whole(here: Session, kind: str, tmp_path: Path):
    run = a_success(here, LONG, kind=kind, prompt_template=LONG)
    copy = copy_of(here, run, tmp_path)
    assert xmp_of(copy)["description"]["Alt"]["li"]["text"] == LONG
    assert text_in(copy).startswith(f"{LONG}\n")
    record = record_in(copy)
    assert record["run_id"] == run.run_id
    if kind == "JPEG":  # which holds 65 kB of XMP at most, and this is in there once already
        assert record["left_out"] == ["prompt_template", "variables", "prompt"]
    else:
        assert record["prompt_template"] == LONG


def test_last_line_is_one_that_other_galleries_read(here: Session, tmp_path: Path):
    run = a_success(here, "a fox", count=2, parameters={"aspect_ratio": "3:2", "num_images": 2})
    last = text_in(copy_of(here, run, tmp_path)).splitlines()[-1]
    assert last == (
        'Size: 24x16, Model: gpt-image-1, Aspect ratio: "3:2", Num images: 2, Picture: 1 of 2, '
        f"Run: {run.run_id}, Version: apixo_nb"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_secrets_addresses_and_places_stay_at_home(here: Session, kind: str, tmp_path: Path):
    full = a_full_run(callback_url=CALLBACK, notebook="/home/me/foxes.ipynb")
    full = full.replace(
        image_urls=("https://user:pw@files.example/a.png?sig=s3cret",),
        raw=f'{{"callback": "{CALLBACK}"}}',
        fail_msg=f"no answer from {CALLBACK}",
        note="to myself",
    )
    data = encoded(kind)
    run = keep(here, with_pictures(full, [data], kind), [data])
    whole = copy_of(here, run, tmp_path).read_bytes()
    for secret in (
        "hooks.example",
        "secret-path",
        "s3cret",
        "user:pw",
        "foxes.ipynb",
        "to myself",
        str(tmp_path),
    ):
        for encoding in ("utf-8", "utf-16-be"):
            assert secret.encode(encoding) not in whole


def test_key_is_in_no_copy_and_no_other_export(
    service: Sandbox, monkeypatch: pytest.MonkeyPatch, session: Session, tmp_path: Path
):
    monkeypatch.setenv("APIXO_API_KEY", KEY)
    session.begin("a fox").wait()
    for kind in ("embed", "imagefolder"):
        place = session.export(tmp_path / kind, kind)
        assert all(KEY.encode() not in data for data in files(place).values())
    assert KEY.encode() not in session.export(tmp_path / "runs.zip").read_bytes()
    assert service.account.submits == 1


# --- what stays of the original ---------------------------------------------------------------------


def with_extras(kind: str) -> bytes:
    """A picture with a colour profile, transparency or a turn, and metadata of its own."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Pillow.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0an old comment"
    buffer = io.BytesIO()
    picture = Pillow.effect_noise((31, 17), 90).convert("RGB" if kind == "JPEG" else "RGBA")
    options: dict[str, Any] = {"icc_profile": profile, "exif": exif}
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Title", "mine")
        text.add_text("parameters", "of another tool")
        text.add_itxt("XML:com.adobe.xmp", "<old/>")
        options["pnginfo"] = text
    else:
        options |= {"xmp": b"<old/>", "quality": 90}
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_profile_turn_and_other_metadata_stay(here: Session, kind: str, tmp_path: Path):
    data = with_extras(kind)
    run = keep(here, with_pictures(a_run("a fox", sandbox=False), [data], kind), [data])
    copy = copy_of(here, run, tmp_path)
    assert decoded(copy) == decoded(data)
    assert decoded(copy)[3]
    with Pillow.open(copy) as picture:
        picture.load()
        assert (picture.getexif()[0x0112], picture.getexif()[0x010F]) == (6, "a camera")
        if kind == "PNG":
            assert picture.text["Title"] == "mine"  # type: ignore[attr-defined]
    assert text_in(copy).startswith("a fox\n")
    assert b"<old/>" not in copy.read_bytes()
    assert b"of another tool" not in copy.read_bytes()


def webp(**options: Any) -> bytes:
    buffer = io.BytesIO()
    noise = Pillow.effect_noise((33, 19), 90).convert(options.pop("mode", "RGB"))
    noise.save(buffer, "WEBP", **options)
    return buffer.getvalue()


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Pillow.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def palette() -> bytes:
    buffer = io.BytesIO()
    Pillow.effect_noise((16, 16), 50).convert("P").save(buffer, "PNG", transparency=0)
    return buffer.getvalue()


def interlaced() -> bytes:
    return encoded("PNG", interlace=1)


PICTURES: dict[str, Callable[[], bytes]] = {
    "lossy WebP": lambda: webp(quality=80),
    "lossless WebP": lambda: webp(lossless=True),
    "lossless WebP, transparent": lambda: webp(lossless=True, mode="RGBA"),
    "lossy WebP, transparent": lambda: webp(quality=80, mode="RGBA"),
    "moving WebP": animated,
    "progressive JPEG": lambda: encoded("JPEG", progressive=True),
    "palette PNG": palette,
    "interlaced PNG": interlaced,
}


@pytest.mark.parametrize("name", PICTURES)
def test_each_way_to_encode_is_passed_on_as_it_is(name: str, here: Session, tmp_path: Path):
    data = PICTURES[name]()
    kind = chunks.kind_of(data)
    run = keep(here, with_pictures(a_run("a fox", sandbox=False), [data], kind), [data])
    copy = copy_of(here, run, tmp_path)
    with Pillow.open(copy) as one, Pillow.open(io.BytesIO(data)) as two:
        assert (one.size, getattr(one, "n_frames", 1)) == (two.size, getattr(two, "n_frames", 1))
        one.load()
        two.load()
        assert (one.mode, one.tobytes()) == (two.mode, two.tobytes())
    assert record_in(copy)["prompt"] == "a fox"


# --- content credentials ----------------------------------------------------------------------------


def signed(kind: str) -> bytes:
    """A picture with a content credential at its place; what is in it does not matter here."""
    data = encoded(kind)
    box = b"\0\0\0\x40jumb\0\0\0\x20jumdc2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9b\x71\x03c2pa\0" + bytes(20)
    if kind == "PNG":
        body = b"caBX" + box
        chunk = struct.pack(">I", len(box)) + body + struct.pack(">I", zlib.crc32(body))
        return data[:33] + chunk + data[33:]
    if kind == "JPEG":
        parts = [b"JP\0\x01" + struct.pack(">I", number) + box for number in (1, 2)]
        parts[1] = parts[1][:24] + bytes(30)  # a part that goes on does not say c2pa again
        segments = [b"\xff\xeb" + struct.pack(">H", len(part) + 2) + part for part in parts]
        return data[:2] + b"".join(segments) + data[2:]
    chunk = b"C2PA" + struct.pack("<I", len(box)) + box + b"\0" * (len(box) % 2)
    whole = data[12:] + chunk
    return b"RIFF" + struct.pack("<I", len(whole) + 4) + b"WEBP" + whole


@pytest.mark.parametrize("kind", KINDS)
def test_credential_that_a_copy_breaks_is_told_and_left_out_of_it(here: Session, kind: str, tmp_path: Path):
    data = signed(kind)
    assert chunks.has_credential(data)
    run = keep(here, with_pictures(a_run("a fox", sandbox=False), [data], kind), [data])
    well = a_success(here)
    with pytest.warns(UserWarning, match=r"1 original\(s\) carry a content credential \(C2PA\)") as warned:
        place = here.export(tmp_path / "copies", "embed")
    assert run.files[0] in str(warned[0].message)
    assert well.files[0] not in str(warned[0].message)
    copy = (place / run.files[0]).read_bytes()
    assert not chunks.has_credential(copy)
    assert b"c2pa" not in copy
    assert decoded(copy) == decoded(data)
    assert here.images.path(run.images[0]).read_bytes() == data


def test_command_names_what_breaks(session: Session, tmp_path: Path):
    run = session.begin("a fox").wait()
    path = session.images.path(run.images[0])
    data = path.read_bytes()
    run_with = with_pictures(a_run("signed", sandbox=True), [signed("PNG")])
    keep(session, run_with, [signed("PNG")])
    said = printed(f"export '{tmp_path / 'copies'}' --embed")
    assert said.splitlines()[0] == f"Written: {tmp_path / 'copies'}"
    assert f"without it: {run_with.files[0]}." in said
    assert path.read_bytes() == data


@pytest.mark.parametrize("kind", KINDS)
def test_picture_without_a_credential_has_none(kind: str):
    assert not chunks.has_credential(encoded(kind))
    assert not chunks.has_credential(with_extras(kind))


# --- what cannot be taken apart ---------------------------------------------------------------------


def test_picture_that_cannot_be_taken_apart_is_named_and_the_others_are_copied(here: Session, tmp_path: Path):
    data = encoded()[:-12]  # decodes, but its last chunk is missing
    run = keep(here, with_pictures(a_run("a fox", sandbox=False), [data]), [data])
    well = a_success(here)
    with pytest.warns(UserWarning, match="nothing can be added to them") as warned:
        place = here.export(tmp_path / "copies", "embed")
    assert run.files[0] in str(warned[0].message)
    assert [path.name for path in place.glob("*.png")] == [well.files[0]]


@pytest.mark.parametrize("kind", KINDS)
@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_picture_is_a_value_error_or_goes_through(kind: str, data: st.DataObject):
    whole = bytearray(encoded(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    run = with_pictures(a_run("a fox", sandbox=False), [damaged])
    try:
        chunks.has_credential(damaged)
        provenance._copy(damaged, run, run.images[0])
    except (ValueError, SyntaxError):
        pass


@given(st.text(max_size=200), st.sampled_from(KINDS))
@settings(max_examples=60, deadline=None)
def test_any_prompt_comes_back_from_the_record(prompt: str, kind: str):
    run = with_pictures(a_run("x", sandbox=False).replace(prompt=prompt), [encoded(kind)], kind)
    copy = provenance._copy(encoded(kind), run, run.images[0])
    with Pillow.open(io.BytesIO(copy)) as picture:
        picture.load()
        text = picture.text["apixo"] if kind == "PNG" else None  # type: ignore[attr-defined]
        record = text or picture.getxmp()["xmpmeta"]["RDF"]["Description"]["record"]
    assert json.loads(record)["prompt"] == prompt
