"""The words after ``%apixo export`` and ``%apixo import``, carried out; each returns what there is to say."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Sequence

from .errors import InvalidRequestError
from .session import Session

#: Word -> kind of export, see `export.export`.
_KINDS = {"--excel": "excel", "--site": "site", "--imagefolder": "imagefolder", "--embed": "embed"}
_TRACKERS = ("--mlflow", "--wandb")

EXPORT_RULE = (
    "%apixo export FILE.csv, FILE.jsonl, FILE.parquet, FILE.html, FILE.png or FILE.zip; "
    "FILE.csv --excel for spreadsheets; FOLDER --site, --imagefolder or --embed; "
    "--mlflow [ADDRESS] or --wandb [FOLDER]"
)


def export_lines(session: Session, words: Sequence[str]) -> list[str]:
    """Write all runs where the words say.

    Raises
    ------
    InvalidRequestError
        They say it in no way that is known.
    ApixoError
        It cannot be written.
    """
    words = _parted(words)
    flags = [word for word in words if word.startswith("--")]
    names = [word for word in words if word not in flags]
    known = not flags or flags[0] in (*_KINDS, *_TRACKERS)
    fewest = 0 if flags and flags[0] in _TRACKERS else 1
    if not known or len(flags) > 1 or not fewest <= len(names) <= 1:
        raise InvalidRequestError(
            f"Which file is {' '.join(words)!r:.60}?", field="export", allowed=EXPORT_RULE
        )
    flag = flags[0] if flags else ""
    if flag == "--mlflow":
        return session.to_mlflow(tracking_uri=names[0] if names else None).lines()
    if flag == "--wandb":
        return session.to_wandb(folder=names[0] if names else ".").lines()
    written = session.write(names[0], _KINDS.get(flag))
    return [f"Written: {written.path}", *written.notes]


def import_lines(session: Session, words: Sequence[str]) -> list[str]:
    """Merge the bundle or folder that the words name into the ledger; raises as `export_lines` does."""
    words = _parted(words)
    if len(words) != 1 or words[0].startswith("--"):
        allowed = "%apixo import FILE.zip, or a folder of pictures with their .json files"
        raise InvalidRequestError(f"Which file is {' '.join(words)!r:.60}?", field="import", allowed=allowed)
    return session.import_bundle(words[0]).lines()


def _parted(words: Sequence[str]) -> list[str]:
    with contextlib.suppress(ValueError):  # an open quote stays what it is
        return shlex.split(" ".join(words), posix=os.name == "posix")
    return list(words)
