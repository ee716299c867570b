"""What a person fills in to make pictures, and the same as a cell or as Python, to copy.

A form holds the prompt as it is to be sent, unless it is a sweep: then the prompt is a template, and the form
says with what it is filled; the notebook's variables are never looked at.
"""

from __future__ import annotations

import csv
import dataclasses
import keyword
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from apixo_nb.core import checks
from apixo_nb.core.models import DEFAULT_MODEL, MODELS, ModelSpec, Value
from apixo_nb.core.records import Run
from apixo_nb.core.request import Labels, Request, make_labels, make_request
from apixo_nb.errors import InvalidRequestError
from apixo_nb.experiments import cell_options
from apixo_nb.experiments.cell_options import MOST_DRAWS, Listed
from apixo_nb.experiments.prompts import Cell, Template, expand, names_in, split_prompts
from apixo_nb.text import storable


@dataclass(frozen=True, slots=True)
class Form:
    """One form. `repeat` is how many draws of each request are asked for; the rest is as in `Request`.

    `sweep` holds the values of variables as typed, a name a line (``style = oil, ink, "cut, paper"``), and
    `lists` several values of parameters, by wire name; with either of them the form is a sweep.
    """

    prompt: str = ""
    model: str = DEFAULT_MODEL
    parameters: Mapping[str, Value] = field(default_factory=dict)
    image_urls: tuple[str, ...] = ()
    name: str = ""
    tags: tuple[str, ...] = ()
    note: str = ""
    repeat: int = 1
    sweep: str = ""
    lists: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For the page: JSON."""
        lists = {wire: list(values) for wire, values in self.lists.items()}
        texts = {"image_urls": list(self.image_urls), "tags": list(self.tags)}
        return {**dataclasses.asdict(self), **texts, "lists": lists}

    @property
    def is_sweep(self) -> bool:
        """Whether it asks for more than one request."""
        return bool(self.sweep.strip() or self.lists)

    @property
    def sets(self) -> dict[str, list[str]]:
        """The values of each variable; raises InvalidRequestError for a line that says nothing, or anew."""
        found: dict[str, list[str]] = {}
        for line in filter(str.strip, self.sweep.splitlines()):
            name, texts = _set_of(line)
            if name in found:
                step = "Write all its values on one line."
                raise InvalidRequestError(f"{name} has two lines", field="sweep", value=line, next_step=step)
            found[name] = texts
        return found

    def cells(self) -> list[Cell]:
        """All that it asks for, one draw of each; raises InvalidRequestError."""
        sets = self.sets
        if self.is_sweep and (left := [name for name in names_in(self.prompt) if name not in sets]):
            raise InvalidRequestError(
                f"The prompt uses {{{left[0]}}}, and the sweep gives no values for it",
                field="sweep",
                value=left[0],
                next_step=f"Add a line: {left[0]} = value, value. Braces that stay are {{{{ and }}}}.",
            )
        return expand([Template(self.prompt)], sets, self.lists, raw=not self.is_sweep, repeat=self.repeat)

    def count(self) -> tuple[int, int]:
        """How many tasks and how many pictures it asks for; raises InvalidRequestError."""
        cells, spec = self.cells(), MODELS[self.model]
        pictures = sum(spec.pictures({**self.parameters, **cell.parameters}) for cell in cells)
        return len(cells) * self.repeat, pictures * self.repeat

    def request(self, *, allow_loopback: bool) -> Request:
        """What it asks of APIXO; raises InvalidRequestError. `allow_loopback`: see `make_request`."""
        given: dict[str, Any] = dict(self.parameters)
        return make_request(
            self.prompt, model=self.model, image_urls=self.image_urls, allow_loopback=allow_loopback, **given
        )

    def labels(self) -> Labels:
        """What goes on the row beside the request."""
        return make_labels(self.name, self.tags, self.note)


def model_facts(spec: ModelSpec, unit_price_micros: int) -> dict[str, Any]:
    """What a form must know of a model: its parameters, limits and price (micro-dollars a picture)."""
    return {
        "id": spec.id,
        "prompt_max": spec.prompt_max,
        "references_max": spec.references.maximum,
        "count": spec.count,
        "price_micros": unit_price_micros,
        "parameters": [
            {
                "wire": parameter.wire,
                "label": parameter.help.capitalize(),
                "values": list(parameter.values),
                "default": parameter.default,
            }
            for parameter in spec.parameters
        ],
    }


def read_form(given: object) -> Form:
    """A form as the page sent it. What is of the wrong kind is left out; what it says is not checked here."""
    values = given if isinstance(given, dict) else {}
    text = {name: values[name] for name in ("prompt", "name", "note") if isinstance(values.get(name), str)}
    given_model = values.get("model")
    model = given_model if isinstance(given_model, str) and given_model in MODELS else DEFAULT_MODEL
    parameters = values.get("parameters")
    known = {parameter.wire for parameter in MODELS[model].parameters}
    chosen = parameters if isinstance(parameters, dict) else {}
    repeat = values.get("repeat")
    return Form(
        **text,
        model=model,
        parameters={name: value for name, value in chosen.items() if name in known and _is_value(value)},
        image_urls=_texts(values.get("image_urls")),
        tags=_texts(values.get("tags")),
        repeat=repeat if isinstance(repeat, int) and not isinstance(repeat, bool) else 1,
        sweep=values["sweep"] if isinstance(values.get("sweep"), str) else "",
        lists=_lists(values.get("lists"), known),
    )


def _lists(given: object, known: Collection[str]) -> dict[str, tuple[Value, ...]]:
    lists = given if isinstance(given, dict) else {}
    chosen = {wire: lists[wire] for wire in known if isinstance(lists.get(wire), list)}
    found = {wire: tuple(value for value in values if _is_value(value)) for wire, values in chosen.items()}
    return {wire: values for wire, values in found.items() if values}


def _set_of(line: str) -> tuple[str, list[str]]:
    name, sign, values = line.partition("=")
    name = name.strip()
    found = next(csv.reader([values.strip()], skipinitialspace=True), [])
    texts = [value.strip() for value in found]
    if not sign or not name.isidentifier() or not texts or "" in texts:
        raise InvalidRequestError(
            f"{line.strip()!r:.60} gives no values", field="sweep", value=line, allowed="name = value, value"
        )
    _check_variable(name)
    return name, texts


#: What `apixo_nb.sweep` takes beside the parameters of a model and variables.
RESERVED_NAMES = frozenset(
    {
        *("template", "model", "image_urls", "name", "tags", "note", "repeat", "raw"),
        *("max_cost_usd", "yes", "replay", "timeout_s", "dry_run"),
    }
)


def _check_variable(name: str) -> None:
    """Refuse a name that the call in Python could not say, as it means something else there."""
    wires = {parameter.wire for spec in MODELS.values() for parameter in spec.parameters}
    if keyword.iskeyword(name) or name == "__debug__":
        why = "a word of Python's own"
    elif name in RESERVED_NAMES or name in wires:
        why = "what a setting is called"
    else:
        return
    step = f"Use another name in the prompt and here, such as {{{name}_}}."
    raise InvalidRequestError(
        f"{name} cannot be a variable: it is {why}", field="sweep", value=name, next_step=step
    )


def _is_value(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _texts(given: object) -> tuple[str, ...]:
    return tuple(text for text in given if isinstance(text, str)) if isinstance(given, list) else ()


def form_of(run: Run) -> Form:
    """The form that would ask for a run's pictures once more."""
    return Form(
        prompt=run.prompt,
        model=run.model,
        parameters=dict(run.parameters),
        image_urls=run.image_urls,
        name=run.name,
        tags=run.tags,
        note=run.note,
    )


