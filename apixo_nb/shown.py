"""What a function returns to be shown: as the value of a cell it is HTML, elsewhere it is text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Shown:
    """Lasting HTML and the same as plain text.

    Attributes
    ----------
    html : str
        Inline styles and small pictures only, so it stays in a saved, exported or untrusted notebook.
    text : str
    """

    def __init__(self, html: str, text: str) -> None:
        self.html = html
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include: Iterable[str] | None = None, **_: Any) -> dict[str, str]:
        bundle = {"text/html": self.html, "text/plain": self.text}
        return {kind: value for kind, value in bundle.items() if include is None or kind in include}
