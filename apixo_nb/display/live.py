"""Runs on their way, shown in place: widgets in a notebook, HTML without a front end, text in a terminal.

The waiting cell itself redraws, a few times a second, from each job's latest record: so the output always
lands in the right cell, and the last state is never lost. At the end each view is replaced by the lasting
card.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display, update_display

from apixo_nb.core.event_loop import loop_thread
from apixo_nb.core.formatting import phase, progress_share, progress_text
from apixo_nb.core.process import has_kernel, takes_input
from apixo_nb.core.records import Run
from apixo_nb.engine.job import Job, cancel_all, stop_all
from apixo_nb.errors import remember

from .cards import Source, _card_text, card, progress_html

REDRAW_S = 0.2  # five times a second: more loses messages and helps nobody
_BAR_STEPS = 200
_BACKGROUND_REDRAW_S = 0.5
_LAST_DRAWING_S = 5.0
_WIDGETS_AFTER_S = 0.3
_WIDGETS_CLOSED_AFTER_S = 3.0

Stop = TypeVar("Stop", bound=BaseException)


class Subject(Protocol):
    """What one output tells of: a run, or a whole sweep."""

    jobs: Sequence[Job]
    draws_bar: bool  # its line has a bar of its own

    def line(self, elapsed_s: float) -> dict[str, str]:
        """Where it stands, as a MIME bundle of HTML and text; one line."""

    def news(self) -> str:
        """Where it stands, in words that change seldom: for output in which every line stays."""

    def share(self, elapsed_s: float) -> float:
        """How full the bar is, 0 to 1."""

    def lasting(self) -> dict[str, str]:
        """What stays, as a MIME bundle of HTML and text."""

    def lasting_text(self) -> str:
        """The text of it alone, where pictures cannot be shown."""

    def check(self) -> None:
        """Raise what went wrong, once all has ended."""


class OneRun:
    """A run as the subject of an output: its state, then its card."""

    draws_bar = False

    def __init__(self, session: Source, job: Job) -> None:
        self.jobs: Sequence[Job] = (job,)
        self._session = session
        self._cadence = session.cadence_of(job.run)

    def line(self, elapsed_s: float) -> dict[str, str]:
        """See `Subject`."""
        run = self.jobs[0].run
        return {
            "text/html": progress_html(run, elapsed_s, self._cadence),
            "text/plain": progress_text(run, elapsed_s, self._cadence),
        }

    def news(self) -> str:
        """See `Subject`."""
        return phase(self.jobs[0].run)

    def share(self, elapsed_s: float) -> float:
        """See `Subject`."""
        return progress_share(self.jobs[0].run, elapsed_s, self._cadence)

    def lasting(self) -> dict[str, str]:
        """See `Subject`."""
        return card(self._session, self.jobs[0].run, self.jobs[0].note)

    def lasting_text(self) -> str:
        """See `Subject`."""
        return _card_text(self._session, self.jobs[0].run, self.jobs[0].note)

    def check(self) -> None:
        """See `Subject`."""
        self.jobs[0].wait()


class View(Protocol):
    """How a subject is shown."""

    def refresh(self, elapsed_s: float) -> None:
        """Show where it stands."""

    def finish(self) -> None:
        """Replace that by what stays."""


class Watch:
    """Several jobs of one cell, watched until all have ended, with `block` or with ``await wait()``.

    `button`: show Cancel. Recent kernels hear it only while the cell awaits; a dead one would be worse.
    `whole`: show all jobs as this one thing, in place of an output for each.
    """

    def __init__(
        self,
        session: Source,
        jobs: Sequence[Job],
        shell: InteractiveShell | None,
        *,
        button: bool = False,
        whole: Subject | None = None,
    ) -> None:
        self.jobs = jobs
        self._started = time.monotonic()
        self._subjects: Sequence[Subject] = [whole] if whole else [OneRun(session, job) for job in jobs]
        kind = _view_kind(shell, button=button)
        self._views: list[View] = [kind(subject) for subject in self._subjects]
        self._drawing: concurrent.futures.Future[None] | None = None
        self._ended: set[int] = set()  # subjects whose lasting output is shown already

    def block(self) -> list[Run]:
        """Wait; Stop (KeyboardInterrupt) cancels all jobs. Raises the first job's error."""
        try:
            while self._redraw():
                time.sleep(REDRAW_S)
        except KeyboardInterrupt as stop:
            raise self._leave(stop) from None
        return self._results()

    def go_on(self) -> list[Job]:
        """Do not wait, and return the jobs: the output goes on by itself, in its place, under other cells."""
        _background.append(self)
        self._drawing = loop_thread().submit(self._in_background())
        return list(self.jobs)

    async def _in_background(self) -> None:
        # On a thread of its own, as pictures are made small meanwhile; in the context of the cell, so that
        # what is shown lands in its output.
        while await asyncio.to_thread(self._redraw):  # noqa: ASYNC110
            await asyncio.sleep(_BACKGROUND_REDRAW_S)

    def show_again(self) -> None:
        """Show the last states once more, from the cell that calls.

        What a cell shows after its end is lost where no front end listens, as in nbconvert and papermill.
        """
        if self._drawing is not None:
            concurrent.futures.wait([self._drawing], timeout=_LAST_DRAWING_S)
        for view in self._views:
            view.finish()

    def check(self) -> None:
        """Raise the first error of what has ended."""
        for subject in self._subjects:
            subject.check()

    async def wait(self) -> list[Run]:
        """As `block`, without blocking the kernel's loop: a Cancel button is heard while the cell runs."""
        try:
            while self._redraw():  # noqa: ASYNC110 - there is nobody who could set an event
                await asyncio.sleep(REDRAW_S)
        except asyncio.CancelledError as stop:
            raise self._leave(stop) from None
        return self._results()

    def _redraw(self) -> bool:
        elapsed = time.monotonic() - self._started
        for index, (subject, view) in enumerate(zip(self._subjects, self._views, strict=True)):
            if all(job.done for job in subject.jobs):
                self._end(index)  # its neighbours may take minutes more
            else:
                view.refresh(elapsed)
        return len(self._ended) < len(self._subjects)

    def _end(self, index: int) -> None:
        if index not in self._ended:
            self._ended.add(index)
            self._views[index].finish()

    def _leave(self, stop: Stop) -> Stop:
        stop_all(self.jobs)
        self._finish()
        left = next((job.run for job in self.jobs if not job.run.is_final), self.jobs[0].run)
        return remember(stop, run_id=left.run_id, task_id=left.task_id)

    def _results(self) -> list[Run]:
        self._finish()
        self.check()  # raises what went wrong; the other runs are done and shown
        return [job.run for job in self.jobs]

    def _finish(self) -> None:
        for index in range(len(self._subjects)):
            self._end(index)


