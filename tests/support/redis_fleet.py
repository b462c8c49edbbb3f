"""Several real Redis servers on loopback: a cluster, or a leader with a copy and a Sentinel that watches both."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import redis
from redis.crc import key_slot

from tests.support.ports import free_port
from tests.support.processes import LOOPBACK, Argv, Probe, Program, start, tcp_open
from tests.support.redis import RedisServer, redis_binary

_SLOTS: Final = 16384
_NODES: Final = 3
_READY_S: Final = 60.0
_DOWN_AFTER_MS: Final = 2_000  # longer than a busy machine stands still: who lives is not to be replaced
_LASTING_MS: Final = 60_000  # without copies nobody takes over, and a node that is missed is only in the way


class _Servers:
    """Servers in directories of their own, which end together."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _begin(self) -> None:
        raise NotImplementedError

    def _server(self, name: str, *options: str) -> RedisServer:
        options += ("--repl-diskless-sync-delay", "0")
        home = self._directory / name
        home.mkdir()
        return self._stack.enter_context(RedisServer(home, options=options))


class RedisCluster(_Servers):
    """Three nodes with a third of the slots each; with *copies*, each has another that takes its place."""

    def __init__(self, directory: Path, *, copies: bool = False) -> None:
        super().__init__(directory)
        self._copies = copies
        self.nodes: list[RedisServer] = []

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{LOOPBACK}:{node.port}" for node in self.nodes[:_NODES])

    def keeper(self, name: str) -> RedisServer:
        """Return the node that was given the slot of the key *name*."""
        return self.nodes[key_slot(name.encode()) * _NODES // _SLOTS]

    def flush(self) -> None:
        """Empty every node."""
        for node in self.nodes[:_NODES]:
            _ask(node, "FLUSHALL")

    def _begin(self) -> None:
        count = _NODES * (2 if self._copies else 1)
        for number in range(count):
            mode = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            patience_ms = _DOWN_AFTER_MS if self._copies else _LASTING_MS
            bounds = ("--cluster-node-timeout", str(patience_ms), "--cluster-replica-validity-factor", "0")
            self.nodes.append(self._server(f"node-{number}", *mode, *bounds))
        for number, node in enumerate(self.nodes):
            _ask(node, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            if number < _NODES:
                first, after = (-(-each * _SLOTS // _NODES) for each in (number, number + 1))
                _ask(node, "CLUSTER", "ADDSLOTSRANGE", str(first), str(after - 1))
            if number:
                bus = self.nodes[0]
                words = bus.options[bus.options.index("--cluster-port") + 1]
                _ask(node, "CLUSTER", "MEET", LOOPBACK, str(bus.port), words)
        for node in self.nodes:
            node.program.wait_ready(_knows(node, count), within_s=_READY_S)
        for number, node in enumerate(self.nodes[_NODES:]):
            node.program.wait_ready(_copies(node, self.nodes[number]), within_s=_READY_S)
        for node in self.nodes:
            node.program.wait_ready(_whole(node, count), within_s=_READY_S)


class SentinelService(_Servers):
    """A leader, a copy of it, and a Sentinel that lets the copy lead when the leader is gone."""

    service: Final = "lists"

    @property
    def url(self) -> str:
        """Where the Sentinel is; the first one named is none, as when one is down."""
        return f"redis+sentinel://{LOOPBACK}:{free_port()},{LOOPBACK}:{self._port}/{self.service}"

    def _begin(self) -> None:
        self.leader = self._server("leader")
        self.copy = self._server("copy", "--replicaof", f"{LOOPBACK} {self.leader.port}")
        self.copy.program.wait_ready(lambda: _role(self.copy) == ["slave", "connected"], within_s=_READY_S)
        self._port = free_port()
        self._sentinel = self._started()
        self._stack.callback(self._sentinel.stop)
        self._sentinel.wait_ready(self._watches, within_s=_READY_S)

    def _started(self) -> Program:
        configuration = self._directory / "sentinel.conf"
        configuration.write_text(
            f"port {self._port}\nbind {LOOPBACK}\ndir {self._directory}\n"
            f"sentinel monitor {self.service} {LOOPBACK} {self.leader.port} 1\n"
            f"sentinel down-after-milliseconds {self.service} {_DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {self.service} 5000\n"
        )
        argv: Argv = [redis_binary(), configuration, "--sentinel"]
        return start(argv, log=self._directory / "sentinel.log", cwd=self._directory)

    def _watches(self) -> bool:
        if not tcp_open(self._port)():
            return False
        with redis.Redis(port=self._port, protocol=2) as sentinel:
            copies: Any = sentinel.execute_command("SENTINEL", "REPLICAS", self.service)
        return len(copies) == 1


def _ask(node: RedisServer, *words: str) -> Any:
    with redis.Redis(port=node.port, decode_responses=True, protocol=2) as client:
        return client.execute_command(*words)


def _knows(node: RedisServer, count: int) -> Probe:
    return lambda: _told(node, "cluster_known_nodes") == str(count) and _told(node, "cluster_slots_ok") == str(_SLOTS)


def _whole(node: RedisServer, count: int) -> Probe:
    return lambda: _told(node, "cluster_state") == "ok" and _knows(node, count)()


def _copies(node: RedisServer, leader: RedisServer) -> Probe:
    _ask(node, "CLUSTER", "REPLICATE", _ask(leader, "CLUSTER", "MYID"))
    return lambda: _role(node) == ["slave", "connected"]


def _role(node: RedisServer) -> list[str]:
    role = _ask(node, "ROLE")
    return [role[0], role[3]] if role[0] == "slave" else [role[0]]


def _told(node: RedisServer, name: str) -> str:
    told = _ask(node, "CLUSTER", "INFO")
    lines = told.splitlines() if isinstance(told, str) else [f"{key}:{value}" for key, value in told.items()]
    return dict(line.split(":") for line in lines)[name]
