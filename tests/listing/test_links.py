"""The three kinds of link, and what may not bend them."""

import re
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.list_query import Window
from proxy.core.messages import Fields
from proxy.listing.rendering import LinkStyle, page_link

PROXY = "10.1.2.3"
TRUSTING = LinkStyle(absolute=True, trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")))
SAID = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "ims.example")]


def base(*lines: tuple[str, str], peer: str | None = PROXY, style: LinkStyle = TRUSTING) -> str:
    return style.base_for(Fields(lines), peer)


def test_relative_links_have_no_base() -> None:
    """By default nothing of a request can put a host into a link, trusted or not."""
    assert base(*SAID, style=LinkStyle()) == ""
    assert (
        base(
            *SAID,
            style=LinkStyle(absolute=False, public_url="https://a.example", trusted_proxies=TRUSTING.trusted_proxies),
        )
        == ""
    )


def test_a_public_url_is_the_base_whatever_the_request_says() -> None:
    """A configured base wins over every field and loses its trailing slash."""
    style = LinkStyle(absolute=True, public_url="https://ims.example/api/", trusted_proxies=TRUSTING.trusted_proxies)
    assert base(("X-Forwarded-Host", "evil.example"), style=style) == "https://ims.example/api"


@pytest.mark.parametrize(
    ("peer", "believed"),
    [
        (PROXY, True),
        ("10.255.255.255", True),
        ("fd00::1", True),
        ("::ffff:10.1.2.3", True),
        ("11.0.0.1", False),
        ("::ffff:11.0.0.1", False),
        ("fe80::1", False),
        ("fd00::1%eth0", True),
        ("", False),
        (None, False),
        ("unix", False),
        ("10.1.2.3:80", False),
    ],
)
def test_only_trusted_proxies_are_believed(peer: str | None, *, believed: bool) -> None:
    """What a peer outside the configured networks states changes nothing."""
    assert base(*SAID, peer=peer) == ("https://ims.example" if believed else "")


def test_nobody_is_trusted_by_default() -> None:
    """Absolute links without a public URL and without trusted proxies stay relative."""
    assert base(*SAID, style=LinkStyle(absolute=True)) == ""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([("Forwarded", "proto=https;host=ims.example")], "https://ims.example", id="RFC 7239"),
        pytest.param([("Forwarded", 'for=1.2.3.4;HOST="ims.example:8443";Proto=HTTP')], "http://ims.example:8443"),
        pytest.param(
            [("Forwarded", "proto=http;host=evil.example, proto=https;host=ims.example")],
            "https://ims.example",
            id="the last element is the trusted peer's",
        ),
        pytest.param(
            [("Forwarded", "proto=http;host=evil.example"), ("Forwarded", "proto=https;host=ims.example")],
            "https://ims.example",
            id="the last line is the trusted peer's",
        ),
        pytest.param(
            [("Forwarded", "for=1.2.3.4"), *SAID], "", id="Forwarded without a host is not completed from elsewhere"
        ),
        pytest.param([("Forwarded", "host=ims.example")], "", id="no scheme"),
        pytest.param([*SAID], "https://ims.example", id="X-Forwarded"),
        pytest.param([*SAID, ("X-Forwarded-Prefix", "/cloud/ims/")], "https://ims.example/cloud/ims", id="a prefix"),
        pytest.param([*SAID, ("X-Forwarded-Prefix", "/")], "https://ims.example", id="a prefix of one slash"),
        pytest.param(
            [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil.example, IMS.example")],
            "https://ims.example",
            id="the last of a list, in lower case",
        ),
        pytest.param([("X-Forwarded-Host", "ims.example")], "", id="a host without a scheme"),
        pytest.param([("X-Forwarded-Proto", "https")], "", id="a scheme without a host"),
        pytest.param(
            [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "[2001:db8::1]:8443")], "https://[2001:db8::1]:8443"
        ),
        pytest.param([*SAID, ("X-Forwarded-Port", "99"), ("X-Host", "evil.example")], "https://ims.example"),
        pytest.param([*SAID, ("Host", "evil.example")], "https://ims.example", id="Host says nothing"),
    ],
)
def test_a_trusted_proxy_names_the_base(lines: list[tuple[str, str]], expected: str) -> None:
    """`Forwarded` counts before `X-Forwarded-*`, and of each the last element."""
    assert base(*lines) == expected


@pytest.mark.parametrize(
    ("scheme", "host", "prefix"),
    [
        ("javascript", "ims.example", ""),
        ("https:", "ims.example", ""),
        ("https", "ims.example/path", ""),
        ("https", "user@ims.example", ""),
        ("https", "ims.example\\@evil.example", ""),
        ("https", "ims.example?x", ""),
        ("https", "ims.example#", ""),
        ("https", "ims example", ""),
        ("https", 'ims.example"', ""),
        ("https", "ims.example:80:80", ""),
        ("https", "ims.example:", ""),
        ("https", ":80", ""),
        ("https", ".", ""),
        ("https", "-evil", ""),
        ("https", "ims.exämple", ""),
        ("https", "ims.example\r\nX: y", ""),
        ("https", "[::1", ""),
        ("https", "ims.example", "//evil.example"),
        ("https", "ims.example", "prefix"),
        ("https", "ims.example", "/a?b"),
        ("https", "ims.example", "/a%2fb"),
        ("https", "ims.example", "/a//b"),
        ("https", "ims.example", "/a b"),
        ("https", "ims.example", "@evil.example"),
        ("https", "ims.example", "\\evil"),
    ],
)
def test_what_makes_no_sense_makes_links_relative(scheme: str, host: str, prefix: str) -> None:
    """A hostile value from a trusted peer's field never gets into a link."""
    lines = [("X-Forwarded-Proto", scheme), ("X-Forwarded-Host", host), ("X-Forwarded-Prefix", prefix)]
    assert base(*lines) == ""
    if not prefix:
        assert base(("Forwarded", f'proto="{scheme}";host="{host}"')) in ("", "https://ims.example")


_SENSIBLE = re.compile(
    r"https?://([a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*", re.ASCII
)
_VALUES = st.text(max_size=20) | st.sampled_from(
    [
        "https",
        "http",
        "ims.example",
        "host=x.example;proto=https",
        'host="a,b";proto=http',
        "/p/q",
        "//x",
        "a@b",
        "[::1]:9",
    ]
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Forwarded", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Prefix"]), _VALUES
        ),
        max_size=5,
    )
)
def test_a_base_is_always_an_origin_with_a_plain_prefix(lines: list[tuple[str, str]]) -> None:
    """Whatever a trusted peer sends, a base is scheme, authority and plain segments, or nothing."""
    made = base(*lines)
    assert made == "" or _SENSIBLE.fullmatch(made)


@pytest.mark.parametrize(
    ("query", "window", "marker", "link"),
    [
        ("", Window(), None, "/v2/images"),
        ("", Window(5), None, "/v2/images?limit=5"),
        ("", Window(None, "before"), "m", "/v2/images?marker=m"),
        ("a=1&tag=x", Window(5), "m", "/v2/images?a=1&tag=x&limit=5&marker=m"),
        ("", Window(0), None, "/v2/images?limit=0"),
        ("", Window(), "&limit=1#?/ é", "/v2/images?marker=%26limit%3D1%23%3F%2F%20%C3%A9"),
    ],
)
def test_a_link_holds_query_limit_and_marker_in_this_order(
    query: str, window: Window, marker: str | None, link: str
) -> None:
    """The canonical query comes first, the marker last, and no delimiter in it escapes."""
    assert page_link("", "/v2/images", query, window, marker) == link
