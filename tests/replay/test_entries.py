"""Lines of access logs."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.replay.entries import LogEntry, MalformedLine, parse_entry

AT = 1795510328.0
LINE = '10.0.0.1 - ci [24/Nov/2026:08:52:08 +0000] "GET /v2/images?limit=5 HTTP/1.1" 200 1234 "-" "sdk \\"x\\" 1"'


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(LINE, LogEntry(AT, "ci", "GET", "/v2/images?limit=5", 200, 1234), id="combined"),
        pytest.param(
            '10.0.0.1 - - [24/Nov/2026:09:52:08 +0100] "POST /v2/images HTTP/1.1" 201 -',
            LogEntry(AT, "10.0.0.1", "POST", "/v2/images", 201, None),
            id="common, without a user, in another zone, without a body",
        ),
        pytest.param(
            LINE + ' rt=0.010 "more"',
            LogEntry(AT, "ci", "GET", "/v2/images?limit=5", 200, 1234),
            id="with more behind it",
        ),
        pytest.param(
            LINE.replace("/v2/images?limit=5", "https://ims.example/v2/images?name=a\\x22b"),
            LogEntry(AT, "ci", "GET", '/v2/images?name=a"b', 200, 1234),
            id="an absolute target, and what nginx escapes",
        ),
        pytest.param(
            '{"time_iso8601":"2026-11-24T08:52:08+00:00","request_method":"GET","request_uri":"/v2/images?limit=5",'
            '"status":"200","body_bytes_sent":"1234","remote_user":"ci","remote_addr":"10.0.0.1"}',
            LogEntry(AT, "ci", "GET", "/v2/images?limit=5", 200, 1234),
            id="JSON as nginx is made to write it, all of it text",
        ),
        pytest.param(
            '{"ts":1795510328000,"request":"GET /v2/images?limit=5 HTTP/1.1","status":200,"client_ip":"10.0.0.1"}',
            LogEntry(AT, "10.0.0.1", "GET", "/v2/images?limit=5", 200, None),
            id="JSON with the request in one, and milliseconds",
        ),
        pytest.param(
            '{"timestamp":"1711120821234","uri":"/","status":200}',
            LogEntry(1711120821.234, "", "GET", "/", 200, None),
            id="a number as a text, which might be read as a date",
        ),
        pytest.param(
            '{"msec":1795510328.0,"method":"get","path":"/v2/images","query":"limit=5","status":200,"user":"-",'
            '"ip":"10.0.0.1"}',
            LogEntry(AT, "10.0.0.1", "GET", "/v2/images?limit=5", 200, None),
            id="JSON with the query apart",
        ),
    ],
)
def test_what_was_logged(line: str, expected: LogEntry) -> None:
    """Both formats, and the names that programs use for the same thing."""
    assert parse_entry(line) == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("garbage", "neither"),
        (LINE[:40], "neither"),
        (LINE.replace("GET /v2/images?limit=5 HTTP/1.1", "-"), "no request"),
        (LINE.replace("GET /v2/images?limit=5 HTTP/1.1", "\\x16\\x03\\x01"), "no request"),
        (LINE.replace("24/Nov", "31/Nov"), "no time"),
        (LINE.replace("24/Nov", "24/Xyz"), "no time"),
        ("{", "no JSON"),
        ("{}", "no time"),
        ('{"time":"soon","uri":"/","status":200}', "no time"),
        ('{"time":-1,"uri":"/","status":200}', "no time"),
        ('{"time":1e400,"uri":"/","status":200}', "no JSON"),
        ('{"time":1,"status":200}', "no request"),
        ('{"time":1,"uri":["/"],"status":200}', "no request"),
        ('{"time":1,"uri":"/"}', "no status"),
        ('{"time":1,"uri":"/","status":7}', "no status"),
    ],
)
def test_what_is_no_entry_says_why(line: str, reason: str) -> None:
    """Each by its reason."""
    found = parse_entry(line)
    assert isinstance(found, MalformedLine)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("line", "caller", "expected"),
    [
        (LINE, "address", "10.0.0.1"),
        (LINE, "user", "ci"),
        ('{"time":1,"uri":"/","status":200,"tenant":"t1","user":"u"}', "tenant", "t1"),
        ('{"time":1,"uri":"/","status":200,"user":"u"}', "tenant", ""),
        ('{"time":1,"uri":"/","status":200,"project":"p","user":"u"}', None, "p"),
    ],
)
def test_callers_are_told_apart_by_the_field_that_is_named(line: str, caller: str | None, expected: str) -> None:
    """Without one by what tells most: a project or token, a user, an address."""
    found = parse_entry(line, caller_field=caller)
    assert isinstance(found, LogEntry)
    assert found.caller == expected


@given(st.one_of(st.text(), st.text().map(lambda text: "{" + text), st.dictionaries(st.text(), st.text()).map(str)))
def test_no_line_is_too_odd(line: str) -> None:
    """Whatever a line holds, it is an entry or has a reason."""
    assert isinstance(parse_entry(line), LogEntry | MalformedLine)


@pytest.mark.parametrize("method", ["\x1b]0;title\x07", "GET\r", "G T", "g" * 30, "Ĝ"])
def test_a_method_that_is_no_word_is_no_request(method: str) -> None:
    """It is shown in a terminal, which might take what a caller made up for an order."""
    line = orjson.dumps(
        {"time": "2026-11-24T09:00:00Z", "method": method, "path": "/v2/images", "status": 200}
    ).decode()
    assert parse_entry(line, caller_field=None) == MalformedLine("no request in it")
