"""df.apixo: whatever rows somebody has before them, it is about those, and buys only when it says so."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import apixo_nb
from apixo_nb.analysis import formats
from apixo_nb.analysis import formats as frame
from apixo_nb.core.records import Image, Run
from apixo_nb.errors import ApixoError, BudgetError, ConfigurationError, CostLimitError, InvalidRequestError
from apixo_nb.experiments.accessor import Table, register
from apixo_nb.experiments.review import choose
from apixo_nb.sandbox import Sandbox
from apixo_nb.session.session import Session, current
from tests.support.factories import a_run, a_session
from tests.support.hostile import HOSTILE_HTML, Skeleton

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
WEBP = "data:image/webp;base64,"


@pytest.fixture(autouse=True)
def known() -> None:
    """As whatever gives a table to a person does."""
    register()


@pytest.fixture
def session(service: Sandbox) -> Session:
    """The shared one."""
    assert service.base_url
    return current()


@pytest.fixture
def runs(session: Session) -> list[Run]:
    """Two runs with pictures, and one that failed."""
    fox = session.begin("a red fox", num_images=2, tags=["draft", "client"], name="foxes").wait()
    cat = session.begin("a grey cat", aspect_ratio="3:2", tags=["draft"]).wait()
    with pytest.raises(ApixoError):
        session.begin("a dog [fail:SensitiveContent]").wait()
    return [fox, cat, session.runs()[-1]]


def history(**asked: Any) -> Any:
    """As that of the package; type checkers do not know what stands in `df.apixo`."""
    return apixo_nb.history(**asked)


def images(**asked: Any) -> Any:
    """As `history`."""
    return apixo_nb.images(**asked)


def kept(session: Session, *runs: Run) -> Any:
    """The table of a ledger that holds these."""
    assert all(session.ledger.insert(run) for run in runs)
    return session.history()


def a_success(**changes: Any) -> Run:
    facts: dict[str, Any] = {"state": "success", "task_id": "t", "cost_micros": 350_000, "created_at": NOON}
    facts |= {"result_urls": ("https://p.example/1.png",), "cost_time_ms": 30_000}
    return a_run().replace(**{**facts, "images": (Image(index=0, url="https://p.example/1.png"),), **changes})


# --- which tables, which runs ---


@pytest.mark.usefixtures("runs")
def test_it_is_there_on_any_part_of_a_table_of_runs():
    table = history()
    parts = [table, table[table["state"] == "success"], table.tail(1), table.sort_values("prompt")]
    parts += [table[["run_id"]], table.set_index("run_id"), table.drop(columns="prompt").assign(mine=1)]
    parts += [images(), images().merge(table, on="run_id", suffixes=("", "_run"))]
    for part in parts:
        ids = part.reset_index()["run_id"]
        assert [run.run_id for run in part.apixo.runs()] == list(dict.fromkeys(ids))


def test_rows_of_nothing_are_no_runs(runs: list[Run]):
    table: Any = pd.DataFrame({"run_id": [runs[0].run_id, None, runs[0].run_id]})
    assert [run.run_id for run in table.apixo.runs()] == [runs[0].run_id]
    assert history(text="nothing of the kind").apixo.runs() == []


@pytest.mark.parametrize("columns", [[], ["prompt"], ["run_id", "run_id"]])
def test_other_tables_say_what_it_is_for(columns: list[str]):
    table: Any = pd.DataFrame([["x"] * len(columns)], columns=columns)
    with pytest.raises(AttributeError, match="tables of runs and pictures"):
        _ = table.apixo
    assert not hasattr(table, "apixo")


def test_runs_are_asked_of_the_ledger_as_they_are_now(runs: list[Run], session: Session):
    table = history()
    choose(session, runs[0].run_id, 0, rating=4)
    assert table.apixo.runs()[0].rating == 4


@pytest.mark.usefixtures("runs")
def test_runs_of_another_ledger_are_named_and_can_be_asked_there(service: Sandbox, tmp_path: Path):
    with contextlib.closing(a_session(base_url=service.base_url, home=str(tmp_path / "other"))) as other:
        made = other.begin("elsewhere").wait()
        table = other.history()
        with pytest.raises(ApixoError, match="1 of these 1 runs are not in this ledger") as refused:
            table.apixo.runs()
        assert "of(session)" in str(refused.value)
        assert [run.run_id for run in table.apixo.of(other).runs()] == [made.run_id]
        assert table.apixo.of(other).gallery().html.count(WEBP) == 1


def fresh(script: str) -> list[str]:
    """The words that a new interpreter prints, of which nobody has asked a table yet."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_it_is_registered_once_however_often_its_module_is_loaded():
    script = """
import importlib, warnings
import pandas
from apixo_nb.experiments import accessor
table = lambda: pandas.DataFrame(columns=["run_id"])
warnings.simplefilter("error")
before = hasattr(table(), "apixo")
accessor.register()
accessor.register()
old = accessor.Table
importlib.reload(accessor)
accessor.register()
print(before, type(table().apixo) is accessor.Table, accessor.Table is not old)
"""
    assert fresh(script) == ["False", "True", "True"]


