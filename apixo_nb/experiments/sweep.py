"""Sweeps: many runs made from templates, bought together; each of them succeeds or fails alone.

The plan is made and shown first; then the runs that are not in the ledger are bought. Where a sweep did not
complete, the same sweep started again continues where it stopped.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from apixo_nb.core import checks
from apixo_nb.core.event_loop import TICK_S
from apixo_nb.core.models import DEFAULT_MODEL
from apixo_nb.core.process import current_shell
from apixo_nb.core.records import Run
from apixo_nb.core.request import make_labels
from apixo_nb.display.live import Watch
from apixo_nb.engine.job import Job, stop_all
from apixo_nb.errors import ConfigurationError, remember
from apixo_nb.session.session import Session, current

from .cell_options import Options, model_parameters
from .plan import Plan, SweepOptions, checked_repeat, make_plan, read_templates, split_values, typed_lists
from .progress import Status, status_of
from .prompts import Template, split_prompts, values_of
from .sweep_view import SweepOutput, plan_bundle

if TYPE_CHECKING:
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

    from .review import Grid


@dataclass(frozen=True, slots=True)
class StartOptions:
    """How a sweep is started; the first three fields as in `sweep`.

    `draws`: whether its cell has its runs from now on, see `Sweep.release`; as with `generate`,
    where replay is wanted.
    """

    max_cost_usd: float | None = None
    yes: bool = False
    timeout_s: float | None = None
    draws: bool = True


class Sweep:
    """Many runs of one template. Wait for them with `wait`, or ``await`` it; iterate over the runs.

    Made by `sweep` and by ``%%apixo -o NAME`` where the cell is a sweep.

    Attributes
    ----------
    plan : Plan
        What it comes to: what is stored, open, left out, and to be bought.
    jobs : list of Job
        One for each of its runs, in the order of the cells; empty while it has not started.
    """

    def __init__(self, session: Session, plan: Plan, defaults: StartOptions | None = None) -> None:
        self.plan = plan
        self._defaults = defaults or StartOptions()  # for `agree` and `start`
        self._agreed = self._begun = False
        self.jobs: list[Job] = []
        self._session = session
        self._bought: list[Job] = []
        self._open = len(plan.decisions)
        self._lock = threading.Lock()
        self._shown_in: int | None = None  # the cell that shows its lasting output already

    # --- its runs ---

    @property
    def runs(self) -> list[Run]:
        """The latest record of each of its runs, in the order of the cells; planned ones before the start."""
        if self.jobs:
            return [job.run for job in self.jobs]
        return [decision.run for decision in self.plan.decisions]

    @property
    def failed(self) -> list[Run]:
        """Runs that came to nothing, or not to all of their pictures."""
        return [job.run for job in self.jobs if status_of(job) == Status.FAILED]

    @property
    def unknown(self) -> list[Run]:
        """Runs whose submit was never answered, maybe billed; those that were left out included."""
        return [job.run for job in self.jobs if status_of(job) == Status.UNKNOWN]

    @property
    def done(self) -> bool:
        """Whether all has ended."""
        return bool(self.jobs) and all(job.done for job in self.jobs)

    def __len__(self) -> int:
        return len(self.plan.decisions)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __getitem__(self, index: int) -> Run:
        return self.runs[index]

    def frame(self) -> pd.DataFrame:
        """Its runs as a table with the columns of `history`."""
        from apixo_nb.analysis.frame import history_frame

        from .accessor import register

        register()
        return history_frame(self.runs, self._session.shown_path)

    def grid(self, x: str | None = None, y: str | None = None) -> Grid:
        """Its pictures as a grid, such as ``grid(x="style", y="aspect_ratio")``; see `grid.grid`."""
        from .review import grid

        return grid(self, x, y)

    # --- starting ---

    def agree(self, max_cost_usd: float | None = None, *, yes: bool = False) -> Self:
        """Check limits and budgets, and ask where much would be newly paid.

        What is not given is as it was when the sweep was made.

        Raises
        ------
        CostLimitError
            It is above a limit, or nobody agreed to it.
        """
        offered = self._session.offer_new(self.plan.decisions)
        self.plan = plan = replace(self.plan, decisions=tuple(offered))
        defaults = self._defaults
        limit_usd = defaults.max_cost_usd if max_cost_usd is None else max_cost_usd
        self._session.agree(plan.decisions, limit_usd, yes=yes or defaults.yes, summary=plan.summary)
        self._agreed = True
        return self

    def start(self, timeout_s: float | None = None) -> Self:
        """Buy what is to be bought, and take up what is open; returns at once. Once: a plan is bought once.

        Where nobody has agreed to it yet, that comes first, see `agree`.

        Raises
        ------
        ConfigurationError
            It was started before, be it only in part.
        CostLimitError
            It is above a limit, or nobody agreed to it.
        """
        self._check_not_begun()
        checks.timeout(timeout_s)
        if not self._agreed:
            self.agree()
        _ = self._session.runner  # no key, no ledger: said while nothing has begun
        with self._lock:
            self._check_not_begun()  # again: somebody may have taken their time to agree
            self._begun = True
        self._carry_out(timeout_s or self._defaults.timeout_s)
        if not self._defaults.draws:
            self.release()
        return self

    def _check_not_begun(self) -> None:
        if self._begun:
            step = "Nothing more was sent. `wait()` for it; to buy more, make a new sweep."
            raise ConfigurationError("This sweep was started before", next_step=step)

    def _carry_out(self, timeout_s: float | None) -> None:
        decisions = self.plan.decisions
        made: dict[int, Job] = {}
        # One take of every cell before the second of any: what is stopped early has a bit of everything.
        order = sorted(range(len(decisions)), key=lambda index: decisions[index].run.take)
        try:
            for index in order:
                made[index] = self._session.carry_out(decisions[index], timeout_s, batch=self)
        except BaseException:
            stop_all(list(made.values()))
            self._open = len(made)  # the others were never begun
            raise
        finally:  # also of a part: what may be paid for is not lost sight of
            self._bought += [made[index] for index in made if decisions[index].action == "buy"]
            self.jobs += [made[index] for index in sorted(made)]
            for job in self.jobs:
                job.answer.add_done_callback(self._one_ended)

    def _one_ended(self, _answer: object) -> None:
        with self._lock:
            self._open -= 1
            last = self._open == 0
        if last and any(status_of(job) != Status.DONE for job in self.jobs):
            self.release()

    def release(self) -> None:
        """Let whoever asks for the same again in this kernel get these, and not further ones."""
        self._session.release(self.jobs)

    # --- waiting ---

    def wait(self) -> Self:
        """Block until all has ended; in IPython with a line that tells how it stands.

        Stop (KeyboardInterrupt) ends the waiting; the tasks stay, and can be resumed.

        Raises
        ------
        ApixoError
            Nothing came at all: the first one's error. Where some came, see `failed`.
        ConfigurationError
            It was not started.
        """
        self._check_started()
        if (shell := current_shell()) is not None and not self.done:
            self.watch(shell).block()
            self._shown_in = shell.execution_count
            return self
        try:
            while not self.done:
                time.sleep(TICK_S)
        except KeyboardInterrupt as stop:
            self.cancel()
            raise remember(stop, run_id=self.runs[0].run_id, task_id=self.runs[0].task_id) from None
        self.shown.check()
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._awaited().__await__()

    async def _awaited(self) -> Self:
        self._check_started()
        if (shell := current_shell()) is not None and not self.done:
            await self.watch(shell, button=True).wait()
            self._shown_in = shell.execution_count
            return self
        try:
            while not self.done:  # noqa: ASYNC110 - as in `Job`
                await asyncio.sleep(TICK_S)
        except asyncio.CancelledError as stop:
            self.cancel()
            raise remember(stop, run_id=self.runs[0].run_id, task_id=self.runs[0].task_id) from None
        self.shown.check()
        return self

    def _check_started(self) -> None:
        if not self.jobs:
            step = "Call start() on it; a sweep that was stopped before it began is made anew."
            raise ConfigurationError("This sweep was not started", next_step=step)

    def cancel(self) -> None:
        """Stop waiting for all of it. What was not sent is not sent; tasks stay, and can be resumed."""
        stop_all([job for job in self.jobs if not job.done])

    # --- showing ---

    @cached_property
    def shown(self) -> SweepOutput:
        """What its output shows."""
        return SweepOutput(self._session, self.plan, self.jobs, self._bought)

    def watch(self, shell: InteractiveShell | None, *, button: bool = False) -> Watch:
        """Its output, live, in the cell that calls; see `live.Watch`."""
        return Watch(self._session, self.jobs, shell, button=button, whole=self.shown)

    def __repr__(self) -> str:
        if not self.jobs:
            return f"<Sweep, not started: {self.plan.summary}>"
        return f"<Sweep{'' if self.done else ', under way'}: {self.shown.summary}>"

    def _repr_mimebundle_(self, **_options: Any) -> dict[str, str]:
        """The table of its cells before the start; then a line; then summary and gallery."""
        shell = current_shell()
        if not self.jobs:
            session = self._session
            own = session.settings.sandbox  # at an address of its own, which it has once it runs
            return plan_bundle(self.plan, session.client.base_url if own else session.settings.base_url)
        if not self.done or (shell is not None and shell.execution_count == self._shown_in):
            return {"text/plain": repr(self)}
        return self.shown.lasting()


# --- making one ---------------------------------------------------------------------------------------


def sweep_of_cell(session: Session, given: Options, body: str, notebook: Mapping[str, Any]) -> Sweep:
    """The sweep that a ``%%apixo`` cell asks for, planned."""
    templates = [Template(text) for text in split_prompts(body)]
    flags = {parameter.wire: parameter.flag for parameter in model_parameters()}
    lists = {wire: values_of(flags.get(wire, wire), listed, notebook) for wire, listed in given.lists.items()}
    options = SweepOptions(
        model=given.model,
        parameters=given.parameters,
        lists=typed_lists(given.model, lists),
        sets={name: values_of(f"--set {name}", listed, notebook) for name, listed in given.sets.items()},
        image_urls=given.image_urls,
        labels=make_labels(given.name, given.tags, given.note),
        repeat=given.repeat,
        known=notebook,
        raw=given.raw,
        new=given.new,
    )
    return Sweep(session, make_plan(session, templates, options))


def sweep(
    template: Any,
    *,
    repeat: int = 1,
    model: str = DEFAULT_MODEL,
    image_urls: Iterable[str] = (),
    name: str = "",
    tags: Iterable[str] = (),
    note: str = "",
    max_cost_usd: float | None = None,
    yes: bool = False,
    replay: bool | None = None,
    timeout_s: float | None = None,
    dry_run: bool = False,
    raw: bool = False,
    **values: Any,
) -> Sweep:
    """Make pictures of all combinations; returns at once with a `Sweep` to wait for, or to ``await``.

    Parameters
    ----------
    template : str, list of str, DataFrame or path of a CSV file
        ``{name}`` is filled. In a table the column ``prompt`` is each row's template; columns of parameters
        (aspect_ratio, num_images, image_urls as JSON or parted by blanks) and labels (name, tags, note) are
        taken as such, all others are the row's variables.
    repeat : int
        Variations of each combination; each is paid for, as there is no seed.
    model, image_urls, name, tags, note, max_cost_usd, timeout_s, replay
        As in `generate`.
    yes : bool
        Do not ask, however much it costs; see ``%config Apixo.ask_above_usd``.
    dry_run : bool
        Only plan it: the Sweep shows its cells and their cost. Nothing is sent until its `start` is called.
    raw : bool
        The templates are prompts as they are; nothing is filled.
    **values
        Lists of values (or one value) of the model's parameters and of the template's variables, such as
        ``style=["oil", "ink"], aspect_ratio=["1:1", "3:2"]``.

    Raises
    ------
    ApixoError
        Before anything is bought: what is wrong, too expensive, or not agreed to.
    """
    checks.timeout(timeout_s)
    for what, switch in {"yes": yes, "replay": replay, "dry_run": dry_run, "raw": raw}.items():
        checks.optional_switch(switch, what)
    session = current()
    options = SweepOptions(
        model=model,
        image_urls=image_urls,
        labels=make_labels(name, tags, note),
        repeat=checked_repeat(repeat),
        raw=raw,
        new=current_shell() is None if replay is None else not replay,
        **split_values(model, values),
    )
    start = StartOptions(max_cost_usd, yes, timeout_s, draws=not options.new)
    made = Sweep(session, make_plan(session, read_templates(template, model), options), start)
    return made if dry_run else _started(made.agree())


def _started(made: Sweep) -> Sweep:
    if current_shell() is not None:
        print(made.plan.summary)  # noqa: T201 - in a notebook it is seen before anything is paid
    return made.start()
