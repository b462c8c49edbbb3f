"""What the upstream's own words say of its limits."""

from __future__ import annotations

import pytest

from proxy.core.messages import Fields
from proxy.ratelimit.sliding_window import AdvertisedLimit, RateLimit
from proxy.ratelimit.upstream_limits import AdvertisedLimits, parse_advertised_limits

NOW = 1_767_225_600.0  # Thu, 01 Jan 2026 00:00:00 GMT
APIG = b'{"error_msg":"The throttling threshold has been reached: policy %s","error_code":"APIGW.0308"}'
FLOW = b'{"error":{"message":"Flow control threshold reached.","code":"IMG.0060"}}'


@pytest.mark.parametrize(
    ("status", "fields", "body", "expected"),
    [
        pytest.param(
            429,
            [],
            APIG % b"user over ratelimit,limit:200,time:5 minute",
            AdvertisedLimits((AdvertisedLimit("user", RateLimit(200, 300.0)),), is_throttled=True, cooldown_s=300.0),
            id="a limit per user in five minutes",
        ),
        pytest.param(
            429,
            [],
            APIG % b"api over ratelimit,limit:20,time:1 second",
            AdvertisedLimits((AdvertisedLimit("api", RateLimit(20, 1.0)),), is_throttled=True, cooldown_s=1.0),
            id="a limit per API in a second",
        ),
        pytest.param(
            429,
            [],
            APIG % b"ip over ratelimit,limit:100,time:minute",
            AdvertisedLimits((AdvertisedLimit("ip", RateLimit(100, 60.0)),), is_throttled=True, cooldown_s=60.0),
            id="a unit without a number",
        ),
        pytest.param(
            429,
            [("Retry-After", "7")],
            APIG % b"user over ratelimit,limit:200,time:5 minute",
            AdvertisedLimits((AdvertisedLimit("user", RateLimit(200, 300.0)),), is_throttled=True, cooldown_s=7.0),
            id="Retry-After says more than the window",
        ),
        pytest.param(
            429,
            [("Retry-After", "Thu, 01 Jan 2026 00:00:30 GMT")],
            b"",
            AdvertisedLimits(is_throttled=True, cooldown_s=30.0),
            id="Retry-After as a date",
        ),
        pytest.param(
            429,
            [("Retry-After", "Wed, 31 Dec 2025 00:00:30 GMT")],
            b"",
            AdvertisedLimits(is_throttled=True, cooldown_s=0.0),
            id="a date that is over",
        ),
        pytest.param(
            429,
            [("Retry-After", f"Fri, 31 Dec 2027 23:59:59 +{'9' * 20}")],
            b"",
            AdvertisedLimits(is_throttled=True),
            id="no zone",
        ),
        pytest.param(
            429, [("Retry-After", "soon")], b"slow down", AdvertisedLimits(is_throttled=True), id="nothing to go by"
        ),
        pytest.param(
            429,
            [("Retry-After", "999999999")],
            b"",
            AdvertisedLimits(is_throttled=True, cooldown_s=86400.0),
            id="a day at the most",
        ),
        pytest.param(
            429, [], b"limit:0,time:1 minute", AdvertisedLimits(is_throttled=True), id="no calls at all is no limit"
        ),
        pytest.param(
            429, [], b"limit:9,time:0 minute", AdvertisedLimits(is_throttled=True), id="no window is no limit"
        ),
        pytest.param(
            429,
            [],
            b"policy zzz over ratelimit,limit:9,time:1 minute",
            AdvertisedLimits((AdvertisedLimit("flow", RateLimit(9, 60.0)),), is_throttled=True, cooldown_s=60.0),
            id="a policy that nobody knows",
        ),
        pytest.param(400, [], FLOW, AdvertisedLimits(is_throttled=True), id="flow control of IMS"),
        pytest.param(
            400, [], b'{"error_code":"IMG.0060"}', AdvertisedLimits(is_throttled=True), id="in the gateway's shape"
        ),
        pytest.param(400, [], b'{"error":{"code":"IMG.0024"}}', AdvertisedLimits(), id="another 400"),
        pytest.param(400, [], b'"IMG.0060"', AdvertisedLimits(), id="a 400 that is no error document"),
        pytest.param(400, [], b"IMG.0060", AdvertisedLimits(), id="a 400 that is no JSON"),
        pytest.param(200, [], FLOW, AdvertisedLimits(), id="a 200 that only quotes it"),
        pytest.param(
            200,
            [("X-Apig-RateLimit-User", "remain:99,limit:100,time:1 minute")],
            b"",
            AdvertisedLimits((AdvertisedLimit("user", RateLimit(100, 60.0), 99),)),
            id="what is left, on any answer",
        ),
        pytest.param(
            200,
            [
                ("X-Apig-RateLimit-Api", "remain:3,limit:30,time:30 second"),
                ("X-Apig-RateLimit-Ip", "remain:0,limit:9,time:1 day"),
            ],
            b"",
            AdvertisedLimits(
                (AdvertisedLimit("api", RateLimit(30, 30.0), 3), AdvertisedLimit("ip", RateLimit(9, 86400.0), 0))
            ),
            id="several limits",
        ),
        pytest.param(
            200, [("X-Apig-RateLimit-User", "plenty")], b"", AdvertisedLimits(), id="a field that is malformed"
        ),
        pytest.param(
            429,
            [("X-Apig-RateLimit-User", "remain:0,limit:200,time:5 minute")],
            APIG % b"user over ratelimit,limit:200,time:5 minute",
            AdvertisedLimits((AdvertisedLimit("user", RateLimit(200, 300.0)),), is_throttled=True, cooldown_s=300.0),
            id="the message and the field are one limit",
        ),
    ],
)
def test_heard(status: int, fields: list[tuple[str, str]], body: bytes, expected: AdvertisedLimits) -> None:
    """What one answer says."""
    assert parse_advertised_limits(status, Fields(fields), body, now=NOW) == expected


def test_a_limit_that_nobody_reaches_is_none() -> None:
    """The books have a line for each call, those of others too: a limit of a thousand million would fill all memory."""
    field = Fields([("X-Apig-RateLimit-Api", "remain:0,limit:999999999,time:1 minute")])
    assert parse_advertised_limits(200, field, b"", now=0.0) == AdvertisedLimits()
