"""Texts that break what does not escape or quote them, and a parser that shows what they became."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE_TEXTS = [
    "🦊👩‍🚀 emoji",
    "two\nlines\r\nand\rreturns",
    """'; DROP TABLE runs; -- " ` \\""",
    "%s {0} :name ?",
    "\x1b[31mred\x1b[0m \u202edlrow",
    " \u2028 blanks kept \u00a0 ",
    "x" * 10_000,
]
HOSTILE_HTML = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "</textarea></title></style></details><b id=x>",
    '"><a href="javascript:alert(1)">',
    "' onmouseover='alert(1)",
    '" onload="alert(1)',
    '<button data-commandlinker-command="console:create">',
    '<form id="body"><input name="cookie">',
    "<style>*{display:none}</style>",
    "<!-- --!> <![CDATA[",
    "{{ 7 * 7 }} {% raw %} {{ self }} {# x #}",
    "$x$ \\(y\\) [link](javascript:alert(1)) **bold** `code`",
    "&lt;b&gt; &amp; &#60;b&#62;",
    "\x1b]52;c;eA==\x07\x1b[2J\x9b31m\u202e\u200b\r\x00",
    "x" * 10_000,
]


class Skeleton(HTMLParser):
    """The elements of a page with the names of their attributes, and its text."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.values: dict[str, list[str]] = {}
        self.text, self.odd = "", ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        for name, value in attrs:
            self.values.setdefault(name, []).append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}", ()))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.odd += data

    def handle_decl(self, decl: str) -> None:
        self.odd += decl

    def handle_pi(self, data: str) -> None:
        self.odd += data

    def unknown_decl(self, data: str) -> None:
        self.odd += data
