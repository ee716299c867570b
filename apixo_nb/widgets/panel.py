"""The panel: a form, live cards and the history, for people who would rather click.

It stands on the same session as the magic: a run that is begun here is the same row, and shows here if it was
begun elsewhere in this kernel. One panel a kernel: shown again, it is the same one, with all that is in it.

A purchase carries a token: a click that arrives twice, or that was pressed again while nobody replied, buys
once.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from IPython.core.getipython import get_ipython

from apixo_nb.analysis.pivot import lay_out
from apixo_nb.core import event_loop
from apixo_nb.core.models import MODELS
from apixo_nb.core.process import has_widgets
from apixo_nb.core.records import Run
from apixo_nb.display.cards import MOST_COMPARED, card
from apixo_nb.engine.job import Job
from apixo_nb.errors import ApixoError, ConfigurationError, CostLimitError, InvalidRequestError
from apixo_nb.experiments.cell_options import MOST_DRAWS
from apixo_nb.experiments.plan import SweepOptions, make_plan
from apixo_nb.experiments.prompts import Template
from apixo_nb.experiments.review import Grid
from apixo_nb.session.maintenance import budgets
from apixo_nb.session.session import Session, current
from apixo_nb.text import dollars, to_micros

from .cards import RunList, TrackedRun, history_row, retry_price
from .controller import (
    HANDLERS,
    Controller,
    FallbackText,
    Handler,
    error_reply,
    export_runs,
    review_picture,
    send_picture,
    send_pictures,
)
from .form import Form, cell_text, check_draws, model_facts, problems, python_text, read_form

_REDRAW_S = 0.25
_SLOW = ("pictures", "export", "fetch", "compare")  # requests that read or write files
_MOST_TASKS = 500  # of one click
_CARDS_LEFT = 8  # runs bought at once that each leave a card in the notebook
_LEFT_AGAIN = 12  # lasting outputs, when the panel is shown again in this kernel

_NO_WIDGETS = (
    "The panel is a form in the notebook: open the notebook in JupyterLab, Notebook 7 or Voila, and run this "
    "cell. Here, %%apixo makes pictures."
)

_log = logging.getLogger(__name__)


class Panel(Controller):
    """The panel of this kernel; get it with `panel`. As the value of a cell it is shown."""

    def __init__(self) -> None:
        from .frontend import PanelWidget

        super().__init__(PanelWidget(form=Form().as_dict()), _NO_WIDGETS, self._all_handlers(), _SLOW)
        self._refreshing = False
        self._purchases: dict[str, list[str]] = {}  # token -> runs
        self._exported: dict[str, str] = {}
        self._stop_listening: Callable[[], None] = lambda: None
        self._heard_runner: object = None
        self._groups: list[tuple[Session, list[Job]]] = []  # bought together, and too many for a card each
        self._runs = RunList(self._has_ended)
        self._use_session(self._session)
        self._widget.observe(lambda _change: self._run_soon(self._check_form), "form")
        self._check_form()

    def _all_handlers(self) -> dict[str, Handler]:
        return {
            **{method: self._with_session(handle) for method, handle in HANDLERS.items()},
            "pictures": self._with_session(functools.partial(send_pictures, self._send)),
            "hello": self._hello,
            "texts": self._form_texts,
            "generate": self._generate,
            "retry": self._retry,
            "cancel": self._cancel,
            "resume": self._resume,
            "review": self._review,
            "export": self._export,
            "fetch": self._fetch,
        }

    def __repr__(self) -> str:
        return f"<Panel of {self._session!r}>"

    def _display_again(self) -> None:
        for tracked in self._runs.ended()[-_LEFT_AGAIN:]:
            self._display_run(tracked)
        self._run_soon(self._refresh)

    # --- the session ---

    def _use_session(self, session: Session) -> None:
        with self._lock:
            self._session = session
            self._settings_id = uuid.uuid4().hex  # what the page shows from here on, it agrees to by this id
            self._listen_to_runner()
            self._send_facts()

    def _listen_to_runner(self) -> None:
        self._stop_listening()
        try:
            self._heard_runner = self._session.runner
            self._stop_listening = self._heard_runner.listen(self._refresh_soon)
            problem: dict[str, str] = {}
        except ApixoError as error:  # there is no key yet
            problem = {"text": error.message, "advice": error.advice}
        self._problem = problem

    def _send_facts(self) -> None:
        session = self._session
        facts = {
            "id": self._id,
            "settings_id": self._settings_id,
            "sandbox": session.is_sandbox,
            "models": [model_facts(spec, session.unit_price_micros(spec.id)) for spec in MODELS.values()],
            "most_draws": MOST_DRAWS,
            "most_compared": MOST_COMPARED,
            "ask_above_micros": to_micros(session.settings.ask_above_usd),
            "problem": self._problem,
            "unfinished": unfinished_text(session),
        }
        self._set_traits(facts=facts, money=budget_facts(self._session))

    def _current_session(self) -> Session:
        """The session of the notebook; the panel follows it when a setting has changed."""
        session = current()
        with self._lock:
            if session is not self._session:
                self._use_session(session)
                self._check_form()
            elif (
                self._problem or not self._is_listening()
            ):  # a key may have come since, or a ledger been rebuilt
                self._listen_to_runner()
                self._send_facts()
        return session

    def _is_listening(self) -> bool:
        try:
            return self._session.runner is self._heard_runner
        except ApixoError:
            return False

    def _confirmed_session(self, request: dict[str, Any]) -> Session:
        """As `_current_session`, for what costs money: never another service than the page has shown."""
        session = self._current_session()
        if request.get("settings_id") != self._settings_id:
            step = "Nothing was sent. Look at what the panel says now, then press again."
            raise ConfigurationError("The settings have changed since the panel was drawn", next_step=step)
        return session

    # --- to the page ---

    def _refresh_soon(self, _run: Run | None = None) -> None:
        """A run has changed; called on the listeners' thread."""
        event_loop.loop_thread().loop.call_soon_threadsafe(self._on_run_changed)

    def _on_run_changed(self) -> None:
        """A run has changed; called on the loop thread."""
        if not self._refreshing:
            self._refreshing = True
            task = asyncio.ensure_future(self._refresh_until_idle())
            task.add_done_callback(lambda _done: setattr(self, "_refreshing", False))

    async def _refresh_until_idle(self) -> None:
        while await asyncio.to_thread(self._refresh):  # noqa: ASYNC110 - the steps of a run have no common event
            await asyncio.sleep(_REDRAW_S)

    def _refresh(self) -> bool:
        """Bring the page up to date; whether something is still on its way.

        Never raises: what was bought goes on, and the page must hear of it, whatever can be shown.
        """
        try:
            busy = self._redraw()
        except Exception:  # noqa: BLE001 - whatever it is
            _log.exception("the panel could not be drawn")
            return False
        if busy:
            self._schedule_refresh()
        return busy

    def _redraw(self) -> bool:
        with self._lock:
            self._runs.add(self._session, self._session.jobs())
            busy = self._runs.busy
            shown = self._runs.cards()
            if shown != self._widget.cards:
                self._set_traits(cards=shown, money=budget_facts(self._session))
            self._set_traits(progress=self._runs.progress(time.monotonic()))
            for group in [group for group in self._groups if all(job.ended.done() for job in group[1])]:
                self._groups.remove(group)
                self._run_in_background(self._display_grid, *group)
            return busy or self._runs.busy

    def _schedule_refresh(self) -> None:
        event_loop.loop_thread().loop.call_soon_threadsafe(self._on_run_changed)

    def _has_ended(self, tracked: TrackedRun) -> None:
        for image in tracked.job.run.images:
            run = tracked.job.run
            self._run_in_background(send_picture, self._send, tracked.session, run, image.index, "card")
        if tracked.ours:
            self._run_in_background(self._display_run, tracked)

    def _display_grid(self, session: Session, jobs: list[Job]) -> None:
        """The lasting output of many runs at once: light, and bounded."""
        self._display_lasting(Grid(lay_out([job.run for job in jobs]), session.images)._repr_mimebundle_())

    def _display_run(self, tracked: TrackedRun) -> None:
        """The lasting output of a run."""
        self._display_lasting(card(tracked.session, tracked.job.run, tracked.job.note))

    # --- from the page ---

    def _check_form(self) -> None:
        """Tell what is wrong with the form, and how it reads as a cell and as Python."""
        given = self._widget.form
        form = read_form(given)
        found = problems(form, allow_loopback=self._session.is_sandbox)
        checked = {"problems": found, "rev": given.get("rev"), **_texts(form)}
        if form.prompt and form.is_sweep and not found:
            checked["tasks"], checked["pictures"] = form.count()
        self._set_traits(checked=checked)

    def _form_texts(self, request: dict[str, Any]) -> dict[str, Any]:
        return _texts(read_form(request.get("form")))

    def _hello(self, _request: dict[str, Any]) -> dict[str, Any]:
        """A page is there: everything that may have changed while none was."""
        self._current_session()
        self._send_facts()
        self._refresh()
        self._resend_traits("facts", "money", "cards", "progress", "checked")
        return {}

    def _generate(self, request: dict[str, Any]) -> dict[str, Any]:
        if (bought := self._earlier_purchase(request)) is not None:
            return bought
        form = read_form(request.get("form"))
        session = self._confirmed_session(request)
        check_draws(form.repeat)
        return self._buy(session, _runs_of(session, form), request)

    def _retry(self, request: dict[str, Any]) -> dict[str, Any]:
        """Buy the request of a run that came to nothing once more."""
        if (bought := self._earlier_purchase(request)) is not None:
            return bought
        session = self._confirmed_session(request)
        old = self._shown_job(request).run
        if not retry_price(old) or old.sandbox != session.is_sandbox:
            step = "Nothing was sent. Send it to the form to ask for another variation."
            raise ConfigurationError("That run is not to be tried again here", next_step=step)
        return self._buy(session, [session.plan_again(old)], request)

    def _earlier_purchase(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """What this very click has bought, if it has arrived before."""
        run_ids = self._purchases.get(str(request.get("token")))
        return None if run_ids is None else {"run_ids": run_ids}

    def _buy(self, session: Session, runs: list[Run], request: dict[str, Any]) -> dict[str, Any]:
        token, price = str(request.get("token") or ""), sum(run.price_micros for run in runs)
        if not token:
            raise ConfigurationError("A purchase without a token", next_step="Nothing was sent.")
        if request.get("price_micros") != price:
            step = "Nothing was sent. Look at what the panel says now, then press again."
            raise CostLimitError(f"This costs {dollars(price)}, not what was shown", next_step=step)
        session.check_cost(runs, None)
        # From here on the click is spent, whatever happens.
        begun: list[str] = []
        self._purchases[token] = begun
        jobs: list[Job] = []
        batch = object()
        try:
            for run in runs:
                jobs.append(session.start(run, batch=batch))
                begun.append(run.run_id)
        except ApixoError as error:  # those that were begun go on, and the page is to know of both
            self._show_jobs(session, jobs, bought=True)
            return {"run_ids": begun, **error_reply(error)}
        self._show_jobs(session, jobs, bought=True)
        return {"run_ids": begun}

    def _show_jobs(self, session: Session, jobs: list[Job], *, bought: bool = False) -> None:
        """Show runs that were begun here; many at once leave one grid in the notebook, few a card each."""
        few = len(jobs) <= _CARDS_LEFT
        with self._lock:
            self._runs.add(session, jobs, ours=few, bought=bought)
            if not few:
                self._groups.append((session, jobs))
        self._refresh()

    def _shown_job(self, request: dict[str, Any]) -> Job:
        with self._lock:
            job = self._runs.job(str(request.get("run_id")))
        if job is None:
            raise ConfigurationError("That run is not on the panel any more", next_step="Nothing was sent.")
        return job

    def _cancel(self, request: dict[str, Any]) -> dict[str, Any]:
        self._shown_job(request).cancel()
        self._schedule_refresh()
        return {}

    def _resume(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take up one run, or all that are unfinished; it is free."""
        session = self._current_session()
        run_id = request.get("run_id")
        jobs = session.resume(run_id if isinstance(run_id, str) else None)
        self._show_jobs(session, jobs)
        self._send_facts()
        return {"run_ids": [job.run.run_id for job in jobs]}

    def _review(self, request: dict[str, Any]) -> dict[str, Any]:
        """Rate, star or label a picture."""
        run = review_picture(self._current_session(), request)
        with self._lock:
            self._runs.renew(run)
        self._refresh()
        return {"row": history_row(run)}

    def _export(self, request: dict[str, Any]) -> dict[str, Any]:
        reply = export_runs(self._current_session(), request)
        self._exported[reply["file"]] = reply["place"]
        return reply

    def _fetch(self, request: dict[str, Any]) -> dict[str, Any]:
        """The bytes of a file that was exported here, to be saved by the browser."""
        place = self._exported.get(str(request.get("file")))
        if place is None:
            raise ConfigurationError("No such file was exported here")
        try:
            return {"buffers": [Path(place).read_bytes()]}
        except OSError as error:
            raise ConfigurationError(f"The file cannot be read any more: {error.strerror}") from None


def budget_facts(session: Session) -> dict[str, Any]:
    """The budgets that are set, in micro-dollars."""
    try:
        limits = budgets(session)
    except ApixoError:  # the page says elsewhere what is wrong with the ledger
        limits = []
    facts = [(limit.name, limit.limit_micros, limit.left_micros) for limit in limits]
    names = ("name", "limit_micros", "left_micros")
    return {"budgets": [dict(zip(names, fact, strict=True)) for fact in facts]}


def unfinished_text(session: Session) -> str:
    """What an earlier kernel has left, in a sentence; "" if nothing."""
    try:
        here = {job.run.run_id for job in session.jobs()} | session.ledger.leases.held_elsewhere()
        left = session.ledger.unfinished(sandbox=session.is_sandbox)
        open_runs = [run for run in left if run.task_id and run.run_id not in here]
        lost = session.lost()
    except ApixoError:
        return ""
    sentences = []
    if open_runs:
        runs = "1 earlier run is" if len(open_runs) == 1 else f"{len(open_runs)} earlier runs are"
        sentences.append(f"{runs} not finished; to resume costs nothing.")
    if lost:
        stake = dollars(sum(run.price_micros for run in lost))
        submits = "1 submit was" if len(lost) == 1 else f"{len(lost)} submits were"
        sentences.append(f"{submits} never answered, up to {stake} at stake: see %apixo resume.")
    return " ".join(sentences)


def _runs_of(session: Session, form: Form) -> list[Run]:
    """The rows of all that a form asks for; it always buys, so each is another variation."""
    single = {wire: value for wire, value in form.parameters.items() if wire not in form.lists}
    options = SweepOptions(
        model=form.model,
        parameters=single,
        lists=form.lists,
        sets=form.sets,
        image_urls=form.image_urls,
        labels=form.labels(),
        repeat=form.repeat,
        raw=not form.is_sweep,
        new=True,
    )
    plan = make_plan(session, [Template(form.prompt)], options)
    if len(plan.bought) > _MOST_TASKS:
        raise InvalidRequestError(
            f"{len(plan.bought)} tasks are too many for a click",
            field="sweep",
            allowed=f"at most {_MOST_TASKS} here; a cell takes more",
        )
    return [run.replace(take=0) for run in plan.bought]


def _texts(form: Form) -> dict[str, str]:
    return {"cell": cell_text(form), "python": python_text(form)}


_panel: Panel | None = None
_panel_lock = threading.Lock()


def panel() -> Panel | FallbackText:
    """The panel: a form to make pictures, live cards of all runs of this kernel, and the history.

    As the value of a cell it is shown; shown again, it is the same one. It needs a front end with widgets
    (JupyterLab 4, Notebook 7, Voila); elsewhere it says so in a sentence.
    """
    global _panel  # noqa: PLW0603 - one a kernel is the point
    with _panel_lock:
        if _panel is None and not has_widgets(get_ipython()):
            return FallbackText(_NO_WIDGETS)
        if _panel is None:
            _panel = Panel()
        return _panel
