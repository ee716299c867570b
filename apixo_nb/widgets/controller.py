"""The kernel's side of a widget: receives the requests of its page, replies, and sends pictures.

A request arrives on whatever thread the kernel uses and is carried out on threads of the controller's own, so
that nothing waits for a cell that sleeps.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime as dt
import functools
import logging
import math
import mimetypes
import secrets
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from IPython.core.getipython import get_ipython
from IPython.display import display

from apixo_nb.core import checks
from apixo_nb.core.event_loop import WriterThread
from apixo_nb.core.files import SUFFIXES
from apixo_nb.core.formatting import sentence_html
from apixo_nb.core.records import Image, Run
from apixo_nb.display.cards import MOST_COMPARED, lasting_html
from apixo_nb.errors import ApixoError, BudgetError, InvalidRequestError
from apixo_nb.experiments.review import choose
from apixo_nb.ledger.query import Query
from apixo_nb.session.session import Session, current
from apixo_nb.text import storable

from . import cards
from .form import form_of

if TYPE_CHECKING:
    from .frontend import FrontendWidget


class CellOutput:
    """The output of the cell that makes it. Thread-safe.

    IPython's own `display` writes to the cell that runs, or on older kernels to the one that ran last. This
    has a publisher of its own, which remembers the cell.
    """

    def __init__(self, shell: Any) -> None:
        known = shell.display_pub
        self._cell = shell.kernel.get_parent()
        self._publisher = type(known)(session=known.session, pub_socket=known.pub_socket)
        self._publisher.topic = known.topic
        self._lock = threading.Lock()

    def show(self, bundle: dict[str, str], *, display_id: str = "", update: bool = False) -> None:
        """Add an output, or with `update` write over the one of that `display_id`, wherever it stands."""
        transient = {"display_id": display_id} if display_id else {}
        with self._lock:
            self._publisher.set_parent(self._cell)  # of this thread, where threads have their own
            self._publisher.publish(data=bundle, metadata={}, transient=transient, update=update)


#: Replies to a request of the page: JSON, and bytes under ``buffers``.
Handler = Callable[[dict[str, Any]], dict[str, Any]]

_log = logging.getLogger(__name__)


def _logged(call: Callable[..., Any], *args: Any) -> None:
    """A call for whose outcome nobody waits."""
    try:
        call(*args)
    except Exception:  # noqa: BLE001 - whatever it is, the next call has its turn
        _log.exception("a widget could not be brought up to date")


@functools.cache
def _thread(name: str) -> WriterThread:
    """A thread that all controllers share; notebooks may hold many of them."""
    return WriterThread(name)


class Controller:
    """One widget, and all that its page may request. As the value of a cell it is shown.

    Parameters
    ----------
    widget : FrontendWidget
        What the page draws.
    fallback : str
        A sentence for front ends without widgets.
    handlers : mapping of str to Handler
        What the page may request, by method.
    slow : collection of str
        The methods that read or write files; they wait for each other, and nothing else for them.
    """

    def __init__(
        self,
        widget: FrontendWidget,
        fallback: str,
        handlers: Mapping[str, Handler],
        slow: Collection[str] = ("pictures",),
    ) -> None:
        self._id = uuid.uuid4().hex
        self._fallback = fallback
        self._handlers = handlers
        self._slow = slow
        self._lock = threading.RLock()
        # ipykernel hears the page's next message in the thread whose context ours was sent from. The page's
        # last message is that context, so that it is a subshell of the front end where there are any.
        self._context = contextvars.copy_context()
        self._cell_output: CellOutput | None = None
        self._session = current()
        self._widget: Any = widget
        self._widget.on_msg(self._on_message)

    def _ipython_display_(self) -> None:
        found: Any = self._widget._repr_mimebundle_()
        bundle, metadata = found if isinstance(found, tuple) else (found, {})
        display({**bundle, "text/plain": self._fallback}, metadata=metadata, raw=True)
        with self._lock:
            self._cell_output = CellOutput(get_ipython())
            self._display_again()

    def _display_again(self) -> None:
        """Put the lasting outputs into the cell that shows the widget now."""

    def _display_lasting(self, bundle: dict[str, str], *, display_id: str = "", update: bool = False) -> None:
        """A lasting output, in the cell of the widget; the page hides it while the widget is there.

        `update` writes over the one of that `display_id`.
        """
        if self._cell_output is not None:
            html = lasting_html(bundle["text/html"], self._id)
            self._cell_output.show({**bundle, "text/html": html}, display_id=display_id, update=update)

    def _current_session(self) -> Session:
        """The session of the notebook; the controller follows it when a setting has changed."""
        self._session = current()
        return self._session

    # --- to the page ---

    def _set_traits(self, **traits: Any) -> None:
        def put() -> None:
            for name, value in traits.items():
                setattr(self._widget, name, value)

        with self._lock:
            self._context.copy().run(put)

    def _resend_traits(self, *traits: str) -> None:
        """Send what the page should have already: a message can be lost, or the page opened anew."""
        with self._lock:
            for name in traits:
                self._context.copy().run(self._widget.send_state, name)

    def _send(self, content: dict[str, Any], *buffers: bytes) -> None:
        with self._lock:
            self._context.copy().run(self._widget.send, content, list(buffers))

    # --- from the page ---

    def _on_message(self, _widget: object, content: object, _buffers: object) -> None:
        """A message of the page, on whatever thread the kernel uses."""
        self._context = contextvars.copy_context()
        if not isinstance(content, dict):
            return
        slow = content.get("method") in self._slow
        _thread("apixo-widget-files" if slow else "apixo-widget").submit(self._reply_to, content)

    def _run_soon(self, call: Callable[..., Any], *args: Any) -> None:
        """A call on the thread of the controllers."""
        _thread("apixo-widget").submit(_logged, call, *args)

    def _run_in_background(self, call: Callable[..., Any], *args: Any) -> None:
        """A call that takes its time, behind others such."""
        _thread("apixo-widget-files").submit(_logged, call, *args)

    def _reply_to(self, request: dict[str, Any]) -> None:
        try:
            reply = dispatch(self._handlers, request)
        except Exception as error:  # noqa: BLE001 - the page must hear of it, whatever it is
            reply = error_reply(error)
            if not isinstance(error, ApixoError):
                _log.exception("%s failed at %s", type(self).__name__, request.get("method"))
        buffers = reply.pop("buffers", ())
        self._send({"id": request.get("id"), **reply}, *buffers)

    def _with_session(self, handle: Callable[[Session, dict[str, Any]], dict[str, Any]]) -> Handler:
        """A handler that is given the session of the notebook."""
        return lambda request: handle(self._current_session(), request)


def dispatch(handlers: Mapping[str, Handler], request: dict[str, Any]) -> dict[str, Any]:
    """The reply of the handler that a request names; raises what the handler raises.

    Raises
    ------
    InvalidRequestError
        No handler has that name.
    """
    method = str(request.get("method"))
    if method not in handlers:
        text = "The page asks for what this kernel does not know"
        raise InvalidRequestError(text, field="method", value=method)
    return handlers[method](request)


def error_reply(error: Exception) -> dict[str, Any]:
    """An error as a reply: what happened, what to do, and which field it is about."""
    if isinstance(error, ApixoError):
        field = "budget" if isinstance(error, BudgetError) else getattr(error, "field", "")
        return {"problem": {"text": error.message, "advice": error.advice, "field": field}}
    return {"problem": {"text": f"Something went wrong: {type(error).__name__}", "advice": "", "field": ""}}


class FallbackText:
    """What stands for a widget where nobody can click; no widget is made, which the notebook would keep."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def _ipython_display_(self) -> None:
        display({"text/html": sentence_html(self._text), "text/plain": self._text}, raw=True)