@pytest.mark.parametrize(
    "table",
    [
        "apixo_nb.history()",
        "apixo_nb.images()",
        "apixo_nb.sweep('a {what}', what=['fox', 'cat'], dry_run=True).frame()",
        "shell.run_line_magic('apixo', 'history')",
    ],
)
@pytest.mark.usefixtures("service")
def test_first_table_of_a_kernel_has_it_wherever_it_comes_from(table: str):
    script = f"""
import apixo_nb
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "apixo_nb")
print(type(({table}).apixo).__name__)
"""
    assert fresh(script) == ["Table"]


@pytest.mark.usefixtures("service")
def test_tables_of_a_session_are_plain():
    script = "from apixo_nb.session.session import current; print(hasattr(current().history(), 'apixo'))"
    assert fresh(script) == ["False"]


# --- to look at ---


@pytest.mark.usefixtures("runs")
def test_gallery_shows_every_picture_and_why_there_is_none():
    shown = history().apixo.gallery()
    assert shown.html.count(WEBP) == 3
    assert "3 pictures of 3 runs" in shown.text
    assert "SensitiveContent" in Skeleton(shown.html).text


def test_gallery_of_pictures_shows_those_pictures(runs: list[Run], session: Session):
    choose(session, runs[0].run_id, 1, starred=True)
    pictures = images()
    html = pictures[pictures["starred"]].apixo.gallery().html
    assert html.count(WEBP) == 1
    assert "Picture 2 of 2" in html
    assert "★" in html


@pytest.mark.usefixtures("runs")
def test_index_made_a_column_does_not_turn_runs_into_pictures():
    assert history().reset_index().apixo.gallery().html.count(WEBP) == 3


@pytest.mark.usefixtures("runs")
def test_gallery_is_light_and_says_what_it_leaves_out():
    shown = history().apixo.gallery(limit=2)
    assert shown.html.count(WEBP) == 2
    assert "1 more with gallery(limit=...)" in shown.text
    assert len(shown.html) < 2 * 9_000


@pytest.mark.usefixtures("runs")
def test_thumbs_show_a_picture_a_row_beside_the_brief_and_own_columns():
    table = history().assign(mine=["x", "y", "z"])
    shown = table.apixo.thumbs()
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", shown.html.partition("<tbody>")[0])
    brief = ["created_at", "prompt", "aspect_ratio", "state", "cost_usd", "rating"]
    assert heads == ["", "picture", *brief, "mine"]
    assert shown.html.count(WEBP) == 2
    assert "+1" in Skeleton(shown.html).text
    assert {"a red fox", "y", "$0.70"} <= set(re.findall(r"<td[^>]*>([^<]*)</td>", shown.html))


@pytest.mark.usefixtures("runs")
def test_thumbs_of_chosen_columns_and_so_many_rows():
    shown = history().apixo.thumbs(columns=["tags", "variables"], limit=1)
    assert "draft, client" in shown.html
    assert "a grey cat" not in shown.html
    assert "2 more rows" in shown.html


def test_thumbs_weigh_some_three_kilobytes_a_row(session: Session, runs: list[Run]):
    from PIL import Image as Pillow

    noise = Pillow.effect_noise((1024, 1024), 90).convert("RGB")
    noise.save(session.images.path(runs[1].images[0]))
    table = history()
    rows: Any = pd.concat([table.iloc[[1]]] * 50)
    assert len(rows.apixo.thumbs(limit=50).html) / 50 < 4_500
    assert len(table.iloc[[0]].apixo.thumbs().html) < 4_000


@pytest.mark.parametrize("text", HOSTILE_HTML, ids=range(len(HOSTILE_HTML)))
def test_texts_labels_and_headers_are_shown_as_text(text: str, session: Session):
    table = kept(session, a_success().replace(prompt=text, name=text, fail_msg=text, tags=(text,)))
    table = table.assign(**{text: [text], "lists": [[text]], "dicts": [{text: text}]})
    table.index = pd.Index([text], name=text)
    for shown in (
        table.apixo.thumbs(),
        table.apixo.thumbs(columns=list(table.columns)),
        table.apixo.gallery(),
    ):
        page = Skeleton(shown.html)
        assert {name for name, _ in page.elements if not name.startswith("/")} <= {
            *("div", "table", "thead", "tbody", "tr", "th", "td", "a", "img", "b")
        }
        used = {name for _, names in page.elements for name in names}
        assert used <= {"class", "style", "href", "target", "rel", "title", "src", "alt", "width", "height"}


