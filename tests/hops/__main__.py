"""`make hops`: starts the real proxy and prints how many of its modules each kind of request enters."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson

from tests.support.http import ask
from tests.support.ports import free_port
from tests.support.processes import LOOPBACK, http_ok, running
from tests.support.proxy import ProxyProcess
from tests.support.redis import RedisServer

_REPO: Final = Path(__file__).parents[2]
_TOKEN: Final = {"X-Auth-Token": "not-a-secret-token"}
_AFTER_S: Final = 0.05  # what is done right after the answer belongs to the request: its span is stored
# The most modules that a request may enter, by the kind of request and the store.
GOALS: Final = {
    ("miss", "memory"): 45,
    ("miss", "redis"): 55,
    ("hit of another window", "memory"): 30,
    ("hit of another window", "redis"): 30,
    ("pass-through", "memory"): 30,
    ("pass-through", "redis"): 30,
}


Recorded = dict[str, Any]


@contextmanager
def _recorded(store: str, upstream: str, directory: Path) -> Iterator[tuple[ProxyProcess, Callable[[], Recorded]]]:
    """Run a proxy in a recorder; give it, and what starts a recording and returns the one before."""
    port = free_port()
    os.environ |= {"IMS_HOPS_PORT": str(port), "PYTHONPATH": str(_REPO)}
    settings = {"CACHE__READAHEAD": "false"}
    proxy = ProxyProcess(upstream, directory, store=store, settings=settings, module="tests.hops.recorder")
    with proxy, socket.create_connection((LOOPBACK, port)) as control, control.makefile("rwb") as lines:

        def said(word: bytes) -> Recorded:
            lines.write(word + b"\n")
            lines.flush()
            answer: Recorded = orjson.loads(lines.readline())
            return answer

        def record() -> Recorded:
            recorded = said(b"stop")
            said(b"start")
            return recorded

        yield proxy, record


def measure(store: str) -> dict[str, Recorded]:
    """Return what each kind of request enters, before an upstream that has pages for it."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        port = free_port()
        upstream = [sys.executable, "-m", "tests.load.upstream", str(port)]
        stack.enter_context(running(upstream, log=directory / "upstream.log", ready=http_ok(port, "/calls"), cwd=_REPO))
        url = "memory://"
        if store == "redis":
            url = stack.enter_context(RedisServer(directory)).url
        place = _recorded(url, f"http://{LOOPBACK}:{port}", directory)
        proxy, record = stack.enter_context(place)
        _asked(proxy, "/v2/images?limit=3&name=warm-up")  # what is done once in a process is not part of a request
        _asked(proxy, "/v2/images?limit=2&name=warm-up")
        _asked(proxy, "/v2/tasks")
        measured = {}
        for kind, target in (
            ("miss", "/v2/images?limit=10"),
            ("hit of another window", "/v2/images?limit=5"),
            ("identical hit", "/v2/images?limit=5"),
            ("pass-through", "/v2/tasks"),
        ):
            record()
            _asked(proxy, target)
            time.sleep(_AFTER_S)
            measured[kind] = record()
        return measured


def _asked(proxy: ProxyProcess, target: str) -> None:
    answer = ask(proxy.url, target, fields=_TOKEN)
    assert answer.status in (200, 404), answer


def main() -> int:
    """Print the table, and the modules with `--verbose`; fail where a goal is missed."""
    missed = False
    print("| request | store | modules | goal | changes of module | calls |\n| --- | --- | --- | --- | --- | --- |")
    for store in ("memory", "redis"):
        for kind, recorded in measure(store).items():
            count, goal = len(recorded["modules"]), GOALS.get((kind, store))
            missed = missed or (goal is not None and count > goal)
            print(f"| {kind} | {store} | {count} | {goal or ''} | {recorded['changes']} | {recorded['calls']} |")
            if "--verbose" in sys.argv:
                print(*(f"  {module}" for module in recorded["modules"]), sep="\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