# --- the requests that every page may make ----------------------------------------------------------

#: Widths and heights, in pixels, of the small pictures: of a card, and of a row of the history.
SMALL_PX = {"card": 384, "row": 96}

_MOST_EXPORTED = 100_000
_PAGE = 25  # rows of the history

Reply = dict[str, Any]


def find_runs(session: Session, request: dict[str, Any]) -> Reply:
    """Rows of the history, a page of them, and how many there are in all."""
    found = session.find(_query(request, limit=_PAGE))
    return {"rows": [cards.history_row(run) for run in found.runs], "total": found.total, "page": _PAGE}


def list_facets(session: Session, _request: dict[str, Any]) -> Reply:
    """The words of the filter menus: states, tags and names, most frequent first."""
    known = session.facets()
    return {"states": [word for word, _ in known.states], "tags": [word for word, _ in known.tags]}


def compare_runs(session: Session, request: dict[str, Any]) -> Reply:
    """Two to four runs side by side."""
    run_ids = _texts(request, "run_ids")
    if not 2 <= len(run_ids) <= MOST_COMPARED:
        allowed = f"2 to {MOST_COMPARED} runs"
        raise InvalidRequestError(f"{len(run_ids)} runs cannot be compared", field="compare", allowed=allowed)
    return cards.comparison([session.run(run_id) for run_id in run_ids])


