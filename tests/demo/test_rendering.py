"""Links as Glance writes them, and the bodies around them."""

import orjson
import pytest

from proxy.demo.catalogue import Page
from proxy.demo.query import ImsError, parse_query_pairs
from proxy.demo.rendering import (
    build_first_link,
    build_next_link,
    render_cloudimages,
    render_error,
    render_list,
    render_throttled,
)
from proxy.demo.throttle import ThrottlePolicy
from tests.support.demo_images import an_image


@pytest.mark.parametrize(
    ("query", "first", "following"),
    [
        pytest.param("", "/v2/images", "/v2/images?marker=m", id="no parameters"),
        pytest.param("limit=2&name=n", "?limit=2&name=n", "?limit=2&name=n&marker=m", id="in the order sent"),
        pytest.param("marker=l&limit=2", "?limit=2", "?limit=2&marker=m", id="marker last"),
        pytest.param("tag=a&limit=2&tag=b", "?tag=b&limit=2", "?tag=b&limit=2&marker=m", id="a repeated tag is lost"),
        pytest.param("limit=5000", "?limit=5000", "?limit=5000&marker=m", id="not clamped"),
        pytest.param("tag=a=b", "?tag=a%3Db", "?tag=a%3Db&marker=m", id="equals sign encoded"),
        pytest.param("a=x%20y", "?a=x+y", "?a=x+y&marker=m", id="space becomes plus"),
        pytest.param("a=b:c;d=%E9%BB%84", "?a=b%3Ac&d=%E9%BB%84", "?a=b%3Ac&d=%E9%BB%84&marker=m", id="re-encoded"),
        pytest.param("name", "?name=", "?name=&marker=m", id="an empty value gains its equals sign"),
    ],
)
def test_links(query: str, first: str, following: str) -> None:
    """`first` and `next` repeat the query as Glance writes it, repeated parameters lost."""
    pairs = parse_query_pairs(query)
    assert build_first_link(pairs) == (first if first.startswith("/") else f"/v2/images{first}")
    assert build_next_link(pairs, "m") == (following if following.startswith("/") else f"/v2/images{following}")


def test_a_list_has_its_links_before_its_images() -> None:
    """A list begins with its links, and has the images as they are."""
    body = orjson.loads(render_list(Page((an_image("i"),), "i"), []).body)
    assert list(body) == ["schema", "first", "next", "images"]
    assert body["images"] == [an_image("i").document]


def test_the_last_page_has_no_next() -> None:
    """Without a next marker there is no `next`."""
    assert orjson.loads(render_list(Page((), None), []).body) == {
        "schema": "/v2/schemas/images",
        "first": "/v2/images",
        "images": [],
    }


def test_cloudimages_have_no_links() -> None:
    """A list of `/v2/cloudimages` holds images and nothing else."""
    assert list(orjson.loads(render_cloudimages(Page((an_image("i"),), "i")).body)) == ["images"]


def test_json_is_raw_utf_8() -> None:
    """Text beyond ASCII is not escaped."""
    assert "黄金".encode() in render_list(Page((an_image("i", name="黄金"),), None), []).body


def test_an_error_is_shaped_as_ims_does() -> None:
    """An error of the API carries its message and its code."""
    answer = render_error(ImsError(404, "no image x"))
    assert answer.status == 404
    assert orjson.loads(answer.body) == {"error": {"message": "no image x", "code": "IMG.0027"}}


def test_throttling_is_worded_by_the_gateway_before_ims() -> None:
    """A throttled call is told the policy, the limit and the time."""
    answer = render_throttled(ThrottlePolicy(limit=200, window_s=300), request_id="r")
    assert answer.status == 429
    assert orjson.loads(answer.body) == {
        "error_msg": "The throttling threshold has been reached: policy user over ratelimit,limit:200,time:5 minute",
        "error_code": "APIGW.0308",
        "request_id": "r",
    }
