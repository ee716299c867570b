"""Foreign text made safe to show, and sums as people write them."""

from __future__ import annotations

import unicodedata

SHOWN_CHARACTERS = 300  # of a text that came from a server; the ledger keeps all of it


def printable(text: object, limit: int = SHOWN_CHARACTERS) -> str:
    """Foreign text made safe to print: one line, control and bidi characters visible, cut at `limit`."""
    try:
        whole = str(text)
    except Exception:  # noqa: BLE001 - a number of 5,000 digits, an object that cannot be shown
        whole = f"a {type(text).__name__}"
    shown = "".join(_visible(char) for char in whole[: limit + 1])
    return shown if len(whole) <= limit else shown[:limit] + "…"


def dollars(usd: float) -> str:
    """$0.35; more digits where the sum has them."""
    cents = f"{usd:.2f}"
    return f"${cents}" if abs(float(cents) - usd) < 1e-9 else f"${usd:.6f}".rstrip("0")


def _visible(char: str) -> str:
    if char in "\n\t":
        return " "
    # Cc, Cf: ESC sequences, right-to-left overrides, zero-width characters; Cs: lone surrogates;
    # Zl, Zp: line ends of Unicode's own.
    # Zero-width joiners (U+200D) stay, as emoji are built with them.
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char != "\u200d":
        return f"\\u{ord(char):04x}"
    return char
