"""How much a picture adds to the ``.ipynb``: ours, and the other ways to show the very same file.

Each way is a notebook of its own, run headless in a real kernel. Ours buys its pictures from a sandbox; the
others show the originals it stored. Weight is what the file grows by from its outputs and its widget state.

Two sorts of pictures, 1024 pixels square: the sandbox's drawings, and made-up photographs of leaf-like discs
in all sizes with texture and grain, as drawings compress far better. The latter are set so that they weigh
what real photographs do: eight (of scikit-image, scikit-learn and matplotlib) take 21 kB on average as a WebP
of 384 pixels at quality 80, and so do these.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import nbformat
import numpy as np
from nbclient import NotebookClient
from PIL import Image, ImageDraw

from apixo_nb.sandbox import Sandbox, SandboxOptions
from apixo_nb.sandbox.pictures import Sketch, draw
from apixo_nb.storage.originals import THUMBNAIL_PX
from tests.benchmarks.kernels import environment
from tests.benchmarks.table import Table
from tests.support.kernels import PATIENCE_S

SIDE = 1024
_SMALLEST = 22  # radius of the smallest leaf
_LEAVES = 1500  # enough to leave no ground bare


@dataclass(frozen=True, slots=True)
class Way:
    """A way to show a picture.

    Attributes
    ----------
    peer : str
        What it is called in the table.
    start : str
        Its first cell; `FILES` is the list of the originals.
    cell : str
        A cell for each picture, with ``{number}``.
    note : str
    """

    peer: str
    start: str
    cell: str
    note: str = ""


_AI = """
from langchain.chains import LLMChain
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.prompts import PromptTemplate
import base64
answers = ["image/png;base64," + base64.b64encode(open(file, "rb").read()).decode() for file in FILES]
chain = LLMChain(llm=FakeListLLM(responses=answers), prompt=PromptTemplate.from_template("{input}"))
%load_ext jupyter_ai_magics
%ai register painter chain
"""

WAYS = (
    Way(
        "Image(data=PNG)",
        "from IPython.display import Image",
        "Image(data=open(FILES[{number}], 'rb').read(), width=384)",
    ),
    Way(
        "Image(filename=PNG)",
        "from IPython.display import Image",
        "Image(filename=FILES[{number}], embed=True, width=384)",
    ),
    Way(
        "ipywidgets.Image",
        "import ipywidgets",
        "ipywidgets.Image(value=open(FILES[{number}], 'rb').read(), width=384)",
        "with its widget state",
    ),
    Way(
        "jupyter_ai_magics",
        _AI,
        "%%ai painter -f image\na fox, number {number}",
        "its magic, no real model",
    ),
    Way(
        "Pillow, small by hand",
        "from PIL import Image",
        "image = Image.open(FILES[{number}])\nimage.thumbnail((384, 384))\nimage",
        "384 pixels, as Jupyter shows a Pillow image: PNG",
    ),
)


def photograph(seed: int) -> bytes:
    """A made-up photograph as a PNG: discs of all sizes that hide each other, with texture and grain."""
    chance = np.random.default_rng(seed)
    scene = Image.new("RGB", (SIDE, SIDE))
    pen = ImageDraw.Draw(scene)
    for _ in range(_LEAVES):
        x, y = chance.uniform(0, SIDE, 2)
        radius = min(_SMALLEST / np.sqrt(chance.uniform(1e-3, 1)), SIDE / 3)
        shade = np.clip(chance.uniform(20, 235) + chance.normal(0, 25, 3), 0, 255).astype(int)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(shade[0], shade[1], shade[2]))
    pitch = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    pitch[0, 0] = 1
    texture = np.fft.irfft2(np.exp(2j * np.pi * chance.random(pitch.shape)) / pitch**1.2, s=(SIDE, SIDE))
    light = np.asarray(scene, float) + 10 * (texture / texture.std())[..., None]
    light += chance.normal(0, 2, light.shape)
    buffer = io.BytesIO()
    Image.fromarray(light.clip(0, 255).astype("uint8")).save(buffer, "PNG")
    return buffer.getvalue()


def _as_photograph(sketch: Sketch) -> bytes:
    return photograph(int(sketch.token, 16) % 2**32 + sketch.index)


@contextmanager
def service(paint: Callable[[Sketch], bytes], folder: Path) -> Iterator[Sandbox]:
    """A sandbox whose pictures `paint` makes, and kernels that find it, with their folders in `folder`."""
    with (
        patch("apixo_nb.sandbox.pictures.draw", paint),
        Sandbox(SandboxOptions(seconds=0.2)) as running,
        patch.dict(
            os.environ,
            environment(
                folder,
                APIXO_BASE_URL=running.base_url,
                APIXO_API_KEY="test-key",
                APIXO_FIRST_POLL="0.2",
                APIXO_POLL_INTERVAL="0.2",
            ),
        ),
    ):
        yield running


def grown(cells: list[str], folder: Path) -> int:
    """Bytes that a notebook's file grows by when it is run in `folder`."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    before = _size(notebook)
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, resources=resources, timeout=PATIENCE_S, store_widget_state=True)
    with Path(os.devnull).open("w") as nowhere:
        client.execute(stderr=nowhere)
    for cell in notebook.cells[1:]:
        if "image" not in str(cell.outputs).lower():
            raise AssertionError(f"no picture came of {cell.source!r}: {cell.outputs}")
    # What every executed notebook gets, pictures or not.
    notebook.metadata = {"widgets": notebook.metadata.get("widgets", {})}
    for cell in notebook.cells:
        cell.metadata = {}
    return _size(notebook) - before


def _size(notebook: nbformat.NotebookNode) -> int:
    return len(nbformat.writes(notebook).encode())


def weigh(table: Table, sort: str, paint: Callable[[Sketch], bytes], count: int) -> dict[str, float]:
    """Add the lines of one sort of picture; returns kB per picture by way, and those of the files."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, service(paint, Path(name)):
        folder = Path(name)
        bought = [f"%%apixo\na fox in the snow, number {number}" for number in range(count)]
        weights = {"ours": grown(["%load_ext apixo_nb", *bought], folder) / count / 1000}
        files = sorted((folder / "apixo" / "images").glob("*.png"))
        if len(files) != count:
            raise AssertionError(f"{len(files)} pictures of {count} are on the disk")
        weights["original"] = statistics.mean(file.stat().st_size for file in files) / 1000
        for way in WAYS:
            start = f"FILES = {[str(file) for file in files]}\n{way.start}"
            cells = [start, *(way.cell.format(number=number) for number in range(count))]
            weights[way.peer] = grown(cells, folder) / count / 1000
            note = f"{way.note}; the PNG has {weights['original']:,.0f} kB".lstrip("; ")
            table.add(
                f"one {sort} in the notebook",
                way.peer,
                theirs=weights[way.peer],
                ours=weights["ours"],
                unit="kB",
                note=note,
            )
    return weights


def main() -> None:
    """Measure, print, and keep the weights."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.weight", description=__doc__)
    parser.add_argument("--pictures", type=int, default=8, help="of each sort (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one picture of each sort, to see that it works")
    asked = parser.parse_args()
    count = 1 if asked.quick else asked.pictures
    table = Table("weight", ("ipywidgets", "jupyter_ai_magics", "nbclient", "pillow"))
    weights = {
        "drawing": weigh(table, "drawing", draw, count),
        "photograph": weigh(table, "photograph", _as_photograph, count),
    }
    table.write(pictures=count, thumbnail_px=THUMBNAIL_PX, kilobytes=weights)


if __name__ == "__main__":
    main()
