"""The Redis that commands go to: one server, the one that Sentinel says leads, or the nodes of a cluster."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast
from urllib.parse import parse_qsl

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from proxy.core.tls_verification import STRICT_FLAGS
from proxy.core.values import immutable
from proxy.http.validation import is_host

ALLOWED_URLS: Final = (
    "memory://, redis://HOST:PORT/DB, redis+sentinel://HOST:PORT,…/SERVICE, redis+cluster://HOST:PORT,…, "
    "or with rediss in place of redis"
)
# Of what redis-py reads in a URL. Its others would take the place of time limits and bounds of ours, or change what it
# gives back.
_OPTIONS: Final = frozenset({"client_name", "db", "password", "username"})
_TLS_OPTIONS: Final = frozenset(
    {"ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_ciphers"}
    | {"ssl_exclude_verify_flags", "ssl_keyfile", "ssl_password"}
)
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_password", "sentinel_username"})
_VERIFYING_VALUES: Final = ("none", "optional", "required")
_SELF_SIGNED_VALUES: Final = "VERIFY_X509_STRICT"  # the extensions that RFC 5280 requires
# Scheme, authority, path and query (RFC 3986, appendix B). `urllib.parse.urlsplit` can't be used: the authority here is
# a list of hosts, and newer Pythons refuse brackets anywhere but around a single host.
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.ASCII)
_HOSTS: Final = "HOST:PORT,… with at least one host, an IPv6 host in brackets"
_REDIS_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


@immutable
class RedisAddress:
    """What a store URL says. *hosts* are Sentinels, or some of the cluster's nodes, or nobody.

    *server* is a URL without them, for all that redis-py itself reads in one: who asks, TLS, options.
    """

    kind: str
    server: str
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""


def parse_address(url: str) -> RedisAddress:
    """Return what *url* says; raises `ValueError`, which says what is allowed."""
    name, authority, path, query = _split_url(url)
    scheme, _, kind = name.partition("+")
    if scheme == "memory" and not kind:
        return RedisAddress("memory", url)
    if scheme not in ("redis", "rediss") or kind not in ("", "sentinel", "cluster"):
        raise ValueError(ALLOWED_URLS)
    user, at, listed = authority.rpartition("@")
    if set(user) & set("[]"):
        raise ValueError("HOST:PORT after a user and a password in which [ and ] are written %5B and %5D")
    _check_options(parse_options(url), kind=kind, tls=scheme == "rediss")
    if not kind:
        if not path.removeprefix("/").isdecimal() and path not in ("", "/"):
            raise ValueError("redis://HOST:PORT/DB, where DB is a number")
        _parse_host(listed, _REDIS_PORT)
        return RedisAddress("single", url)
    hosts = tuple(
        _parse_host(each, _SENTINEL_PORT if kind == "sentinel" else _REDIS_PORT) for each in listed.split(",")
    )
    path = path.strip("/")
    options = f"?{query}" if query else ""
    if kind == "cluster":
        if path:
            raise ValueError("redis+cluster://HOST:PORT,… without a path: a cluster has one database")
        return RedisAddress(kind, f"{scheme}://{user}{at}{_format_host(hosts[0])}{options}", hosts)
    service, _, database = path.partition("/")
    if not service or (database and not database.isdecimal()):
        raise ValueError("redis+sentinel://HOST:PORT,…/SERVICE, or …/SERVICE/DB")
    return RedisAddress(kind, f"{scheme}://{user}{at}{_format_host(hosts[0])}/{database}{options}", hosts, service)


def parse_options(url: str) -> dict[str, str]:
    """Return the options in the query of *url*."""
    _, _, _, query = _split_url(url)
    return dict(parse_qsl(query, keep_blank_values=True))


def _split_url(url: str) -> tuple[str, str, str, str]:
    """Return scheme, authority, path and query of *url*; raises `ValueError`, which says what is allowed."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(ALLOWED_URLS)
    scheme, authority, path, query = found.groups(default="")
    return scheme.lower(), authority, path, query


