"""The line after ``%%apixo``: every option is read, every mistake is named, every model is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from apixo_nb.core import cadence, models
from apixo_nb.core import formatting as display
from apixo_nb.core.models import ModelSpec, Parameter
from apixo_nb.core.records import new_run
from apixo_nb.core.request import Request, make_request
from apixo_nb.errors import InvalidRequestError
from apixo_nb.experiments import cell_options as options
from apixo_nb.experiments.cell_options import Listed, Options, parse
from apixo_nb.notebook.extension import complete

REF = "https://example.com/a.png"


def refusal(line: str) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        parse(line)
    return caught.value


def requested(line: str) -> Request:
    given = parse(line)
    parameters: dict[str, Any] = given.parameters
    return make_request("a fox", model=given.model, **parameters)


# --- what is read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["", "   ", "\t"])
def test_empty_line_is_all_defaults(line):
    assert parse(line) == Options()
    assert parse(line).model == "gpt-image-1"


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("--ar 3:2", {"parameters": {"aspect_ratio": "3:2"}}),
        ("--ar=2:3", {"parameters": {"aspect_ratio": "2:3"}}),
        ("-n 2", {"parameters": {"num_images": 2}}),
        ("-n4", {"parameters": {"num_images": 4}}),
        ("-n=1", {"parameters": {"num_images": 1}}),
        ("--ar 3:2 -n 2", {"parameters": {"aspect_ratio": "3:2", "num_images": 2}}),
        (f"--ref {REF}", {"image_urls": (REF,)}),
        (f"--ref {REF} --ref {REF}?2", {"image_urls": (REF, f"{REF}?2")}),
        ("--model gpt-image-1", {"model": "gpt-image-1"}),
        ("--model other", {"model": "other"}),
        ("--name cafes", {"name": "cafes"}),
        ("--tag a --tag 'b c'", {"tags": ("a", "b c")}),
        ("--note 'for \"Ann\"'", {"note": 'for "Ann"'}),
        ("--repeat 3", {"repeat": 3}),
        ("--repeat=100", {"repeat": 100}),
        ("--new", {"new": True}),
        ("--dry-run", {"dry_run": True}),
        ("--raw", {"raw": True}),
        ("--max-cost 1.5", {"max_cost_usd": 1.5}),
        ("--max-cost 0", {"max_cost_usd": 0.0}),
        ("--timeout 30", {"timeout_s": 30.0}),
        ("-o cafes", {"output": "cafes"}),
        ("-o größe_2", {"output": "größe_2"}),
    ],
)
def test_each_option_is_read(line, read):
    assert parse(line) == Options(**read)


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("--note 'a  b'", "a  b"),
        ('--note "a  b"', "a  b"),
        ("--note a\\ b", "a b"),
        ('--note "it\'s"', "it's"),
        ("--note 'a#b'", "a#b"),
        ("--note a#b", "a#b"),
        ("--note 🦊", "🦊"),
        ("--note ''", ""),
        ("--note=--new", "--new"),
        ("--note '{x} $HOME `ls`'", "{x} $HOME `ls`"),
    ],
)
def test_quotes_are_those_of_a_shell(line, note):
    assert parse(line) == Options(note=note)


def test_option_given_twice_counts_as_given_last():
    assert parse("-n 2 --ar 1:1 -n 4").parameters == {"num_images": 4, "aspect_ratio": "1:1"}


@pytest.mark.parametrize(
    ("line", "wire", "value"),
    [
        ("--ar 5:4", "aspect_ratio", "5:4"),
        ("--ar ''", "aspect_ratio", ""),
        ("--ar '1:1 '", "aspect_ratio", "1:1 "),
        ("-n 3", "num_images", "3"),
        ("-n 0", "num_images", "0"),
        ("-n -1", "num_images", "-1"),
        ("-n 2.0", "num_images", "2.0"),
        ("-n two", "num_images", "two"),
        ("-n 1e2", "num_images", "1e2"),
        ("-n True", "num_images", "True"),
        ("-n 100000000000000000000", "num_images", "100000000000000000000"),
    ],
)
def test_value_outside_the_list_is_refused_with_the_request(line, wire, value):
    with pytest.raises(InvalidRequestError) as caught:
        requested(line)
    allowed = ", ".join(str(choice) for choice in models.MODELS["gpt-image-1"].parameter(wire).values)
    assert (caught.value.field, caught.value.value, caught.value.allowed) == (wire, value, allowed)


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("--arr 1:1", "--ar"),
        ("-ar 1:1", "--ar"),
        ("--a 1:1", "--ar"),
        ("--refs x", "--ref"),
        ("--dryrun", "--dry-run"),
        ("--dry", "--dry-run"),
        ("--maxcost 1", "--max-cost"),
        ("--max-cots=1", "--max-cost"),
        ("--time 1", "--timeout"),
        ("--tags a", "--tag"),
        ("--names a", "--name"),
        ("--modle x", "--model"),
    ],
)
def test_misspelt_option_offers_the_nearest_one(line, near):
    error = refusal(line)
    assert error.message == f"Unknown option {line.split()[0]!r}"
    assert f"Did you mean {near}?" in error.advice


@pytest.mark.parametrize("line", ["--help", "-h", "--xyzzy"])
def test_option_unlike_any_other_points_to_the_help(line):
    error = refusal(line)
    assert error.field == line
    assert "See %apixo help." in error.advice


@pytest.mark.parametrize("line", ["a fox", "--ar 3:2 a fox", "--name two words"])
def test_prompt_on_the_line_is_sent_to_the_cell(line):
    error = refusal(line)
    assert "on this line?" in error.message
    assert "goes into the cell below" in error.advice


@pytest.mark.parametrize("flag", options.NOT_YET)
@pytest.mark.parametrize("form", ["{}", "{} 3", "{}=a=1,2", "-n 2 {} x"])
def test_option_still_to_come_says_so_and_what_to_do_instead(flag, form):
    error = refusal(form.format(flag))
    assert error.message == f"{flag} is not there yet"
    assert error.advice.startswith(options.NOT_YET[flag])


# --- lists ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("--set x=oil,ink", ("oil", "ink")),
        ("--set=x=oil,ink", ("oil", "ink")),
        ("--set x=oil", ("oil",)),
        ('--set x=oil,"cut paper"', ("oil", "cut paper")),
        ("--set x='a, b',c", ("a, b", "c")),
        ('--set x="a, b",c', ("a, b", "c")),
        ('--set x="say \\"a, b\\"",c', ('say "a, b"', "c")),
        ("--set x=a\\,b,c", ("a,b", "c")),
        ("--set x='a\\',b", ("a\\", "b")),
        ('--set x="",a', ("", "a")),
        ("--set x='@home',a", ("@home", "a")),
        ("--set x=a@b,c", ("a@b", "c")),
        ("--set x=[busy:1],{y}", ("[busy:1]", "{y}")),
        ("--set x=a=b,c", ("a=b", "c")),
        ("--set größe=klein,groß", ("klein", "groß")),
        ("--set x='\ue000,',\ue001", ("\ue000,", "\ue001")),
    ],
)
def test_values_of_a_variable_are_parted_by_commas_that_are_not_quoted(line, texts):
    [listed] = parse(line).sets.values()
    assert (listed.texts, listed.name) == (texts, "")


@pytest.mark.parametrize("name", ["moods", "table.mood"])
def test_an_at_sign_names_a_list_of_the_notebook(name):
    given = parse(f"--set x=@{name} --ar @{name} -n 2")
    assert given.sets == {"x": Listed(name=name)}
    assert given.lists == {"aspect_ratio": Listed(name=name)}
    assert given.parameters == {"num_images": 2}


def test_every_parameter_of_the_spec_takes_a_list():
    given = parse('--ar "1:1, 3:2" -n 1,2')
    assert given.lists == {"aspect_ratio": Listed(("1:1", "3:2")), "num_images": Listed(("1", "2"))}
    assert given.parameters == {}


@pytest.mark.parametrize(
    ("line", "sweep"),
    [("", False), ("--ar 1:1", False), ("--ar 1:1,3:2", True), ("--repeat 2", True), ("--set x=a", True)],
)
def test_a_list_a_variable_or_several_draws_make_a_sweep(line, sweep):
    assert parse(line).is_sweep is sweep


def test_commas_and_quotes_elsewhere_are_what_they_were():
    given = parse("--ref 'https://example.com/a,b.png' --name \"a, b\" --tag a,b --note '@x, y' -o z")
    assert given.image_urls == ("https://example.com/a,b.png",)
    assert (given.name, given.tags, given.note, given.output) == ("a, b", ("a,b",), "@x, y", "z")


@pytest.mark.parametrize("line", ["--set x=a,,b", "--set x=a,", "--set x=", "--ar 1:1,", "-n ,"])
def test_a_value_that_is_missing_in_a_list_is_named(line):
    error = refusal(line)
    assert "is missing" in error.message
    assert "No blank follows a comma" in error.advice


@pytest.mark.parametrize("flag", ["--max-cost", "--timeout"])
@pytest.mark.parametrize(
    "text", ["-1", "nan", "NaN", "inf", "1,5", "$2", "two", "1e999", "''", "' '", "0x10"]
)
def test_number_that_is_none_is_refused_with_its_rule(flag, text):
    error = refusal(f"{flag} {text}")
    assert (error.field, error.value) == (flag, text.strip("'"))
    assert error.allowed.startswith("a sum in US dollars" if flag == "--max-cost" else "a number of seconds")


@pytest.mark.parametrize(
    "text", ["0", "-1", "101", "1000000", "1.0", "three", "1e2", "''", "' 3'", "\u00b2", "1,2", "9" * 20]
)
def test_draws_are_a_whole_number_up_to_a_hundred(text):
    error = refusal(f"--repeat={text}")
    assert (error.field, error.value) == ("--repeat", text.strip("'"))
    assert error.allowed == "a whole number from 1 to 100"


def test_draws_of_five_thousand_digits_are_refused_like_any_other():
    assert refusal(f"--repeat {'9' * 5_000}").field == "--repeat"


@pytest.mark.parametrize("text", ["-inf", "-nan", "0"])
def test_timeout_must_be_above_zero(text):
    assert refusal(f"--timeout={text}").allowed == "a number of seconds above 0"


@pytest.mark.parametrize(
    "name", ["1x", "a.b", "a-b", "a b", "x[0]", "class", "None", "print", "list", "__import__", "🦊", "-x"]
)
def test_output_name_must_be_a_plain_variable(name):
    error = refusal(f"-o='{name}'")
    assert (error.field, error.value) == ("-o", name)
    assert error.allowed


@pytest.mark.parametrize(
    "flag", ["--ar", "-n", "--ref", "--model", "--name", "--tag", "--note", "--max-cost", "-o"]
)
def test_option_without_its_value_is_named(flag):
    assert flag in refusal(flag).message


@pytest.mark.parametrize("line", ["--note 'open", '--note "open', "--name it's", "--note a\\"])
def test_unclosed_quote_shows_the_line(line):
    error = refusal(line)
    assert line in error.message
    assert "Close" in error.advice


@pytest.mark.parametrize("line", ["--note=--", "--tag=--", "--ref=--", "-n--", "--repeat=--", "-o=--"])
def test_two_dashes_are_no_value(line):
    assert "cannot be '--'" in refusal(line).message


@pytest.mark.parametrize("line", ["--new=1", "--dry-run=yes", "--raw=0"])
def test_switch_takes_no_value(line):
    assert line.split("=")[0] in refusal(line).message


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=500)
@given(
    st.lists(
        st.sampled_from(
            [*options.known_flags(), *options.NOT_YET, "1:1", "2", "'", '"', "\\", "--", "=", "@x"]
        )
        | st.text(st.characters(), max_size=6),
        max_size=6,
    ).map(" ".join)
)
@example("--note \x1b[2J'")
@example("-o \u2028 x\ny")
def test_no_line_raises_anything_but_our_own(line):
    try:
        assert isinstance(parse(line), Options)
    except InvalidRequestError as error:
        assert len(error._render_traceback_()) == 2  # noqa: PT017 - only where it was refused


# --- help -------------------------------------------------------------------------------------------


def test_help_names_every_option_every_value_and_the_default():
    text = options.parser().format_help()
    assert [flag for flag in options.known_flags() if flag not in text] == []
    assert "1:1, 2:3, 3:2 (default 1:1)" in " ".join(text.split())
    assert "1, 2, 4 (default 1)" in " ".join(text.split())


def test_help_names_the_magic_once():
    assert "%%%%" not in options.parser().format_help()
    assert options.parser().format_help().startswith("usage: %%apixo ")


def test_options_of_the_design_are_there_or_still_to_come():
    named = ["--ar", "-n", "--ref", "--model", "--repeat", "--set", "--name", "--tag", "--note", "--new"]
    named += ["--dry-run", "--max-cost", "--bg", "--callback", "-o", "--timeout", "--raw", "--yes"]
    assert sorted(named) == sorted([*options.known_flags(), *options.NOT_YET])


def test_every_option_has_a_help_text():
    assert all(action.help for action in options.parser()._actions)


@pytest.mark.parametrize(
    ("flag", "values"),
    [("--ar", ["1:1", "2:3", "3:2"]), ("-n", ["1", "2", "4"]), ("--model", ["gpt-image-1"]), ("--name", [])],
)
def test_closed_lists_are_offered_for_completion(flag, values):
    assert list(options.values_of(flag)) == values


def completed(text: str) -> list[str]:
    context = SimpleNamespace(text_until_cursor=text, cursor_line=0)
    return [item.text for item in complete(context)["completions"]]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("%%apixo --ar ", ["1:1", "2:3", "3:2"]),
        ("%%apixo --ar 3", ["3:2"]),
        ("%%apixo --dr", ["--dry-run"]),
        ("%%apixo --ar 1:1 -n ", ["1", "2", "4"]),
        ("%%apixo --ar 1:1,", ["1:1,2:3", "1:1,3:2"]),
        ("%%apixo -n 1,4,", ["1,4,2"]),
        ("%%apixo --ye", ["--yes"]),
        ("%apixo log", ["login", "logout"]),
        ("%apixo login ", []),
        ("%apixo sandbox ", ["on", "off"]),
        ("%apixo budget 5 --d", ["--day"]),
        ("%apixo settle some_run ", ["paid", "free"]),
        ("%%apixo", []),
        ("x = 1", []),
        ("", []),
    ],
)
def test_tab_completes_flags_values_and_commands(text, found):
    assert completed(text) == found


# --- a second model ---------------------------------------------------------------------------------


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A model with other ratios, a parameter of its own and no count."""
    model = ModelSpec(
        id="wide-1",
        mode="text-to-image",
        prompt_max=50,
        parameters=(
            Parameter("aspect_ratio", "--ar", ("16:9", "3:2"), "16:9", "aspect ratio"),
            Parameter("resolution", "--res", ("1k", "2k"), "1k", "resolution"),
        ),
        count="",
        references=models.References(maximum=1, suffixes=(".png",), max_bytes=1_000_000),
        unit_price_micros=20_000,
        cadence=cadence.Cadence(60.0, 40.0, 10.0, (5.0, 15.0)),
    )
    monkeypatch.setitem(models.MODELS, model.id, model)
    return model


