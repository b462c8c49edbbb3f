"""The document: what the suite says of the proxy and of other caches, by section, so that each can be written anew."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conformance.verdicts import CHECK, OPTIMAL, REQUIRED, Outcome

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "conformance.md"
KNOWN: Mapping[str, Any] = tomllib.loads((HERE / "known.toml").read_text())
OURS = "ims-proxy"


def reasons(section: str) -> dict[str, str]:
    """Return the required tests that are known not to pass, each with why."""
    return {test: KNOWN["reasons"][reason] for test, reason in KNOWN[section].items()}


def written(document: str, section: str, text: str) -> str:
    """Return *document* with *text* in its *section*."""
    marks = re.compile(rf"(?<=<!-- {section} -->\n).*(?=<!-- /{section} -->)", re.DOTALL)
    assert marks.search(document), f"docs/conformance.md: no section {section}"
    return marks.sub(lambda _: text, document, count=1)


def section(title: str, name: str, measured: Mapping[str, Outcome], published: Mapping[str, Outcome]) -> str:
    """Return the section *name* about the suite *title*: a table, and what the proxy does not pass."""
    ours = measured[OURS]
    failing, known = ours.failed(REQUIRED), reasons(name)
    unexplained = sorted(set(failing) - set(known))
    assert not unexplained, f"known.toml: no reason for {', '.join(unexplained)}"
    lines = [f"## {title}", "", f"| cache | {REQUIRED} | {OPTIMAL} | behaviours shown |", "|---|---|---|---|"]
    lines += [_row(cache, each, "") for cache, each in measured.items()]
    lines += [_row(cache, each, ", as published with the suite") for cache, each in published.items()]
    verdict = "Required tests that the proxy does not pass:" if failing else "The proxy passes all required tests."
    lines += ["", verdict, ""]
    for reason in dict.fromkeys(known[test] for test in failing):
        names = ", ".join(f"`{test}`" for test in failing if known[test] == reason)
        lines.append(f"- {names}: {reason}")
    lines += [""] if failing else []
    optimal = ", ".join(f"`{test}`" for test in ours.failed(OPTIMAL))
    lines += [f"Optimal ones that it does not pass: {optimal}.", ""]
    return "\n".join(lines)


def _row(cache: str, outcome: Outcome, remark: str) -> str:
    def of(kind: str) -> str:
        passed, count = outcome.score(kind)
        return f"{passed} of {count}"

    return f"| {cache}{remark} | {of(REQUIRED)} | {of(OPTIMAL)} | {of(CHECK)} |"
