"""Our records: `Run`, the row about one task, and `Image`, a picture of it. Frozen: a change is a new one."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from apixo_nb.errors import InvalidRequestError
from apixo_nb.text import printable

from .models import FINAL_STATES, MODELS, RESULT_DAYS, ModelSpec, Value
from .request import Request, RequestType

SCHEMA_VERSION = 5

# The states of a run, in the order they are met. Only `success` and `failed` are final; a word that is not
# here came from APIXO, is kept verbatim and is not final.
PLANNED, SUBMITTING, SUBMITTED, PROCESSING = "planned", "submitting", "submitted", "processing"
SUCCESS, FAILED = FINAL_STATES
UNKNOWN, CANCELLED, TIMEOUT = "unknown", "cancelled", "timeout"
_OURS = (PLANNED, SUBMITTING, SUBMITTED, UNKNOWN, CANCELLED, TIMEOUT, *FINAL_STATES)

#: The fields of an `Image` that are a person's.
CHOICE = ("rating", "starred", "note", "tags")
BEST = 5  # the highest rating; the lowest is 1


class Image(BaseModel):
    """One picture of a run.

    Attributes
    ----------
    index : int
        From 0, in the order of the result URLs.
    file : str
        Name in the images folder, or "" while it is not on disk.
    error : str
        Why it is not on disk, or "".
    sha256, bytes, width, height, format
        Of the original, byte for byte as it was downloaded; `format` is PNG, JPEG or WEBP.
    rating : int or None
        From 1 to 5, by a person; with `starred`, `note` and `tags` the choice, see `choices.choose`.
    """

    model_config = ConfigDict(frozen=True)

    index: int
    url: str
    file: str = ""
    sha256: str = ""
    bytes: int | None = None
    width: int | None = None
    height: int | None = None
    format: str = ""
    error: str = ""
    rating: int | None = None
    starred: bool = False
    note: str = ""
    tags: tuple[str, ...] = ()

    @property
    def choice(self) -> dict[str, Any]:
        """What a person says of it; everything else is what was downloaded."""
        return {name: getattr(self, name) for name in CHOICE}

    @property
    def is_chosen(self) -> bool:
        """Whether a person has said anything of it."""
        return any(self.choice.values())

    def with_choice(self, other: Image) -> Image:
        """The same picture with the choice of another record of it."""
        return self.model_copy(update=other.choice)


class Run(BaseModel):
    """One task of APIXO's as a row of ours. Times are UTC, prices integer micro-dollars (1 USD = 1,000,000).

    Attributes
    ----------
    state : str
        planned, submitting, submitted, processing, success, failed, unknown, cancelled, timeout, or any word
        of APIXO's.
    cost_time_ms : int or None
        APIXO's costTime: how long the task took there.
    wait_ms : int or None
        How long we waited, from the taskId to the final state.
    cost_micros : int or None
        What it cost by the unit price; None until that is known.
    digest, take
        Which request this is (see `Request.digest`), and its how-manieth draw, from 1; 0 until it is written.
    raw : str
        The last status answer's data, as JSON; of a submit whose end is unknown, its answer.
    rating : int or None
        The best of its pictures' ratings.
    notebook : str
        Where it was asked for, if the front end tells; "" else.
    cell_id, cell_position : str, int
        The cell that has it, by the id that the front end sends, and for the how many-th time that the cell
        asks for this request in one execution, from 1; "" and 0 where no such cell has it.
    rerun_of : str
        The id of the run whose request was bought anew (`df.apixo.rerun`); "" for all others.
    service_state : str
        APIXO's last word on a task that goes on, verbatim: shown, and never acted on.
    bought_at : datetime or None
        When the money was committed: the moment before the submit left. None until then.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    created_at: datetime
    model: str
    prompt: str
    parameters: dict[str, Value]
    image_urls: tuple[str, ...] = ()
    request_type: RequestType = "async"
    callback_url: str | None = None
    prompt_template: str = ""
    variables: dict[str, str] = {}
    state: str = SUBMITTING
    task_id: str | None = None
    submitted_at: datetime | None = None
    finished_at: datetime | None = None
    cost_time_ms: int | None = None
    wait_ms: int | None = None
    unit_price_micros: int
    cost_micros: int | None = None
    fail_code: str = ""
    fail_msg: str = ""
    result_urls: tuple[str, ...] = ()
    images: tuple[Image, ...] = ()
    expires_at: datetime | None = None
    name: str = ""
    tags: tuple[str, ...] = ()
    note: str = ""
    rating: int | None = None
    sandbox: bool = False
    digest: str = ""
    take: int = 0
    raw: str = ""
    notebook: str = ""
    cell_id: str = ""
    cell_position: int = 0
    rerun_of: str = ""
    service_state: str = ""
    bought_at: datetime | None = None
    schema_version: int = SCHEMA_VERSION

    def __repr__(self) -> str:
        return f"<Run {self.run_id}: {self.state}, {len(self.files)} of {self.num_images} pictures on disk>"

    __str__ = __repr__

    @property
    def spec(self) -> ModelSpec | None:
        """The facts of its model; None for a model this version does not know."""
        return MODELS.get(self.model)

    @property
    def mode(self) -> str:
        """The API's ``mode`` of its model."""
        return self.spec.mode if self.spec else self.model

    @property
    def aspect_ratio(self) -> str:
        """``aspect_ratio``, or "" for a model without one."""
        return str(self.parameters.get("aspect_ratio", ""))

    @property
    def num_images(self) -> int:
        """How many pictures were asked for."""
        return self.spec.pictures(self.parameters) if self.spec else 1

    @property
    def request(self) -> Request:
        """What was, or is to be, asked of APIXO."""
        return Request(
            model=self.model,
            prompt=self.prompt,
            parameters=self.parameters,
            image_urls=self.image_urls,
            request_type=self.request_type,
            callback_url=self.callback_url,
        )

    @property
    def price_micros(self) -> int:
        """What it costs, or would cost, if all pictures are made."""
        return self.num_images * self.unit_price_micros

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the pictures that are on disk, in the images folder."""
        return tuple(image.file for image in self.images if image.file)

    @property
    def is_final(self) -> bool:
        """Whether the task has ended."""
        return self.state in FINAL_STATES

    @property
    def is_open(self) -> bool:
        """Whether there is a task whose end we have not seen."""
        return bool(self.task_id) and not self.is_final

    @property
    def is_unanswered(self) -> bool:
        """Whether its submit was never answered and nobody has said since whether it was charged."""
        return self.state == UNKNOWN and self.cost_micros is None

    @property
    def is_unread(self) -> bool:
        """Whether it is a success whose result could not be read; its task, if any, still has it."""
        return self.state == SUCCESS and not self.result_urls

    @property
    def at_stake_micros(self) -> int:
        """What it may still cost: its price, or 0 if its cost is known or it is only planned."""
        return 0 if self.cost_micros is not None or self.state == PLANNED else self.price_micros

    @property
    def missing(self) -> int:
        """How many of its result pictures are not on disk."""
        return len(self.result_urls) - len(self.files) if self.state == SUCCESS else 0

    @property
    def remark(self) -> str:
        """What is odd about a success, or about APIXO's word on a task that goes on; else ""."""
        got, asked = len(self.result_urls), self.num_images
        if self.is_open and self.service_state and state_of_task(self.service_state) != self.service_state:
            return f'APIXO says "{printable(self.service_state, 60)}"'
        if self.state != SUCCESS or got == asked:
            return ""
        return f"{asked} {_pictures(asked)} asked for, {got} came"

    def replace(self, **changes: Any) -> Run:
        """The same run with some values changed."""
        return self.model_copy(update=changes)