@pytest.mark.usefixtures("wide")
def test_new_model_is_in_parser_help_and_completion():
    assert parse("--model wide-1 --ar 16:9 --res 2k").parameters == {
        "aspect_ratio": "16:9",
        "resolution": "2k",
    }
    assert list(options.values_of("--ar")) == ["1:1", "2:3", "3:2", "16:9"]
    assert list(options.values_of("--model")) == ["gpt-image-1", "wide-1"]
    assert completed("%%apixo --res ") == ["1k", "2k"]
    assert "--res" in options.parser().format_help()


@pytest.mark.usefixtures("wide")
def test_new_model_is_in_request_and_body():
    request = requested("--model wide-1 --res 2k")
    wanted = {"mode": "text-to-image", "prompt": "a fox", "aspect_ratio": "16:9", "resolution": "2k"}
    assert request.body()["input"] == wanted
    assert request.num_images == 1


@pytest.mark.usefixtures("wide")
def test_new_model_shows_its_own_cost():
    run = new_run(make_request("a fox", model="wide-1"), unit_price_micros=20_000, sandbox=False)
    assert display.plan_summary([run]) == "1 task, 1 picture, $0.02."
    assert "16:9" in display.facts(run)


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("--ar 16:9", "1:1, 2:3, 3:2"),
        ("--res 1k", "aspect_ratio, num_images"),
        ("--model wide-1 --ar 1:1", "16:9, 3:2"),
        ("--model wide-1 -n 2", "aspect_ratio, resolution"),
    ],
)
@pytest.mark.usefixtures("wide")
def test_models_do_not_lend_each_other_their_values(line, allowed):
    with pytest.raises(InvalidRequestError) as caught:
        requested(line)
    assert caught.value.allowed == allowed


@pytest.mark.usefixtures("wide")
def test_new_model_has_its_own_limits():
    with pytest.raises(InvalidRequestError, match="51 characters"):
        make_request("x" * 51, model="wide-1")
    with pytest.raises(InvalidRequestError, match="2 reference pictures"):
        make_request("a fox", model="wide-1", image_urls=[REF, REF])


def test_model_that_counts_by_another_name_leaves_the_others_alone(monkeypatch):
    # seedream's count is max_images; the flag is -n for both.
    count = Parameter("max_images", "-n", (1, 5, 10), 1, "pictures at most")
    other = ModelSpec(
        "sea-1",
        "sea-1",
        50,
        (count,),
        "max_images",
        models.References(0, (), 0),
        1,
        cadence.Cadence(1, 1, 1, (1, 1)),
    )
    monkeypatch.setitem(models.MODELS, other.id, other)
    assert parse("-n 2").parameters == {"num_images": 2}
    assert parse("-n 5 --model sea-1").parameters == {"max_images": 5}