@pytest.mark.parametrize("columns", [["nothing"], [3], ["prompt", "twice"]])
@pytest.mark.usefixtures("runs")
def test_columns_that_are_not_there_are_named(columns: list[Any]):
    table = history().assign(twice=1)
    table = pd.concat([table, table[["twice"]]], axis=1)
    with pytest.raises(InvalidRequestError, match="not one column"):
        table.apixo.thumbs(columns=columns)


def test_rows_are_compared_side_by_side(runs: list[Run]):
    table = history()
    expected = apixo_nb.compare(runs[0], runs[1]).html
    assert table.head(2).apixo.compare().html == expected
    assert table.head(2).set_index("run_id").apixo.compare().html == expected
    assert images().head(2).apixo.compare().html.count(WEBP) == 2
    with pytest.raises(InvalidRequestError, match="1 rows cannot be compared"):
        table.head(1).apixo.compare()


@pytest.mark.usefixtures("runs")
def test_shown_things_are_html_in_a_notebook_and_text_elsewhere():
    shown = history().apixo.gallery()
    assert set(shown._repr_mimebundle_()) == {"text/html", "text/plain"}
    assert repr(shown) == shown.text
    assert "<" not in shown.text


# --- figures ---


def test_spend_by_tag_day_state_axis_and_column(runs: list[Run]):
    table = history().assign(mine=["x", "x", "y"])

    def by(name: str) -> dict[str, float]:
        found = table.apixo.spend(by=name)
        return dict(zip(found[name], found["spent_usd"], strict=True))

    assert by("tag") == {"(no tag)": 0, "client": 0.7, "draft": 1.05}
    assert by("state") == {"failed": 0, "success": 1.05}
    assert by("aspect_ratio") == {"1:1": 0.7, "3:2": 0.35}
    assert by("mine") == {"x": 1.05, "y": 0}
    assert by("run_id") == {runs[0].run_id: 0.7, runs[1].run_id: 0.35, runs[2].run_id: 0}
    assert by("day") == {f"{runs[0].created_at.astimezone():%Y-%m-%d}": 1.05}
    with pytest.raises(InvalidRequestError):
        by("nothing")


@pytest.mark.usefixtures("runs")
def test_spend_of_pictures_counts_each_run_once():
    assert images().apixo.spend(by="state")["spent_usd"].tolist() == [1.05]
    shares = images()["cost_usd"]
    assert shares.tolist() == [0.35, 0.35, 0.35]


@pytest.mark.usefixtures("runs")
def test_summary_is_of_these_rows():
    found = history(tag="draft").apixo.summary(by="aspect_ratio")
    assert found["runs"].tolist() == [1, 1]
    assert found["pictures"].tolist() == [2, 1]


