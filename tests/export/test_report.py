"""The report: one page that tells all, asks for nothing, and says nothing that is nobody else's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from apixo_nb.core.records import Image, Run, new_run
from apixo_nb.core.request import make_request
from apixo_nb.errors import ApixoError
from apixo_nb.export import pages
from apixo_nb.sandbox import Sandbox
from apixo_nb.session.session import Session
from apixo_nb.storage.originals import Images
from tests.support.browser import SCREENSHOTS, OpenHtml, WatchedPage
from tests.support.factories import a_session
from tests.support.hostile import HOSTILE_HTML, Skeleton

NOON = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
SECRET = "X-Amz-Signature=5ecre7"
HOOK = "https://hooks.example/apixo/5ecre7?token=5ecre7"

CAFE = "a cozy cyberpunk cafe with {mood} neon lights, rain on the window, a cat asleep on the counter"


def a_run(prompt: str = "a fox", *, ratio: str = "1:1", count: int = 1, **changes: Any) -> Run:
    request = make_request(prompt, aspect_ratio=ratio, num_images=count)
    run = new_run(request, unit_price_micros=350_000, sandbox=False)
    return run.replace(created_at=NOON, **changes)


def a_success(prompt: str = "a fox", **changes: Any) -> Run:
    times: dict[str, Any] = {
        "expires_at": NOON + timedelta(days=15),
        "cost_time_ms": 30_123,
        "wait_ms": 31_000,
    }
    known: dict[str, Any] = {"state": "success", "task_id": "task_1", "cost_micros": 350_000, "take": 1}
    return a_run(prompt, **{**times, **known, **changes})


@pytest.fixture
def session(sandbox: Sandbox) -> Iterator[Session]:
    with contextlib.closing(a_session(base_url=sandbox.base_url)) as made:
        yield made


@pytest.fixture
def gallery(session: Session) -> list[Run]:
    """A ledger's worth of runs, with real pictures: what people have after an afternoon."""

    def draw(prompt: str, ratio: str, count: int, **changes: Any) -> Run:
        run = session.begin(prompt, aspect_ratio=ratio, num_images=count).wait()
        return run.replace(created_at=NOON, run_id=f"20261123-1200{count:02}-{run.run_id[-8:]}", **changes)

    variables = {"mood": "violet", "weather": "rain at dusk"}
    labels: dict[str, Any] = {"name": "cafes", "tags": ("draft", "client A", "夜"), "rating": 4}
    reference = "https://cdn.example/in/sketch.png"
    cafe = draw(CAFE.format(mood="violet"), "3:2", 2, prompt_template=CAFE, variables=variables, **labels)
    chosen = cafe.images[0].model_copy(update={"rating": 4, "starred": True, "note": "the light is right"})
    fox = draw("a red fox in fresh snow, morning light", "1:1", 1)
    four = draw("ein Papierboot auf einer Pfütze\n\nAquarell, viel Weiß", "2:3", 4)
    long = draw("\n".join(f"{n}. a shelf with {n} books, spines in order" for n in range(1, 120)), "1:1", 1)
    return [
        cafe.replace(
            images=(chosen, *cafe.images[1:]),
            image_urls=(reference, f"{reference}?{SECRET}"),
            note="Second round.\nAsk about the sign.",
        ),
        fox,
        four.replace(sandbox=False),
        a_run("狐と雪、浮世絵風。ثعلب في الثلج", state="processing", task_id="task_2"),
        a_run(
            "[fail] something dreadful",
            state="failed",
            fail_code="SensitiveContent",
            cost_micros=0,
            task_id="t",
        ).replace(fail_msg="The prompt was refused by the provider's content filter."),
        a_run(
            HOSTILE_HTML[0],
            state="unknown",
            name=HOSTILE_HTML[1],
            tags=(HOSTILE_HTML[2],),
            note=HOSTILE_HTML[3],
        ),
        long,
        lost_picture(),
    ]


def lost_picture() -> Run:
    urls = tuple(f"https://r2.example/{n}.png?{SECRET}" for n in (1, 2, 3))
    error = f"{urls[1]} answered 403"
    images = (Image(index=0, url=urls[0], file="gone.png"), Image(index=1, url=urls[1], error=error))
    return a_success("a picture that was lost", count=4, result_urls=urls, images=images)


def page_of(*runs: Run, folder: Path) -> str:
    path = pages.write_report(runs, folder / "report.html", Images(folder / "images"))
    return path.read_text("utf-8")


# --- in a browser -----------------------------------------------------------------------------------


@pytest.fixture
def shown(gallery: list[Run], session: Session, tmp_path: Path) -> Path:
    folder = tmp_path / "to send"
    return session.export(folder / "report.html", runs=gallery)


