"""Version documents: every absolute link of the upstream's leads to the proxy."""

import orjson
import pytest

from proxy.gateway.gateway import rewrite_links

BASE = "https://proxy.example"


def rebased(href: object) -> object:
    body = orjson.dumps({"versions": [{"id": "v2.7", "links": [{"rel": "self", "href": href}]}]})
    return orjson.loads(rewrite_links(body, BASE))["versions"][0]["links"][0]["href"]


@pytest.mark.parametrize(
    ("href", "told"),
    [
        pytest.param("http://upstream.example:9292/v2/", f"{BASE}/v2/", id="as documented"),
        pytest.param("https://upstream.example/v2/?a=b", f"{BASE}/v2/?a=b", id="with a query"),
        pytest.param("https://upstream.example", f"{BASE}/", id="without a path"),
        pytest.param("https://user:pw@upstream.example/v2/", f"{BASE}/v2/", id="with a user"),
        pytest.param("//evil.example/v2/", f"{BASE}/v2/", id="without a scheme"),
        pytest.param("/v2/", "/v2/", id="relative already"),
        pytest.param("javascript:alert(1)", f"{BASE}/", id="a scheme without a host"),
        pytest.param("x:.evil.example/v2", f"{BASE}/", id="text that would lengthen the host"),
        pytest.param("x:@evil.example/v2", f"{BASE}/", id="text that would make the host a user"),
        pytest.param("/\\evil.example", f"{BASE}/", id="a backslash that browsers take for a slash"),
        pytest.param("\\\\evil.example", f"{BASE}/", id="two of them"),
        pytest.param("http://[", f"{BASE}/", id="no URL"),
        pytest.param(7, 7, id="a number"),
        pytest.param(None, None, id="null"),
    ],
)
def test_links_stand_on_the_base(href: object, told: object) -> None:
    """Scheme and authority become the proxy's; the path stays, where it is one."""
    assert rebased(href) == told


def test_links_are_found_wherever_they_stand() -> None:
    """At any depth, and under an escaped spelling of the name too."""
    body = b'[{"a":{"hr\\u0065f":"http://up.example/v2"}},{"href":"http://up.example/v1"}]'
    assert orjson.loads(rewrite_links(body, BASE)) == [{"a": {"href": f"{BASE}/v2"}}, {"href": f"{BASE}/v1"}]


@pytest.mark.parametrize(
    "body",
    [b"", b"no JSON", b'{"href": "/v2/", "n": 1.50}', b'{ "name":"http://up.example" }', b"[" * 1000 + b"]" * 1000],
    ids=["nothing", "text", "only relative links", "a name that is no link", "nested beyond reason"],
)
def test_what_has_no_absolute_link_comes_back_as_it_is(body: bytes) -> None:
    """Bytes are kept where there is nothing to change."""
    assert rewrite_links(body, BASE) == body
