"""The form of the panel: read without trust, checked by field, and said exactly as a cell and as Python."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import apixo_nb
from apixo_nb.core.records import new_run
from apixo_nb.core.request import Labels, Request, make_labels, make_request
from apixo_nb.errors import InvalidRequestError
from apixo_nb.experiments import cell_options as options
from apixo_nb.experiments.prompts import fill, split_prompts
from apixo_nb.widgets.form import (
    RESERVED_NAMES,
    Form,
    cell_text,
    check_draws,
    form_of,
    problems,
    python_text,
    read_form,
)

PROPERTY = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    max_examples=300,
)
REF = "https://example.com/a.png"
REFS = [REF, f"{REF}?a=1&b='x'", f"{REF}?{{x}}"]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["prompt", "model", "parameters", "image_urls", "name", "tags", "note", "repeat", "rev"]
FORMS = st.dictionaries(st.sampled_from(FIELDS), JSON | st.just("gpt-image-1"), max_size=9)

# What has a meaning to a shell, to argparse, to IPython, to a template or to whatever parts lines.
NASTY = st.lists(
    st.sampled_from(
        [
            *(
                "'",
                '"',
                "\\",
                "\\\n",
                "$x",
                "${x}",
                "{x}",
                "{{",
                "}",
                "`ls`",
                "!ls",
                "%time",
                "?",
                "#",
                ";",
                "~",
            ),
            *(
                "\n",
                "\n\n",
                "\r",
                "\r\n",
                "\t",
                " ",
                "   ",
                "\n   \n",
                "---",
                "\n---\n",
                "--",
                "-",
                "--new",
                "--raw",
            ),
            *("\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85", "\u00a0", "\u200b", "\x1b[2J", "\ufeff"),
            *(">>> ", "\n>>> ", "... ", "\n...: ", "In [1]: ", "\n   ...: ", '"""', "%%apixo", "\n%%time\n"),
            *("a", "fox", "=", ",", "光", "🦊", "é", "1"),
        ]
    ),
    max_size=7,
).map("".join)


def forms(**fixed: Any) -> st.SearchStrategy[Form]:
    fields: dict[str, st.SearchStrategy[Any]] = {
        "prompt": NASTY,
        "name": NASTY,
        "note": NASTY,
        "tags": st.lists(NASTY, max_size=3).map(tuple),
        "image_urls": st.lists(st.sampled_from(REFS), max_size=2).map(tuple),
        "parameters": st.fixed_dictionaries(
            {},
            optional={
                "aspect_ratio": st.sampled_from(["1:1", "2:3", "3:2", "5:4", "", "1,2", "-1"]),
                "num_images": st.sampled_from([1, 2, 4, 3, "2"]),
            },
        ),
        "repeat": st.sampled_from([1, 2, 100, 0, 101, -1]),
    }
    return st.builds(Form, **fields | {name: st.just(value) for name, value in fixed.items()})


def outcome(make: Callable[[], Request]) -> Request | str:
    """A request, or the field because of which there is none."""
    try:
        return make()
    except InvalidRequestError as refused:
        return str(refused.field)


# --- reading ----------------------------------------------------------------------------------------


@PROPERTY
@given(JSON | FORMS)
@example({"model": []})
@example({"parameters": {"aspect_ratio": [], "num_images": True}})
@example({"repeat": 1e400, "tags": [[]], "image_urls": {"a": 1}})
def test_any_json_is_read_as_a_form(given_: Any):
    form = read_form(given_)
    assert read_form(json.loads(json.dumps(form.as_dict()))) == form
    told = problems(form, allow_loopback=False)
    assert all(told.values())
    for text in (cell_text(form), python_text(form), *told.values()):
        text.encode()  # it can be sent
    compile(python_text(form), "<cell>", "exec")


def test_what_is_of_the_wrong_kind_is_left_out():
    given_ = {
        "prompt": 7,
        "model": "dall-e",
        "parameters": {"aspect_ratio": "3:2", "num_images": True, "seed": 1},
        "image_urls": [REF, 3],
        "tags": "red",
        "repeat": True,
        "more": 1,
    }
    assert read_form(given_) == Form(parameters={"aspect_ratio": "3:2"}, image_urls=(REF,))


def test_a_form_and_its_json_are_the_same():
    form = Form("a fox", parameters={"num_images": 2}, image_urls=(REF,), name="n", tags=("a",), repeat=3)
    assert read_form(form.as_dict() | {"rev": 5}) == form


