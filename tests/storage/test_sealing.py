"""What a seal keeps from whoever can write to Redis, or read it."""

from __future__ import annotations

import pytest

from proxy.storage.sealing import Seal, make_seal
from proxy.storage.serialization import decode, encode
from tests.support.spans import a_span

KEY, OTHER = "a key of the tests' own", "another key of theirs"
NAME = b"ims-proxy:{l}:s:"
SPAN = a_span()


@pytest.mark.parametrize("kind", ["none", "mac", "encrypt"])
def test_what_is_sealed_is_opened(kind: str) -> None:
    """Every seal opens what it closed, under the same name."""
    seal = make_seal(kind, [KEY])
    value = encode(SPAN, key=NAME, seal=seal)
    span = decode(value, key=NAME, seal=seal)
    assert span == SPAN


@pytest.mark.parametrize("kind", ["mac", "encrypt"])
def test_a_value_that_was_made_without_the_key_is_none(kind: str) -> None:
    """Whoever writes to Redis can make a checksum, but no value that is believed."""
    seal = make_seal(kind, [KEY])
    for forger in (make_seal("none", []), make_seal(kind, [OTHER])):
        assert decode(encode(SPAN, key=NAME, seal=forger), key=NAME, seal=seal) is None


@pytest.mark.parametrize("kind", ["none", "mac", "encrypt"])
def test_every_byte_counts(kind: str) -> None:
    """A value with any one byte altered, or cut short, is none; so is one moved to another name."""
    seal = make_seal(kind, [KEY])
    value = encode(SPAN, key=NAME, seal=seal)

    def none(of: bytes, name: bytes = NAME) -> bool:
        return decode(of, key=name, seal=seal) is None

    for at in range(len(value)):
        assert none(value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :])
        assert none(value[:at])
    assert none(value, NAME + b"x")


@pytest.mark.parametrize("kind", ["mac", "encrypt"])
def test_the_key_before_is_still_accepted(kind: str) -> None:
    """While keys are replaced, what the old one sealed is opened, and what is written is sealed with the new one."""
    old, both, new = make_seal(kind, [OTHER]), make_seal(kind, [KEY, OTHER]), make_seal(kind, [KEY])

    def opens(seal: Seal, value: bytes) -> bool:
        return decode(value, key=NAME, seal=seal) == SPAN

    assert opens(both, encode(SPAN, key=NAME, seal=old))
    assert opens(new, encode(SPAN, key=NAME, seal=both))
    assert not opens(new, encode(SPAN, key=NAME, seal=old))


def test_only_encryption_hides_images() -> None:
    """Encrypted, nothing of an image's bytes can be read, and the same span is never the same bytes twice."""
    image = bytes(SPAN.body)
    assert image in encode(SPAN, key=NAME, seal=make_seal("mac", [KEY]))
    seal = make_seal("encrypt", [KEY])
    first, second = (encode(SPAN, key=NAME, seal=seal) for _ in range(2))
    assert first != second
    assert image not in first
    assert image[:12] not in first
