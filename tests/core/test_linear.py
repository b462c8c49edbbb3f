"""What others send is read in a time that grows with its length: nobody holds up all the others by one long field.

At these lengths a reader that goes back over what it has read takes minutes, one that does not some milliseconds.
"""

from __future__ import annotations

import ipaddress
import time

import pytest

from proxy.core.messages import Fields, Request
from proxy.http.cache_control import Control, Directives, control, directives
from proxy.http.conditional import none_match
from proxy.http.negotiation import chosen, told
from proxy.http.stored_response import Policy
from proxy.listing.rendering import LinkStyle
from proxy.ratelimit.upstream_limits import Heard, heard
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
    directives(Fields([("Cache-Control", value)]))
    trusting.base(Fields([("Forwarded", value)]), "127.0.0.1")
    none_match([value], '"t"')
    chosen(value)
    told("PROXY.0400", "request: odd", request_id="r", asked=Fields([("Accept", value)]))
    control(Fields([("Cache-Control", value)]))
    control(Fields([("CDN-Cache-Control", value)]))
    heard(200, Fields([("X-Apig-RateLimit-Api", value)]), b"", now=0.0)
    assert time.process_time() - began < AT_MOST_S


def test_what_stands_behind_a_trick_counts() -> None:
    """A directive is found behind what makes no sense, and a list of them too long to be read forbids to store."""
    trick = "a" * 60_000 + '!", no-store'
    assert directives(Fields([("Cache-Control", trick)])) == Directives(no_store=True)
    assert control(Fields([("Cache-Control", 'x="y, no-store')])).no_store
    assert control(Fields([("Cache-Control", "max-age=60, " * 1000)])) == Control(no_store=True)
    limit = Fields([("X-Apig-RateLimit-Api", "remain:9, limit:10 , time: 5 minute")])
    assert heard(200, limit, b"", now=0.0).told != Heard().told


def test_a_long_path_is_no_resource() -> None:
    """It passes through, whatever the pattern."""
    routes = ResourceRoutes((ResourceRoute("/v1/*-*-*", Policy(ttl_s=60.0)),))
    assert routes.route("/v1/a-b-c") is not None
    assert routes.route(Request("GET", "/v1/" + "-" * 30_000, Fields(), "r").path) is None


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
    routes = ResourceRoutes((ResourceRoute(pattern, Policy(ttl_s=60.0)),))
    began = time.process_time()
    assert routes.route(path) is None
    assert time.process_time() - began < AT_MOST_S
