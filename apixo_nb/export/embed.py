"""Copies of the pictures that say how they were made: for people, galleries, search and the law.

The originals are never touched. What is written into a copy is chosen here, name by name; the key, addresses
of callbacks, queries of addresses, notes and the names of notebooks are not among it.

========  =============================================================================================
PNG       ``parameters`` (the text that galleries of other tools read), ``apixo`` (all of it as JSON), XMP
JPEG      EXIF UserComment (that text), XMP (with that JSON)
WebP      as JPEG
========  =============================================================================================

XMP holds the prompt as ``dc:description`` and the IPTC's ``DigitalSourceType``. EXIF that was there stays,
but for its comment; XMP that was there is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from apixo_nb.core.files import Written, checked_folder, new_folder
from apixo_nb.core.records import Image, Run
from apixo_nb.storage.originals import Images, check_any, left_out, listed
from apixo_nb.text import bare_address

SOFTWARE = "apixo_nb"
_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_EXIF_IFD, _USER_COMMENT, _SOFTWARE_TAG = 0x8769, 0x9286, 0x0131
_UNDEFINED = (0x9000, 0x9101, 0x927C, _USER_COMMENT, 0xA000, 0xA300, 0xA301)  # neither text nor number
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_copies(runs: Sequence[Run], path: str | os.PathLike[str], images: Images) -> Written:
    """Write a copy of each picture, with its parameters in it, into a folder of their own.

    The copies have the names of the originals, and the same pixels: nothing is encoded anew. A content
    credential (C2PA) would not survive the change, and is left out of the copy; `Written.notes` names those.

    Raises
    ------
    ApixoError
        The folder cannot be written (see `files.new_folder`), or there is no picture to copy.
    """
    target = checked_folder(path, images.folder)
    stored, gone = images.stored(runs)
    check_any(stored)
    broken, unfit = [], []
    with new_folder(target, images.folder) as folder:
        for run, image in stored:
            original = images.path(image).read_bytes()
            try:
                copy, had_credential = _copy(original, run, image), has_credential(original)
            except (ValueError, SyntaxError):  # it decodes, but not by the book
                unfit.append(image.file)
                continue
            (folder / image.file).write_bytes(copy)
            broken += [image.file] if had_credential else []
    return Written(target, tuple(_notes(gone, broken, unfit)))


def _notes(gone: list[str], broken: list[str], unfit: list[str]) -> list[str]:
    notes = left_out(gone)
    if broken:
        what = f"{len(broken)} original(s) carry a content credential (C2PA)"
        notes.append(f"{what}, which a copy breaks, so the copy is without it: {listed(broken)}.")
    if unfit:
        notes.append(f"{len(unfit)} picture(s) left out, as nothing can be added to them: {listed(unfit)}.")
    return notes


def _copy(original: bytes, run: Run, image: Image) -> bytes:
    record, text = record_of(run, image), parameters_text(run, image)
    kind = kind_of(original)
    if kind == "PNG":
        xmp = xmp_of(run, "")
        return png_with(original, {"parameters": text, "apixo": _json(record), XMP_KEYWORD: xmp})
    exif = _exif(exif_of(original), text)
    if kind == "JPEG":
        return jpeg_with(original, exif, _fitting_xmp(run, record).encode())
    if kind == "WEBP":
        return webp_with(original, exif, xmp_of(run, _json(record)).encode())
    raise ValueError("no kind of picture that is known")


# --- the texts of a copy -----------------------------------------------------------------------------


def record_of(run: Run, image: Image) -> dict[str, Any]:
    """What a copy says of its picture, as JSON; nothing else leaves the ledger with it."""
    facts = run.model_dump(
        mode="json",
        include={
            *("run_id", "task_id", "created_at", "finished_at", "cost_time_ms", "model", "parameters"),
            *("prompt", "prompt_template", "variables", "name", "tags", "take", "sandbox"),
        },
    )
    facts["image_urls"] = [bare_address(url) for url in run.image_urls]
    facts["image"] = image.model_dump(
        mode="json", include={"index", "sha256", "width", "height", "rating", "starred", "tags"}
    )
    return {"software": SOFTWARE, **facts}


def parameters_text(run: Run, image: Image) -> str:
    """The prompt, and a line of ``key: value`` pairs: the form that galleries of other tools read."""
    facts = {
        "Size": f"{image.width}x{image.height}" if image.width and image.height else "",
        "Model": run.model,
        **{wire.replace("_", " ").capitalize(): str(value) for wire, value in run.parameters.items()},
        "Picture": f"{image.index + 1} of {max(run.num_images, len(run.images))}",
        "References": str(len(run.image_urls)) if run.image_urls else "",
        "Run": run.run_id,
        "Version": SOFTWARE,
    }
    pairs = (f"{name}: {_quoted(value)}" for name, value in facts.items() if value)
    return f"{run.prompt}\n{', '.join(pairs)}"


def _quoted(value: str) -> str:
    """As those galleries want a value that holds one of their separators."""
    return json.dumps(value, ensure_ascii=False) if any(sign in value for sign in ',:\n"') else value


def xmp_of(run: Run, record: str) -> str:
    """An XMP packet: prompt, source type, tool, time; `record` is the JSON it is to hold, or ""."""
    kind = "compositeWithTrainedAlgorithmicMedia" if run.image_urls else "trainedAlgorithmicMedia"
    subjects = "".join(f"<rdf:li>{_xml(tag)}</rdf:li>" for tag in run.tags)
    return "".join(
        [
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">',
            '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">',
            '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"',
            ' xmlns:xmp="http://ns.adobe.com/xap/1.0/"',
            ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"',
            ' xmlns:apixo="urn:apixo_nb">',
            f"<Iptc4xmpExt:DigitalSourceType>{_SOURCE_TYPE}{kind}</Iptc4xmpExt:DigitalSourceType>",
            f"<Iptc4xmpExt:AISystemUsed>{_xml(run.model)}</Iptc4xmpExt:AISystemUsed>",
            f"<xmp:CreatorTool>{SOFTWARE}, {_xml(run.model)}</xmp:CreatorTool>",
            f"<xmp:CreateDate>{(run.finished_at or run.created_at).isoformat()}</xmp:CreateDate>",
            f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{_xml(run.prompt)}</rdf:li>',
            "</rdf:Alt></dc:description>",
            f"<dc:subject><rdf:Bag>{subjects}</rdf:Bag></dc:subject>" if subjects else "",
            f"<apixo:record>{_xml(record)}</apixo:record>" if record else "",
            '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>',
        ]
    )


def _fitting_xmp(run: Run, record: dict[str, Any]) -> str:
    """XMP with as much of the record as fits a JPEG. The prompt itself is in there all the same."""
    prompt = hashlib.sha256(run.prompt.encode("utf-8", "replace")).hexdigest()
    shorter = {**record, "left_out": ["prompt_template", "variables"]}
    del shorter["prompt_template"], shorter["variables"]
    shortest = {**shorter, "prompt_sha256": prompt, "left_out": [*shorter["left_out"], "prompt"]}
    del shortest["prompt"]
    for facts in (record, shorter, shortest):
        xmp = xmp_of(run, _json(facts))
        if len(xmp.encode()) <= MOST_XMP:
            return xmp
    return xmp_of(run.replace(tags=()), "")


def _xml(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text), {"\r": "&#13;"})


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def _exif(known: bytes, comment: str) -> bytes:
    """EXIF with a comment; what else there was stays, such as how the picture is turned."""
    from PIL import Image as Pillow

    exif = Pillow.Exif()
    if known:
        exif.load(known)
    exif.endian = ">"  # the order of bytes in which other tools read a comment
    exif[_SOFTWARE_TAG] = SOFTWARE
    exif.get_ifd(_EXIF_IFD).setdefault(0x9000, b"0232")  # the version, which is asked for
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + comment.encode("utf-16-be", "replace")
    return _with_types(exif.tobytes())


def _with_types(exif: bytes) -> bytes:
    """EXIF in which what is neither text nor number is marked so; Pillow marks it as numbers."""
    whole = bytearray(exif)
    tiff = 6  # behind the mark all places are counted from here
    at = _entries(whole, tiff, int.from_bytes(whole[tiff + 4 : tiff + 8]))
    inner = next((entry for entry in at if whole[entry : entry + 2] == _EXIF_IFD.to_bytes(2)), None)
    if inner is not None:
        for entry in _entries(whole, tiff, int.from_bytes(whole[inner + 8 : inner + 12])):
            tag, kind = (int.from_bytes(whole[entry + n : entry + n + 2]) for n in (0, 2))
            if tag in _UNDEFINED and kind == 1:
                whole[entry + 2 : entry + 4] = (7).to_bytes(2)
    return bytes(whole)


def _entries(whole: bytearray, tiff: int, at: int) -> range:
    """Where the entries of a directory begin, each of 12 bytes."""
    first = tiff + at + 2
    return range(first, first + 12 * int.from_bytes(whole[first - 2 : first]), 12)


# --- the files that hold the texts ------------------------------------------------------------------

XMP_KEYWORD = "XML:com.adobe.xmp"  # of a PNG's chunk that holds XMP

_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"  # what such a JPEG segment begins with
_APP0, _APP1, _APP11, _SOS = 0xE0, 0xE1, 0xEB, 0xDA
_MOST = 65_533  # bytes that a JPEG segment can hold

MOST_XMP = _MOST - len(_XMP)  # bytes of XMP that fit into a JPEG


def kind_of(data: bytes) -> str:
    """PNG, JPEG, WEBP, or "" for anything else."""
    if data.startswith(_PNG):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def has_credential(data: bytes) -> bool:
    """Whether a picture carries a C2PA credential. It is seen, not verified.

    Raises
    ------
    ValueError
        It cannot be taken apart.
    """
    kind = kind_of(data)
    if kind == "PNG":
        return any(name == b"caBX" for name, _ in _png_chunks(data))
    if kind == "JPEG":
        return bool(_credential_boxes(_jpeg_segments(data)[0]))
    return any(name == b"C2PA" for name, _ in _webp_chunks(data))


def exif_of(data: bytes) -> bytes:
    """The EXIF of a JPEG or WebP, from its ``Exif`` mark; b"" if it has none."""
    if kind_of(data) == "JPEG":
        bodies = [body for marker, body in _jpeg_segments(data)[0] if marker == _APP1]
        return next((body for body in bodies if body.startswith(_EXIF)), b"")
    found = next((body for name, body in _webp_chunks(data) if name == b"EXIF"), b"")
    return _EXIF + found.removeprefix(_EXIF) if found else b""


# --- PNG --------------------------------------------------------------------------------------------


def png_with(data: bytes, texts: Mapping[str, str]) -> bytes:
    """A PNG with these texts, each under its keyword, in place of any it had there."""
    kept = [chunk for chunk in _png_chunks(data) if not _is_replaced(chunk, texts)]
    added = [(b"iTXt", _itxt(keyword, text)) for keyword, text in texts.items()]
    return _PNG + b"".join(_png_chunk(*chunk) for chunk in (kept[0], *added, *kept[1:]))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_PNG)
    name = b""
    while name != b"IEND":
        head = data[at : at + 8]
        if len(head) < 8:
            raise ValueError("the PNG ends too early")
        length, name = struct.unpack(">I4s", head)
        body = data[at + 8 : at + 8 + length]
        if len(body) < length:
            raise ValueError("the PNG ends too early")
        yield name, body
        at += 12 + length


def _png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _is_replaced(chunk: tuple[bytes, bytes], texts: Mapping[str, str]) -> bool:
    name, body = chunk
    if name in (b"iTXt", b"tEXt", b"zTXt"):
        return body.partition(b"\0")[0].decode("latin-1") in texts
    return name == b"caBX"


def _itxt(keyword: str, text: str) -> bytes:
    # Not compressed, in no language; a zero byte would end it.
    return keyword.encode("latin-1") + b"\0\0\0\0\0" + text.replace("\0", "\ufffd").encode("utf-8", "replace")


# --- JPEG -------------------------------------------------------------------------------------------


def jpeg_with(data: bytes, exif: bytes, xmp: bytes) -> bytes:
    """A JPEG with this EXIF (from its ``Exif`` mark) and XMP, in place of what it had.

    Raises
    ------
    ValueError
        One of them is larger than a JPEG can hold, or the JPEG cannot be taken apart.
    """
    segments, rest = _jpeg_segments(data)
    boxes = _credential_boxes(segments)
    kept = [(marker, body) for marker, body in segments if not _is_old(marker, body, boxes)]
    # JFIF wants to be the first segment.
    first = 1 if kept and kept[0][0] == _APP0 else 0
    added = [(_APP1, exif), (_APP1, _XMP + xmp)]
    written = [_jpeg_segment(*segment) for segment in (*kept[:first], *added, *kept[first:])]
    return b"\xff\xd8" + b"".join(written) + rest


def _jpeg_segments(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The segments before the picture's data, and all that follows."""
    found: list[tuple[int, bytes]] = []
    at = 2
    while True:
        while data[at : at + 2] == b"\xff\xff":  # bytes that only fill
            at += 1
        if len(data) < at + 4 or data[at] != 0xFF:
            raise ValueError("the JPEG has a gap between its segments")
        marker, (length,) = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])
        if marker == _SOS:
            return found, data[at:]
        if length < 2 or len(data) < at + 2 + length:
            raise ValueError("the JPEG ends too early")
        found.append((marker, data[at + 4 : at + 2 + length]))
        at += 2 + length


