"""SDK-HMAC-SHA256: the documented vectors, and everything that has to break a signature."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.messages import Fields, Request
from proxy.core.signing import (
    MAX_SKEW_S,
    RequestSigner,
    SignatureFault,
    SigningKey,
    canonical_request,
    find_signature_fault,
    parse_signature,
)

NO_BODY = hashlib.sha256(b"").hexdigest()
KEY = SigningKey("AK", "not a real secret")
NOW = datetime(2026, 5, 1, tzinfo=UTC).timestamp()


def a_request(target: str = "/v2/images?limit=2", *lines: tuple[str, str], method: str = "GET") -> Request:
    return Request(method, target, Fields(lines), request_id="r")


def signed(target: str = "/v2/images?limit=2", *lines: tuple[str, str], key: SigningKey = KEY) -> Request:
    return RequestSigner(key, "ims.example").sign(a_request(target, *lines), now=NOW)


def verdict(request: Request, *, secret: str = KEY.secret_key, now: float = NOW) -> SignatureFault | None:
    found = parse_signature(request.fields)
    assert found is not None
    return find_signature_fault(request, found, secret, now=now)


def test_the_documented_request_has_the_documented_hash_and_signature() -> None:
    """The example of the signing guide reproduces, hash and signature."""
    request = a_request(
        "/v1/77b6a44cba5143ab91d13ab9a8ff44fd/vpcs/?limit=2&marker=13551d6b-755d-4757-b956-536f674975c0",
        ("Content-Type", "application/json"),
        ("Host", "service.region.example.com"),
        ("X-Sdk-Date", "20191115T033655Z"),
        (
            "Authorization",
            (
                "SDK-HMAC-SHA256 Access=QTWAOYTTINDUT2QVKYUC, SignedHeaders=content-type;host;x-sdk-date, "
                "Signature=7be6668032f70418fcc22abc52071e57aff61b84a1d2381bb430d6870f4f6ebe"
            ),
        ),
    )
    found = parse_signature(request.fields)
    assert found is not None
    canonical = canonical_request(request, found.signed_names, NO_BODY)
    assert hashlib.sha256(canonical).hexdigest() == "b25362e603ee30f4f25e7858e8a7160fd36e803bb2dfe206278659d71a9bcd7a"
    at = datetime(2019, 11, 15, 3, 36, 55, tzinfo=UTC).timestamp()
    assert find_signature_fault(request, found, "MFyfvK41ba2giqM7Uio6PznpdUKGpownRZlmVmHc", now=at) is None


def test_the_vector_of_the_go_signer_verifies() -> None:
    """A signature of the date alone verifies."""
    request = a_request(
        "/path?limit=1",
        ("X-Sdk-Date", "20060102T150405Z"),
        (
            "Authorization",
            (
                "SDK-HMAC-SHA256 Access=AccessKey, SignedHeaders=x-sdk-date, "
                "Signature=5a2ce64c865e0e6046321c6f3d5a77ba8413eeaf355c3166c03d58d02ac79624"
            ),
        ),
    )
    at = datetime(2006, 1, 2, 15, 4, 5, tzinfo=UTC).timestamp()
    assert verdict(request, secret="SecretKey", now=at) is None


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=5), st.text(max_size=5)), max_size=5),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
)
def test_what_is_signed_here_verifies_here(pairs: list[tuple[str, str]], project: str) -> None:
    """Whatever stands in the query and in the project, a signature of ours is one to us."""
    encode = {"safe": "", "errors": "surrogatepass"}
    query = "&".join(f"{quote(name, **encode)}={quote(value, **encode)}" for name, value in pairs)
    assert verdict(signed(f"/v2/images?{query}", ("X-Project-Id", project.strip()))) is None


def test_the_order_of_parameters_does_not_matter() -> None:
    """A signature survives reordered parameters and other escapes, as it does upstream."""
    one = signed("/v2/images?b=%7E&a=2&a=1&c=x+y")
    assert verdict(replace(one, target="/v2/images?a=1&a=2&b=~&c=x%20y")) is None


@pytest.mark.parametrize(
    "altered",
    [
        pytest.param({"method": "HEAD"}, id="another method"),
        pytest.param({"target": "/v2/images?limit=3"}, id="another limit"),
        pytest.param({"target": "/v2/images?limit=2&marker=x"}, id="a parameter more"),
        pytest.param({"target": "/v2/images"}, id="a parameter less"),
        pytest.param({"target": "/v2/images/x?limit=2"}, id="another path"),
    ],
)
def test_a_signature_is_of_one_request(altered: dict[str, str]) -> None:
    """Whatever changes what is asked for breaks the signature."""
    request = signed()
    other = Request(
        altered.get("method", "GET"), altered.get("target", request.target), request.fields, request.request_id
    )
    assert verdict(other) is SignatureFault.WRONG


@pytest.mark.parametrize("name", ["Host", "X-Sdk-Date", "X-Project-Id", "X-Security-Token"])
@pytest.mark.parametrize("how", ["altered", "gone", "twice"])
def test_a_signed_field_that_changed_breaks_the_signature(name: str, how: str) -> None:
    """A signed field has to be there once, as it was."""
    request = signed("/v2/images", ("X-Project-Id", "alpha"), key=replace(KEY, security_token="st"))
    value = request.fields.get(name)
    assert value is not None
    lines = {"altered": [(name, value + "x")], "gone": [], "twice": [(name, value), (name, value)]}[how]
    assert verdict(replace(request, fields=request.fields.without([name]).plus(*lines))) is SignatureFault.WRONG


def test_another_secret_is_no_secret() -> None:
    """A signature under another secret does not verify."""
    assert verdict(signed(), secret="another") is SignatureFault.WRONG


@pytest.mark.parametrize("name", ["X-Project-Id", "X-Domain-Id", "X-Security-Token"])
def test_a_field_that_says_for_whom_has_to_be_signed(name: str) -> None:
    """Set after signing, as the Go SDK does, such a field may be anyone's."""
    request = signed()
    assert verdict(replace(request, fields=request.fields.plus((name, "alpha")))) is SignatureFault.UNSIGNED


