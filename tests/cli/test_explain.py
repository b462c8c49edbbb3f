"""`ims-proxy explain`: what a request turns into, offline."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from proxy.cli import cli

TOKEN = ("-H", "X-Auth-Token: s3cr3t-token")


def told(*words: str) -> dict[str, list[str]]:
    """Return what is told, by label."""
    result = CliRunner().invoke(cli, ["explain", *words])
    assert result.exit_code == 0, result.output
    assert "s3cr3t" not in result.output
    lines: dict[str, list[str]] = {}
    for line in result.stdout.splitlines():
        label, _, text = line.partition(" ")
        label, text = (line[:12].strip(), line[13:]) if len(line) > 12 else (label, text)
        lines.setdefault(label, []).append(text.strip())
    return lines


def test_a_list_is_explained() -> None:
    """Canonical query, listing, window, variant, partition, normalisation, lifetime, and that it is cacheable."""
    url = "https://ims.example/v2/images?sort_dir=desc&visibility=public&limit=10&name=a+b&marker=m"
    said = told(url, *TOKEN, "-H", "X-Api-Version: B")
    assert said["listing"] == ["/v2/images?name=a%20b&visibility=public"]
    assert "10" in said["window"][0]
    assert "after m" in said["window"][0]
    assert said["variant"] == ["X-Api-Version M"]
    assert said["partition"][0].startswith("token")
    assert any("sort_dir=desc" in note for note in said["normalised"])
    assert "60 s" in said["lifetime"][0]
    assert "cache.ttl_s" in said["lifetime"][0]
    assert said["cacheable"] == ["yes"]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("limit=1;marker=x", "semicolon"),
        ("limit=1&limit=2", "two-limits"),
        ("marker=a&marker=b", "two-markers"),
        ("limit=-1", "limit"),
        ("marker=", "marker"),
        ("name=%FF", "not-utf-8"),
        ("name=%zz", "escape"),
        ("name=%00", "control-character"),
        ("name", "no-value"),
        ("=x", "no-name"),
    ],
)
def test_an_unclear_query_says_why(query: str, reason: str) -> None:
    """The token is the one of `Cache-Status`, with a sentence beside it."""
    (said,) = told(f"/v2/images?{query}", *TOKEN)["cacheable"]
    assert said.startswith("no: ")
    assert f"(detail={reason})" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "no-token"),
        ((*TOKEN, *TOKEN), "two-tokens"),
        ((*TOKEN, "-H", "Authorization: Basic s3cr3t"), "two-credentials"),
        ((*TOKEN, "-H", "If-Match: x"), "precondition"),
        ((*TOKEN, "-H", "Cache-Control: no-store"), "no-store"),
    ],
)
def test_who_shares_nothing_is_told_why(words: tuple[str, ...], reason: str) -> None:
    """Credentials decide, and none of them is shown."""
    assert f"(detail={reason})" in told("/v2/images", *words)["cacheable"][0]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("/v2/images/abc",), "yes"),
        (("/v2/images/abc/file",), "no"),
        (("/v2/schemas/image",), "yes"),
        (("/v2/images/",), "no"),
        (("/v2/%69mages",), "no"),
        (("/v2/images", "-X", "POST"), "no"),
        (("/v2/images", "-X", "head"), "yes"),
        (("/v2/cloudimages",), "yes"),
        (("https://ims.example",), "no"),
    ],
)
def test_other_requests_are_told_apart(words: tuple[str, ...], part: str) -> None:
    """Only GET and HEAD of the two lists, and of resources on a route, are answered from the store."""
    assert told(*words, *TOKEN)["cacheable"][0].startswith(part)


def test_a_resource_is_told_its_route() -> None:
    """With whom it is shared, how long it lives, and why it is not shared at all."""
    said = told("/v2/schemas/image", *TOKEN)
    assert (said["resource"], said["partition"][0].split(":")[0]) == (["route /v2/schemas/*"], "token")
    assert said["lifetime"] == ["what the answer says, else 3600 s"]
    assert "(detail=no-token)" in told("/v2/schemas/image")["cacheable"][0]


def test_orders_are_told_by_how_their_pages_may_be_cut() -> None:
    """Joined, from one span, or page by page."""
    shown = [told(f"/v2/images?{sort}", *TOKEN)["sorted by"][0] for sort in ("", "sort_key=name", "sort_key=size")]
    assert len({text.partition(": ")[2] for text in shown}) == 3


@pytest.mark.parametrize("header", ["nonsense", ": x", "", "a b: x", "x: y\r\nz: w"])
def test_a_field_that_is_none_is_wrong_usage(header: str) -> None:
    """`-H` wants a name and a value."""
    result = CliRunner().invoke(cli, ["explain", "/v2/images", "-H", header])
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "url",
    ["http://[", "/v2/images?\ud800", "", "x", "/v2/images?a=é", "http://x:y/", "/v2/images?a=b c", "/v2/images?a\n=b"],
)
def test_a_url_that_no_proxy_takes_is_wrong_usage(url: str) -> None:
    """What a proxy answers 400 is not explained as what it might have been."""
    result = CliRunner().invoke(cli, ["explain", url])
    assert (result.exit_code, result.stdout) == (2, "")
    assert isinstance(result.exception, SystemExit)


def test_a_fragment_is_not_sent() -> None:
    """A client keeps it to itself (RFC 9110 §7.1)."""
    assert told("/v2/images?limit=1#top", *TOKEN)["request"] == ["GET /v2/images?limit=1"]


def test_a_method_that_is_none_is_wrong_usage() -> None:
    """`-X` wants a token (RFC 9110 §9.1)."""
    assert CliRunner().invoke(cli, ["explain", "/v2/images", "-X", "GE T"]).exit_code == 2
