"""Run the quickstart notebook on the sandbox, without a browser, a key or a network: `make demo`.

Everything it makes lands in demo-output/, which is emptied first.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pandas as pd
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "notebooks" / "quickstart.ipynb"
OUTPUT = ROOT / "demo-output"
NOTEBOOK = OUTPUT / "quickstart.ipynb"
PAGE = OUTPUT / "quickstart.html"
TABLE = OUTPUT / "experiments.csv"

CELL_TIMEOUT_S = 300
COLUMNS = ["prompt", "aspect_ratio", "num_images", "state", "costTime", "cost_usd", "sandbox"]

# nbconvert's page without all it would fetch from elsewhere: RequireJS, MathJax, Mermaid, widget manager.
OFFLINE_PAGE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
"""


def main() -> int:
    """Run the demo and say where its results are; the exit code is 1 if a cell failed."""
    _start_afresh()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    try:
        _execute(notebook)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print(
            f"The quickstart notebook failed:\n\n{error}\n\nAs far as it came: {_shown(NOTEBOOK)}",
            file=sys.stderr,
        )
        return 1
    finally:
        nbformat.write(notebook, NOTEBOOK)
    PAGE.write_text(_as_html(notebook), encoding="utf-8")
    _report()
    return 0


def _start_afresh() -> None:
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    shutil.copy(SOURCE, NOTEBOOK)


def _execute(notebook: NotebookNode) -> None:
    # Widgets end with their kernel, so their state would only make the file larger.
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=CELL_TIMEOUT_S,
        store_widget_state=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(OUTPUT)}},
    )
    client.execute(env=_environment_without_key())


def _environment_without_key() -> dict[str, str]:
    """Whatever the notebook does, it finds no key for the real service and nobody's real ledger."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("APIXO_")}
    return kept | {"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}


def _as_html(notebook: NotebookNode) -> str:
    html, _ = HTMLExporter(raw_template=OFFLINE_PAGE).from_notebook_node(
        notebook, resources={"metadata": {"name": "apixo_nb quickstart"}}
    )
    return str(html)


def _report() -> None:
    table = pd.read_csv(TABLE, dtype=str, keep_default_na=False)
    print("The history, one row a run:\n")
    print(table[COLUMNS].to_string(index=False, max_colwidth=48))
    print("\nThe pictures:")
    for picture in _pictures():
        print(f"  {_shown(picture)}")
    print(f"\nThe executed notebook: {_shown(NOTEBOOK)}")
    print(f"The same as a page:    {_shown(PAGE)}")
    print(f"The table:             {_shown(TABLE)}")


def _pictures() -> Iterator[Path]:
    return (path for path in sorted((OUTPUT / "apixo-runs" / "images").rglob("*")) if path.is_file())


def _shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


if __name__ == "__main__":
    sys.exit(main())