def _pictures(count: int) -> str:
    return "picture" if count == 1 else "pictures"


def checked_runs(given: Any) -> list[Run]:
    """The runs that somebody gives: one, several, or what has them as ``.runs``, such as a sweep.

    Raises
    ------
    InvalidRequestError
        Something of it is no run.
    """
    if hasattr(given, "runs"):
        given = given.runs() if callable(given.runs) else given.runs
    several = isinstance(given, Iterable) and not isinstance(given, Run | str)
    chosen = list(given) if several else [given]
    for run in chosen:
        if not isinstance(run, Run):
            message = f"This is no run: {printable(repr(run), 80)}"
            raise InvalidRequestError(message, field="runs", value=run, allowed="runs, or what has .runs")
    return chosen


def state_of_task(word: str) -> str:
    """The state of a run whose task goes on, by APIXO's word for it: never one that says otherwise."""
    return PROCESSING if word.strip().casefold() in _OURS else word


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def new_run(
    request: Request,
    *,
    unit_price_micros: int,
    sandbox: bool,
    prompt_template: str = "",
    variables: Mapping[str, str] | None = None,
    name: str = "",
    tags: tuple[str, ...] = (),
    note: str = "",
    notebook: str = "",
) -> Run:
    """The row of a request that is about to be sent."""
    created = utc_now()
    return Run(
        # Sorts by time, reads as a time, and is safe as a file name.
        run_id=f"{created:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}",
        created_at=created,
        **request.model_dump(),
        state=PLANNED,
        prompt_template=prompt_template or request.prompt,
        variables=dict(variables or {}),
        unit_price_micros=unit_price_micros,
        name=name,
        tags=tags,
        note=note,
        notebook=notebook,
        sandbox=sandbox,
        digest=request.digest(),
    )