def check_draws(repeat: int) -> None:
    """Raise InvalidRequestError unless so many draws may be asked for at once."""
    message = f"{repeat} draws cannot be asked for at once"
    checks.whole(repeat, "repeat", 1, MOST_DRAWS, allowed=f"1 to {MOST_DRAWS}", message=message)


# --- what is wrong with it --------------------------------------------------------------------------


def problems(form: Form, *, allow_loopback: bool) -> dict[str, str]:
    """What is wrong, by field; a reference picture is the field ``image_urls.0`` and so on.

    A prompt that is still empty is no problem: nothing has been asked for yet.
    """
    checks: dict[str, Callable[[], object]] = {
        "repeat": lambda: check_draws(form.repeat),
        **{
            f"image_urls.{index}": _reference(form, url, allow_loopback)
            for index, url in enumerate(form.image_urls)
        },
    }
    if form.prompt:
        checks["prompt"] = lambda: make_request(form.prompt, model=form.model)
        if form.is_sweep:
            checks["sweep"] = form.count
    found = {name: _problem(check) for name, check in checks.items()}
    return {name: text for name, text in found.items() if text}


def _reference(form: Form, url: str, allow_loopback: bool) -> Callable[[], Request]:  # noqa: FBT001 - as in make_request
    return lambda: make_request("x", model=form.model, image_urls=[url], allow_loopback=allow_loopback)


def _problem(check: Callable[[], object]) -> str:
    try:
        check()
    except InvalidRequestError as error:
        allowed = f"Allowed: {error.allowed}." if error.allowed and not error.next_step else ""
        return " ".join(part for part in (f"{error.message}.", error.next_step, allowed) if part)
    return ""


# --- to copy ----------------------------------------------------------------------------------------


