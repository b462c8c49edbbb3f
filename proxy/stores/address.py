"""Where Redis is, as `store.url` says it: one server, one that Sentinels know, or a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

ALLOWED: Final = (
    "memory://, redis://HOST:PORT/DB, redis+sentinel://HOST:PORT,…/SERVICE, redis+cluster://HOST:PORT,…, "
    "or with rediss in place of redis"
)
_REDIS_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


@dataclass(frozen=True, slots=True)
class Address:
    """What a store URL says. *hosts* are Sentinels, or some of the cluster's nodes, or nobody.

    *server* is a URL without them, for all that redis-py itself reads in one: who asks, TLS, options.
    """

    kind: str
    server: str
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""


def address(url: str) -> Address:
    """Return what *url* says; raises `ValueError`, which says what is allowed."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if scheme == "memory" and not kind:
        return Address("memory", url)
    if scheme not in ("redis", "rediss") or kind not in ("", "sentinel", "cluster"):
        raise ValueError(ALLOWED)
    if not kind:
        return Address("single", url)
    user, at, listed = parts.netloc.rpartition("@")
    hosts = tuple(_host(each, _SENTINEL_PORT if kind == "sentinel" else _REDIS_PORT) for each in listed.split(","))
    path = parts.path.strip("/")
    options = f"?{parts.query}" if parts.query else ""
    if kind == "cluster":
        if path:
            raise ValueError("redis+cluster://HOST:PORT,… without a path: a cluster has one database")
        return Address(kind, f"{scheme}://{user}{at}{_written(hosts[0])}{options}", hosts)
    service, _, database = path.partition("/")
    if not service or (database and not database.isdecimal()):
        raise ValueError("redis+sentinel://HOST:PORT,…/SERVICE, or …/SERVICE/DB")
    return Address(kind, f"{scheme}://{user}{at}{_written(hosts[0])}/{database}{options}", hosts, service)


def _host(text: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path or parts.query:
        raise ValueError("HOST:PORT,… with at least one host, an IPv6 host in brackets")
    return parts.hostname, parts.port or default_port


def _written(host: tuple[str, int]) -> str:
    name, port = host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
