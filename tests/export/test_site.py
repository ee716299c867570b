"""The report of separate files: it opens from the disk, reads what is in sight, finds one in a thousand."""

from __future__ import annotations

import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from playwright.sync_api import Page, expect

from apixo_nb.analysis.pivot import lay_out
from apixo_nb.core.records import Image, Run, utc_now
from apixo_nb.errors import ApixoError
from apixo_nb.export.pages import write_site
from apixo_nb.sandbox import Sandbox
from apixo_nb.storage.originals import Images
from tests.support.accessibility import serious_violations
from tests.support.browser import SCREENSHOTS, OpenHtml, WatchedPage
from tests.support.factories import a_session
from tests.support.hostile import HOSTILE_HTML, Skeleton
from tests.support.sweep_runs import HOOK, chosen, drawn, failed, planned

PAGE_FILES = {"index.html", "site.css", "site.js", "pictures", ".apixo-export.json"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def sweep(folder: Path) -> list[Run]:
    """Three styles in two ratios: stacks, a winner, a rated one, failures, a hole."""
    return [
        drawn(folder, "oil", take=1, name="foxes"),
        chosen(
            drawn(folder, "oil", take=2, count=2, name="foxes"), 1, starred=True, rating=5, note="the one"
        ),
        drawn(folder, "oil", "3:2", name="foxes", prompt="a fox in the evening\nby the sea"),
        chosen(drawn(folder, "ink", name="foxes"), rating=3),
        failed("ink", "3:2", name="foxes"),
        failed("ink", "3:2", name="foxes"),
        drawn(
            folder,
            "cut paper, in the manner of an old book for children, with thick black lines",
            name="foxes",
        ),
    ]


@pytest.fixture
def site(sweep: list[Run], folder: Path, tmp_path: Path) -> Path:
    return write_site(lay_out(sweep), tmp_path / "to send", Images(folder))


def page_of(*runs: Run, tmp_path: Path) -> Skeleton:
    path = write_site(lay_out(runs), tmp_path / "site", Images(tmp_path / "images"))
    return Skeleton(path.read_text("utf-8"))


# --- the files --------------------------------------------------------------------------------------


def test_folder_holds_the_page_previews_and_originals(site: Path, sweep: list[Run], folder: Path):
    assert site.name == "index.html"
    assert {path.name for path in site.parent.iterdir()} == PAGE_FILES
    pictures = {path.name for path in (site.parent / "pictures").iterdir()}
    files = [file for run in sweep for file in run.files]
    assert pictures == {*files, *(f"{Path(file).stem}.small.webp" for file in files)}
    for file in files:
        assert (site.parent / "pictures" / file).read_bytes() == (folder / file).read_bytes()
        with Pillow.open(site.parent / "pictures" / f"{Path(file).stem}.small.webp") as preview:
            assert preview.format == "WEBP"


def test_all_links_lead_to_files_of_the_folder(site: Path):
    page = Skeleton(site.read_text("utf-8"))
    linked = [*page.values["src"], *page.values["href"]]
    assert len(linked) == 2 * 6 + 2
    for link in linked:
        assert (site.parent / link).is_file()


def test_originals_may_stay_at_home(sweep: list[Run], folder: Path, tmp_path: Path):
    path = write_site(lay_out(sweep), tmp_path / "light", Images(folder), originals=False)
    assert all(file.name.endswith(".small.webp") for file in (path.parent / "pictures").iterdir())
    page = Skeleton(path.read_text("utf-8"))
    assert all((path.parent / link).is_file() for link in page.values["href"])


def test_name_of_a_page_puts_the_rest_beside_it(sweep: list[Run], folder: Path, tmp_path: Path):
    path = write_site(lay_out(sweep), tmp_path / "out" / "my foxes.html", Images(folder))
    assert {found.name for found in path.parent.iterdir()} == {"my foxes.html", "my foxes_files"}
    page = Skeleton(path.read_text("utf-8"))
    assert all(source.startswith("my%20foxes_files/") for source in page.values["src"])


def test_newer_report_takes_the_place_of_the_older_one_only(
    site: Path, sweep: list[Run], folder: Path, tmp_path: Path
):
    write_site(lay_out(sweep[:1]), site.parent, Images(folder))
    assert len(list((site.parent / "pictures").iterdir())) == 2
    (site.parent / "mine.txt").write_text("kept", "utf-8")
    with pytest.raises(ApixoError, match="nothing of yours is overwritten") as refused:
        write_site(lay_out(sweep), site.parent, Images(folder))
    assert len(str(refused.value).splitlines()) == 2
    with pytest.raises(ApixoError, match="the originals are kept there"):
        write_site(lay_out(sweep), folder, Images(folder))
    assert (site.parent / "mine.txt").read_text("utf-8") == "kept"
    assert {path.name for path in tmp_path.iterdir()} == {"images", "to send"}


@pytest.mark.parametrize("path", ["", "a\0b", 7, None])
def test_what_is_no_name_is_refused(path: Any, tmp_path: Path):
    with pytest.raises(ApixoError, match="no name of a folder"):
        write_site(lay_out([]), path, Images(tmp_path))


def test_sessions_export_knows_both_kinds(sweep: list[Run], sandbox: Sandbox, tmp_path: Path):
    with a_session(base_url=sandbox.base_url) as session:
        session.images = Images(tmp_path / "images")
        assert session.export(tmp_path / "site", "site", sweep).name == "index.html"
        assert session.write(tmp_path / "all", "site").path == tmp_path / "all" / "index.html"
        assert session.export(tmp_path / "sheet.webp", None, sweep).name == "sheet.webp"


# --- what stands in it ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE_HTML, ids=range(len(HOSTILE_HTML)))
def test_what_people_and_servers_wrote_is_text(text: str, tmp_path: Path):
    def page(words: str) -> Skeleton:
        image = Image(index=0, url=words, error=words, note=words, tags=(words,), format=words, file=words)
        facts: dict[str, Any] = {"name": words, "tags": (words,), "note": words, "fail_msg": words}
        runs = [
            failed(f"s{words}", **facts).replace(prompt=words, image_urls=(words,), run_id=f"x{words}"),
            failed(f"t{words}", "3:2", **facts).replace(images=(image,), state=f"s{words}"),
        ]
        return page_of(*runs, tmp_path=tmp_path)

    hostile, harmless = page(text), page("x" * len(text))
    assert (hostile.elements, hostile.odd) == (harmless.elements, harmless.odd)
    assert text.replace("\r", "\n").replace("\0", "") in hostile.text.replace("\r", "\n").replace("\0", "")


def test_secrets_and_dead_addresses_are_left_out(tmp_path: Path):
    soon, late = utc_now() + timedelta(days=3), utc_now() - timedelta(days=3)

    def lost(url: str, expires: Any) -> Run:
        image = Image(index=0, url=url, error=f"{url} answered 403")
        return planned("oil").replace(
            state="success", task_id="t", images=(image,), result_urls=(url,), expires_at=expires
        )

    signed = "https://me:5ecre7@r2.example/a.png?X-Amz-Signature=5ecre7"
    runs = [
        lost(signed, soon),
        lost("https://r2.example/dead.png", late),
        lost("https://r2.example/live.png", soon),
        failed("ink", callback_url=HOOK, fail_msg=f"Could not call {HOOK}", image_urls=(signed,)),
    ]
    path = write_site(lay_out(runs), tmp_path / "site", Images(tmp_path / "images"))
    html = path.read_text("utf-8")
    assert "5ecre7" not in html
    assert "hooks.example" not in html
    assert [link for link in Skeleton(html).values["href"] if "r2" in link] == ["https://r2.example/live.png"]


def test_files_of_strange_names_stay_within_the_folder(folder: Path, tmp_path: Path):
    run = drawn(folder, "oil")
    strange = run.replace(run_id="../../evil\n<b>")
    stray = drawn(folder / "more", "ink")
    stray = stray.replace(
        images=(stray.images[0].model_copy(update={"file": f"more/{stray.images[0].file}"}),)
    )
    page = page_of(strange, stray, tmp_path=tmp_path)
    [source] = [source for source in page.values["src"] if source != "site.js"]
    assert re.fullmatch(r"pictures/[0-9a-f]{20}-1\.small\.webp", source)
    assert "Its file is gone, or cannot be read" in page.text
    assert {path.name for path in tmp_path.iterdir()} == {"images", "site"}


def test_empty_report_is_a_page_too(tmp_path: Path):
    assert "There are no runs." in page_of(tmp_path=tmp_path).text


# --- in a browser -----------------------------------------------------------------------------------


def shot(opened: WatchedPage, name: str) -> None:
    opened.page.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1600), ("dark", 1600), ("light", 480), ("dark", 480)]
)
def test_page_can_be_used_by_all_and_asks_for_nothing(
    site: Path, open_html: OpenHtml, scheme: Any, width: int
):
    opened = open_html(site, size=(width, 900))
    page = opened.page
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shot(opened, f"site-{scheme}-{width}")
    page.locator("a.look").first.click()
    expect(page.get_by_role("dialog", name="A closer look")).to_be_visible()
    shot(opened, f"site-look-{scheme}-{width}")
    assert (opened.blocked, opened.errors) == ([], [])
    # axe-core asks for the style sheet again, which the page's policy forbids, and the console says so.
    assert serious_violations(page, "dialog") == []
    page.keyboard.press("Escape")
    assert serious_violations(page) == []