def fill_form(session: Session, request: dict[str, Any]) -> Reply:
    """All parameters of a past run, as a form."""
    return {"form": form_of(session.run(_text(request, "run_id"))).as_dict()}


def reference_url(session: Session, request: dict[str, Any]) -> Reply:
    """The address of a picture at APIXO, to be used as a reference while it lives."""
    run = session.run(_text(request, "run_id"))
    url = next((image.url for image in run.images if image.index == request.get("index")), "")
    if not url or not cards.is_alive(run):
        raise InvalidRequestError("The address of this picture has expired", field="image_urls")
    return {"url": url}


def full_prompt(session: Session, request: dict[str, Any]) -> Reply:
    """The whole prompt of a run, where a card shows its beginning."""
    return {"prompt": session.run(_text(request, "run_id")).prompt}


def export_runs(session: Session, request: dict[str, Any]) -> Reply:
    """Write some runs, or all that are found, to a file beside the notebook; its name tells the time."""
    run_ids = _texts(request, "run_ids")
    if run_ids:
        runs: Iterable[Run] = [session.run(run_id) for run_id in run_ids]
    else:
        runs = session.find(_query(request, limit=_MOST_EXPORTED)).runs
    kind = _text(request, "kind")
    checks.one_of(kind, "kind", SUFFIXES, message=f"No export is of the kind {kind!r:.40}")
    ending = {"excel": "-excel.csv"}.get(kind, SUFFIXES[kind][0])
    made = f"{dt.datetime.now():%Y%m%d-%H%M%S}"  # noqa: DTZ005 - the time on the wall
    # Two kernels may export into one folder in the same second.
    written = session.export(f"apixo-{made}-{secrets.token_hex(2)}{ending}", kind=kind, runs=runs)
    return {"file": written.name, "place": str(written.absolute())}


# --- pictures ---------------------------------------------------------------------------------------


def send_pictures(send: Callable[..., None], session: Session, request: dict[str, Any]) -> Reply:
    """Send the pictures that a page does not have yet, each in a message of its own."""
    for run, index, size in wanted_pictures(session, request):
        send_picture(send, session, run, index, size)
    return {}


def send_picture(send: Callable[..., None], session: Session, run: Run, index: int, size: str) -> None:
    """Send one picture. `send` takes a message, JSON, and the bytes that go with it."""
    facts, data = picture_bytes(session, run, index, size)
    send({"event": "picture", "run_id": run.run_id, "index": index, "size": size, **facts}, data)


def picture_bytes(session: Session, run: Run, index: int, size: str) -> tuple[Reply, bytes]:
    """A picture as bytes: "card" and "row" are small WebP, "full" is the original, byte for byte.

    The bytes are empty where it is not on disk, or cannot be read.
    """
    image = next((image for image in run.images if image.index == index), None)
    if image is None:
        return {"gone": "There is no such picture."}, b""
    data = _bytes(session, run, image, size)
    kind = mimetypes.guess_type(image.file)[0] or "image/png"
    facts: Reply = {"mime": kind if size == "full" else "image/webp", "file": image.file}
    if not data:
        facts["gone"] = image.error or "Its file is not in the folder of the pictures."
    return facts, data


