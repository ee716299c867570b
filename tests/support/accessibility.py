"""Barriers on pages, found by axe-core: what keeps a person out who uses a keyboard or a screen reader."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page

_SCRIPT = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"
_RUN = """async selector => {
    const found = await window.axe.run(selector, {resultTypes: ["violations"]});
    return found.violations.flatMap(rule => rule.nodes.map(node => ({...node, rule: rule.id})));
}"""


def serious_violations(page: Page, selector: str = "html") -> list[str]:
    """What is wrong within all elements that match, one line each: rule, element, and how to mend it.

    Only what axe-core calls serious or critical. A selector that matches nothing is an error.
    """
    if not page.evaluate("'axe' in window"):
        if not _SCRIPT.exists():
            raise AssertionError("There is no axe-core; run `sh tests/install.sh axe`.")
        page.evaluate(_SCRIPT.read_text(encoding="utf-8") + ";true")
    found = page.evaluate(_RUN, selector)
    return [
        f"{node['rule']} at {node['target']}: {' '.join(node['failureSummary'].split())}"
        for node in found
        if node["impact"] in ("serious", "critical")
    ]
