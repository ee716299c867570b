"""``apixo-nb demo``: three pictures from the sandbox, in a terminal, without Jupyter, key or cost."""

from __future__ import annotations

from pathlib import Path

from .analysis.frame import brief, brief_text
from .core.request import make_request
from .core.settings import BASE_URL, Apixo
from .display.live import Watch
from .notebook.command_line import say
from .session.session import Session

#: Prompt -> what else is asked for.
_REQUESTS: dict[str, dict[str, object]] = {
    "a cozy cyberpunk cafe with neon lights": {"aspect_ratio": "3:2"},
    "a paper boat on a puddle": {"num_images": 2},
}

_NEXT = """\
Next, in Jupyter (`pip install 'apixo-nb[lab]'`, then `jupyter lab`), in three cells:

  %load_ext apixo_nb

  %apixo sandbox

  %%apixo --ar 3:2 -n 2
  a cozy cyberpunk cafe with neon lights

Without `%apixo sandbox`, and with a key (`%apixo login`), the same cell makes real pictures.
Run `apixo-nb demo` again: it shows what is stored, at no cost, as Run All does in a notebook."""


def demo(folder: Path) -> None:
    """Make the pictures, and say where they are.

    Parameters
    ----------
    folder : Path
        Where ledger, pictures and table go. Nothing in it is removed: what is there is shown again.

    Raises
    ------
    ApixoError
        The folder cannot be written to.
    """
    say("A sandbox on this machine draws the pictures: no key, no cost, nothing leaves it.", "")
    with Session(_settings(folder)) as session:
        _make(session)
        table = session.export_csv(folder / "experiments.csv")
        say("", brief_text(brief(session.history())), "", "Pictures:")
        say(*(f"  {folder / 'images' / name}" for run in session.runs() for name in run.files))
        say(f"The whole table: {table}", "", _NEXT)


def _settings(folder: Path) -> Apixo:
    """Nobody's ledger, service or pace: whatever the environment says is for real work."""
    return Apixo(
        base_url=BASE_URL,
        home=str(folder),
        ledger="",
        images="",
        first_poll=None,
        poll_interval=None,
        notebook="",
        sandbox=True,
    )


def _make(session: Session) -> None:
    """Begin all at once, and watch one after the other, so that each has its line."""
    runs = [session.plan(make_request(prompt, **given)) for prompt, given in _REQUESTS.items()]  # type: ignore[arg-type]
    for job in session.begin_all(runs):
        Watch(session, [job], None).block()
