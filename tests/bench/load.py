"""Hits per second: wrk against each server in turn, round after round, and a proof that every answer was a hit."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.servers import LOAD_CORE, Server
from tests.support.http import ask
from tests.support.processes import LOOPBACK

SCRIPT = Path(__file__).with_name("wrk.lua")
CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request; *differing* is a field that is another one in each request, `-` for none.

    Each of *connections* pauses for *pause_ms* on average before a request. *many* listings are asked for in turn, each
    with a name that is added to the *target*'s query. wrk runs on *core*.
    """

    name: str
    target: str
    fields: Mapping[str, str] = field(default_factory=dict)
    differing: str = "-"
    connections: int = CONNECTIONS
    pause_ms: float = 0.0
    many: int = 0
    core: str = LOAD_CORE

    @property
    def first(self) -> str:
        """The target of one of its requests."""
        return f"{self.target}&name=stored-0" if self.many else self.target


@dataclass(frozen=True, slots=True)
class Round:
    """What wrk saw in one round, and how much of its core the server, and wrk itself, had."""

    per_s: float
    p50_ms: float
    p99_ms: float
    server_cpu: float
    load_cpu: float

    @property
    def cpu_us(self) -> float:
        """What one hit cost of the server's core, microseconds."""
        return 1e6 * self.server_cpu / self.per_s


@dataclass(frozen=True, slots=True)
class Result:
    """The medians of a server's rounds in a case."""

    case: Case
    server: str
    rounds: Sequence[Round]

    def median(self, of: str) -> float:
        values: list[float] = [getattr(each, of) for each in self.rounds]
        return statistics.median(values)

    @property
    def least_cpu_us(self) -> float:
        """The processor time of a hit in the round that was disturbed least, microseconds."""
        return min(each.cpu_us for each in self.rounds)


class NotMeasuredError(Exception):
    """A round that would have counted something else than hits."""


TOKEN = "bench-token-" + "t" * 180
OURS = "ims-proxy"
_STEP = 7919  # a prime, so that in turn comes each


def measured(
    case: Case, servers: Sequence[Server], upstream_port: int, *, rounds: int, seconds: int, say: Callable[[str], None]
) -> list[Result]:
    """Return how many hits each of *servers* gives, rounds interleaved."""
    taken: dict[str, list[Round]] = {server.name: [] for server in servers}
    for server in servers:
        ask_once(server, case)
    for number in range(rounds):
        for server in servers:
            taken[server.name].append(_round(case, server, upstream_port, seconds=seconds))
        say(f"{case.name}: round {number + 1} of {rounds}")
    return [Result(case, server.name, taken[server.name]) for server in servers]


def filled(server: Server, case: Case) -> None:
    """Ask for each of the *many* listings of *case* at least twice: the second time they are stored."""
    for _ in range(2):
        at = 0
        while at < case.many:
            said = _run(command(server.url, case, seconds=1, first=at, step=1), seconds=1)
            at += max(0, said["requests"] - case.connections)


def command(server_url: str, case: Case, *, seconds: int, first: int = 0, step: int = _STEP) -> list[str]:
    """Return the words that run wrk."""
    fields = {"X-Auth-Token": TOKEN, **case.fields}
    headers = [word for name, value in fields.items() for word in ("-H", f"{name}: {value}")]
    script = (case.differing, str(id(case)), f"{case.pause_ms:.3f}", str(case.many), str(first - 1), str(step))
    return [
        *("taskset", "-c", case.core, "wrk", "-t1", f"-c{case.connections}", f"-d{seconds}s", *headers),
        *("-s", str(SCRIPT), server_url + case.target, "--", *script),
    ]


def _run(words: Sequence[str], *, seconds: int) -> dict[str, Any]:
    run = subprocess.run(words, capture_output=True, text=True, check=True, timeout=seconds + 30)
    said: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    return said


def _round(case: Case, server: Server, upstream_port: int, *, seconds: int) -> Round:
    _hit(server, case)
    calls, server_cpu, load_cpu = _calls(upstream_port), server.cpu_s(), _children_cpu_s()
    said = _run(command(server.url, case, seconds=seconds), seconds=seconds)
    server_cpu, load_cpu = server.cpu_s() - server_cpu, _children_cpu_s() - load_cpu
    _hit(server, case)
    if said["errors"]:
        raise NotMeasuredError(f"{server.name}, {case.name}: {said['errors']} answers were no 200, or broke off")
    if (asked := _calls(upstream_port) - calls) > 0:
        raise NotMeasuredError(
            f"{server.name}, {case.name}: the upstream was asked {asked} times, so not all were hits"
        )
    elapsed_s = said["seconds"]
    return Round(
        said["requests"] / elapsed_s, said["p50_ms"], said["p99_ms"], server_cpu / elapsed_s, load_cpu / elapsed_s
    )


def ask_once(server: Server, case: Case) -> tuple[int, str]:
    """Return the status of one answer, and what it says of a hit."""
    answer = ask(server.url, case.first, fields={"X-Auth-Token": TOKEN, **case.fields})
    return answer.status, answer.fields.get(server.hit[0], "")


def _hit(server: Server, case: Case) -> None:
    status, said = ask_once(server, case)
    if status != 200 or not said.startswith(server.hit[1]):
        raise NotMeasuredError(f"{server.name}, {case.name}: {status}, {server.hit[0]}: {said or 'missing'}")


def _calls(upstream_port: int) -> int:
    return int(ask(f"http://{LOOPBACK}:{upstream_port}", "/calls").body)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
