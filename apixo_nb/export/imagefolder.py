"""Pictures and what is known of them as a folder that training tools and dataset viewers read: ImageFolder.

The originals as they are, and a ``metadata.jsonl`` with a line for each.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from typing import Any

from apixo_nb.core.files import Written, checked_folder, new_folder
from apixo_nb.core.records import Image, Run
from apixo_nb.storage.originals import Images, check_any, left_out
from apixo_nb.text import bare_address, redacted, to_usd

METADATA = "metadata.jsonl"


def write_imagefolder(runs: Sequence[Run], path: str | os.PathLike[str], images: Images) -> Written:
    """Write a Hugging Face ImageFolder: every picture of these runs that is on disk, and its line.

    Raises
    ------
    ApixoError
        The folder cannot be written (see `files.new_folder`), or there is no picture.
    """
    target = checked_folder(path, images.folder)
    stored, gone = images.stored(runs)
    check_any(stored)
    with new_folder(target, images.folder) as folder:
        for _, image in stored:
            shutil.copyfile(images.path(image), folder / image.file)
        with (folder / METADATA).open("wb") as file:
            file.writelines(_line(run, image) for run, image in stored)
    return Written(target, tuple(left_out(gone)))


def _line(run: Run, image: Image) -> bytes:
    # Escaped, as some readers part lines at other signs than the line feed.
    return json.dumps(row(run, image)).encode("ascii") + b"\n"


def row(run: Run, image: Image) -> dict[str, Any]:
    """One line: the columns of the table, and those of the picture; ``file_name`` comes first.

    Names as in `frame.COLUMNS`, but for ``rating``, ``note`` and ``tags``: they are the picture's here, and
    the run's are ``run_rating``, ``run_note`` and ``run_tags``. ``variables`` and ``parameters`` are JSON in
    a text, as their names change from line to line. Addresses have no query, as it may be a key.
    """
    dumped = run.model_dump(mode="json")
    shown = (
        "run_id",
        "task_id",
        "created_at",
        "model",
        "prompt_template",
        "request_type",
        "state",
        "wait_ms",
    )
    return {
        "file_name": image.file,
        "prompt": run.prompt,
        **{name: dumped[name] for name in shown},
        "index": image.index,
        "mode": run.mode,
        "variables": json.dumps(run.variables, ensure_ascii=False),
        "parameters": json.dumps(run.parameters, ensure_ascii=False),
        "aspect_ratio": run.aspect_ratio,
        "num_images": run.num_images,
        "image_urls": [bare_address(url) for url in run.image_urls],
        "costTime": run.cost_time_ms,
        "cost_usd": None if run.cost_micros is None else to_usd(run.cost_micros),
        "unit_price_usd": to_usd(run.unit_price_micros),
        "fail_code": run.fail_code,
        "fail_msg": redacted(run.fail_msg, run.callback_url),
        "result_urls": [bare_address(url) for url in run.result_urls],
        "url": bare_address(image.url),
        **{name: getattr(image, name) for name in ("width", "height", "format", "bytes", "sha256")},
        **image.choice,
        "run_rating": run.rating,
        "run_note": run.note,
        "run_tags": list(run.tags),
        "name": run.name,
        "take": run.take,
        **{name: dumped[name] for name in ("expires_at", "sandbox", "schema_version")},
    }
