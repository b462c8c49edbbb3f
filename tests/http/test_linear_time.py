"""What others send is read in a time that grows with its length: nobody holds up all the others by one long field.

At these lengths a reader that goes back over what it has read takes minutes, one that does not some milliseconds.
"""

from __future__ import annotations

import ipaddress
import time

import pytest

from proxy.core.messages import Fields, Request
from proxy.http.cache_control import (
    RequestDirectives,
    ResponseDirectives,
    parse_request_directives,
    parse_response_directives,
)
from proxy.http.conditional import is_matched_by
from proxy.http.negotiation import choose_coding, render_error
from proxy.http.stored_response import FreshnessPolicy
from proxy.listing.rendering import LinkStyle
from proxy.ratelimit.upstream_limits import AdvertisedLimits, parse_advertised_limits
from proxy.resources.routes import ResourceRoute, ResourceRoutes

LONG = 64_000
AT_MOST_S = 10.0
TRICKS = [
    pytest.param("a" * LONG + "!", id="a name that ends in nothing"),
    pytest.param("a" + " " * LONG + "b!", id="blanks"),
    pytest.param("a=" + " " * LONG + '"', id="blanks behind an equals sign"),
    pytest.param('a"' * (LONG // 2 - 1) + "a", id="quotes that don't pair up"),
    pytest.param('"\\' * (LONG // 2), id="escapes in a string without an end"),
    pytest.param("a=b;" * (LONG // 4), id="parameters"),
    pytest.param("," * LONG, id="commas"),
    pytest.param("limit:1,time:" + " " * LONG + "x", id="a limit without a period"),
]


@pytest.mark.parametrize("value", TRICKS)
def test_no_field_takes_long(value: str) -> None:
    """Whoever sends it, in whichever field, 64 KiB are read in seconds at the most."""
    trusting = LinkStyle(True, "", (ipaddress.ip_network("127.0.0.0/8"),))
    began = time.process_time()
    parse_request_directives(Fields([("Cache-Control", value)]))
    trusting.base_for(Fields([("Forwarded", value)]), "127.0.0.1")
    is_matched_by([value], '"t"')
    choose_coding(value)
    render_error("PROXY.0400", "request: odd", request_id="r", request_fields=Fields([("Accept", value)]))
    parse_response_directives(Fields([("Cache-Control", value)]))
    parse_response_directives(Fields([("CDN-Cache-Control", value)]))
    parse_advertised_limits(200, Fields([("X-Apig-RateLimit-Api", value)]), b"", now=0.0)
    assert time.process_time() - began < AT_MOST_S


def test_what_stands_behind_a_trick_counts() -> None:
    """A directive is found behind what makes no sense, and a list of them too long to be read forbids to store."""
    trick = "a" * 60_000 + '!", no-store'
    assert parse_request_directives(Fields([("Cache-Control", trick)])) == RequestDirectives(no_store=True)
    assert parse_response_directives(Fields([("Cache-Control", 'x="y, no-store')])).no_store
    assert parse_response_directives(Fields([("Cache-Control", "max-age=60, " * 1000)])) == ResponseDirectives(
        no_store=True
    )
    limit = Fields([("X-Apig-RateLimit-Api", "remain:9, limit:10 , time: 5 minute")])
    assert parse_advertised_limits(200, limit, b"", now=0.0).limits != AdvertisedLimits().limits


def test_a_long_path_is_no_resource() -> None:
    """It passes through, whatever the pattern."""
    routes = ResourceRoutes((ResourceRoute("/v1/*-*-*", FreshnessPolicy(ttl_s=60.0)),))
    assert routes.find("/v1/a-b-c") is not None
    assert routes.find(Request("GET", "/v1/" + "-" * 30_000, Fields(), "r").path) is None


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        pytest.param("/v1/" + "*-" * 30, "/v1/" + "a-" * 250 + "a", id="stars in a segment"),
        pytest.param("/v1/" + "**-" * 30, "/v1/" + "a-" * 250 + "a", id="stars for segments"),
        pytest.param("/v1/" + "**a*-" * 30, "/v1/" + "a-" * 250 + "a", id="both"),
        pytest.param("/v1" + "/*" * 30 + "/**/x", "/v1" + "/a" * 250, id="segments"),
    ],
)
def test_no_pattern_takes_long(pattern: str, path: str) -> None:
    """However many stars it has, whatever path is sent that it all but matches."""
    routes = ResourceRoutes((ResourceRoute(pattern, FreshnessPolicy(ttl_s=60.0)),))
    began = time.process_time()
    assert routes.find(path) is None
    assert time.process_time() - began < AT_MOST_S
