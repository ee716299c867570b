"""The words after ``%apixo export`` and ``%apixo import``, carried out; each returns what there is to say."""

from __future__ import annotations

import os
import shlex

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


def export_lines(session: Session, line: str) -> list[str]:
    """Write all runs where the rest of the line says; a name with blanks stands in quotes.

    Raises
    ------
    InvalidRequestError
        It says so in no way that is known.
    ApixoError
        It cannot be written.
    """
    words = parted(line)
    flags = [word for word in words if word.startswith("--")]
    names = [word for word in words if word not in flags]
    known = not flags or flags[0] in (*_KINDS, *_TRACKERS)
    fewest = 0 if flags and flags[0] in _TRACKERS else 1
    if not known or len(flags) > 1 or not fewest <= len(names) <= 1:
        problem = f"Which file is {' '.join(words)!r:.60}?" if words else "Where shall the runs be written?"
        raise InvalidRequestError(problem, field="export", allowed=EXPORT_RULE)
    flag = flags[0] if flags else ""
    if flag == "--mlflow":
        return session.to_mlflow(tracking_uri=names[0] if names else None).lines()
    if flag == "--wandb":
        return session.to_wandb(folder=names[0] if names else ".").lines()
    written = session.write(names[0], _KINDS.get(flag))
    return [f"Written: {written.path}", *written.notes]


def import_lines(session: Session, line: str) -> list[str]:
    """Merge the bundle or folder that the line names into the ledger; raises as `export_lines` does."""
    words = parted(line)
    if len(words) != 1 or words[0].startswith("--"):
        allowed = "%apixo import FILE.zip, or a folder of pictures with their .json files"
        problem = f"Which file is {' '.join(words)!r:.60}?" if words else "What shall be brought in?"
        raise InvalidRequestError(problem, field="import", allowed=allowed)
    return session.import_bundle(words[0]).lines()


def parted(line: str, *, posix: bool = os.name == "posix") -> list[str]:
    """The words of a line. What stands in quotes is one word; on Windows a backslash is a part of it."""
    try:
        words = shlex.split(line, posix=posix)
    except ValueError:  # an open quote stays what it is
        return line.split()
    return words if posix else [_unquoted(word) for word in words]


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word