@pytest.mark.browser
def test_close_look_shows_the_originals_and_goes_by_key(site: Path, sweep: list[Run], open_html: OpenHtml):
    page = open_html(site).page
    first = page.locator("a.look").first
    first.focus()
    page.keyboard.press("Enter")
    picture = page.locator("#look-picture")
    star = sweep[1].images[1].file
    expect(picture).to_have_attribute("src", re.compile(rf"pictures/{star}$"))
    until(page, "document.getElementById('look-picture').naturalWidth === 96")
    about = page.locator("#look-about")
    assert "the one" in about.inner_text()
    assert "run " + sweep[1].run_id in about.inner_text()
    place = page.locator("#look-place")
    page.keyboard.press("ArrowRight")
    assert place.inner_text() == "2 of 6"
    page.keyboard.press("ArrowDown")
    assert page.locator("#look-title").inner_text() == "style: ink · aspect_ratio: 1:1"
    page.keyboard.press("End")
    assert place.inner_text() == "6 of 6"
    assert "a fox in the evening\nby the sea" in about.inner_text()
    page.keyboard.press("ArrowRight")
    assert place.inner_text() == "6 of 6"
    page.keyboard.press("Home")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert first.evaluate("link => link === document.activeElement")


@pytest.mark.browser
def test_cells_are_found_by_words_state_and_rating(site: Path, open_html: OpenHtml):
    page = open_html(site).page
    found = page.get_by_role("status")

    def cells() -> list[str]:
        shown = page.locator(".cell:not(.out) .strip").evaluate_all("all => all.map(one => one.ariaLabel)")
        return [label.replace("style: ", "").replace(" · aspect_ratio:", "")[:9] for label in shown]

    assert found.inner_text() == "5 cells"
    page.get_by_label("Find").fill("evening SEA")
    assert cells() == ["oil 3:2"]
    assert found.inner_text() == "1 of 5 cells"
    assert not page.get_by_role("rowheader", name="1:1").is_visible()
    assert not page.get_by_role("columnheader", name="ink").is_visible()
    page.get_by_label("Find").fill("nowhere")
    assert page.get_by_text("No cell is like that.").is_visible()
    page.get_by_role("button", name="Clear").click()
    expect(found).to_have_text("5 cells")
    page.get_by_label("State").select_option("failed")
    assert cells() == ["ink 3:2"]
    page.get_by_label("State").select_option("")
    page.get_by_label("Rating").select_option("3")
    assert cells() == ["oil 1:1", "ink 1:1"]
    page.get_by_label("Rating").select_option("star")
    assert cells() == ["oil 1:1"]
    page.locator("a.look").first.click()
    assert page.locator("#look-place").inner_text() == "1 of 3"