def _check_options(options: dict[str, str], *, kind: str, tls: bool) -> None:
    """Return if all *options* may be given; raises `ValueError`, which says what is allowed."""
    known = set(_OPTIONS)
    known |= _TLS_OPTIONS if tls else set()
    known |= _SENTINEL_OPTIONS if kind == "sentinel" else set()
    for name in options:
        if name not in known:
            only = " (ssl_… with rediss)" if name in _TLS_OPTIONS else ""
            raise ValueError(f"in the query only {', '.join(sorted(known))}, not {name}{only}")
    if not options.get("db", "0").isdecimal() or (kind == "cluster" and "db" in options):
        raise ValueError("db as a number, which a cluster has not")
    if options.get("ssl_cert_reqs", "none") not in _VERIFYING_VALUES:
        raise ValueError(f"ssl_cert_reqs as one of {', '.join(_VERIFYING_VALUES)}")
    if options.get("ssl_exclude_verify_flags", _SELF_SIGNED_VALUES) != _SELF_SIGNED_VALUES:
        raise ValueError(f"ssl_exclude_verify_flags as {_SELF_SIGNED_VALUES}")


def _parse_host(text: str, default_port: int) -> tuple[str, int]:
    """Return host and port of *text*, one of the list; raises `ValueError`, which says what is allowed."""
    if not is_host(text):
        raise ValueError(_HOSTS)
    if not text.startswith("["):
        name, _, port = text.partition(":")
        return name.lower(), int(port or 0) or default_port
    name, _, port = text[1:].partition("]")
    try:
        ipaddress.IPv6Address(name)
    except ValueError:
        raise ValueError(_HOSTS) from None
    return name.lower(), int(port.removeprefix(":") or 0) or default_port


def _format_host(host: tuple[str, int]) -> str:
    name, port = host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


_MAX_CONNECTIONS: Final = 256
_SENTINEL_OPTION_NAMES: Final = "sentinel_"
_CONNECT_TIMEOUT_S: Final = 5.0
_SENTINEL_S: Final = 1.0  # the next Sentinel is asked after this
_CLOSE_TIMEOUT_S: Final = 0.2  # how long a server may take to take leave; a connection by TLS waits for it