@pytest.mark.browser
@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1600), ("dark", 1280), ("light", 480), ("dark", 480)]
)
def test_page_can_be_read_and_asks_for_nothing(shown: Path, open_html: OpenHtml, scheme: Any, width: int):
    opened = open_html(shown, size=(width, 900))
    opened.page.emulate_media(color_scheme=scheme)
    picture_of(opened, f"report-{scheme}-{width}")
    assert opened.page.locator("article").count() == 8
    assert opened.page.locator("img").count() == 8
    assert all(natural_widths(opened))
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert (opened.blocked, opened.errors) == ([], [])


# Pictures far below are loaded when somebody scrolls there; until then, they are never decoded.
_DECODE = """Promise.all(Array.from(document.images, image => {
    image.loading = 'eager';
    return image.decode();
}))"""


def picture_of(opened: WatchedPage, name: str) -> None:
    """A screenshot; the page's policy forbids the script by which `WatchedPage.screenshot` waits."""
    opened.page.evaluate(_DECODE)
    opened.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True, animations="disabled")


def natural_widths(opened: WatchedPage) -> list[int]:
    return list(opened.page.evaluate("Array.from(document.images, image => image.naturalWidth)"))


@pytest.mark.browser
def test_picture_leads_to_its_original(
    shown: Path, open_html: OpenHtml, gallery: list[Run], session: Session
):
    opened = open_html(shown)
    opened.page.get_by_role("link", name="Picture 1 of 2").click()
    opened.page.wait_for_url("**/*.png")
    assert unquote(opened.page.url) == session.images.path(gallery[0].images[0]).as_uri()
    assert natural_widths(opened) == [384]


@pytest.mark.browser
def test_page_can_be_read_with_keys_and_ears(shown: Path, open_html: OpenHtml):
    page = open_html(shown).page
    assert page.locator("h1").all_inner_texts() == ["Pictures and their prompts"]
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.get_by_role("article", name="Run 1 · cafes").count() == 1
    assert page.get_by_role("list", name="Pictures of run 3").get_by_role("listitem").count() == 4
    long = page.get_by_role("group", name="Prompt of run 7")
    long.focus()
    page.keyboard.press("End")
    assert long.evaluate("element => element === document.activeElement")
    assert long.inner_text().endswith("119. a shelf with 119 books, spines in order")


@pytest.mark.browser
def test_paper_is_light_and_holds_the_whole_prompt(shown: Path, open_html: OpenHtml, tmp_path: Path):
    page = open_html(shown).page
    page.emulate_media(media="print", color_scheme="dark")
    long = page.get_by_role("group", name="Prompt of run 7")
    assert long.evaluate("element => element.scrollHeight <= element.clientHeight")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
    assert (tmp_path / "report.pdf").stat().st_size > 10_000


# --- what stands in it ------------------------------------------------------------------------------


def test_page_holds_all_that_the_ledger_knows(tmp_path: Path):
    labels: dict[str, Any] = {"name": "foxes", "tags": ("wet", "b&w"), "note": "two\nlines", "rating": 5}
    filled: dict[str, Any] = {"prompt_template": "a {what}", "variables": {"what": "fox"}}
    references = ("https://cdn.example/a.png",)
    run = a_success(**labels, **filled, image_urls=references, ratio="2:3", count=2)
    text = Skeleton(page_of(run, folder=tmp_path)).text
    for known in (
        *("foxes", "wet", "b&w", "two\nlines", "5 of 5", "a {what}", "what", "fox", *references),
        *("2:3", "gpt-image-1", "async", "30 s (costTime 30123 ms)", "31 s (31000 ms)", "$0.35"),
        *(run.run_id, "task_1", "2026-11-23 12:00 UTC", "2026-12-08 12:00 UTC", "success"),
    ):
        assert known in text
    assert '<h1 dir="auto">foxes</h1>' in page_of(run, folder=tmp_path)


def test_template_is_shown_where_it_differs_only(tmp_path: Path):
    assert "Template" not in page_of(a_success(), folder=tmp_path)
    assert "Template" in page_of(a_success(prompt_template="a {what}"), folder=tmp_path)


@pytest.mark.parametrize("text", HOSTILE_HTML, ids=range(len(HOSTILE_HTML)))
def test_what_people_and_servers_wrote_is_text(text: str, tmp_path: Path):
    def page(words: str) -> str:
        return page_of(
            a_run(
                name=f"n{words}",
                tags=(words,),
                note=words,
                state="failed",
                fail_code="F",
                fail_msg=words,
                task_id=words,
                prompt_template=f"t{words}",
                variables={f"v{words}": words},
                images=(Image(index=0, url=words, error=words, note=words, tags=(words,), format=words),),
            ).replace(prompt=words),
            folder=tmp_path,
        )

    hostile, harmless = Skeleton(page(text)), Skeleton(page("x" * len(text)))
    assert [name for name, _ in hostile.elements] == [name for name, _ in harmless.elements]
    assert hostile.elements == harmless.elements
    assert hostile.odd == harmless.odd
    shown = text.replace("\r", "\n").replace("\0", "")
    assert shown in hostile.text.replace("\r", "\n").replace("\0", "")


