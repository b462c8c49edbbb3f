"""Where Redis is, as `store.url` says it: one server, one that Sentinels know, or a cluster."""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import parse_qsl

from proxy.core.values import immutable
from proxy.http.validation import is_host

ALLOWED: Final = (
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
_VERIFIES: Final = ("none", "optional", "required")
_MAY_NOT_VERIFY: Final = "VERIFY_X509_STRICT"  # the extensions that RFC 5280 requires
# Scheme, authority, path and query (RFC 3986, appendix B). `urllib.parse.urlsplit` can't be used: the authority here is
# a list of hosts, and newer Pythons refuse brackets anywhere but around a single host.
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.ASCII)
_HOSTS: Final = "HOST:PORT,… with at least one host, an IPv6 host in brackets"
_REDIS_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


@immutable
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
    name, authority, path, query = _split(url)
    scheme, _, kind = name.partition("+")
    if scheme == "memory" and not kind:
        return Address("memory", url)
    if scheme not in ("redis", "rediss") or kind not in ("", "sentinel", "cluster"):
        raise ValueError(ALLOWED)
    user, at, listed = authority.rpartition("@")
    if set(user) & set("[]"):
        raise ValueError("HOST:PORT after a user and a password in which [ and ] are written %5B and %5D")
    _checked(options_of(url), kind=kind, tls=scheme == "rediss")
    if not kind:
        if not path.removeprefix("/").isdecimal() and path not in ("", "/"):
            raise ValueError("redis://HOST:PORT/DB, where DB is a number")
        _host(listed, _REDIS_PORT)
        return Address("single", url)
    hosts = tuple(_host(each, _SENTINEL_PORT if kind == "sentinel" else _REDIS_PORT) for each in listed.split(","))
    path = path.strip("/")
    options = f"?{query}" if query else ""
    if kind == "cluster":
        if path:
            raise ValueError("redis+cluster://HOST:PORT,… without a path: a cluster has one database")
        return Address(kind, f"{scheme}://{user}{at}{_written(hosts[0])}{options}", hosts)
    service, _, database = path.partition("/")
    if not service or (database and not database.isdecimal()):
        raise ValueError("redis+sentinel://HOST:PORT,…/SERVICE, or …/SERVICE/DB")
    return Address(kind, f"{scheme}://{user}{at}{_written(hosts[0])}/{database}{options}", hosts, service)


def options_of(url: str) -> dict[str, str]:
    """Return the options in the query of *url*."""
    _, _, _, query = _split(url)
    return dict(parse_qsl(query, keep_blank_values=True))


def _split(url: str) -> tuple[str, str, str, str]:
    """Return scheme, authority, path and query of *url*; raises `ValueError`, which says what is allowed."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(ALLOWED)
    scheme, authority, path, query = found.groups(default="")
    return scheme.lower(), authority, path, query


def _checked(options: dict[str, str], *, kind: str, tls: bool) -> None:
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
    if options.get("ssl_cert_reqs", "none") not in _VERIFIES:
        raise ValueError(f"ssl_cert_reqs as one of {', '.join(_VERIFIES)}")
    if options.get("ssl_exclude_verify_flags", _MAY_NOT_VERIFY) != _MAY_NOT_VERIFY:
        raise ValueError(f"ssl_exclude_verify_flags as {_MAY_NOT_VERIFY}")


def _host(text: str, default_port: int) -> tuple[str, int]:
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


def _written(host: tuple[str, int]) -> str:
    name, port = host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
