"""The magics: ``%%apixo`` makes pictures from a cell, ``%apixo`` does everything around it.

A translator and no more: read what was typed, call the session, show what came.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.display import display

if TYPE_CHECKING:  # `%load_ext` loads this module: all that a magic needs is imported when it runs
    from apixo_nb.core.records import Run
    from apixo_nb.display.live import Watch
    from apixo_nb.engine.job import Job
    from apixo_nb.experiments.cell_options import Options
    from apixo_nb.session.session import Session


@magics_class
class ApixoMagics(Magics):
    """``%%apixo`` and ``%apixo``."""

    shell: InteractiveShell

    @cell_magic("apixo")  # type: ignore[arg-type]
    def apixo_cell(self, line: str, cell: str) -> None:
        """Make pictures from the prompt in the cell; ``%%apixo?`` lists the options."""
        from apixo_nb.experiments.cell_options import parse

        given = parse(line)
        watch = self._start(given, cell, button=False)
        if watch is not None:
            self._bind(given, watch.go_on() if given.background else watch.block())

    @cell_magic("apixo_awaited")  # type: ignore[arg-type]
    def apixo_awaited(self, line: str, cell: str) -> Coroutine[Any, Any, None]:
        """``%%apixo`` as the notebook runs it: awaited, so that its Cancel button is heard meanwhile."""
        from apixo_nb.experiments.cell_options import parse

        return self._await(parse(line), cell)

    async def _await(self, given: Options, cell: str) -> None:
        watch = self._start(given, cell, button=not given.background)
        if watch is not None:
            self._bind(given, watch.go_on() if given.background else await watch.wait())

    def _start(self, given: Options, cell: str, *, button: bool) -> Watch | None:
        """Check everything, then buy; None for a dry run."""
        from apixo_nb.display.live import Watch
        from apixo_nb.experiments.prompts import split_prompts
        from apixo_nb.session.session import current

        from .command_line import say

        session = current()
        if len(set(given.image_urls)) < len(given.image_urls) and not given.dry_run:
            say("A reference picture is given twice; it counts twice.")
        if given.is_sweep:
            return self._sweep(session, given, cell, button=button)
        runs = [self._plan(session, given, template) for template in split_prompts(cell)]
        if given.dry_run:
            _show_plan(session, runs)
            return None
        jobs = session.begin_all(
            runs,
            new=given.new,
            max_cost_usd=given.max_cost_usd,
            yes=given.yes,
            timeout_s=given.timeout_s,
            batch=object(),  # cells take turns, however many pictures each asks for
        )
        return Watch(session, jobs, self.shell, button=button)

    def _sweep(self, session: Session, given: Options, cell: str, *, button: bool) -> Watch | None:
        """As `_start`, for a cell that is a sweep."""
        from apixo_nb.experiments.sweep import sweep_of_cell

        sweep = sweep_of_cell(session, given, cell, self.shell.user_ns)
        if given.dry_run:
            display(sweep._repr_mimebundle_(), raw=True)
            return None
        sweep.agree(given.max_cost_usd, yes=given.yes)
        watch = sweep.watch(self.shell, button=button)  # shows the plan before anything is paid
        sweep.start(given.timeout_s)
        if given.output:  # now, so that what was stopped has its name too
            self.shell.push({given.output: sweep})
        return watch

    def _plan(self, session: Session, given: Options, template: str) -> Run:
        from apixo_nb.core.request import make_labels, make_request
        from apixo_nb.experiments.prompts import fill

        prompt, used = (template, {}) if given.raw else fill(template, self.shell.user_ns)
        asked: dict[str, Any] = {"model": given.model, "image_urls": given.image_urls, **given.parameters}
        asked["allow_loopback"] = session.is_sandbox
        labels = make_labels(given.name, given.tags, given.note)
        return session.plan(make_request(prompt, **asked), labels, prompt_template=template, variables=used)

    def _bind(self, given: Options, made: Sequence[Run | Job]) -> None:
        if given.output and not given.is_sweep:
            self.shell.push({given.output: made[0] if len(made) == 1 else list(made)})

    @line_magic("apixo")  # type: ignore[arg-type]
    def apixo_line(self, line: str) -> Any:
        """Carry out a command; ``%apixo?`` lists them."""
        from .commands import carry_out

        return carry_out(line, self.shell)


def _cell_help() -> str:
    from .commands import cell_help

    return cell_help()


def _line_help() -> str:
    from .commands import line_help

    return line_help()


# `%%apixo?` and `%apixo?` show these: IPython asks an object for `getdoc` before its docstring.
vars(ApixoMagics)["apixo_cell"].getdoc = _cell_help
vars(ApixoMagics)["apixo_line"].getdoc = _line_help


def _show_plan(session: Session, runs: list[Run]) -> None:
    from apixo_nb.display.cards import plan_html, plan_text

    base_url = session.client.base_url if session.settings.sandbox else session.settings.base_url
    display({"text/html": plan_html(runs, base_url), "text/plain": plan_text(runs, base_url)}, raw=True)