# Cells that were run with --bg and not waited for yet.
_background: list[Watch] = []


def wait() -> list[Run]:
    """Wait for all cells that were run with ``--bg``, and return their runs.

    Stop (KeyboardInterrupt) ends the waiting, not the runs.

    Raises
    ------
    ApixoError
        The first run's that has no pictures, or not all of them; all have ended then.
    """
    watches = list(_background)
    jobs = [job for watch in watches for job in watch.jobs]
    while not all(job.done for job in jobs):
        time.sleep(REDRAW_S)
    for watch in watches:
        _background.remove(watch)
        watch.show_again()
    for watch in watches:
        watch.check()
    return [job.run for job in jobs]


def _view_kind(shell: InteractiveShell | None, *, button: bool) -> Any:
    if not has_kernel(shell):
        return _TextView
    return _WidgetView if button and takes_input(shell) else _HtmlView


class _HtmlView:
    """One output that is updated in place."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._id = uuid.uuid4().hex
        self._shown: object = None
        display(subject.line(0.0), raw=True, display_id=self._id)

    def refresh(self, elapsed_s: float) -> None:
        line = self._subject.line(elapsed_s)  # changes once a second
        if line["text/plain"] != self._shown:
            self._shown = line["text/plain"]
            update_display(line, raw=True, display_id=self._id)

    def finish(self) -> None:
        update_display(self._subject.lasting(), raw=True, display_id=self._id)


class _WidgetView(_HtmlView):
    """A line of state, a bar and a Cancel button, until the lasting output takes their place.

    They come a moment after the line, and go a while after the card is there: a front end that is still about
    to draw a widget that is gone complains of it.
    """

    _box: Any = None

    def _show_widgets(self, line: dict[str, str]) -> None:
        import ipywidgets as widgets

        self._line = widgets.HTML(line["text/html"])
        self._bar = widgets.IntProgress(
            max=_BAR_STEPS, layout=widgets.Layout(width="320px", height="12px", margin="4px 8px 0 0")
        )
        self._cancel = widgets.Button(
            description="Cancel",
            tooltip="Stop waiting. APIXO cannot cancel a task: it may still finish, and can be resumed.",
            layout=widgets.Layout(width="auto", height="26px"),
        )
        self._cancel.on_click(lambda _button: self._stop())
        shown = [self._cancel] if self._subject.draws_bar else [self._bar, self._cancel]
        self._row = widgets.HBox(shown, layout=widgets.Layout(align_items="center"))
        self._box = widgets.VBox([self._line, self._row], layout=widgets.Layout(margin="4px 0"))
        update_display({**self._box._repr_mimebundle_(), **line}, raw=True, display_id=self._id)

    def _stop(self) -> None:
        self._cancel.disabled = True
        self._cancel.description = "Stopping"
        cancel_all(self._subject.jobs)

    def refresh(self, elapsed_s: float) -> None:
        line = self._subject.line(elapsed_s)
        if self._box is None:
            if elapsed_s < _WIDGETS_AFTER_S:
                return
            self._show_widgets(line)
        self._line.value = line["text/html"]  # traits send only what has changed
        share = self._subject.share(elapsed_s)
        self._bar.value = max(self._bar.value, round(share * _BAR_STEPS))

    def finish(self) -> None:
        super().finish()
        if self._box is not None:
            gone = threading.Timer(_WIDGETS_CLOSED_AFTER_S, self._close)
            gone.daemon = True
            gone.start()

    def _close(self) -> None:
        # One that stays, with closed children, would keep all widgets from coming back after a reload.
        for widget in (self._box, self._row, self._line, self._bar, self._cancel):
            widget.close()


class _TextView:
    """One line in a terminal, rewritten; only new states where the output is no terminal."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._shown = ""
        self._width = 0
        self._finished = False

    def refresh(self, elapsed_s: float) -> None:
        terminal = sys.stdout.isatty()
        line = self._subject.line(elapsed_s)
        # Only a line that is not wrapped can be rewritten.
        room = shutil.get_terminal_size().columns - 1
        news = line["text/plain"][:room] if terminal else self._subject.news()
        if news != self._shown:
            self._shown = news
            self._write(news, "\r" if terminal else "")

    def finish(self) -> None:
        if self._finished:  # what is printed stays
            return
        self._finished = True
        if sys.stdout.isatty():
            self._write("", "\r")
            print(end="\r")  # noqa: T201
        print(self._subject.lasting_text())  # noqa: T201 - the output of the magic in a terminal

    def _write(self, text: str, back: str) -> None:
        padded = text.ljust(self._width)
        self._width = len(text)
        print(f"{back}{padded}", end="" if back else "\n", flush=True)  # noqa: T201