def cell_text(form: Form) -> str:
    """The form as a ``%%apixo`` cell; "" where no cell says exactly this.

    The line of a cell magic holds no line breaks, and IPython fills ``{x}`` and ``$x`` in it; the body loses
    blank lines around the prompt, and what looks like the prompt of a terminal (``>>>``); ``---`` parts it.
    """
    words = _parameter_words(form)
    words += [_word("--ref", url) for url in form.image_urls]
    words += [_word("--name", form.name)] if form.name else []
    words += [_word("--tag", tag) for tag in form.tags]
    words += [_word("--note", form.note)] if form.note else []
    words += ["--repeat", str(form.repeat)] if form.repeat != 1 else []
    words += ["--raw"] if _is_raw(form) else []
    line = " ".join(words)
    cell = f"%%apixo {line}".rstrip(" ") + f"\n{form.prompt}"
    return cell if _reads_as(form, line) and _is_run_as(cell, line, form.prompt) else ""


def _is_raw(form: Form) -> bool:
    return not form.is_sweep and ("{" in form.prompt or "}" in form.prompt)


def _word(flag: str, text: str) -> str:
    # A text that begins with a dash would be taken for an option.
    return f"{flag}{'=' if text.startswith('-') else ' '}{shlex.quote(text)}"


def _parameter_words(form: Form) -> list[str]:
    words = [] if form.model == DEFAULT_MODEL else ["--model", form.model]
    flags = {parameter.wire: parameter.flag for parameter in MODELS[form.model].parameters}
    words += [f"{flags[wire]} {shlex.quote(str(value))}" for wire, value in _chosen(form).items()]
    words += [f"{flags[wire]} {_listed(values)}" for wire, values in form.lists.items()]
    return words + [f"--set {name}={_listed(values)}" for name, values in _sets(form).items()]


def _listed(values: Iterable[Value]) -> str:
    # `shlex.quote` leaves a comma and an at sign as they are, which mean something in a list.
    return ",".join(
        "'" + text.replace("'", "'\"'\"'") + "'" if set(text) & set(",@") else shlex.quote(text)
        for text in map(str, values)
    )


def _sets(form: Form) -> dict[str, list[str]]:
    try:
        return form.sets
    except InvalidRequestError:  # a line that is half written; `problems` tells of it
        return {}


def _chosen(form: Form) -> dict[str, Value]:
    """The parameters that are not at their default."""
    defaults = {parameter.wire: parameter.default for parameter in MODELS[form.model].parameters}
    given = {wire: form.parameters.get(wire, default) for wire, default in defaults.items()}
    return {
        wire: value for wire, value in given.items() if value != defaults[wire] and wire not in form.lists
    }


def _reads_as(form: Form, line: str) -> bool:
    """Whether the magic reads the line and the prompt as what the form says."""
    wanted = cell_options.Options(
        model=form.model,
        parameters=_chosen(form),
        image_urls=form.image_urls,
        name=form.name,
        tags=form.tags,
        note=form.note,
        repeat=form.repeat,
        raw=_is_raw(form),
        lists={wire: Listed(tuple(map(str, values))) for wire, values in form.lists.items()},
        sets={name: Listed(tuple(values)) for name, values in _sets(form).items()},
    )
    try:
        return cell_options.parse(line) == wanted and split_prompts(form.prompt) == [form.prompt]
    except InvalidRequestError:
        return False


def _is_run_as(cell: str, line: str, prompt: str) -> bool:
    """Whether IPython hands the line and the prompt to the magic as they are."""
    from IPython.core.inputtransformer2 import TransformerManager

    if any(char in line for char in "{}$") or storable(cell) != cell:
        return False
    run = f"get_ipython().run_cell_magic('apixo', {line!r}, {prompt + chr(10)!r})\n"
    return TransformerManager().transform_cell(cell) == run


def python_text(form: Form) -> str:
    """The form as a call of `apixo_nb.generate`, or of `apixo_nb.sweep`."""
    given: dict[str, Any] = {} if form.model == DEFAULT_MODEL else {"model": form.model}
    labels = {
        "image_urls": list(form.image_urls),
        "name": form.name,
        "tags": list(form.tags),
        "note": form.note,
    }
    given |= _chosen(form) | {name: value for name, value in labels.items() if value}
    if form.is_sweep:
        lists = {wire: list(values) for wire, values in form.lists.items()}
        given = {**_sets(form), **lists, **given} | ({"repeat": form.repeat} if form.repeat != 1 else {})
    lines = [f"    {form.prompt!r},", *(f"    {name}={value!r}," for name, value in given.items())]
    if form.is_sweep:
        return "\n".join(["import apixo_nb", "", "sweep = apixo_nb.sweep(", *lines, ")"])
    call = "\n".join(["apixo_nb.generate(", *lines, ")"])
    if form.repeat != 1:
        return f"import apixo_nb\n\nruns = [{call} for draw in range({form.repeat})]"
    return f"import apixo_nb\n\nrun = {call}"
