"""A picture is on disk whole, under its own name, or it is not there and the error says why."""

from __future__ import annotations

import asyncio
import hashlib
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apixo_nb.client.client import AsyncClient, Client
from apixo_nb.client.download import _check_address
from apixo_nb.client.protocol import RetryPolicy
from apixo_nb.core.files import Downloaded, Limits
from apixo_nb.errors import APIConnectionError, ApixoError, ImageError, RateLimitError, ServerError
from tests.support import fault_server as faults
from tests.support.factories import KEY
from tests.support.fault_server import PICTURE, FaultServer, answer, picture

ONCE = RetryPolicy(attempts=1)
FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


def get(server: FaultServer, target: Path, url: str | None = None, **limits: Any) -> Downloaded:
    options: dict[str, Any] = {"base_url": server.base_url, "retry": ONCE, "limits": Limits(**limits)}
    with Client(KEY, **options) as client:
        return client.download(url or f"{server.url}/picture", target)


def refused(server: FaultServer, folder: Path, url: str | None = None, **limits: Any) -> ApixoError:
    """The error of a download that must leave nothing in `folder`."""
    with pytest.raises(ApixoError) as caught:
        get(server, folder / "fox", url, **limits)
    assert list(folder.iterdir()) == []
    return caught.value


def huge_png(side: int) -> bytes:
    """A PNG of side * side black pixels in a few kB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    deflate = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    rows = b"".join(deflate.compress(row) for _ in range(side)) + deflate.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# --- whole pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_whole_picture_gets_the_suffix_of_its_bytes(server, tmp_path, kind):
    data = picture(kind)
    server.script("picture", answer(200, data, Content_Type="image/x-whatever"))
    found = get(server, tmp_path / "fox")
    assert found.path == tmp_path / f"fox{FORMATS[kind]}"
    assert found.path.read_bytes() == data
    assert (found.format, found.bytes, found.width, found.height) == (kind, len(data), 24, 16)
    assert (found.sha256, found.url) == (hashlib.sha256(data).hexdigest(), f"{server.url}/picture")
    assert list(tmp_path.iterdir()) == [found.path]


def test_suffix_that_was_asked_for_is_kept(server, tmp_path):
    assert get(server, tmp_path / "fox.jpg").path == tmp_path / "fox.jpg"


def test_jpeg_that_holds_several_pictures_is_a_jpeg(server, tmp_path):
    # Pillow calls it MPO; for everybody else it is a JPEG with more behind it.
    file, frame = BytesIO(), Image.effect_noise((24, 16), 80).convert("RGB")
    frame.save(file, "MPO", save_all=True, append_images=[frame])
    server.script("picture", answer(200, file.getvalue()))
    found = get(server, tmp_path / "fox")
    assert (found.path.name, found.format) == ("fox.jpg", "JPEG")


def test_picture_in_chunks_without_a_length_is_taken(server, tmp_path):
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PICTURE), PICTURE)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.script("picture", faults.last_words(head + chunks))
    assert get(server, tmp_path / "fox.png").path.read_bytes() == PICTURE


def test_large_picture_arrives_whole(server, tmp_path):
    data = picture("PNG", (1024, 1024))
    server.script("picture", answer(200, data))
    assert get(server, tmp_path / "fox.png").bytes == len(data) > 1_000_000


def test_missing_folders_are_made(server, tmp_path):
    assert get(server, tmp_path / "a" / "b" / "fox.png").path.exists()


def test_long_file_name_that_the_disk_takes_is_taken(server, tmp_path):
    name = "f" * 251 + ".png"
    assert get(server, tmp_path / name).path.name == name


def test_file_already_there_is_replaced_by_a_whole_picture(server, tmp_path):
    target = tmp_path / "fox.png"
    target.write_bytes(b"old")
    get(server, target)
    assert target.read_bytes() == PICTURE


# --- pictures that are none --------------------------------------------------------------------------


def corrupt(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(40) + data[middle + 40 :]


GIF = picture("GIF")
NO_PICTURES = {
    "empty": b"",
    "html": b"<!doctype html><p>please wait</p>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "gif": GIF,
    "bmp": picture("BMP"),
    "pdf": b"%PDF-1.7 nothing",
    "half-png": PICTURE[: len(PICTURE) // 2],
    "half-jpeg": picture("JPEG")[:400],
    "half-webp": picture("WEBP")[:200],
    "png-without-end": PICTURE[:-12],
    "jpeg-without-end": picture("JPEG", (200, 200))[:-600],
    "corrupt-png": corrupt(PICTURE),
    "only-a-signature": PICTURE[:8],
}


@pytest.mark.parametrize("name", NO_PICTURES)
def test_body_that_is_no_whole_picture_is_refused(server, tmp_path, name):
    server.script("picture", answer(200, NO_PICTURES[name], Content_Type="image/png"))
    assert isinstance(refused(server, tmp_path), ImageError)


@pytest.mark.parametrize("name", ["html", "half-png", "gif"])
def test_file_already_there_outlives_a_bad_download(server, tmp_path, name):
    target = tmp_path / "fox.png"
    target.write_bytes(b"old")
    server.script("picture", answer(200, NO_PICTURES[name]))
    with pytest.raises(ImageError):
        get(server, target)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("fox.png", b"old")]


TRANSFERS = {
    "truncated": faults.truncated(PICTURE),
    "cut-chunked": faults.cut_chunked(PICTURE[:600]),
    "half-without-length": faults.close_delimited(PICTURE[:600]),
    "unknown-encoding": answer(200, PICTURE[:600], Content_Encoding="gzip"),
}


@pytest.mark.parametrize("name", TRANSFERS)
def test_transfer_that_broke_off_is_refused_and_may_be_tried_again(server, tmp_path, name):
    server.script("picture", TRANSFERS[name])
    assert refused(server, tmp_path).retryable


# --- limits ------------------------------------------------------------------------------------------


def test_picture_with_too_many_pixels_is_refused_before_it_is_decoded(server, tmp_path):
    data = huge_png(13_000)
    assert len(data) < 50_000
    server.script("picture", answer(200, data))
    error = refused(server, tmp_path)
    assert "40 million pixels" in str(error)
    assert not error.retryable


def test_picture_within_a_smaller_pixel_limit_is_a_matter_of_that_limit(server, tmp_path):
    assert "pixels" in str(refused(server, tmp_path, max_pixels=24 * 16 - 1))
    assert get(server, tmp_path / "fox.png", max_pixels=24 * 16).width == 24


def test_picture_above_the_byte_limit_is_refused(server, tmp_path):
    assert "larger than" in str(refused(server, tmp_path, max_bytes=len(PICTURE) - 1))
    assert get(server, tmp_path / "fox.png", max_bytes=len(PICTURE)).bytes == len(PICTURE)


def test_endless_body_is_cut_off_at_the_byte_limit(server, tmp_path):
    server.script("picture", answer(200, bytes(20_000_000)))
    assert "larger than 1 MB" in str(refused(server, tmp_path, max_bytes=1_000_000))


def test_gzip_bomb_is_counted_as_it_swells_and_never_held_in_memory(server, tmp_path):
    server.script("picture", faults.bomb(300))
    tracemalloc.start()
    error = refused(server, tmp_path, max_bytes=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not error.retryable
    assert peak < 30_000_000


# --- refusals of the host ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected", "retryable"),
    [
        (401, ImageError, False),
        (403, ImageError, False),
        (404, ImageError, False),
        (410, ImageError, False),
        (429, RateLimitError, True),
        (500, ServerError, True),
        (503, ServerError, True),
        (204, ImageError, False),
        (206, ImageError, False),
    ],
)
def test_refusal_of_the_picture_host_is_told_apart(server, tmp_path, status, expected, retryable):
    body = PICTURE if status == 206 else b"" if status == 204 else b"<html>no</html>"
    server.script("picture", answer(status, body))
    error = refused(server, tmp_path)
    assert (type(error), error.status, error.retryable) == (expected, status, retryable)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_picture_that_is_gone_says_how_long_urls_live(server, tmp_path, status):
    server.always("picture", answer(status))
    error = refused(server, tmp_path)
    assert "15 days" in error.advice


def test_pause_asked_for_by_the_picture_host_is_told(server, tmp_path):
    server.script("picture", answer(429, Retry_After="7"))
    error = refused(server, tmp_path)
    assert isinstance(error, RateLimitError)
    assert error.retry_after_s == 7


# --- redirects and addresses -------------------------------------------------------------------------


def test_redirects_are_followed_up_to_the_limit(server, tmp_path):
    server.script("picture", *[faults.redirect(302, "/next")] * 5)
    assert get(server, tmp_path / "fox.png").path.read_bytes() == PICTURE
    assert [received.target for received in server.journal] == ["/picture", *["/next"] * 5]


def test_one_redirect_too_many_ends_it(server, tmp_path):
    server.script("picture", *[faults.redirect(302, "/next")] * 6)
    error = refused(server, tmp_path)
    assert "circles" in str(error)
    assert len(server.journal) == 6


TARGETS = {
    "file": "file:///etc/passwd",
    "data": "data:image/png;base64,AAAA",
    "ftp": "ftp://127.0.0.1/x.png",
    "javascript": "javascript:alert(1)",
    "open-bracket": "http://[::1",
    "impossible-port": "http://127.0.0.1:99999/x.png",
    "long-host": "http://" + "a" * 300 + "/x.png",
    "blank-in-host": "http://a b/x.png",
}
NO_ADDRESSES = TARGETS | {"empty": "", "relative": "x.png", "no-scheme": "//h/x.png", "no-host": "http:///x"}


@pytest.mark.parametrize("target", TARGETS)
def test_redirect_away_from_the_web_is_our_own_error(server, tmp_path, target):
    server.script("picture", faults.redirect(302, TARGETS[target]))
    assert isinstance(refused(server, tmp_path), ImageError | APIConnectionError)
    assert len(server.journal) == 1


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_address_away_from_the_web_is_our_own_error(server, tmp_path, url):
    with Client(KEY, base_url=server.base_url, retry=ONCE) as client, pytest.raises(ApixoError):
        client.download(NO_ADDRESSES[url], tmp_path / "fox.png")
    assert list(tmp_path.iterdir()) == []


def test_redirect_from_https_to_http_is_not_followed():
    _check_address("https://elsewhere.example/x.png", "https://host.example/x.png")
    with pytest.raises(ImageError, match="not followed"):
        _check_address("http://host.example/x.png", "https://host.example/x.png")


# --- the disk ----------------------------------------------------------------------------------------


def test_file_in_place_of_the_folder_is_said(server, tmp_path):
    (tmp_path / "images").write_text("not a folder")
    with pytest.raises(ImageError, match="could not be saved") as caught:
        get(server, tmp_path / "images" / "fox.png")
    assert not caught.value.retryable
    assert "kept" in caught.value.advice


def test_folder_in_place_of_the_file_is_said(server, tmp_path):
    (tmp_path / "fox.png").mkdir()
    with pytest.raises(ImageError, match="could not be saved"):
        get(server, tmp_path / "fox.png")
    assert [path.name for path in tmp_path.iterdir()] == ["fox.png"]


@pytest.mark.parametrize("name", ["", ".", "/", "nul\0.png"], ids=["empty", "dot", "root", "nul"])
def test_path_that_names_no_file_is_our_own_error(server, name):
    with pytest.raises(ApixoError):
        get(server, Path(name))


def test_disk_that_is_full_is_said_and_leaves_nothing(server, tmp_path, monkeypatch):
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("apixo_nb.client.download.os.fsync", full)
    error = refused(server, tmp_path)
    assert "No space left on device" in str(error)
    assert not error.retryable


# --- abandoned ---------------------------------------------------------------------------------------


def test_cancelled_download_ends_and_leaves_nothing(server, tmp_path):
    # Cancelled once it has begun; the whole would take a quarter of a minute.
    server.script("picture", faults.drip(faults.message(200, PICTURE), size=4))

    async def cancel() -> None:
        async with AsyncClient(KEY, base_url=server.base_url) as client:
            call = asyncio.ensure_future(client.download(f"{server.url}/picture", tmp_path / "fox"))
            await asyncio.to_thread(server.arrived, "picture")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(cancel())
    server.over("picture")
    assert server.drips_completed == 0
    assert list(tmp_path.iterdir()) == []
