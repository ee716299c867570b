"""The panel: a form, live cards and the history, for people who would rather click.

It stands on the same session as the magic: a run that is begun here is the same row, and shows here if it was
begun elsewhere in this kernel. One panel a kernel: shown again, it is the same one, with all that is in it.

What the page asks is heard on whatever thread the kernel uses and carried out on threads of the panel's own,
so that nothing waits for a cell that sleeps. Money is asked for with a token: a click that arrives twice, or
that was pressed again while nobody answered, buys once.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from IPython.core.getipython import get_ipython
from IPython.display import display

from . import asks, loop
from .board import Board
from .cards import model_facts, row
from .display import lasting_html, sentence_html
from .errors import ApixoError, ConfigurationError, CostLimitError
from .form import Form, cell_text, check_draws, form_of, problems, python_text, read_form
from .job import Job
from .live import card
from .options import MOST_DRAWS
from .outlet import Outlet
from .purse import budgets
from .run import Run
from .session import Session
from .shared import current
from .spec import MODELS
from .text import dollars
from .writer import Writer

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .widget import PanelWidget

_REDRAW_S = 0.25
_LEFT_AGAIN = 12  # lasting outputs, when the panel is shown again in this kernel

_NO_WIDGETS = (
    "The panel is a form in the notebook: open the notebook in JupyterLab, Notebook 7 or Voila, and run this "
    "cell. Here, %%apixo makes pictures."
)

_log = logging.getLogger(__name__)


class Panel:
    """The panel of this kernel; get it with `panel`. As the value of a cell it is shown."""

    def __init__(self) -> None:
        from .widget import PanelWidget

        self._id = uuid.uuid4().hex
        self._lock = threading.RLock()
        self._worker = Writer("apixo-panel")
        self._painter = Writer("apixo-panel-pictures")
        # ipykernel hears the page's next message in the thread whose context ours was sent from. The page's
        # last message is that context, so that it is a subshell of the front end where there are any.
        self._context = contextvars.copy_context()
        self._outlet: Outlet | None = None
        self._ticking = False
        self._bought: dict[str, list[str]] = {}  # token -> runs
        self._exported: dict[str, str] = {}
        self._unbind: Callable[[], None] = lambda: None
        self._widget: PanelWidget = PanelWidget(form=Form().as_dict())
        self._bind(current())
        self._widget.observe(lambda _change: self._worker.submit(self._check), "form")
        self._widget.on_msg(self._heard)
        self._check()

    def __repr__(self) -> str:
        return f"<Panel of {self._session!r}>"

    def _ipython_display_(self) -> None:
        shell = get_ipython()
        if shell is None or not _has_widgets(shell):
            display({"text/html": sentence_html(_NO_WIDGETS), "text/plain": _NO_WIDGETS}, raw=True)
            return
        found: Any = self._widget._repr_mimebundle_()
        bundle, metadata = found if isinstance(found, tuple) else (found, {})
        display({**bundle, "text/plain": _NO_WIDGETS}, metadata=metadata, raw=True)
        with self._lock:
            self._outlet = Outlet(shell)
            for job in self._board.ended()[-_LEFT_AGAIN:]:
                self._leave(job)
        self._worker.submit(self._look)

    # --- the session ---

    def _bind(self, session: Session) -> None:
        self._unbind()
        with self._lock:
            self._session = session
            self._board = Board(session, self._has_ended)
        self._listen()
        self._tell_facts()

    def _listen(self) -> None:
        try:
            self._unbind = self._session.listen(self._news)
            problem: dict[str, str] = {}
        except ApixoError as error:  # there is no key yet
            problem = {"text": error.message, "advice": error.advice}
        self._problem = problem

    def _tell_facts(self) -> None:
        session = self._session
        facts = {
            "id": self._id,
            "sandbox": session.is_sandbox,
            "models": [model_facts(spec, session.unit_price_micros(spec.id)) for spec in MODELS.values()],
            "most_draws": MOST_DRAWS,
            "problem": self._problem,
            "unfinished": self._unfinished(),
        }
        self._set(facts=facts, money=self._money())

    def _money(self) -> dict[str, Any]:
        """The caps that are set, in micro-dollars."""
        try:
            caps = budgets(self._session)
        except ApixoError:
            return {"budgets": []}
        return {
            "budgets": [
                {"name": cap.name, "limit_micros": cap.limit_micros, "left_micros": cap.left_micros}
                for cap in caps
            ]
        }

    def _unfinished(self) -> str:
        """What an earlier kernel has left, in a sentence; "" if nothing."""
        session = self._session
        try:
            here = {job.run.run_id for job in session.jobs()} | session.ledger.elsewhere()
            left = [run for run in session.ledger.unfinished() if run.run_id not in here]
            open_runs = [run for run in left if run.sandbox == session.is_sandbox and run.task_id]
            lost = session.lost()
        except ApixoError:
            return ""
        said = []
        if open_runs:
            runs = "1 earlier run is" if len(open_runs) == 1 else f"{len(open_runs)} earlier runs are"
            said.append(f"{runs} not finished; to resume costs nothing.")
        if lost:
            stake = dollars(sum(run.price_micros for run in lost) / 1e6)
            submits = "1 submit was" if len(lost) == 1 else f"{len(lost)} submits were"
            said.append(f"{submits} never answered, up to {stake} at stake: see %apixo resume.")
        return " ".join(said)

    def _same_session(self) -> Session:
        """The session of the notebook; the panel follows it when a setting has changed."""
        session = current()
        if session is not self._session:
            self._bind(session)
            self._check()
        elif self._problem:  # a key may have come since
            self._listen()
            if not self._problem:
                self._tell_facts()
        return session

    def _agreed_session(self) -> Session:
        """As `_same_session`, for what costs money: never another service than the page has shown."""
        before = self._session
        if self._same_session() is not before:
            step = "Nothing was sent. Look at what the panel says now, then press again."
            raise ConfigurationError("The settings have changed since the panel was drawn", next_step=step)
        return before

    # --- to the page ---

    def _set(self, **traits: Any) -> None:
        def put() -> None:
            for name, value in traits.items():
                setattr(self._widget, name, value)

        with self._lock:
            self._context.copy().run(put)

    def _send(self, content: dict[str, Any], *buffers: bytes) -> None:
        with self._lock:
            self._context.copy().run(self._widget.send, content, list(buffers))

    def _news(self, _run: Run | None = None) -> None:
        """A run has changed; called on the loop thread."""
        if not self._ticking:
            self._ticking = True
            task = asyncio.ensure_future(self._tick())
            task.add_done_callback(lambda _done: setattr(self, "_ticking", False))

    async def _tick(self) -> None:
        while await asyncio.to_thread(self._look):  # noqa: ASYNC110 - the steps of a run have no common event
            await asyncio.sleep(_REDRAW_S)

    def _look(self) -> bool:
        """Bring the page up to date; whether something is still on its way."""
        with self._lock:
            busy = self._board.busy
            shown = self._board.cards()
            if shown != self._widget.cards:
                self._set(cards=shown, money=self._money())
            busy = busy or self._board.busy
        if busy:
            self._wake()
        return busy

    def _wake(self) -> None:
        loop.loop_thread().loop.call_soon_threadsafe(self._news)

    def _has_ended(self, job: Job, *, ours: bool) -> None:
        if ours:
            self._leave(job)
        for image in job.run.images:
            self._painter.submit(self._paint, job.run, image.index, "card")

    def _leave(self, job: Job) -> None:
        """The lasting output of a run, in the panel's cell; the page hides it while the panel is there."""
        if self._outlet is not None:
            bundle = card(self._session, job.run, job.said)
            self._outlet.show({**bundle, "text/html": lasting_html(bundle["text/html"], self._id)})

    def _paint(self, run: Run, index: int, size: str) -> None:
        facts, data = asks.picture(self._session, run, index, size)
        push = {"push": "picture", "run_id": run.run_id, "index": index, "size": size, **facts}
        self._send(push, data)

    # --- from the page ---

    def _heard(self, _widget: object, content: dict[str, Any], _buffers: object) -> None:
        """A message of the page, on whatever thread the kernel uses."""
        self._context = contextvars.copy_context()
        slow = content.get("ask") in ("pictures", "export", "fetch", "compare")
        (self._painter if slow else self._worker).submit(self._answer, content)

    def _answer(self, content: dict[str, Any]) -> None:
        name = str(content.get("ask"))
        try:
            own: Callable[[dict[str, Any]], dict[str, Any]] | None = getattr(self, f"_ask_{name}", None)
            answer = own(content) if own else asks.ASKS[name](self._same_session(), content)
        except Exception as error:  # noqa: BLE001 - the page must hear of it, whatever it is
            answer = asks.problem(error)
            if not isinstance(error, ApixoError):
                _log.exception("the panel failed at %s", name)
        buffers = answer.pop("buffers", ())
        self._send({"answer": content.get("call"), **answer}, *buffers)

    def _check(self) -> None:
        """Tell what is wrong with the form, and how it reads as a cell and as Python."""
        given = self._widget.form
        form = read_form(given)
        found = problems(form, nearby=self._session.is_sandbox)
        self._set(checked={"problems": found, "rev": given.get("rev"), **_texts(form)})

    def _ask_texts(self, asked: dict[str, Any]) -> dict[str, Any]:
        return _texts(read_form(asked.get("form")))

    def _ask_hello(self, _asked: dict[str, Any]) -> dict[str, Any]:
        """A page is there: everything that may have changed while none was."""
        self._same_session()
        self._tell_facts()
        self._look()
        with self._lock:  # a message can be lost, or the page may have been opened anew
            for name in ("facts", "money", "cards", "checked"):
                self._context.copy().run(self._widget.send_state, name)
        return {}

    def _ask_generate(self, asked: dict[str, Any]) -> dict[str, Any]:
        form = read_form(asked.get("form"))
        session = self._agreed_session()
        check_draws(form.repeat)
        request = form.request(nearby=session.is_sandbox)
        runs = [session.plan(request, form.labels()) for _ in range(form.repeat)]
        return self._buy(session, runs, asked)

    def _ask_again(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Buy the request of a run that came to nothing once more."""
        session = self._agreed_session()
        old = self._shown(asked).run
        labels = form_of(old).labels()
        run = session.plan(old.request, labels, prompt_template=old.prompt_template, variables=old.variables)
        return self._buy(session, [run], asked)

    def _buy(self, session: Session, runs: list[Run], asked: dict[str, Any]) -> dict[str, Any]:
        token, price = str(asked.get("token") or ""), sum(run.price_micros for run in runs)
        if not token:
            raise ConfigurationError("A purchase without a token", next_step="Nothing was sent.")
        if token in self._bought:  # this very click has arrived before
            return {"run_ids": self._bought[token]}
        if asked.get("price_micros") != price:
            step = "Nothing was sent. Look at what the panel says now, then press again."
            raise CostLimitError(f"This costs {dollars(price / 1e6)}, not what was shown", next_step=step)
        session.check_cost(runs, None)
        # From here on the click is spent, whatever happens.
        self._bought[token] = [run.run_id for run in runs]
        batch = object()
        with self._lock:
            for run in runs:
                self._board.add([session.start(run, batch=batch)], ours=True)
        self._look()
        return {"run_ids": self._bought[token]}

    def _shown(self, asked: dict[str, Any]) -> Job:
        job = self._board.job(str(asked.get("run_id")))
        if job is None:
            raise ConfigurationError("That run is not on the panel any more", next_step="Nothing was sent.")
        return job

    def _ask_cancel(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._shown(asked).cancel()
        self._wake()
        return {}

    def _ask_resume(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Take up one run, or all that are unfinished; it is free."""
        session = self._same_session()
        run_id = asked.get("run_id")
        jobs = session.resume(run_id if isinstance(run_id, str) else None)
        with self._lock:
            self._board.add(jobs, ours=True)
        self._look()
        self._tell_facts()
        return {"run_ids": [job.run.run_id for job in jobs]}

    def _ask_say(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Rating, star, note and tags of a picture."""
        run = asks.say_of(self._same_session(), asked)
        with self._lock:
            self._board.renew(run)
        self._look()
        return {"row": row(run)}

    def _ask_pictures(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Pictures that the page does not have yet; they come one by one."""
        session = self._same_session()
        wanted = [each for each in asked.get("wanted", []) if isinstance(each, dict)]
        for each in wanted:
            run = session.run(str(each.get("run_id")))
            size = str(each.get("size"))
            if isinstance(each.get("index"), int) and (size == "full" or size in asks.SMALL_PX):
                self._paint(run, each["index"], size)
        return {}

    def _ask_export(self, asked: dict[str, Any]) -> dict[str, Any]:
        answer = asks.export(self._same_session(), asked)
        self._exported[answer["file"]] = answer["place"]
        return answer

    def _ask_fetch(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The bytes of a file that was exported here, to be saved by the browser."""
        place = self._exported.get(str(asked.get("file")))
        if place is None:
            raise ConfigurationError("No such file was exported here")
        with open(place, "rb") as file:  # noqa: PTH123 - a text, as it was told to the page
            return {"buffers": [file.read()]}


def _texts(form: Form) -> dict[str, str]:
    return {"cell": cell_text(form), "python": python_text(form)}


def _has_widgets(shell: InteractiveShell | None) -> bool:
    """Whether somebody can click here. Voila runs notebooks without input, and shows their widgets."""
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return False
    voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila")
    return voila or bool(kernel.get_parent().get("content", {}).get("allow_stdin", True))


_panel: Panel | None = None
_panel_lock = threading.Lock()


def panel() -> Panel:
    """The panel: a form to make pictures, live cards of all runs of this kernel, and the history.

    As the value of a cell it is shown; shown again, it is the same one. It needs a front end with widgets
    (JupyterLab 4, Notebook 7, Voila); elsewhere it says so in a sentence.
    """
    global _panel  # noqa: PLW0603 - one a kernel is the point
    with _panel_lock:
        if _panel is None:
            _panel = Panel()
        return _panel
