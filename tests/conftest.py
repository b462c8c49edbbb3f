"""What every test relies on."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

# A busy machine makes single examples slow; the whole run is bounded by its runner, not each example by a deadline.
# With CI in the environment examples are the same in every run (it is what `settings.default` then says): a change is
# not refused for what another has done. Elsewhere they are new ones each time.
settings.register_profile("here", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

Say = Callable[[str], None]
_SAID: Final = "said"

# Where a run is spread over processes, tests that share one costly program stay together in one of them.
_TOGETHER: Final = ("conformance", "glance", "keystone")


def pytest_configure() -> None:
    """Let programs that the tests start be told to end, though whoever runs these in the background forbids it.

    What is ignored here is ignored in them too, what is handled is not: so a handler does nothing in its place.
    """
    for each in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(each) is signal.SIG_IGN:
            signal.signal(each, lambda *_: None)


# Fixtures that start a program or a whole proxy: a test that needs one is no unit test, wherever it stands.
_STARTED: Final = frozenset(
    {
        "cluster",
        "over_cluster",
        "own_server",
        "redis",
        "redis_server",
        "sentinel",
        "server",
        "proxy",
        "upstream",
        "lookalike",
        "over_redis",
        "tiered",
    }
)


def _kind(item: pytest.Item) -> str:
    """Return the marker of *item*: its module's own, else by its directory and by what it starts."""
    parts = Path(item.nodeid.partition("::")[0]).parts
    for kind in ("e2e", "integration"):
        if kind in parts or item.get_closest_marker(kind):
            return kind
    parameters = item.nodeid.partition("[")[2].removesuffix("]").split("-")
    started = _STARTED.intersection([*getattr(item, "fixturenames", ()), *parameters])
    return "integration" if started else "unit"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test as unit, integration or e2e, and put those that share a program into one group."""
    for item in items:
        item.add_marker(_kind(item))
        names = {part.removeprefix("test_") for part in Path(item.nodeid.partition("::")[0]).with_suffix("").parts}
        for group in names.intersection(_TOGETHER):
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Say:
    """Tell figures to whoever watches the run, at its end: while it is spread over processes nothing can be told."""
    return lambda text: record_property(_SAID, text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests told."""
    reports = (each for outcome in ("passed", "failed") for each in terminalreporter.getreports(outcome))
    said = [(each.nodeid, value) for each in reports for name, value in each.user_properties if name == _SAID]
    if said:
        terminalreporter.section("figures")
    for nodeid, text in said:
        terminalreporter.write_line(f"{nodeid.rpartition('::')[2]}\n{text}\n")