def test_plots_are_drawn_with_axes_and_words(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    plt = pytest.importorskip("matplotlib.pyplot")
    styles = ("oil", "ink", "a price: $5 and $6_x")
    table = kept(
        session,
        *(
            a_success(
                created_at=NOON + timedelta(hours=n), variables={"style": styles[n % 3]}, cost_time_ms=ms
            )
            for n, ms in enumerate((20_000, 30_000, 45_000, None))
        ),
    )
    try:
        cost = table.apixo.plot_cost()
        assert (cost.get_ylabel(), cost.get_ylim()[0]) == ("US dollars", 0)
        assert [text.get_text() for text in cost.texts] == ["$1.40"]
        time = table.apixo.plot_time()
        assert "median 30.0 s" in [text.get_text() for text in time.get_legend().get_texts()]
        grouped = table.apixo.plot_time(by="style")
        assert [label.get_text() for label in grouped.get_yticklabels()] == [
            "oil (2)",
            "ink (1)",
            "a price: $5 and $6_x (1)",
        ]
        _, own = plt.subplots()
        assert table.apixo.plot_cost(ax=own) is own
        assert table.head(0).apixo.plot_cost().texts[-1].get_text() == "nothing to draw yet"
        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
    finally:
        plt.close("all")


def test_plot_without_matplotlib_says_how_to_install_it(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ApixoError, match=r"apixo-nb\[plot\]"):
        kept(session, a_success()).apixo.plot_cost()


def test_nobody_waits_for_matplotlib_before_the_first_plot():
    script = "import apixo_nb.experiments.accessor, sys; print('matplotlib' in sys.modules)"
    assert fresh(script) == ["False"]


# --- again ---


def posts(service: Sandbox) -> int:
    return len(service.account.accepted)


def test_rerun_buys_the_request_of_the_row_once_more_and_says_what_it_costs(
    runs: list[Run], service: Sandbox, capsys: pytest.CaptureFixture[str]
):
    table, before = history(), posts(service)
    again = table.apixo.rerun(0)
    assert posts(service) == before + 1
    assert (again.request, again.digest) == (runs[0].request, runs[0].digest)
    assert again.run_id != runs[0].run_id
    assert (again.take, again.tags, again.name) == (2, ("draft", "client"), "foxes")
    assert "1 task, 2 pictures, $0.70" in capsys.readouterr().out


@pytest.mark.usefixtures("runs")
def test_rerun_takes_a_position_also_from_the_end_and_of_a_part():
    table = history()
    assert table[table["state"] == "success"].apixo.rerun(-1).prompt == "a grey cat"
    assert images().apixo.rerun(2).prompt == "a grey cat"


@pytest.mark.parametrize("i", [3, -4, "0", 1.0, None, True])
@pytest.mark.usefixtures("runs")
def test_rerun_of_no_row_sends_nothing(i: Any, service: Sandbox):
    before = posts(service)
    with pytest.raises(InvalidRequestError):
        history().apixo.rerun(i)
    assert posts(service) == before


@pytest.mark.usefixtures("runs")
def test_rerun_keeps_to_limits_and_budgets(service: Sandbox, session: Session):
    table, before = history(), posts(service)
    with pytest.raises(CostLimitError):
        table.apixo.rerun(0, max_cost_usd=0.5)
    session.ledger.set_budget("total", sandbox=True, limit_micros=1_100_000)
    with pytest.raises(BudgetError):
        table.apixo.rerun(0)
    assert posts(service) == before
    assert len(session.runs()) == 3


def test_rerun_keeps_template_and_variables(session: Session):
    stored = a_success(prompt_template="a {what}", variables={"what": "fox"}).replace(note="a note")
    again = kept(session, stored).apixo.rerun(0)
    assert (again.prompt_template, again.variables, again.note) == ("a {what}", {"what": "fox"}, "a note")


def test_rerun_never_pays_for_what_was_made_in_the_sandbox():
    with contextlib.closing(a_session(base_url="https://api.apixo.ai/api/v1")) as paying:
        table = kept(paying, a_success())
        with pytest.raises(ConfigurationError, match="made in the sandbox"):
            table.apixo.of(paying).rerun(0)


# --- to files ---


@pytest.mark.usefixtures("runs")
def test_files_hold_the_rows_before_one_with_own_columns(tmp_path: Path):
    table = history(state="success").assign(mine=[1, 2])
    read = pd.read_csv(table.apixo.to_csv(tmp_path / "a.csv"))
    assert read["mine"].tolist() == [1, 2]
    assert pd.read_csv(table.apixo.to_excel_csv(tmp_path / "b.csv"))["mine"].tolist() == [1, 2]
    lines = table.apixo.to_jsonl(tmp_path / "c.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["mine"] for line in lines] == [1, 2]
    assert pd.read_parquet(table.apixo.to_parquet(tmp_path / "d.parquet"))["mine"].tolist() == [1, 2]


def test_pictures_come_back_from_every_file_as_they_were(runs: list[Run], session: Session, tmp_path: Path):
    choose(session, runs[0].run_id, 0, rating=3, tags=["=1+1", "x"], note="007")
    kept(session, a_success(name="no picture yet", images=(), result_urls=("https://p.example/9.png",)))
    for table in (images(), images(text="nothing of the kind")):
        assert_frame_equal(frame.read_csv(table.apixo.to_csv(tmp_path / "a.csv")), table)
        assert_frame_equal(formats.read_excel_csv(table.apixo.to_excel_csv(tmp_path / "b.csv")), table)
        assert_frame_equal(formats.read_parquet(table.apixo.to_parquet(tmp_path / "d.parquet")), table)
    table = images()
    assert_frame_equal(formats.read_jsonl(table.apixo.to_jsonl(tmp_path / "c.jsonl")), table)


@pytest.mark.usefixtures("runs")
def test_report_is_of_these_rows(tmp_path: Path):
    page = history(state="success").apixo.report(tmp_path / "runs.html").read_text("utf-8")
    assert "a red fox" in page
    assert "SensitiveContent" not in page


@pytest.mark.usefixtures("runs")
def test_it_shows_what_it_is():
    assert repr(images().apixo) == "<df.apixo: 3 rows of 2 runs>"
    assert isinstance(history().apixo, Table)


@pytest.mark.usefixtures("runs")
def test_grid_is_of_these_rows():
    pytest.importorskip("apixo_nb.experiments.review")
    shown = history().apixo.grid(x="aspect_ratio")
    assert "text/html" in shown._repr_mimebundle_()
