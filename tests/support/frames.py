"""Runs with odd texts, and the columns of their table."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from apixo_nb.analysis import frame
from apixo_nb.core.records import Image, Run, new_run
from apixo_nb.core.request import make_request

# Written out here, as notebooks and other people's code rely on it.
CONTRACT = [
    "run_id",
    "task_id",
    "created_at",
    "model",
    "mode",
    "prompt",
    "prompt_template",
    "variables",
    "aspect_ratio",
    "num_images",
    "image_urls",
    "request_type",
    "state",
    "costTime",
    "wait_ms",
    "cost_usd",
    "unit_price_usd",
    "fail_code",
    "fail_msg",
    "result_urls",
    "files",
    "expires_at",
    "name",
    "tags",
    "note",
    "rating",
    "sandbox",
    "schema_version",
]
ODD_TEXTS = [
    "two\nlines",
    "a bare\rreturn",
    "DOS\r\nlines\r\n",
    "she said \"hi\", then 'left'",
    '"',
    "a,b;c\td",
    "🦊👩‍🚀 e\u0301",
    "=1+1",
    "@SUM(A1)",
    "-1",
    "NA",
    "null",
    "None",
    "nan",
    "",
    "007",
    "1e5",
    "True",
    "  blanks around  ",
    "\n",
    "line\u2028separator\u2029s",
    "\ufeffmark",
    "#not a comment",
    "back\\slash",
    "x" * 10_000,
]


def a_run(prompt: str = "a fox", **changes: Any) -> Run:
    return new_run(
        make_request("a fox"), unit_price_micros=350_000, sandbox=True, prompt_template="t"
    ).replace(prompt=prompt, **changes)


def a_success(**changes: Any) -> Run:
    noon = datetime(2026, 11, 23, 12, 0, 0, 5, tzinfo=UTC)
    urls = ("https://pictures.example/1.png",)
    facts: dict[str, Any] = {"state": "success", "task_id": "task_1", "created_at": noon, "expires_at": noon}
    numbers: dict[str, Any] = {"cost_time_ms": 30_123, "wait_ms": 31_000, "cost_micros": 350_000, "rating": 5}
    pictures = (Image(index=0, url=urls[0], file="a.png"),)
    labels: dict[str, Any] = {"tags": ("x", "y, z"), "variables": {"mood": "calm"}, "name": "foxes"}
    return a_run(**{**facts, **numbers, **labels, "result_urls": urls, "images": pictures, **changes})


def table(*runs: Run) -> pd.DataFrame:
    return frame.history_frame(runs, lambda name: f"images/{name}")


def unwritable(tmp_path: Path) -> list[str]:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    beneath_a_file = tmp_path / "file" / "runs.csv"
    return [
        str(tmp_path / "folder"),
        str(beneath_a_file),
        str(tmp_path / ("n" * 300)),
        "",
        "/",
        "/proc/runs.csv",
    ]
