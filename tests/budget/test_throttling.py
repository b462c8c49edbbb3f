"""What the upstream's own words say of its limits."""

from __future__ import annotations

import pytest

from proxy.core.messages import Fields
from proxy.ratelimit.sliding_window import Allowance, Told
from proxy.ratelimit.upstream_limits import Heard, heard

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
            Heard((Told("user", Allowance(200, 300.0)),), throttled=True, closed_s=300.0),
            id="a limit per user in five minutes",
        ),
        pytest.param(
            429,
            [],
            APIG % b"api over ratelimit,limit:20,time:1 second",
            Heard((Told("api", Allowance(20, 1.0)),), throttled=True, closed_s=1.0),
            id="a limit per API in a second",
        ),
        pytest.param(
            429,
            [],
            APIG % b"ip over ratelimit,limit:100,time:minute",
            Heard((Told("ip", Allowance(100, 60.0)),), throttled=True, closed_s=60.0),
            id="a unit without a number",
        ),
        pytest.param(
            429,
            [("Retry-After", "7")],
            APIG % b"user over ratelimit,limit:200,time:5 minute",
            Heard((Told("user", Allowance(200, 300.0)),), throttled=True, closed_s=7.0),
            id="Retry-After says more than the window",
        ),
        pytest.param(
            429,
            [("Retry-After", "Thu, 01 Jan 2026 00:00:30 GMT")],
            b"",
            Heard(throttled=True, closed_s=30.0),
            id="Retry-After as a date",
        ),
        pytest.param(
            429,
            [("Retry-After", "Wed, 31 Dec 2025 00:00:30 GMT")],
            b"",
            Heard(throttled=True, closed_s=0.0),
            id="a date that is over",
        ),
        pytest.param(
            429, [("Retry-After", f"Fri, 31 Dec 2027 23:59:59 +{'9' * 20}")], b"", Heard(throttled=True), id="no zone"
        ),
        pytest.param(429, [("Retry-After", "soon")], b"slow down", Heard(throttled=True), id="nothing to go by"),
        pytest.param(
            429, [("Retry-After", "999999999")], b"", Heard(throttled=True, closed_s=86400.0), id="a day at the most"
        ),
        pytest.param(429, [], b"limit:0,time:1 minute", Heard(throttled=True), id="no calls at all is no limit"),
        pytest.param(429, [], b"limit:9,time:0 minute", Heard(throttled=True), id="no window is no limit"),
        pytest.param(
            429,
            [],
            b"policy zzz over ratelimit,limit:9,time:1 minute",
            Heard((Told("flow", Allowance(9, 60.0)),), throttled=True, closed_s=60.0),
            id="a policy that nobody knows",
        ),
        pytest.param(400, [], FLOW, Heard(throttled=True), id="flow control of IMS"),
        pytest.param(400, [], b'{"error_code":"IMG.0060"}', Heard(throttled=True), id="in the gateway's shape"),
        pytest.param(400, [], b'{"error":{"code":"IMG.0024"}}', Heard(), id="another 400"),
        pytest.param(400, [], b'"IMG.0060"', Heard(), id="a 400 that is no error document"),
        pytest.param(400, [], b"IMG.0060", Heard(), id="a 400 that is no JSON"),
        pytest.param(200, [], FLOW, Heard(), id="a 200 that only quotes it"),
        pytest.param(
            200,
            [("X-Apig-RateLimit-User", "remain:99,limit:100,time:1 minute")],
            b"",
            Heard((Told("user", Allowance(100, 60.0), 99),)),
            id="what is left, on any answer",
        ),
        pytest.param(
            200,
            [
                ("X-Apig-RateLimit-Api", "remain:3,limit:30,time:30 second"),
                ("X-Apig-RateLimit-Ip", "remain:0,limit:9,time:1 day"),
            ],
            b"",
            Heard((Told("api", Allowance(30, 30.0), 3), Told("ip", Allowance(9, 86400.0), 0))),
            id="several limits",
        ),
        pytest.param(200, [("X-Apig-RateLimit-User", "plenty")], b"", Heard(), id="a field that is malformed"),
        pytest.param(
            429,
            [("X-Apig-RateLimit-User", "remain:0,limit:200,time:5 minute")],
            APIG % b"user over ratelimit,limit:200,time:5 minute",
            Heard((Told("user", Allowance(200, 300.0)),), throttled=True, closed_s=300.0),
            id="the message and the field are one limit",
        ),
    ],
)
def test_heard(status: int, fields: list[tuple[str, str]], body: bytes, expected: Heard) -> None:
    """What one answer says."""
    assert heard(status, Fields(fields), body, now=NOW) == expected


def test_a_limit_that_nobody_reaches_is_none() -> None:
    """The books have a line for each call, those of others too: a limit of a thousand million would fill all memory."""
    field = Fields([("X-Apig-RateLimit-Api", "remain:0,limit:999999999,time:1 minute")])
    assert heard(200, field, b"", now=0.0) == Heard()