def _jpeg_segment(marker: int, body: bytes) -> bytes:
    if len(body) > _MOST:
        raise ValueError("that is more than a JPEG can hold")
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _is_old(marker: int, body: bytes, boxes: set[bytes]) -> bool:
    if marker == _APP11:
        return body[2:4] in boxes
    return marker == _APP1 and body.startswith((_EXIF, _XMP))


def _credential_boxes(segments: list[tuple[int, bytes]]) -> set[bytes]:
    """The numbers of the JUMBF boxes that are C2PA's; a large one goes over several segments."""
    return {
        body[2:4]
        for marker, body in segments
        if marker == _APP11 and body.startswith(b"JP") and b"c2pa" in body[:200]
    }


# --- WebP -------------------------------------------------------------------------------------------


def webp_with(data: bytes, exif: bytes, xmp: bytes) -> bytes:
    """A WebP with this EXIF (from its ``Exif`` mark) and XMP, in place of what it had."""
    chunks = [chunk for chunk in _webp_chunks(data) if chunk[0] not in (b"EXIF", b"XMP ", b"C2PA")]
    if not chunks:
        raise ValueError("the WebP holds no picture")
    head = chunks.pop(0)[1] if chunks[0][0] == b"VP8X" else _extended_head(*chunks[0])
    head = bytes([head[0] | 0b1100]) + head[1:]  # it says: there are EXIF and XMP
    added = [(b"EXIF", exif.removeprefix(_EXIF)), (b"XMP ", xmp)]
    body = b"WEBP" + b"".join(_webp_chunk(*chunk) for chunk in ((b"VP8X", head), *chunks, *added))
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end:
        name, length = struct.unpack("<4sI", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if len(body) < length:
            raise ValueError("the WebP ends too early")
        yield name, body
        at += 8 + length + length % 2


def _webp_chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _extended_head(name: bytes, body: bytes) -> bytes:
    """The head that a WebP of the simple kind lacks: flags, and its size less one in 24 bits each."""
    if name == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        width, height, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    elif name == b"VP8 " and len(body) >= 10:
        width, height = ((side & 0x3FFF) - 1 for side in struct.unpack("<HH", body[6:10]))
        alpha = 0
    else:
        raise ValueError("the WebP holds no picture")
    return bytes([alpha << 4, 0, 0, 0]) + width.to_bytes(3, "little") + height.to_bytes(3, "little")