@pytest.mark.browser
def test_page_without_script_is_all_there(site: Path, open_html: OpenHtml, tmp_path: Path):
    copied = tmp_path / "moved"
    shutil.copytree(site.parent, copied)
    (copied / "site.js").unlink()
    page = open_html(copied / "index.html").page
    assert page.locator("img[alt*='a fox']").count() == 6
    assert not page.get_by_label("Find").is_visible()
    page.get_by_text("Prompt and facts").first.click()
    assert page.get_by_text("run 2").first.is_visible()
    page.locator("a.look").first.click()
    page.wait_for_url("**/pictures/*.png")


# --- a thousand cells -------------------------------------------------------------------------------


@pytest.fixture
def thousand(folder: Path) -> list[Run]:
    """40 x 25 cells, cheaply: their pictures are copies of one, each a file of its own."""
    first = drawn(folder, "style 0")
    runs = []
    for row in range(40):
        for column in range(25):
            run = planned(f"style {row}", lens=f"{column} mm")
            file = f"{run.run_id}-1.png"
            shutil.copyfile(folder / first.files[0], folder / file)
            image = first.images[0].model_copy(update={"file": file})
            facts: dict[str, Any] = {"state": "success", "task_id": "t", "cost_micros": 350_000}
            runs.append(run.replace(images=(image,), result_urls=("https://r2.example/a",), **facts))
    return runs