def test_the_form_of_a_run_asks_for_the_same_once_more():
    request = make_request("a {fox}", aspect_ratio="3:2", num_images=2, image_urls=[REF])
    labels: dict[str, Any] = {"name": "foxes", "tags": ("a", "b"), "note": "n"}
    form = form_of(new_run(request, unit_price_micros=1, sandbox=True, **labels))
    assert (form.request(allow_loopback=False), form.labels()) == (request, Labels(**labels))
    assert form.repeat == 1


# --- problems ---------------------------------------------------------------------------------------


@PROPERTY
@given(forms(prompt=""))
def test_an_empty_prompt_is_no_problem_yet(form: Form):
    assert "prompt" not in problems(form, allow_loopback=False)


@PROPERTY
@given(forms())
def test_a_form_without_problems_is_a_request(form: Form):
    found = problems(form, allow_loopback=False)
    asked = outcome(lambda: form.request(allow_loopback=False))
    if isinstance(asked, Request):
        assert set(found) <= {"repeat"}
    elif form.prompt and asked in ("prompt", "image_urls"):
        assert [field for field in found if field.startswith(asked)]


@pytest.mark.parametrize(
    ("form", "field", "told"),
    [
        (Form("  "), "prompt", "blank"),
        (Form("x" * 10_001), "prompt", "10001 characters. Allowed: text of 1 to 10000 characters."),
        (Form("a\0b"), "prompt", "U+0000"),
        (Form("a\ud800"), "prompt", "U+D800"),
        (Form("x", repeat=0), "repeat", "Allowed: 1 to 100."),
        (Form("x", repeat=10**400), "repeat", "Allowed: 1 to 100."),
        (Form("x", image_urls=(REF, "a.png")), "image_urls.1", "put the picture on a public web host"),
        (Form("x", image_urls=("http://10.0.0.1/a.png",)), "image_urls.0", "private network"),
        (Form("x", image_urls=("",)), "image_urls.0", "is not an http(s) URL"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_problem_names_its_field(form: Form, field: str, told: str):
    found = problems(form, allow_loopback=False)
    assert list(found) == [field]
    assert told in found[field]


def test_a_picture_of_this_machine_is_good_for_the_sandbox_only():
    form = Form("x", image_urls=("http://127.0.0.1:8000/a.png",))
    assert list(problems(form, allow_loopback=False)) == ["image_urls.0"]
    assert problems(form, allow_loopback=True) == {}


@pytest.mark.parametrize("draws", [0, -1, 101, 10**30])
def test_draws_are_one_to_a_hundred(draws: int):
    with pytest.raises(InvalidRequestError) as refused:
        check_draws(draws)
    assert (refused.value.field, refused.value.allowed) == ("repeat", "1 to 100")
    check_draws(1)
    check_draws(100)


# --- as a cell --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ipython(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteractiveShell]:
    """An IPython whose ``%%apixo`` keeps what it was given, and whose notebook has a variable."""
    quiet = Config()
    quiet.HistoryManager.enabled = False
    folder = str(tmp_path_factory.mktemp("ipython"))
    made = InteractiveShell.instance(config=quiet, ipython_dir=folder, user_module=ModuleType("cells"))
    made.magics_manager.magics["cell"]["apixo"] = lambda line, cell: made.user_ns.update(heard=(line, cell))
    made.user_ns["x"] = "FILLED"
    yield made
    made.restore_sys_module_state()
    InteractiveShell.clear_instance()


def asked_by_cell(shell: InteractiveShell, text: str) -> tuple[Request | str, Labels, int]:
    """What a cell asks for, by way of IPython, of our options and of our templates."""
    shell.user_ns["heard"] = None
    assert shell.run_cell(text, silent=True).success
    line, body = shell.user_ns["heard"]
    given_ = options.parse(line)
    [template] = split_prompts(body)
    prompt = template if given_.raw else fill(template, shell.user_ns)[0]
    asked: dict[str, Any] = {"model": given_.model, "image_urls": given_.image_urls, **given_.parameters}
    labels = make_labels(given_.name, given_.tags, given_.note)
    return outcome(lambda: make_request(prompt, **asked)), labels, given_.repeat


@PROPERTY
@given(forms())
@example(Form("a fox", note="--new"))
@example(Form("a fox", note="x --raw y"))
@example(Form("a fox", name="a\u2028b"))
@example(Form("a fox", tags=("",)))
@example(Form("a fox\n  \nruns"))
@example(Form(">>> a fox"))
@example(Form("a fox", parameters={"num_images": "2"}))
@example(Form("a fox", image_urls=("",)))
def test_a_cell_asks_for_exactly_what_the_form_says_or_there_is_none(ipython: InteractiveShell, form: Form):
    if text := cell_text(form):
        expected = (outcome(lambda: form.request(allow_loopback=False)), form.labels(), form.repeat)
        assert asked_by_cell(ipython, text) == expected


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (Form("a fox"), "%%apixo\na fox"),
        (
            Form("a fox", parameters={"aspect_ratio": "3:2", "num_images": 2}, image_urls=(REF,), repeat=3),
            f"%%apixo --ar 3:2 -n 2 --ref {REF} --repeat 3\na fox",
        ),
        (
            Form("two\nlines", name="my foxes", tags=("a", "b c"), note="it's"),
            "%%apixo --name 'my foxes' --tag a --tag 'b c' --note 'it'\"'\"'s'\ntwo\nlines",
        ),
        (Form('{"style": "oil"}'), '%%apixo --raw\n{"style": "oil"}'),
        (Form("a fox", note="-5 degrees"), "%%apixo --note='-5 degrees'\na fox"),
        (Form("a fox", parameters={"aspect_ratio": "1:1", "num_images": 1}), "%%apixo\na fox"),
        (Form("  leading blanks, trailing too  "), "%%apixo\n  leading blanks, trailing too  "),
        (Form("costs $5, 100% real?"), "%%apixo\ncosts $5, 100% real?"),
    ],
    ids=lambda value: value.partition("\n")[0] if isinstance(value, str) else "",
)
def test_usual_forms_are_said_as_a_person_would_type_them(form: Form, text: str):
    assert cell_text(form) == text


@pytest.mark.parametrize(
    "form",
    [
        Form(""),
        Form("   "),
        Form("\na fox"),
        Form("a fox\n"),
        Form("a\r\nb"),
        Form("a\n---\nb"),
        Form("a fox", note="{x}"),
        Form("a fox", name="$x"),
        Form("a fox", note="two\nlines"),
        Form("a fox", repeat=101),
    ],
    ids=repr,
)
def test_what_no_cell_can_say_has_no_cell(form: Form):
    assert cell_text(form) == ""


# --- as Python --------------------------------------------------------------------------------------


@PROPERTY
@given(forms(), st.text(st.characters(), max_size=20))
def test_python_asks_for_exactly_what_the_form_says(form: Form, odd: str):
    form = dataclasses.replace(form, prompt=form.prompt + odd, name=odd)
    calls: list[dict[str, Any]] = []

    def generate(prompt: str, **rest: Any) -> int:
        calls.append({"prompt": prompt, **rest})
        return len(calls)

    built_in = {"__import__": lambda *_: SimpleNamespace(generate=generate), "range": range}
    names: dict[str, Any] = {"__builtins__": built_in}
    exec(compile(python_text(form), "<cell>", "exec"), names)
    assert names["run" if form.repeat == 1 else "runs"] == (
        1 if form.repeat == 1 else list(range(1, form.repeat + 1))
    )
    expected = outcome(lambda: form.request(allow_loopback=False))
    for asked in calls:
        labels = [asked.pop(field, empty) for field, empty in (("name", ""), ("tags", ()), ("note", ""))]
        assert make_labels(*labels) == form.labels()
        assert outcome(functools.partial(make_request, **asked)) == expected


def test_a_variable_has_no_name_that_python_could_not_say():
    arguments = inspect.signature(apixo_nb.sweep).parameters
    assert {*arguments} - {"values"} == RESERVED_NAMES
    for name in ("class", "None", "__debug__", "aspect_ratio", "num_images", *RESERVED_NAMES):
        form = Form(f"a {{{name}}} fox", sweep=f"{name} = red, blue")
        assert f"{name} cannot be a variable" in problems(form, allow_loopback=True)["sweep"]
    assert problems(Form("a {match} fox", sweep="match = red, blue"), allow_loopback=True) == {}


def test_python_of_a_usual_form_reads_like_python():
    form = Form("it's a fox", parameters={"num_images": 2}, tags=("a",), repeat=2)
    assert python_text(form) == (
        "import apixo_nb\n\n"
        "runs = [apixo_nb.generate(\n"
        '    "it\'s a fox",\n'
        "    num_images=2,\n"
        "    tags=['a'],\n"
        ") for draw in range(2)]"
    )


def test_what_a_sweep_leaves_out_or_says_twice_is_named_in_the_words_of_the_form():
    left_out = problems(Form("a {red} fox in a {place}", sweep="red = 1, 2"), allow_loopback=True)["sweep"]
    assert "{place}" in left_out
    assert "place = value, value" in left_out
    twice = problems(Form("a {red} fox", sweep="red = 1\nred = 2"), allow_loopback=True)["sweep"]
    assert "red has two lines" in twice
