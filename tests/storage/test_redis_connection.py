"""What a store URL says, and what is wrong with one."""

from __future__ import annotations

import pytest

from proxy.storage.redis_connection import (
    ClusterServers,
    RedisAddress,
    RedisServers,
    SentinelServers,
    connect_servers,
    parse_address,
)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory://", RedisAddress("memory", "memory://")),
        ("rediss://u:p@redis:6380/2?db=1", RedisAddress("single", "rediss://u:p@redis:6380/2?db=1")),
        (
            "redis+sentinel://u:p@one:1,two,[::1]:3/lists/2?db=1",
            RedisAddress("sentinel", "redis://u:p@one:1/2?db=1", (("one", 1), ("two", 26379), ("::1", 3)), "lists"),
        ),
        (
            "rediss+cluster://p%40@one,two:2/",
            RedisAddress("cluster", "rediss://p%40@one:6379", (("one", 6379), ("two", 2))),
        ),
        ("redis+cluster://[::1]", RedisAddress("cluster", "redis://[::1]:6379", (("::1", 6379),))),
        (
            "redis+cluster://[2001:DB8::1]:7,[::1],ONE",
            RedisAddress("cluster", "redis://[2001:db8::1]:7", (("2001:db8::1", 7), ("::1", 6379), ("one", 6379))),
        ),
        ("REDIS://[::1]:6380/2", RedisAddress("single", "REDIS://[::1]:6380/2")),
    ],
)
def test_a_url_says_where_redis_is(url: str, expected: RedisAddress) -> None:
    """Hosts and service are told apart from what redis-py reads in a URL."""
    assert parse_address(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("", "mysql://x", "memory+cluster://", "redis+x://h", "redis+cluster://", "redis+cluster://h/1"),
        *("redis+sentinel://h", "redis+sentinel://h/", "redis+sentinel://h/lists/x", "redis+sentinel://h:x/lists"),
        *("redis+cluster://h,,g", "redis+sentinel:///lists"),
        *("redis://", "redis://:6379", "redis://h,g", "redis://h:x", "redis://h/lists", "redis://[::1", "redis://h i"),
        *(
            "redis://[1.2.3.4]",
            "redis://[::1::]",
            "redis://x[::1]",
            "redis+cluster://h,[h]",
            "redis+cluster://[::1],g[",
        ),
        *("redis://u:p[1]@h", "redis+sentinel://u:[::1]@h/lists", " redis://h", "redis://h\n", "redis:h", "//h"),
    ],
)
def test_what_says_too_little_is_refused(url: str) -> None:
    """A wrong scheme, no host, no service, a database where there is but one, or that is no number."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(url)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://h?nonsense=1", "nonsense"),
        ("redis://h?socket_timeout=900", "socket_timeout"),
        ("redis+cluster://h?max_connections=1", "max_connections"),
        ("redis+sentinel://h/lists?decode_responses=1", "decode_responses"),
        ("redis://h?ssl_ca_certs=/x", "ssl_ca_certs"),
        ("redis://h?sentinel_password=x", "sentinel_password"),
        ("redis://h?db=lists", "db"),
        ("redis+cluster://h?db=1", "db"),
        ("rediss://h?ssl_cert_reqs=perhaps", "ssl_cert_reqs"),
        ("rediss://h?ssl_exclude_verify_flags=VERIFY_CRL_CHECK_LEAF", "ssl_exclude_verify_flags"),
    ],
)
def test_an_option_that_would_not_do_is_refused(url: str, name: str) -> None:
    """redis-py knows it not, not here, or lets it take the place of a bound of ours."""
    with pytest.raises(ValueError, match=name):
        parse_address(url)


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("rediss://u:p@h:1?ssl_ca_certs=/x", RedisServers),
        ("rediss+sentinel://u:p@h:1/lists/2?ssl_ca_certs=/x&sentinel_password=s", SentinelServers),
        ("rediss+cluster://u:p@h:1?ssl_ca_certs=/x", ClusterServers),
    ],
)
async def test_options_reach_the_client(url: str, kind: type[RedisServers]) -> None:
    """User, password, TLS and redis-py's own options count wherever Redis is."""
    made = connect_servers(url, timeout_s=1.0)
    assert type(made) is kind
    options = made.redis.get_connection_kwargs()  # type: ignore[no-untyped-call]
    assert (options["username"], options["password"], options["ssl_ca_certs"]) == ("u", "p", "/x")
    await made.close()
