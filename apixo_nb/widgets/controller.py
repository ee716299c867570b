"""The kernel's side of a widget: receives the requests of its page, replies, and sends pictures.

A request arrives on whatever thread the kernel uses and is carried out on threads of the controller's own, so
that nothing waits for a cell that sleeps.
"""

from __future__ import annotations

import contextvars
import functools
import logging
import threading
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from IPython.core.getipython import get_ipython
from IPython.display import display

from apixo_nb.core.event_loop import WriterThread
from apixo_nb.core.formatting import sentence_html
from apixo_nb.display.cards import lasting_html
from apixo_nb.errors import ApixoError, BudgetError, InvalidRequestError
from apixo_nb.session.session import Session, current

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
