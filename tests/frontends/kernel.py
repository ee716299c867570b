"""What a kernel has to do with versions, on one kernel each: sessions `oldest`, `pythons`, `kernels`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from apixo_nb.sandbox import Sandbox, SandboxOptions
from tests.support.kernels import Kernel, error_of, kernel

ENDINGS = ("csv", "jsonl", "parquet", "html", "zip")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """One kernel for all tests, against a quick sandbox."""
    folder = tmp_path_factory.mktemp("kernel")
    ours = {
        "APIXO_API_KEY": "test-key",
        "APIXO_FIRST_POLL": "0.05",
        "APIXO_HOME": str(folder / "home"),
        "APIXO_POLL_INTERVAL": "0.05",
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
    }
    with (
        Sandbox(SandboxOptions(seconds=0.1, picture_scale=0.25)) as sandbox,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in [name for name in os.environ if name.startswith("APIXO_")]:
            patch.delenv(name)
        for name, text in (ours | {"APIXO_BASE_URL": sandbox.base_url}).items():
            patch.setenv(name, text)
        with kernel(folder) as started:
            started.run("import apixo_nb")
            yield started


def shown(kernel: Kernel, code: str) -> str:
    """All that a cell put out, which must not be an error."""
    messages = kernel.run(code)
    assert [message for message in messages if message["msg_type"] == "error"] == [], messages
    return str([message["content"] for message in messages])


def test_a_cell_makes_its_pictures(running: Kernel) -> None:
    out = shown(running, "%%apixo --ar 3:2 -n 2 -o fox\na <b>fox</b>")
    assert out.count("data:image/webp") >= 2
    assert running.value("fox.state, len(fox.files)") == "('success', 2)"


def test_a_cell_without_waiting_and_one_that_waits(running: Kernel) -> None:
    shown(running, "%%apixo --bg -o later\na hare")
    shown(running, "%apixo wait")
    assert running.value("later.run.state") == "'success'"


def test_a_coroutine_is_awaited(running: Kernel) -> None:
    shown(running, "owl = await apixo_nb.agenerate('an owl')")
    assert running.value("owl.state") == "'success'"


def test_a_refused_cell_says_so_in_two_lines(running: Kernel) -> None:
    error = error_of(running.run("%%apixo --ar 5:4\nx"))
    assert error["ename"] == "InvalidRequestError"
    assert "Nothing was sent." in error["evalue"]


def test_stop_ends_the_waiting_and_the_task_is_kept(running: Kernel) -> None:
    cell = running.start("%%apixo -o never\n[never] x")
    running.wait_for(cell, "Waiting")
    running.interrupt()
    assert "resume" in str(error_of(running.finish(cell)))
    assert running.value("sorted(set(apixo_nb.history().state))") == "['cancelled', 'success']"


def test_a_sweep_fills_a_grid(running: Kernel) -> None:
    shown(running, "%%apixo --set x=a,b --ar 1:1,3:2 --yes -o swept\n{x} in the sea")
    assert "data:image/webp" in shown(running, "swept.grid(x='x', y='aspect_ratio')")


def test_tables_go_out_and_come_back(running: Kernel, tmp_path: Path) -> None:
    shown(
        running,
        f"import pandas as pd\nfrom apixo_nb.analysis import formats, frame\nroot = {str(tmp_path)!r}",
    )
    shown(running, "\n".join(f"%apixo export {tmp_path}/all.{end}" for end in ENDINGS))
    shown(running, "table = apixo_nb.history()")
    shown(running, "pd.testing.assert_frame_equal(formats.read_csv(f'{root}/all.csv'), table)")
    shown(running, "assert len(pd.read_parquet(f'{root}/all.parquet')) == len(table)")
    shown(running, "table.apixo.to_excel_csv(f'{root}/excel.csv')")
    shown(running, "assert list(formats.read_excel_csv(f'{root}/excel.csv').prompt) == list(table.prompt)")
    assert "data:image/webp" in shown(running, "table.apixo.gallery()")
    assert "image/png" in shown(
        running, "%matplotlib inline\ntable.apixo.plot_cost()\nimport matplotlib.pyplot as plt; plt.show()"
    )


def test_the_panel_is_a_widget(running: Kernel) -> None:
    page = running.run("apixo_nb.panel()", allow_stdin=True)
    assert "vnd.jupyter.widget-view+json" in str([message["content"] for message in page])


def test_the_doctor_finds_nothing(running: Kernel) -> None:
    assert "missing" not in shown(running, "%apixo doctor").replace("nothing is missing", "")


def test_the_kernel_is_the_one_of_this_session(running: Kernel) -> None:
    assert running.value("__import__('ipykernel').__version__") == repr(version("ipykernel"))
