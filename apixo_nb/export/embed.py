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
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from apixo_nb.core.files import Written, checked_folder, new_folder
from apixo_nb.core.records import Image, Run
from apixo_nb.storage.originals import Images, check_any, left_out, listed
from apixo_nb.text import bare_address

from .image_chunks import (
    MOST_XMP,
    XMP_KEYWORD,
    exif_of,
    has_credential,
    jpeg_with,
    kind_of,
    png_with,
    webp_with,
)

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
    said = left_out(gone)
    if broken:
        what = f"{len(broken)} original(s) carry a content credential (C2PA)"
        said.append(f"{what}, which a copy breaks, so the copy is without it: {listed(broken)}.")
    if unfit:
        said.append(f"{len(unfit)} picture(s) left out, as nothing can be added to them: {listed(unfit)}.")
    return said


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


# --- what is said -----------------------------------------------------------------------------------


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
