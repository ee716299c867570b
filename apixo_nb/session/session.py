"""The session: settings, key, client, ledger, images and runner joined; and the one that a kernel shares."""

from __future__ import annotations

import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

from apixo_nb.client.client import AsyncClient
from apixo_nb.core import checks
from apixo_nb.core.cadence import Cadence
from apixo_nb.core.credentials import ApiKey, usable_key
from apixo_nb.core.event_loop import run as run_on_loop
from apixo_nb.core.models import MODELS
from apixo_nb.core.process import after_fork, ask, current_shell
from apixo_nb.core.records import Run, new_run
from apixo_nb.core.request import Labels, Request, make_labels, make_request
from apixo_nb.core.settings import Apixo
from apixo_nb.core.settings import settings as shared_settings
from apixo_nb.engine.job import Job, cannot_resume
from apixo_nb.engine.recorder import Listener
from apixo_nb.engine.runner import Runner
from apixo_nb.errors import ConfigurationError, CostLimitError
from apixo_nb.text import dollars, to_micros

from . import cells
from .history import History
from .replay import Decision, Replay, check_take, offer_new, unanswered_error
from .service import Service


class Session(History):
    """Everything a notebook needs, joined: makes pictures, keeps their rows, finds them again.

    Parameters
    ----------
    settings : Apixo, optional
        Default: the process's settings, from the environment and ``%config Apixo``. Copied: later changes
        are for later sessions.
    key : str or ApiKey, optional
        Default: found when it is first needed, see `credentials.find_key`.
    """

    def __init__(self, settings: Apixo | None = None, *, key: str | ApiKey | None = None) -> None:
        # A copy, with absolute folders: a setting changed later, or a chdir, must not part a run from its
        # mark, its ledger from its pictures, or a real client from the word "real".
        super().__init__((settings or shared_settings()).frozen_copy())
        given = usable_key(key) if key is not None else None
        key = None  # no traceback of what follows can show it
        if isinstance(given, ConfigurationError):
            raise given
        self.service = Service(self.settings, given)
        self._client: AsyncClient | None = None
        self._runner: Runner | None = None
        _sessions.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "the sandbox" if self.settings.sandbox else urlsplit(self.settings.base_url).netloc
        return f"Session({where}, home={str(self.settings.home_path)!r})"

    # --- the parts, made when first needed ---

    @property
    def client(self) -> AsyncClient:
        """The API client; raises MissingKeyError where there is no key."""
        with self._lock:
            if self._client is None:
                self._client = self.service.client()
            return self._client

    def forget_ledger(self) -> None:
        """Let go of the ledger, to open it anew; raises ConfigurationError while runs are in flight."""
        if self.busy:
            step = "Wait for them (`%apixo wait`), or stop them, then try again."
            raise ConfigurationError("Runs are in flight in this kernel", next_step=step)
        self.close()

    @property
    def runner(self) -> Runner:
        """The runner over client, ledger and images."""
        with self._lock:
            if self._runner is None:
                probe_s = min(2.0, self.service.cadence().interval_s)
                # Bound to this ledger: the runner must never wait for our lock, which `close` holds.
                cadence = functools.partial(self.service.cadence_of, durations_s=self.ledger.durations_s)
                self._runner = Runner(
                    self.client,
                    self.ledger,
                    self.images,
                    cadence,
                    probe_s=probe_s,
                    last_answer_s=self.settings.request_timeout,
                )
            return self._runner

    def cadence_of(self, run: Run) -> Cadence:
        """When a run is polled and how long it is expected to take, from tasks like it in the ledger."""
        return self.service.cadence_of(run, self.ledger.durations_s)

    def close(self) -> None:
        """Let go of connections and files. Runs in flight are stopped, and stay resumable."""
        with self._lock:
            if self._runner is not None:
                self._runner.close()
            if self._client is not None:
                run_on_loop(self._client.aclose())
            if self._ledger is not None:
                self._ledger.close()
            self._client = self._runner = self._ledger = None

    def _after_fork(self) -> None:
        """The parts are the parent's, threads, connections, leases and all: let go of them, close nothing."""
        if self._runner is not None:
            self._runner.leave_to_parent()
        self._lock = threading.RLock()  # another thread of the parent may have held it
        self._client = self._runner = self._ledger = None

    # --- making pictures ---

    def unit_price_micros(self, model: str) -> int:
        """The price of one picture, in micro-dollars: yours if set, else APIXO's list price."""
        if self.settings.unit_price_usd is not None:
            return to_micros(self.settings.unit_price_usd)
        return MODELS[model].unit_price_micros

    def plan(
        self,
        request: Request,
        labels: Labels | None = None,
        *,
        prompt_template: str = "",
        variables: dict[str, str] | None = None,
    ) -> Run:
        """The row of a request, not yet written: what it would cost and look like."""
        return new_run(
            request,
            unit_price_micros=self.unit_price_micros(request.model),
            sandbox=self.is_sandbox,
            prompt_template=prompt_template,
            variables=variables,
            notebook=self.settings.notebook,
            **dataclasses.asdict(labels or Labels()),
        )

    def plan_again(self, run: Run) -> Run:
        """The row of the request of `run` once more, checked and priced as of now; not yet written.

        Raises
        ------
        ConfigurationError
            `run` was made in the sandbox, and this session pays.
        InvalidRequestError
            Its model does not take the request any more.
        """
        if run.sandbox and not self.is_sandbox:
            step = "Nothing was sent. `apixo_nb.generate(...)` buys its prompt for real."
            text = f"Run {run.run_id} was made in the sandbox, and this session pays"
            raise ConfigurationError(text, next_step=step)
        given: dict[str, Any] = dict(run.parameters)
        if run.callback_url:
            given |= {"request_type": run.request_type, "callback_url": run.callback_url}
        request = make_request(
            run.prompt, model=run.model, image_urls=run.image_urls, allow_loopback=self.is_sandbox, **given
        )
        labels = Labels(run.name, run.tags, run.note)
        return self.plan(request, labels, prompt_template=run.prompt_template, variables=run.variables)

    def check_cost(self, runs: Iterable[Run], max_cost_usd: float | None) -> None:
        """Raise CostLimitError if these runs together would pass the limit, or BudgetError for a budget."""
        runs = list(runs)
        total = sum(run.price_micros for run in runs)
        checks.number(max_cost_usd, "max_cost_usd", "a sum in US dollars, 0 or more", 0.0)
        if max_cost_usd is not None and total > to_micros(max_cost_usd):
            raise CostLimitError(
                f"This would cost {dollars(total)}, above the limit of {dollars(to_micros(max_cost_usd))}",
                next_step="Nothing was sent. Ask for fewer pictures, or raise --max-cost.",
            )
        if runs:
            self.check_ledger_knows_pictures()
            self.ledger.check_budgets(runs)
            self.images.check_room(sum(run.num_images for run in runs))

    def jobs(self) -> list[Job]:
        """The runs in flight here, whichever cell began them."""
        return self._runner.jobs() if self._runner is not None else []

    @property
    def busy(self) -> bool:
        """Whether runs are in flight."""
        return self._runner is not None and self._runner.busy

    def start(
        self, run: Run, timeout_s: float | None = None, *, batch: Hashable = None, once: bool = False
    ) -> Job:
        """Buy a planned run, once. Returns at once with its `Job`; see `Runner.start` for the rest."""
        checks.timeout(timeout_s)
        self.check_ledger_knows_pictures()
        return self.runner.start(run, timeout_s or self.settings.timeout, batch=batch, once=once)

    def decide(self, planned: Iterable[Run], *, new: bool = False, leave: bool = False) -> list[Decision]:
        """For each planned run of a cell: show what is stored, follow what is open, or buy.

        Nothing is bought here. `new` buys in any case, as does the setting ``replay = False``. `leave`: what
        was submitted before without an answer is left out, in place of raising.

        Raises
        ------
        SubmitUnknownError
            One of them was submitted before, and its answer lost.
        """
        self.ledger.mark_abandoned()
        buy = new or self.settings.rerun == "buy" or not self.settings.replay
        return self._replay().decide_all(planned, buy=buy, leave=leave)

    def decide_rerun(self, old: Run) -> Decision:
        """As `decide`, for the request of `old` made anew: a cell that did so before gets that run again."""
        planned = self.plan_again(old).replace(rerun_of=old.run_id)
        [decision] = self.decide([planned], new=current_shell() is None)
        return decision

    def _replay(self) -> Replay:
        if (shell := current_shell()) is not None:
            cells.tracker.watch(shell)
        return Replay(self.ledger, self.jobs(), cells.tracker)

    def carry_out(self, decision: Decision, timeout_s: float | None = None, batch: Hashable = None) -> Job:
        """Do what was decided; the cell that asked has this run from now on."""
        job = self._job_of(decision, timeout_s, batch)
        if (cell := decision.cell) is not None:
            asked = cells.Asked.of(decision.planned)
            cell.asked[asked] = max(cell.asked[asked], decision.position)
            if not cell.cell_id:
                cells.tracker.claim(cell, (asked, decision.position), job)
        return job

    def _job_of(self, decision: Decision, timeout_s: float | None, batch: Hashable) -> Job:
        if decision.action == "buy":
            job = self.start(decision.run, timeout_s, batch=batch, once=decision.once)
            job.note = decision.note
            return job
        run, said = self._claimed(decision)
        if decision.action == "follow":
            job = self.runner.resume(run, timeout_s or self.settings.timeout)
            job.note = said
            return job
        job = Job(run, said)
        if decision.action == "leave":
            job.fail(unanswered_error(run))
        job.succeed()
        job.end()
        return job

    def _claimed(self, decision: Decision) -> tuple[Run, str]:
        """A stored run with its cell and the labels that the cell gives it; and what to tell of it."""
        run, planned, said = decision.run, decision.planned, decision.note
        if decision.cell is not None and (cell_id := decision.cell.cell_id) and not run.cell_id:
            place = planned.replace(cell_id=cell_id, cell_position=decision.position)
            if self.ledger.claim(run.run_id, place) in ("", cell_id):
                own = {"cell_id": cell_id, "cell_position": decision.position}
                run = run.replace(**own, notebook=planned.notebook)
            else:
                said += " Another cell has it since; run again, this one gets its own."
        labels = {
            "name": planned.name or run.name,
            "tags": tuple(dict.fromkeys([*run.tags, *planned.tags])),
            "note": planned.note or run.note,
        }
        new: dict[str, Any] = {name: value for name, value in labels.items() if value != getattr(run, name)}
        if not new:
            return run, said
        self.ledger.update(run.run_id, **new)
        run = run.replace(**new)
        return run, f"{said} Its {', '.join(new)} {'is' if len(new) == 1 else 'are'} now as this cell says."

    def release(self, jobs: Iterable[Job]) -> None:
        """Let whoever asks for these requests again in this kernel get these runs, and not further ones."""
        cells.tracker.release(jobs)

    def begin(
        self,
        prompt: str,
        *,
        name: str = "",
        tags: Iterable[str] = (),
        note: str = "",
        max_cost_usd: float | None = None,
        timeout_s: float | None = None,
        replay: bool | None = None,
        new: bool = False,
        take: int | None = None,
        **request: Any,
    ) -> Job:
        """Check, plan and start one run: what `generate` and `agenerate` share."""
        checks.timeout(timeout_s)
        checks.optional_switch(replay, "replay")
        checks.switch(new, "new")
        labels = make_labels(name, tags, note)
        run = self.plan(make_request(prompt, allow_loopback=self.is_sandbox, **request), labels)
        if take is not None:
            check_take(take, new=new, replay=replay)
        with cells.tracker.deciding:
            decision = Decision("buy", run, run)
            if take is not None:
                self.ledger.mark_abandoned()
                decision = self._replay().decide_by_number(run.replace(take=take))
            elif current_shell() is not None or replay:
                [decision] = self.decide([run], new=new or replay is False)
                [decision] = [decision] if replay else self.offer_new([decision])
            self.agree([decision], max_cost_usd)
            return self.carry_out(decision, timeout_s)

    def begin_all(
        self,
        planned: Iterable[Run],
        *,
        new: bool = False,
        max_cost_usd: float | None = None,
        yes: bool = False,
        timeout_s: float | None = None,
        batch: Hashable = None,
    ) -> list[Job]:
        """Decide about planned runs, have their cost agreed to, and only then begin them.

        Batches take turns, however many runs are in each. Raises as `decide` and `agree` do; nothing is
        bought then.
        """
        with cells.tracker.deciding:
            decisions = self.offer_new(self.decide(planned, new=new))
            self.agree(decisions, max_cost_usd, yes=yes)
            return [self.carry_out(decision, timeout_s, batch) for decision in decisions]

    def offer_new(self, decisions: Sequence[Decision]) -> list[Decision]:
        """Where the setting says ``rerun = "ask"``: ask whether to buy anew what would be shown again."""
        return offer_new(decisions, ask) if self.settings.rerun == "ask" else list(decisions)

    def agree(
        self,
        decisions: Sequence[Decision],
        max_cost_usd: float | None,
        *,
        yes: bool = False,
        summary: str = "",
    ) -> None:
        """What stands in front of every purchase of a notebook: limit, budgets, and a question above a sum.

        `yes` answers the question, `summary` says what it is about.

        Raises
        ------
        CostLimitError
            It is above a limit, or nobody agreed to it.
        BudgetError
            It would pass a budget.
        """
        bought = [decision.run for decision in decisions if decision.action == "buy"]
        self.check_cost(bought, max_cost_usd)
        price_micros = sum(run.price_micros for run in bought)
        limit_micros = to_micros(self.settings.ask_above_usd)
        several = len(decisions) > 1  # one run of a script is asked for in so many words
        if yes or price_micros <= limit_micros or not (several or current_shell()):
            return
        price = dollars(price_micros)
        tasks = f"{len(bought)} task{'' if len(bought) == 1 else 's'} to buy."
        answer = ask(f"{summary or tasks}\nStart it, for {price}? [y/N] ")
        if answer is None:
            text = f"This would cost {price}, above {dollars(limit_micros)}, and there is nobody to ask here"
            step = "Say `--yes` (in Python yes=True), or raise `%config Apixo.ask_above_usd`."
            raise CostLimitError(text, next_step=f"Nothing was sent. {step}")
        if not answer:
            raise CostLimitError(f"Not started: it would cost {price}", next_step="Nothing was sent.")

    # --- taking up again ---

    def resume(self, run_id: str | None = None, timeout_s: float | None = None) -> list[Job]:
        """Take up one run, or all unfinished ones: wait for tasks, download what is missing. It is free.

        Those that another living process works on are left to it, see `elsewhere`; one that is named is
        followed there.
        """
        checks.timeout(timeout_s)
        self.ledger.mark_abandoned()
        if run_id is not None:
            run = self.run(run_id)
            if run.sandbox != self.is_sandbox or not run.task_id:
                raise cannot_resume(run)
            return [self.follow(run, timeout_s)]
        others = self.ledger.leases.held_elsewhere()
        runs = self.ledger.unfinished(sandbox=self.is_sandbox)
        return [self.follow(run, timeout_s) for run in runs if run.task_id and run.run_id not in others]

    def follow(self, run: Run, timeout_s: float | None = None) -> Job:
        """Take up one run that has a task; see `Runner.resume`."""
        return self.runner.resume(run, timeout_s or self.settings.timeout)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Hear of every new `Run` record, on a thread for it; returns the function that ends it."""
        return self.runner.listen(listener)

    def balance(self) -> float:
        """US dollars left for the key."""
        return run_on_loop(self.client.balance())


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()

_current_lock = threading.RLock()
_current: tuple[Session, dict[str, Any]] | None = None


def current() -> Session:
    """The process's session; a new one when a setting has changed since the last call."""
    global _current  # noqa: PLW0603 - one per process is the point
    with _current_lock:
        wanted = shared_settings().trait_values(config=True)
        if _current is None or _current[1] != wanted:
            if _current is not None and not _current[0].busy:
                _current[0].close()  # a busy one is left open: its runs go on to their end
            _current = (Session(), wanted)
        return _current[0]


def reset() -> None:
    """Forget the shared session, as after another key was stored."""
    global _current  # noqa: PLW0603
    with _current_lock:
        _current = None


@after_fork
def _leave_to_parent() -> None:
    """A child process shares no connection, thread or lock with its parent."""
    global _current_lock, _current
    _current_lock, _current = threading.RLock(), None
    cells.tracker.make_locks()
    for session in list(_sessions):
        session._after_fork()  # noqa: SLF001 - of this module
