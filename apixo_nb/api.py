"""The functions of the package: each works on the session that notebooks share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core.formatting import HtmlResult
from .core.models import DEFAULT_MODEL
from .core.records import Run
from .engine.job import stop_all
from .errors import ApixoError, ConfigurationError
from .ledger.query import Since
from .session.session import current

if TYPE_CHECKING:
    import pandas as pd

    from .export.importer import Imported


def generate(
    prompt: str,
    *,
    aspect_ratio: str | None = None,
    num_images: int | None = None,
    image_urls: Iterable[str] = (),
    model: str = DEFAULT_MODEL,
    name: str = "",
    tags: Iterable[str] = (),
    note: str = "",
    max_cost_usd: float | None = None,
    timeout_s: float | None = None,
    replay: bool | None = None,
    new: bool = False,
    take: int | None = None,
    **parameters: Any,
) -> Run:
    """Make pictures, wait for them, and return their `Run`.

    Parameters
    ----------
    prompt : str, 1 to 10,000 characters
    aspect_ratio, num_images : "1:1" (default), "2:3" or "3:2"; 1 (default), 2 or 4
    image_urls : list of str, up to 5 public URLs of reference pictures
    name, tags, note : str, list of str, str; kept on the row
    max_cost_usd, timeout_s : float
        Refuse to start above it; give up waiting after so many seconds, as the task can be resumed.
    replay : bool
        Show what this cell has of this request; default: in IPython, and not in a plain script.
    new : bool
        Buy another variation, whatever the cell has.
    take : int
        Ask for one variation of this request by its number, from 1. It is shown, followed where somebody is
        making it, or bought once by whoever comes first: the same call gives the same in every process.

    Raises
    ------
    ApixoError
        One class for each thing you can do about it; see `apixo_nb.errors`.
    """
    return (
        current()
        .begin(
            prompt,
            aspect_ratio=aspect_ratio,
            num_images=num_images,
            image_urls=image_urls,
            model=model,
            name=name,
            tags=tags,
            note=note,
            max_cost_usd=max_cost_usd,
            timeout_s=timeout_s,
            replay=replay,
            new=new,
            take=take,
            **parameters,
        )
        .wait()
    )


async def agenerate(
    prompt: str,
    *,
    aspect_ratio: str | None = None,
    num_images: int | None = None,
    image_urls: Iterable[str] = (),
    model: str = DEFAULT_MODEL,
    name: str = "",
    tags: Iterable[str] = (),
    note: str = "",
    max_cost_usd: float | None = None,
    timeout_s: float | None = None,
    replay: bool | None = None,
    new: bool = False,
    take: int | None = None,
    **parameters: Any,
) -> Run:
    """As `generate`, to ``await``. The work runs on apixo_nb's own loop, so yours stays free.

    Raises
    ------
    ConfigurationError
        The loop that awaits is none of asyncio; nothing was sent.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        step = "Nothing was sent. Await it under asyncio, or call `generate` in a thread."
        raise ConfigurationError(
            "agenerate is for asyncio, and another loop runs here", next_step=step
        ) from None
    return await current().begin(
        prompt,
        aspect_ratio=aspect_ratio,
        num_images=num_images,
        image_urls=image_urls,
        model=model,
        name=name,
        tags=tags,
        note=note,
        max_cost_usd=max_cost_usd,
        timeout_s=timeout_s,
        replay=replay,
        new=new,
        take=take,
        **parameters,
    )


def history(
    name: str | None = None,
    tag: str | Iterable[str] | None = None,
    since: Since | None = None,
    state: str | Iterable[str] | None = None,
    text: str | None = None,
) -> pd.DataFrame:
    """Runs as a DataFrame, oldest first: all of the ledger, or those that fit all that is given.

    Its rows have ``df.apixo``: pictures, summaries, plots and exports of them; see `accessor.Table`.

    Parameters
    ----------
    name : str
        Exactly this name.
    tag : str, or list of str
        All of these, each of the run or of one of its pictures.
    since : datetime, date, str or timedelta
        Made then or later: ``"2026-11-25"``, ``"2026-11-25 14:30"``, ``timedelta(hours=2)`` for the last two
        hours. Without a time zone it is the time of this machine.
    state : str, or list of str
        One of these, e.g. "success".
    text : str
        Words that must all occur somewhere, in any case: in prompt, name, note, tags, ids or failure.

    Returns
    -------
    DataFrame
        Among its columns: ``run_id``, ``created_at`` (UTC), ``prompt``, ``variables`` (a dict),
        ``aspect_ratio``, ``num_images``, ``state``, ``costTime`` (ms), ``cost_usd`` (an estimate),
        ``fail_code``, ``files`` (paths), ``name``, ``tags``, ``rating``. `frame.history_frame` has them all.

    Examples
    --------
    >>> apixo_nb.history(name="foxes", since="2026-11-25").apixo.summary(by="style")
    """
    from .experiments.accessor import register

    register()
    return current().history(name, tag, since, state, text)


def images(
    name: str | None = None,
    tag: str | Iterable[str] | None = None,
    since: Since | None = None,
    state: str | Iterable[str] | None = None,
    text: str | None = None,
) -> pd.DataFrame:
    """Pictures as a DataFrame, one row a picture, with the filters of `history`; oldest run first.

    See `frame.images_frame` for columns, dtypes and units; ``df.apixo`` works on it as on `history`.
    """
    from .experiments.accessor import register

    register()
    return current().pictures(name, tag, since, state, text)


def compare(a: object, b: object, *more: object) -> HtmlResult:
    """2 to 4 runs side by side: pictures, what differs between the prompts word by word, and parameters.

    Parameters
    ----------
    a, b, *more : Run, str, or row of a table
        Runs, ids of runs, or rows of `history` or `images`, such as ``df.iloc[0]``. A row of `images` stands
        for that picture alone.

    Returns
    -------
    HtmlResult
        As the value of a cell it is HTML that stays in the notebook.

    Raises
    ------
    InvalidRequestError
        There are too many, or one of them is no run of the ledger.
    """
    from .experiments.review import compare as compare_runs

    return compare_runs(current(), (a, b, *more))


def export_csv(path: str | os.PathLike[str]) -> Path:
    """Write `history` to a CSV file, exactly, and return its path."""
    return current().export_csv(path)


def import_bundle(path: str | os.PathLike[str]) -> Imported:
    """Merge a ZIP bundle, or a folder of pictures and their sidecars, into the ledger; twice is once.

    See `Session.import_bundle`; `Session.export` writes such a bundle.
    """
    return current().import_bundle(path)


def resume(run_id: str | None = None) -> list[Run]:
    """Bring unfinished runs (or one) to their end and download what is missing; costs nothing.

    Returns the runs as they are now; one that still fails keeps its row and its error text.
    """
    jobs = current().resume(run_id)
    try:
        for job in jobs:
            try:
                job.wait()
            except ApixoError:
                if run_id is not None:
                    raise
    except KeyboardInterrupt:
        stop_all(jobs)
        raise
    return [job.run for job in jobs]