@pytest.mark.parametrize(
    ("off_s", "expected"),
    [
        (MAX_SKEW_S, None),
        (-MAX_SKEW_S, None),
        (MAX_SKEW_S + 1, SignatureFault.SKEW),
        (-MAX_SKEW_S - 1, SignatureFault.SKEW),
    ],
)
def test_a_signature_is_good_for_fifteen_minutes(off_s: float, expected: SignatureFault | None) -> None:
    """Older or younger than the allowed skew it is refused."""
    assert verdict(signed(), now=NOW + off_s) is expected


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        pytest.param("UNSIGNED-PAYLOAD", SignatureFault.WRONG, id="stated after signing"),
        pytest.param("0" * 64, SignatureFault.WRONG, id="the hash of a body that is not there"),
    ],
)
def test_a_stated_body_hash_is_part_of_what_is_signed(stated: str, expected: SignatureFault) -> None:
    """A body hash that the signer did not state changes what was signed."""
    request = signed()
    assert verdict(replace(request, fields=request.fields.plus(("X-Sdk-Content-Sha256", stated)))) is expected


async def _body() -> AsyncIterator[bytes]:
    yield b"image"


def test_a_body_that_still_comes_is_stated_as_unsigned() -> None:
    """A streamed request says UNSIGNED-PAYLOAD, and that is signed."""
    streamed = replace(a_request(method="PUT"), body=_body())
    made = RequestSigner(KEY, "ims.example").sign(streamed, now=NOW)
    found = parse_signature(made.fields)
    assert made.fields.get("x-sdk-content-sha256") == "UNSIGNED-PAYLOAD"
    assert found is not None
    assert "x-sdk-content-sha256" in found.signed_names
    assert find_signature_fault(made, found, KEY.secret_key, now=NOW) is None


def test_signing_again_replaces_the_signature() -> None:
    """Nothing of the caller's signature goes up beside ours."""
    first = signed(key=SigningKey("other", "other secret", "other token"))
    again = RequestSigner(KEY, "upstream.example").sign(first, now=NOW + 60)
    assert [again.fields.get_all(name) for name in ("x-security-token",)] == [[]]
    assert len(again.fields.get_all("authorization")) == len(again.fields.get_all("x-sdk-date")) == 1
    assert again.fields.get_all("host") == ["upstream.example"]
    assert verdict(again, now=NOW) is None


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Bearer x",
        "SDK-HMAC-SHA256",
        "SDK-HMAC-SHA256 Access=a, SignedHeaders=, Signature=" + "0" * 64,
        "SDK-HMAC-SHA256 Access=a, SignedHeaders=host, Signature=short",
        "SDK-HMAC-SHA256 Access=a, SignedHeaders=host, Signature=" + "0" * 64 + ", Access=b",
    ],
)
def test_what_is_no_signature_is_none(said: str) -> None:
    """Only the one documented form is read."""
    assert parse_signature(Fields([("Authorization", said)])) is None


def test_two_signatures_are_none() -> None:
    """Which of two counts is not for us to say."""
    lines = signed().fields.plus(("Authorization", signed().fields.get("authorization") or ""))
    assert parse_signature(Fields(lines)) is None


def test_a_signature_over_no_date_is_worth_nothing() -> None:
    """Without the date among the signed fields it would be good for ever."""
    request = signed()
    found = parse_signature(request.fields)
    assert found is not None
    assert (
        find_signature_fault(request, replace(found, signed_names=("host",)), KEY.secret_key, now=NOW)
        is SignatureFault.WRONG
    )


def test_secrets_stand_in_no_representation() -> None:
    """Neither key nor signature shows its secret."""
    shown = repr(SigningKey("AK", "the-secret", "the-token")) + repr(parse_signature(signed().fields))
    assert "the-secret" not in shown
    assert "the-token" not in shown