def expiry(finished: datetime) -> datetime:
    """When the result URLs are likely to end (model page: "normally stored for 15 days")."""
    return finished + timedelta(days=RESULT_DAYS)


class HistoryRow(NamedTuple):
    """What a table shows of a run; its fields are named, and mean the same, as those of `run.Run`.

    Attributes
    ----------
    files : sequence of str
        Names of the pictures that are on disk.
    images : sequence of Image
        All its pictures; none where a table of runs is made, which shows the files only.
    """

    run_id: str
    task_id: str | None
    created_at: datetime
    model: str
    mode: str
    prompt: str
    prompt_template: str
    variables: dict[str, str]
    aspect_ratio: str
    num_images: int
    image_urls: Sequence[str]
    request_type: str
    state: str
    cost_time_ms: int | None
    wait_ms: int | None
    cost_micros: int | None
    unit_price_micros: int
    fail_code: str
    fail_msg: str
    result_urls: Sequence[str]
    expires_at: datetime | None
    name: str
    tags: Sequence[str]
    note: str
    rating: int | None
    sandbox: bool
    schema_version: int
    files: Sequence[str] = ()
    images: Sequence[Image] = ()


#: Those that are columns of the ledger.
STORED = HistoryRow._fields[:-2]

#: Makes a line of them, in their order, and of the last two.
make_line: Callable[[tuple[Any, ...]], HistoryRow] = HistoryRow._make

Outcome = Literal["left", "right", "tie"]

OUTCOMES: tuple[Outcome, ...] = ("left", "right", "tie")


@dataclass(frozen=True, slots=True)
class Vote:
    """Which of two pictures was found better; `outcome` is left, right or tie. `voted_at` is UTC."""

    vote_id: str
    voted_at: datetime
    ballot: str
    left_run: str
    left_index: int
    right_run: str
    right_index: int
    outcome: str

    @property
    def left(self) -> tuple[str, int]:
        """The key of the left picture."""
        return self.left_run, self.left_index

    @property
    def right(self) -> tuple[str, int]:
        """The key of the right picture."""
        return self.right_run, self.right_index
