"""Commands about the API key and about money: login, logout, balance, spend, budget."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apixo_nb.core import checks, credentials
from apixo_nb.errors import ApixoError, AuthenticationError, ConfigurationError, InvalidRequestError

from .command_line import Context, say

if TYPE_CHECKING:
    from apixo_nb.core.settings import Apixo
    from apixo_nb.session.session import Session

#: As in `spending.GROUPS`; spelt out, as help shall not wait for that module.
GROUPS = ("state", "day", "tag")


def login(_args: argparse.Namespace, context: Context) -> list[str]:
    """Ask for a key, try it and store it."""
    from apixo_nb.session.session import reset

    key = credentials.asked_key()
    say("Trying the key ...")
    left = _balance_of(key, context.session.settings)
    stored = _stored(key)
    reset()
    said = [f"The key is stored {stored.source}. {left}"]
    if os.environ.get(credentials.KEY_VARIABLE):
        said.append(f"But {credentials.KEY_VARIABLE} is set too, and goes first until it is removed.")
    return said


def key_on_the_line(_words: Sequence[str]) -> ConfigurationError:
    """The error of a login with words after it; it repeats none of them."""
    step = "It may now stand in the notebook and its history: remove it there, or make a new key."
    return ConfigurationError("%apixo login takes no key on the line", next_step=step)


def _stored(key: credentials.ApiKey) -> credentials.ApiKey:
    """Store the key. Stop while a keyring asks for its password leaves no frame behind that holds the key."""
    with contextlib.suppress(KeyboardInterrupt):
        return credentials.store_key(key)
    raise KeyboardInterrupt


def _balance_of(key: credentials.ApiKey, settings: Apixo) -> str:
    """What the key is good for, in a sentence; raises AuthenticationError if APIXO refuses it."""
    from apixo_nb.client.client import Client

    try:
        with Client(key, base_url=settings.base_url) as client:
            return f"${client.balance():.2f} left."
    except AuthenticationError:
        raise
    except ApixoError as error:
        return f"It could not be tried: {error.message}."


def logout(_args: argparse.Namespace, _context: Context) -> list[str]:
    """Remove the stored key."""
    from apixo_nb.session.session import reset

    credentials.forget_key()
    reset()
    return ["The stored key is removed. A key in the environment stays until Jupyter restarts."]


def balance(_args: argparse.Namespace, context: Context) -> list[str]:
    """What is left for the key, and what became of it since it was last compared."""
    from apixo_nb.session.account import compare_balance

    session = context.session
    usd = session.balance()
    compared = compare_balance(session, usd)
    return [f"{_mark(session)}${usd:.2f} left", *([compared] if compared else [])]


def spend(args: argparse.Namespace, context: Context) -> list[str]:
    """What was spent, by each of the groups that are asked for."""
    from apixo_nb.core.spending import spend_lines

    session = context.session
    return [_mark(session) + "by list price", "", *spend_lines(session.runs(), args.by or GROUPS)]


def unknown_group(words: Sequence[str]) -> InvalidRequestError:
    """The error of a word after `spend` that is no group; it names the first."""
    word = next((word for word in words if word not in GROUPS), "")
    return InvalidRequestError(
        f"Spend by {word!r:.60}?", field="spend", value=word, allowed=", ".join(GROUPS)
    )


def budget(args: argparse.Namespace, context: Context) -> list[str]:
    """Set a budget, or end it, and show those that are set."""
    from apixo_nb.session.account import budgets, set_budget

    if args.scope and args.sum is None:
        context.refuse("a sum is missing, or off")
    session = context.session
    if args.sum is not None:
        set_budget(session, _limit_usd(args.sum), args.scope or "total")
    lines = [str(cap) for cap in budgets(session)] or ["No budget is set."]
    return [f"{_mark(session)}{line}" for line in lines]


def _limit_usd(text: str) -> float | None:
    if text == "off":
        return None
    allowed, message = "a sum in US dollars such as 5.00, or off", f"The budget cannot be {text!r:.60}"
    return checks.read_number(text.removeprefix("$"), "budget", allowed, 0.0, message=message)


def _mark(session: Session) -> str:
    return "SANDBOX · " if session.is_sandbox else ""
