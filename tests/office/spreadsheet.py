"""The CSV for spreadsheets, opened by a real one: `make office` (LibreOffice; not for the usual tests)."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from apixo_nb.analysis.formats import read_excel_csv, write_csv, write_excel_csv
from apixo_nb.analysis.frame import history_frame
from apixo_nb.core.records import Run, new_run
from apixo_nb.core.request import make_request

PROMPTS = (
    "=1+1",
    '=HYPERLINK("https://example.com")',
    "+1",
    "-1",
    "@SUM(A1:A9)",
    "\t=1+1",
    "  =1+1",
    "\uff1d1+1",
    "'=1+1",
    "=cmd|' /C calc'!A0",
    "007",
    "1e5",
    "1:1",
    "1-2",
    "TRUE",
    "12345678901234567890",
    'two\nlines, and a "quote"',
    "日本語 😀",
)


def table() -> pd.DataFrame:
    runs = [a_run(prompt) for prompt in PROMPTS]
    return history_frame(runs, str)


def a_run(prompt: str) -> Run:
    return new_run(make_request(prompt), unit_price_micros=350_000, sandbox=True, note=prompt, name=prompt)


def opened(path: Path, kind: str) -> Path:
    """The file as the spreadsheet saves it again."""
    office = shutil.which("soffice") or shutil.which("libreoffice")
    if office is None:
        pytest.fail("There is no LibreOffice; run `sh tests/install.sh office`.")
    target = path.parent / "again"
    # Comma, double quotes, UTF-8, all columns as they are: what one gets by a double click.
    filters = [] if kind == "csv" else ["--infilter=CSV:44,34,76,1"]
    out = "csv:Text - txt - csv (StarCalc):44,34,76,1" if kind == "csv" else kind
    home = f"-env:UserInstallation={(path.parent / 'profile').as_uri()}"
    command = [office, home, "--headless", *filters, "--convert-to", out, "--outdir", str(target), str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=110)
    [saved] = target.glob(f"*.{kind}")
    return saved


def formulas(workbook: Path) -> int:
    with zipfile.ZipFile(workbook) as file:
        return file.read("xl/worksheets/sheet1.xml").count(b"<f")


def test_no_formula_is_evaluated_and_every_text_comes_back(tmp_path: Path) -> None:
    written = write_excel_csv(table(), tmp_path / "runs.csv")
    workbook = opened(written, "xlsx")
    assert formulas(workbook) == 0
    before, after = read_excel_csv(written), read_excel_csv(opened(workbook, "csv"))
    for column in ("prompt", "note", "name", "aspect_ratio", "run_id"):
        assert list(after[column]) == list(before[column])
    assert list(after["prompt"]) == list(PROMPTS)


def test_exact_csv_is_not_made_for_it(tmp_path: Path) -> None:
    """The other dialect shows that the check can fail."""
    assert formulas(opened(write_csv(table(), tmp_path / "runs.csv"), "xlsx")) > 0
