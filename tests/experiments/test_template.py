"""Prompt templates: plain names are filled, everything else is an error before anything is paid."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from apixo_nb.errors import InvalidRequestError
from apixo_nb.experiments.prompts import fill, split_prompts

PROPERTY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
TEXTS = st.text(st.characters(), max_size=200)


class Exploding:
    """Stands for the notebook's objects: its attributes and its format must not be touched."""

    def __getattr__(self, name: str):
        raise AssertionError(name)

    def __format__(self, form: str):
        raise AssertionError(form)

    def __str__(self):
        return "a plain string"


def escape(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def refusal(template: str, **variables) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        fill(template, variables)
    return caught.value


# --- fill -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "prompt", "used"),
    [
        pytest.param("a {mood} fox", "a calm fox", {"mood": "calm"}, id="a name"),
        pytest.param("{mood}{mood}", "calmcalm", {"mood": "calm"}, id="twice"),
        pytest.param("{mood}, {number}", "calm, 3", {"mood": "calm", "number": "3"}, id="two, one no text"),
        pytest.param("{{mood}}", "{mood}", {}, id="braces"),
        pytest.param("{{{mood}}}", "{calm}", {"mood": "calm"}, id="a name in braces"),
        pytest.param("no names", "no names", {}, id="none"),
        pytest.param("", "", {}, id="empty"),
        pytest.param("{größe}", "groß", {"größe": "groß"}, id="not ASCII"),
        pytest.param("100 % {mood} $5 \\n", "100 % calm $5 \\n", {"mood": "calm"}, id="other signs"),
    ],
)
def test_names_are_filled_from_variables(template, prompt, used):
    variables = {"mood": "calm", "number": 3, "größe": "groß", "unused": object()}
    assert fill(template, variables) == (prompt, used)


@pytest.mark.parametrize("value", ["{other}", "{{", "}", "{0}", "{mood}", "{mood.__class__}"])
def test_braces_in_a_value_are_not_expanded_again(value):
    assert fill("a {mood} fox", {"mood": value, "other": "x"})[0] == f"a {value} fox"


@pytest.mark.parametrize(
    "template",
    [
        "{0}",
        "{}",
        "{ mood }",
        "{mood.real}",
        "{mood[0]}",
        "{mood!r}",
        "{mood!s:>3}",
        "{mood:>3}",
        "{a-b}",
        "{mood()}",
        "{1 + 1}",
        "{mood:{mood}}",
        "{__import__('os')}",
    ],
)
def test_anything_but_a_plain_name_is_refused(template):
    error = refusal(template, mood=Exploding())
    assert error.field == "prompt"
    assert "is not the name of a variable" in error.message
    assert "--raw" in error.advice


@pytest.mark.parametrize(
    "template", ["{", "}", "a { b", "a } b", "{{}", "{}}", "{mood", "mood}", "{mood!}", "{a{mood}b}"]
)
def test_lone_brace_is_refused(template):
    error = refusal(template, mood="calm")
    assert error.field == "prompt"
    assert "{{ and }}" in error.advice


def test_object_in_a_prompt_is_its_plain_text():
    assert fill("{thing}", {"thing": Exploding()})[0] == "a plain string"


def test_unknown_name_offers_the_nearest_one():
    error = refusal("a {moood} fox", mood="calm", _moood="private")
    assert "has no variable moood" in error.message
    assert error.value == "moood"
    assert error.advice.startswith("Did you mean mood?")


def test_unknown_name_without_a_neighbour_says_where_to_set_it():
    assert refusal("a {mood} fox").advice.startswith("Set mood in an earlier cell.")


@PROPERTY
@given(TEXTS)
def test_escaped_text_comes_back_as_it_was(text):
    assert fill(escape(text), {}) == (text, {})


@PROPERTY
@given(TEXTS, TEXTS, TEXTS)
def test_value_stands_where_its_name_stood(before, value, after):
    template = f"{escape(before)}{{name}}{escape(after)}"
    assert fill(template, {"name": value}) == (f"{before}{value}{after}", {"name": value})


@PROPERTY
@given(st.text("{}!:.[]ab0 ", max_size=30))
def test_no_template_raises_anything_but_our_own(template):
    try:
        prompt, used = fill(template, {"a": "1", "b": "2"})
    except InvalidRequestError:
        return
    assert set(used) <= {"a", "b"}
    assert len(prompt) <= len(template)


# --- split_prompts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "prompts"),
    [
        pytest.param("a fox", ["a fox"], id="one line"),
        pytest.param("a fox\n", ["a fox"], id="final newline"),
        pytest.param("\n\n  \na fox\n\t\n", ["a fox"], id="blank lines around"),
        pytest.param("a fox\n\n\nin snow", ["a fox\n\n\nin snow"], id="blank lines within"),
        pytest.param("  indented \t", ["  indented \t"], id="blanks as typed"),
        pytest.param("a\tb", ["a\tb"], id="tabs as typed"),
        pytest.param("a fox\r\nin snow\r\n", ["a fox\nin snow"], id="CRLF"),
        pytest.param("a fox\rin snow", ["a fox\nin snow"], id="CR"),
        pytest.param("a\n---\nb", ["a", "b"], id="two"),
        pytest.param("a\r\n---\r\nb", ["a", "b"], id="two, CRLF"),
        pytest.param("a\n--- \t\nb", ["a", "b"], id="blanks after the dashes"),
        pytest.param("---\na\n---\n\n---\nb\n---", ["a", "b"], id="empty parts are no prompts"),
        pytest.param("a\n----\nb", ["a\n----\nb"], id="four dashes"),
        pytest.param("a\n--- b\nc", ["a\n--- b\nc"], id="dashes and words"),
        pytest.param("a --- b", ["a --- b"], id="dashes within"),
        pytest.param("a\n ---\nb", ["a\n ---\nb"], id="indented dashes"),
        pytest.param("a\u2028---\u2028b", ["a\u2028---\u2028b"], id="other line ends are text"),
    ],
)
def test_cell_is_parted_into_prompts_as_typed(body, prompts):
    assert split_prompts(body) == prompts


@pytest.mark.parametrize("body", ["", "\n", " \t\r\n ", "---", "---\n---\n\n---", "\u2003\n---"])
def test_cell_without_a_prompt_is_refused(body):
    with pytest.raises(InvalidRequestError, match="no prompt") as caught:
        split_prompts(body)
    assert caught.value.field == "prompt"


@PROPERTY
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1), min_size=1))
def test_prompts_joined_by_dashes_are_the_same_prompts(prompts):
    assume(all(prompt.strip() and prompt.rstrip("\t ") != "---" for prompt in prompts))
    assert split_prompts("\n---\n".join(prompts)) == prompts
