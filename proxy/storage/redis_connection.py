"""The Redis that commands go to: one server, the one that Sentinel says leads, or the nodes of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from proxy.core.tls_verification import STRICT_FLAGS
from proxy.storage.address import Address, address

_MAX_CONNECTIONS: Final = 256
_OF_SENTINELS: Final = "sentinel_"
_HANGS_S: Final = 5.0
_SENTINEL_S: Final = 1.0  # the next Sentinel is asked after this
_CLOSING_S: Final = 0.2  # how long a server may take to take leave; a connection by TLS waits for it


class Servers:
    """One server, which takes commands by *redis*."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def home(self, name: str) -> str:  # noqa: ARG002 - there is but one
        """Return which server keeps the key *name*, as far as it is known now."""
        return ""

    @asynccontextmanager
    async def listening(self, name: str) -> AsyncIterator[PubSub]:  # noqa: ARG002 - there is but one
        """Give what listens to channels, at the server that keeps the key *name*."""
        async with self.redis.pubsub() as pubsub:
            yield pubsub

    async def doubted(self) -> None:
        """A command failed: find out anew where keys are before the next."""

    async def drop_idle(self) -> None:
        """Close connections that nobody uses: after an outage each of them may be dead without saying so."""
        await _closed(self.redis.connection_pool.disconnect(inuse_connections=False))

    async def close(self) -> None:
        """Let go of connections."""
        await _closed(self.redis.aclose())


class LedServers(Servers):
    """The server that *sentinel* says leads; it is asked for each new connection."""

    def __init__(self, redis: Redis, sentinel: Sentinel) -> None:
        super().__init__(redis)
        self._sentinel = sentinel

    def home(self, name: str) -> str:  # noqa: ARG002 - there is but one
        """See `Servers.home`."""
        pool = self.redis.connection_pool
        return str(pool.master_address) if isinstance(pool, SentinelConnectionPool) else ""

    async def close(self) -> None:
        """See `Servers.close`."""
        await super().close()
        await self._sentinel.aclose()


class ClusterServers(Servers):
    """The nodes of a cluster. Each script's keys are in one slot, by the braces in their names.

    What a node publishes goes to all nodes. Yet who listens does so where the news are made, for then a node that the
    others can't reach is not taken for one that has no news.
    """

    def __init__(self, cluster: RedisCluster, options: dict[str, Any]) -> None:
        super().__init__(cast(Redis, cluster))  # it takes the same commands, and sends each where its keys are
        self._cluster = cluster
        self._options = options

    def home(self, name: str) -> str:
        """See `Servers.home`."""
        node = self._node(name)
        return node.name if node else ""

    @asynccontextmanager
    async def listening(self, name: str) -> AsyncIterator[PubSub]:
        """See `Servers.listening`."""
        await self._cluster.initialize()
        node = self._node(name)
        if node is None:
            raise ConnectionError("redis: no node keeps the channel's slot")
        try:
            async with Redis(**self._options, host=node.host, port=int(node.port)) as redis, redis.pubsub() as pubsub:
                yield pubsub
        except (RedisError, OSError):
            await self.doubted()  # another node may keep that slot by now
            raise

    async def drop_idle(self) -> None:
        """See `Servers.drop_idle`: with them goes what is known of the nodes."""
        await self.doubted()

    async def doubted(self) -> None:
        """See `Servers.doubted`: the client itself does so only where it may retry."""
        await _closed(self._cluster.aclose())

    def _node(self, name: str) -> ClusterNode | None:
        try:
            return self._cluster.get_node_from_key(name)
        except RedisClusterException:
            return None


async def _closed(closing: Awaitable[object]) -> None:
    """Wait for *closing* connections, but not for a server that says nothing more: those are closed all the same."""
    with suppress(RedisError, OSError):
        async with asyncio.timeout(_CLOSING_S):
            await closing


def servers(url: str, *, timeout_s: float) -> Servers:
    """Return the Redis at *url*. Nothing is sent before the first call.

    Retries are left to the next request: a store that is away must not hold one up twice. How long a request waits is
    for `CircuitBreaker` to say; the client's own limits count this process's delay as Redis' silence, and end what
    hangs for good: at *timeout_s*, or `_HANGS_S` where that is longer. What the client would tell Redis of itself is
    left out: it costs each connection 10 ms.
    """
    where = address(url)
    bounds: dict[str, Any] = {
        "socket_connect_timeout": max(timeout_s, _HANGS_S),
        "socket_timeout": max(timeout_s, _HANGS_S),
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }
    if where.kind == "sentinel":
        return _by_sentinel(where, bounds)
    if where.kind == "cluster":
        options = _options(where) | bounds
        nodes = [ClusterNode(*host) for host in where.hosts]
        cluster = RedisCluster(
            startup_nodes=nodes, require_full_coverage=False, max_connections=_MAX_CONNECTIONS, **options
        )
        return ClusterServers(cluster, options)
    return Servers(Redis.from_url(url, max_connections=_MAX_CONNECTIONS, **_verified(url), **bounds))


def _by_sentinel(where: Address, bounds: dict[str, Any]) -> Servers:
    """Return the server that leads. `sentinel_username` and `sentinel_password` in the URL are for the Sentinels."""
    given = _options(where)
    own = {name.removeprefix(_OF_SENTINELS): given.pop(name) for name in list(given) if name.startswith(_OF_SENTINELS)}
    tls = {name: value for name, value in given.items() if name.startswith("ssl")}
    limits = {"socket_connect_timeout": _SENTINEL_S, "socket_timeout": _SENTINEL_S}
    sentinel = Sentinel(where.hosts, sentinel_kwargs=bounds | limits | tls | own)  # type: ignore[no-untyped-call]
    leader = sentinel.master_for(where.service, max_connections=_MAX_CONNECTIONS, **given, **bounds)
    return LedServers(leader, sentinel)


def _options(where: Address) -> dict[str, Any]:
    """Return what the URL says beside hosts: user, password, TLS, and redis-py's own options."""
    options = dict(parse_url(where.server))
    del options["host"], options["port"]
    if options.pop("connection_class", None) is not None:
        options["ssl"] = True
    return options | _verified(where.server)


def _verified(url: str) -> dict[str, Any]:
    """Return what makes redis-py verify certificates alike on every Python, less what the URL itself takes away."""
    return {"ssl_include_verify_flags": list(STRICT_FLAGS)} if url.startswith("rediss:") else {}
