"""What a request's head has to be; over sockets, with the parser before it, tests/integration/smuggling says more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.validation import (
    ASTERISK_FORM,
    MalformedRequest,
    find_malformation,
    is_host,
    serialize_head,
    to_origin_form,
)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("ims.example", True),
        ("ims.example.", True),
        ("ims_proxy:8080", True),
        ("127.0.0.1:1", True),
        ("[::1]:65535", True),
        ("x:", False),
        ("", False),
        (".x", False),
        ("a b", False),
        ("a,b", False),
        ("a/b", False),
        ("a@b", False),
        ("a:b", False),
        ("a:65536", False),
        ("a:000001", False),
        ("a\n", False),
        ("[::1", False),
        ("é", False),
        ("http://a", False),
    ],
)
def test_a_host_is_a_name_or_an_address_with_an_optional_port(text: str, *, is_one: bool) -> None:
    """Only such a one may be told back to a caller as its own."""
    assert is_host(text) is is_one


@pytest.mark.parametrize(
    ("version", "hosts", "codings", "status"),
    [
        ((1, 1), ["x"], [], None),
        ((1, 1), ["x"], ["Chunked"], None),
        ((1, 0), [], [], None),
        ((0, 9), [], [], 400),
        ((1, 1), ["x", "x"], [], 400),
        ((1, 1), [""], [], 400),
        ((1, 0), ["x"], ["chunked"], 400),
        ((1, 1), ["x"], [""], 400),
        ((1, 1), ["x"], ["identity"], 400),
        ((1, 1), ["x"], ["chunked, gzip"], 400),
        ((1, 1), ["x"], [",chunked"], 400),
        ((1, 1), ["x"], ["gzip, chunked"], 501),
        ((1, 1), ["x"], ["gzip;level=9", "chunked"], 501),
        ((1, 1), ["x"], ["chunked", "chunked"], 501),
    ],
)
def test_a_head_is_refused_with_the_status_that_fits(
    version: tuple[int, int], hosts: list[str], codings: list[str], status: int | None
) -> None:
    """400 where two servers could take it differently, 501 for a coding that nobody here undoes."""
    found = find_malformation(version=version, hosts=hosts, codings=codings)
    assert (found.status if found else None) == status


@pytest.mark.parametrize(
    ("method", "target", "host", "form"),
    [
        ("GET", "/a?b", "x", "/a?b"),
        ("GET", "//y/a", "x", "//y/a"),
        ("GET", "http://x/a?b", "x", "/a?b"),
        ("GET", "HTTPS://X:1/a", "x:1", "/a"),
        ("GET", "http://x", "x", "/"),
        ("GET", "http://x?a", "x", "/?a"),
        ("GET", "http://x/a", None, "/a"),
        ("OPTIONS", "*", "x", ASTERISK_FORM),
        ("OPTIONS", "http://x", "x", ASTERISK_FORM),
        ("OPTIONS", "http://x/", "x", "/"),
        ("GET", "*", "x", None),
        ("GET", "http://y/a", "x", None),
        ("GET", "http://u@x/a", "u@x", None),
        ("GET", "http:///a", None, None),
        ("GET", "ftp://x/a", "x", None),
        ("GET", "x:80", "x", None),
        ("GET", "a", "x", None),
        ("GET", "", "x", None),
        ("GET", "/a#b", "x", None),
        ("GET", "/a b", "x", None),
        ("GET", "/é", "x", None),
    ],
)
def test_a_target_becomes_a_path(method: str, target: str, host: str | None, form: str | None) -> None:
    """In origin-form it stays, in absolute-form it loses what `Host` says too, and any other is refused."""
    found = to_origin_form(method, target, host)
    assert isinstance(found, MalformedRequest) if form is None else found == form


@given(st.sampled_from(["GET", "OPTIONS"]), st.text(max_size=40), st.sampled_from(["x", None]))
def test_whatever_the_target_a_path_comes_of_it_or_nothing(method: str, target: str, host: str | None) -> None:
    """What is taken begins with a slash, holds visible ASCII alone, and would be taken again as it is."""
    found = to_origin_form(method, target, host)
    if not isinstance(found, MalformedRequest) and found != ASTERISK_FORM:
        assert found.startswith("/")
        assert found.isascii()
        assert found.isprintable()
        assert to_origin_form(method, found, host) == found


def test_a_head_is_written_as_it_is() -> None:
    """Lines in their order, and bytes that are no UTF-8 as those they were."""
    assert (
        serialize_head(["GET / HTTP/1.1", "X-A: \udcff\u00e9", "", ""])
        == b"GET / HTTP/1.1\r\nX-A: \xff\xc3\xa9\r\n\r\n"
    )


@pytest.mark.parametrize("line", ["X-A: 1\r\nX-B: 2", "X-A: 1\n", "X-A: 1\r", "X-A: 1\0"])
def test_what_would_be_read_as_another_field_is_not_written(line: str) -> None:
    """A line break is an error wherever it stands, half of one and a NUL too (RFC 9110 §5.5)."""
    with pytest.raises(ValueError, match="within a line"):
        serialize_head(["GET / HTTP/1.1", line, "", ""])
