"""The witness shares nothing with what it testifies about."""

import ast
import sys
from pathlib import Path

import pytest

import proxy.demo

SOURCES = sorted(Path(proxy.demo.__file__).parent.glob("*.py"))


def imported(source: Path) -> set[str]:
    """Return the full names of the modules that *source* imports."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_only_the_look_alike_itself_is_imported(source: Path) -> None:
    """The look-alike imports none of the proxy that it bears witness to."""
    foreign = {name for name in imported(source) if name.partition(".")[0] not in sys.stdlib_module_names}
    own = {name for name in foreign if name == "proxy.demo" or name.startswith("proxy.demo.")}
    assert foreign - own <= {"aiohttp", "orjson", "multidict"}


@pytest.mark.parametrize("source", [source for source in SOURCES if source.name != "app.py"], ids=lambda s: s.name)
def test_only_app_has_a_socket_and_a_clock(source: Path) -> None:
    """Everything but `app.py` works without I/O and without a clock."""
    assert not imported(source) & {"aiohttp", "asyncio", "time", "multidict"}