_READ = "Array.from(document.images).filter(image => image.naturalWidth > 0).length"
_IN_SIGHT = """Array.from(document.querySelectorAll(".cell img")).filter(image => {
    const box = image.getBoundingClientRect();
    return box.bottom > 0 && box.right > 0 && box.top < innerHeight && box.left < innerWidth;
})"""


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("axes", [{"x": "lens", "y": "style"}, {"x": "run"}], ids=["table", "list"])
def test_thousand_cells_read_only_what_is_in_sight(
    axes: dict[str, str], thousand: list[Run], folder: Path, open_html: OpenHtml, tmp_path: Path
):
    if axes == {"x": "run"}:
        thousand = [run.replace(variables={"run": run.run_id}) for run in thousand]
    site = write_site(lay_out(thousand, **axes), tmp_path / "site", Images(folder))
    assert site.stat().st_size < 3_000_000
    opened = open_html(site, size=(1600, 900))
    page = opened.page
    in_sight_is_read(page)
    assert page.evaluate(_READ) < 300
    last = page.locator(".cell").last
    last.scroll_into_view_if_needed()
    in_sight_is_read(page)
    assert last.locator("img").evaluate("image => image.naturalWidth") == 96
    assert page.evaluate(_READ) < 600
    shot(opened, f"site-thousand-{next(iter(axes.values()))}")
    page.get_by_label("Find").fill(thousand[777].run_id)
    expect(page.get_by_role("status")).to_have_text("1 of 1000 cells")
    in_sight_is_read(page)
    assert (opened.blocked, opened.errors) == ([], [])


def in_sight_is_read(page: Page) -> None:
    until(page, f"(seen => seen.length && seen.every(image => image.naturalWidth))({_IN_SIGHT})")


def until(page: Page, condition: str) -> None:
    """Wait for a condition; the page's policy forbids the script by which Playwright waits."""
    page.evaluate(f"async () => {{ while (!({condition})) await new Promise(requestAnimationFrame); }}")