def test_no_script_and_no_address_but_links_is_in_it(tmp_path: Path):
    page = Skeleton(page_of(a_success(image_urls=("https://cdn.example/a.png",)), folder=tmp_path))
    assert {name for name, _ in page.elements}.isdisjoint({"script", "link", "iframe", "object", "form"})
    assert page.values["href"] == ["https://cdn.example/a.png"]
    assert all(source.startswith("data:image/webp;base64,") for source in page.values.get("src", []))


def test_callback_and_queries_of_signed_addresses_are_left_out(tmp_path: Path):
    message = f"Could not call {HOOK}, nor {HOOK.partition('?')[0]}, nor read https://me:5ecre7@x.example/a?{SECRET}"
    references = (f"https://cdn.example/a.png?{SECRET}", "https://me:5ecre7@cdn.example/b.png")
    facts: dict[str, Any] = {"callback_url": HOOK, "request_type": "callback", "fail_msg": message}
    picture = Image(index=0, url=references[0], error=f"{references[0]} answered 403")
    failed = a_run(state="failed", fail_code=HOOK, image_urls=references, **facts)
    got = a_success(result_urls=(references[0],), images=(picture,), **facts)
    page = page_of(failed, got, folder=tmp_path)
    assert "5ecre7" not in page
    assert "hooks.example" not in page
    assert "https://cdn.example/a.png (the rest is left out)" in page
    assert "https://cdn.example/a.png answered 403" in page


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "http://[", "file:///etc/passwd"])
def test_only_web_addresses_are_links(url: str, tmp_path: Path):
    assert "href" not in Skeleton(page_of(a_success(image_urls=(url,)), folder=tmp_path)).values


def test_sandbox_is_marked_and_never_counted_as_spent(tmp_path: Path):
    real, drawn = a_success(), a_success(sandbox=True)
    assert 'class="sandbox"' not in page_of(real, folder=tmp_path)
    mixed = page_of(real, drawn, drawn, folder=tmp_path)
    text = Skeleton(mixed).text
    assert "$0.35 by list price" in text
    assert "$0.70 by list price, none of it paid: this is the sandbox" in text
    assert mixed.count('<span class="sandbox">SANDBOX</span>') == 2
    alone = page_of(drawn, folder=tmp_path)
    assert re.search(r"<h1[^>]*>[^<]*<span class=\"sandbox\">SANDBOX</span></h1>", alone)


def test_states_and_sums_are_counted(tmp_path: Path):
    runs = [
        a_success(),
        a_success(),
        a_run(state="unknown"),
        a_run(state="failed", task_id="t", cost_micros=0),
    ]
    text = Skeleton(page_of(*runs, folder=tmp_path)).text
    for said in ("2 success", "1 unknown", "1 failed", "$0.70 by list price, and up to $0.35 more"):
        assert said in text
    assert "APIXO's pages do not say" in text


def test_empty_ledger_is_a_page_too(tmp_path: Path):
    text = Skeleton(page_of(folder=tmp_path)).text
    assert "There are no runs." in text


def test_links_are_relative_to_the_page_and_quoted(tmp_path: Path):
    images = Images(tmp_path / "my runs#1" / "images")
    images.folder.mkdir(parents=True)
    run = a_success(images=(Image(index=0, url="", file="a.png"),))
    assert images.link(run.images[0], tmp_path) == "my%20runs%231/images/a.png"
    assert images.link(run.images[0], tmp_path / "b") == "../my%20runs%231/images/a.png"


def test_picture_that_is_gone_has_its_place(tmp_path: Path):
    text = Skeleton(page_of(lost_picture(), folder=tmp_path)).text
    assert "Its file is gone, or cannot be read" in text
    assert "Not on disk: https://r2.example/2.png answered 403" in text
    assert "Picture 3 is not on disk" in text


def test_many_pictures_keep_their_order(gallery: list[Run], session: Session, tmp_path: Path):
    page = Skeleton(session.export(tmp_path / "report.html", runs=gallery).read_text("utf-8"))
    expected = [
        thumbnail.data_uri
        for run in gallery
        for thumbnail in session.images.thumbnails((run, image) for image in run.images if image.file)
    ]
    assert page.values["src"] == [uri for uri in expected if uri]


def test_report_that_cannot_be_written_is_an_error_of_two_lines(tmp_path: Path):
    (tmp_path / "file").write_text("kept", "utf-8")
    with pytest.raises(ApixoError, match="The report could not be written to") as refused:
        page_of(a_run(), folder=tmp_path / "file")
    assert len(str(refused.value).splitlines()) == 2
    with pytest.raises(ApixoError, match=r"end it in \.html"):
        pages.write_report([a_run()], tmp_path / "report.csv", Images(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