class RedisServers:
    """One server, which takes commands by *redis*."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis

    def server_of(self, name: str) -> str:  # noqa: ARG002 - there is but one
        """Return which server keeps the key *name*, as far as it is known now."""
        return ""

    @asynccontextmanager
    async def pubsub_client(self, name: str) -> AsyncIterator[PubSub]:  # noqa: ARG002 - there is but one
        """Give what listens to channels, at the server that keeps the key *name*."""
        async with self.redis.pubsub() as pubsub:
            yield pubsub

    async def recheck(self) -> None:
        """A command failed: find out anew where keys are before the next."""

    async def drop_idle(self) -> None:
        """Close connections that nobody uses: after an outage each of them may be dead without saying so."""
        await _close_quietly(self.redis.connection_pool.disconnect(inuse_connections=False))

    async def close(self) -> None:
        """Let go of connections."""
        await _close_quietly(self.redis.aclose())


class SentinelServers(RedisServers):
    """The server that *sentinel* says leads; it is asked for each new connection."""

    def __init__(self, redis: Redis, sentinel: Sentinel) -> None:
        super().__init__(redis)
        self._sentinel = sentinel

    def server_of(self, name: str) -> str:  # noqa: ARG002 - there is but one
        """See `RedisServers.server_of`."""
        pool = self.redis.connection_pool
        return str(pool.master_address) if isinstance(pool, SentinelConnectionPool) else ""

    async def close(self) -> None:
        """See `RedisServers.close`."""
        await super().close()
        await self._sentinel.aclose()


class ClusterServers(RedisServers):
    """The nodes of a cluster. Each script's keys are in one slot, by the braces in their names.

    What a node publishes goes to all nodes. Yet who listens does so where the news are made, for then a node that the
    others can't reach is not taken for one that has no news.
    """

    def __init__(self, cluster: RedisCluster, options: dict[str, Any]) -> None:
        super().__init__(cast(Redis, cluster))  # it takes the same commands, and sends each where its keys are
        self._cluster = cluster
        self._options = options

    def server_of(self, name: str) -> str:
        """See `RedisServers.server_of`."""
        node = self._node(name)
        return node.name if node else ""

    @asynccontextmanager
    async def pubsub_client(self, name: str) -> AsyncIterator[PubSub]:
        """See `RedisServers.pubsub_client`."""
        await self._cluster.initialize()
        node = self._node(name)
        if node is None:
            raise ConnectionError("redis: no node keeps the channel's slot")
        try:
            async with Redis(**self._options, host=node.host, port=int(node.port)) as redis, redis.pubsub() as pubsub:
                yield pubsub
        except (RedisError, OSError):
            await self.recheck()  # another node may keep that slot by now
            raise

    async def drop_idle(self) -> None:
        """See `RedisServers.drop_idle`: with them goes what is known of the nodes."""
        await self.recheck()

    async def recheck(self) -> None:
        """See `RedisServers.recheck`: the client itself does so only where it may retry."""
        await _close_quietly(self._cluster.aclose())

    def _node(self, name: str) -> ClusterNode | None:
        try:
            return self._cluster.get_node_from_key(name)
        except RedisClusterException:
            return None


async def _close_quietly(closing: Awaitable[object]) -> None:
    """Wait for *closing* connections, but not for a server that says nothing more: those are closed all the same."""
    with suppress(RedisError, OSError):
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await closing


def connect_servers(url: str, *, timeout_s: float) -> RedisServers:
    """Return the Redis at *url*. Nothing is sent before the first call.

    Retries are left to the next request: a store that is away must not hold one up twice. How long a request waits is
    for `CircuitBreaker` to say; the client's own limits count this process's delay as Redis' silence, and end what
    hangs for good: at *timeout_s*, or `_CONNECT_TIMEOUT_S` where that is longer. What the client would tell Redis of
    itself is left out: it costs each connection 10 ms.
    """
    where = parse_address(url)
    bounds: dict[str, Any] = {
        "socket_connect_timeout": max(timeout_s, _CONNECT_TIMEOUT_S),
        "socket_timeout": max(timeout_s, _CONNECT_TIMEOUT_S),
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }
    if where.kind == "sentinel":
        return _connect_by_sentinel(where, bounds)
    if where.kind == "cluster":
        options = _connection_options(where) | bounds
        nodes = [ClusterNode(*host) for host in where.hosts]
        cluster = RedisCluster(
            startup_nodes=nodes, require_full_coverage=False, max_connections=_MAX_CONNECTIONS, **options
        )
        return ClusterServers(cluster, options)
    return RedisServers(Redis.from_url(url, max_connections=_MAX_CONNECTIONS, **_check_verification(url), **bounds))


def _connect_by_sentinel(where: RedisAddress, bounds: dict[str, Any]) -> RedisServers:
    """Return the server that leads. `sentinel_username` and `sentinel_password` in the URL are for the Sentinels."""
    given = _connection_options(where)
    own = {
        name.removeprefix(_SENTINEL_OPTION_NAMES): given.pop(name)
        for name in list(given)
        if name.startswith(_SENTINEL_OPTION_NAMES)
    }
    tls = {name: value for name, value in given.items() if name.startswith("ssl")}
    limits = {"socket_connect_timeout": _SENTINEL_S, "socket_timeout": _SENTINEL_S}
    sentinel = Sentinel(where.hosts, sentinel_kwargs=bounds | limits | tls | own)  # type: ignore[no-untyped-call]
    leader = sentinel.master_for(where.service, max_connections=_MAX_CONNECTIONS, **given, **bounds)
    return SentinelServers(leader, sentinel)


def _connection_options(where: RedisAddress) -> dict[str, Any]:
    """Return what the URL says beside hosts: user, password, TLS, and redis-py's own options."""
    options = dict(parse_url(where.server))
    del options["host"], options["port"]
    if options.pop("connection_class", None) is not None:
        options["ssl"] = True
    return options | _check_verification(where.server)


def _check_verification(url: str) -> dict[str, Any]:
    """Return what makes redis-py verify certificates alike on every Python, less what the URL itself takes away."""
    return {"ssl_include_verify_flags": list(STRICT_FLAGS)} if url.startswith("rediss:") else {}
