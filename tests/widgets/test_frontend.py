"""The files of the page: each is part of a widget, and joined they are one module and one style sheet."""

from __future__ import annotations

from pathlib import Path

import pytest

from apixo_nb.widgets import frontend
from apixo_nb.widgets.frontend import FrontendWidget, GridWidget, PanelWidget, VoteWidget

STATIC = Path(frontend.__file__).with_name("static")
WIDGETS: list[type[FrontendWidget]] = [PanelWidget, GridWidget, VoteWidget]


def test_every_file_of_the_page_is_part_of_a_widget():
    widgets = [widget() for widget in WIDGETS]
    for script in STATIC.glob("*.js"):
        assert any(script.read_text("utf-8") in widget._esm for widget in widgets), script.name
    for style in STATIC.glob("*.css"):
        assert all(style.read_text("utf-8") in widget._css for widget in widgets), style.name


@pytest.mark.parametrize("kind", WIDGETS)
def test_a_widget_is_one_module_whose_names_are_declared_once(kind: type[FrontendWidget]):
    lines = kind()._esm.splitlines()
    declared = [
        line.split("(")[0].split(" {")[0] for line in lines if line.startswith(("function ", "class "))
    ]
    assert len(declared) == len(set(declared)) > 10
    assert sum(line.startswith("export default") for line in lines) == 1


def test_rules_of_all_parts_stand_before_those_of_one():
    css = PanelWidget()._css
    general, special = (
        css.index(selector) for selector in (".apx-panel .apx-dialog {", ".apx-panel .apx-ask {")
    )
    assert general < special