def wanted_pictures(session: Session, request: dict[str, Any]) -> Iterator[tuple[Run, int, str]]:
    """Which pictures a page wants, and how large; what cannot be is left out."""
    wanted = request.get("wanted")
    for each in wanted if isinstance(wanted, list) else []:
        known = each if isinstance(each, dict) else {}
        run_id, index, size = (known.get(name) for name in ("run_id", "index", "size"))
        if isinstance(run_id, str) and isinstance(index, int) and size in ("full", *SMALL_PX):
            with contextlib.suppress(InvalidRequestError):  # no such run: the others are wanted still
                yield session.run(storable(run_id)), index, size


def _bytes(session: Session, run: Run, image: Image, size: str) -> bytes:
    if size != "full":
        return session.images.small(run.run_id, image, SMALL_PX[size])
    try:
        return session.images.path(image).read_bytes()
    except OSError:
        return b""


def review_picture(session: Session, request: dict[str, Any]) -> Run:
    """What a person says of a picture: rating, star, note, tags. Returns the run with it."""
    review = {name: request[name] for name in ("rating", "starred", "note", "tags") if name in request}
    index = request.get("index")
    if not isinstance(index, int):
        raise InvalidRequestError("Which picture?", field="index", value=index, allowed="a number from 0")
    return choose(session, _text(request, "run_id"), index, **review)


# --- reading a request --------------------------------------------------------------------------------


def _text(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    if isinstance(value, str):
        return storable(value)
    raise InvalidRequestError(f"{name} is no text", field=name, value=value, allowed="text")


def _texts(request: dict[str, Any], name: str) -> list[str]:
    values = request.get(name, [])
    known = values if isinstance(values, list) else []
    return [storable(value) for value in known if isinstance(value, str)]


def _number(value: object) -> float | None:
    """A finite number, or None."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return value if known and abs(value) < math.inf else None  # type: ignore[arg-type, return-value]


def _query(request: dict[str, Any], *, limit: int) -> Query:
    given = request.get("query")
    given = given if isinstance(given, dict) else {}
    rating, offset = _number(given.get("rating_min")), _number(given.get("offset"))
    return Query(
        text=str(given.get("text") or ""),
        states=tuple(_texts(given, "states")),
        tags=tuple(_texts(given, "tags")),
        rating_min=None if rating is None else int(rating),
        starred=given.get("starred") is True,
        since=_day(given.get("since")),
        until=_day(given.get("until"), end=True),
        cost_min_usd=_number(given.get("cost_min_usd")),
        cost_max_usd=_number(given.get("cost_max_usd")),
        sort=str(given.get("sort") or "created_at"),
        descending=given.get("descending") is not False,
        limit=limit,
        offset=int(offset or 0),
    )


def _day(text: object, *, end: bool = False) -> dt.datetime | None:
    """The beginning of a day of this machine's time zone, such as 2026-11-25; or of the day after it."""
    if not isinstance(text, str) or not text:
        return None
    try:
        day = dt.date.fromisoformat(text)
        if end and day < dt.date.max:
            day += dt.timedelta(days=1)
        return dt.datetime.combine(day, dt.time.min).astimezone()
    except (ValueError, OverflowError, OSError):  # the last two: at the ends of the calendar
        raise InvalidRequestError(
            f"{text!r:.40} is no day", field="date", value=text, allowed="2026-11-25"
        ) from None


#: By the method that the page names.
HANDLERS: dict[str, Callable[[Session, dict[str, Any]], Reply]] = {
    "find": find_runs,
    "facets": list_facets,
    "compare": compare_runs,
    "form": fill_form,
    "reference": reference_url,
    "prompt": full_prompt,
    "export": export_runs,
}
