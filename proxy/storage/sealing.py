"""What keeps values in Redis from being altered, moved, or read: under a key that Redis does not have.

A value is bound to the name it is kept under, so that one moved to another name is none. A new value is sealed with the
first key; one that the key before has sealed is still opened, while keys are replaced.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from proxy.core.partition import length_prefixed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TAG_BYTES: Final = 16
_NONCE_BYTES: Final = 12


class Seal(Protocol):
    """Seals values. *name* is what a value is kept under, *bound* what of it stays readable."""

    def tag(self, name: bytes, payload: bytes) -> bytes:
        """Return the tag of *payload*."""
        ...

    def is_genuine(self, tag: bytes, name: bytes, payload: bytes) -> bool:
        """Return whether *tag* is one of *payload*."""
        ...

    def seal(self, plain: bytes, *, name: bytes, bound: bytes) -> bytes:
        """Return *plain* as it is kept."""
        ...

    def unseal(self, kept: bytes, *, name: bytes, bound: bytes) -> bytes | None:
        """Return the plain text of *kept*, None if it was not sealed under this *name* with this *bound*."""
        ...


class Checksum:
    """Finds damage, and no more: whoever writes to Redis can make one. Nothing is hidden."""

    def tag(self, name: bytes, payload: bytes) -> bytes:
        """See `Seal.tag`: SHA-256, which many processors have instructions for."""
        tag = hashlib.sha256(length_prefixed([name]))
        tag.update(payload)
        return tag.digest()[:TAG_BYTES]

    def is_genuine(self, tag: bytes, name: bytes, payload: bytes) -> bool:
        """See `Seal.is_genuine`."""
        return hmac.compare_digest(tag, self.tag(name, payload))

    def seal(self, plain: bytes, *, name: bytes, bound: bytes) -> bytes:  # noqa: ARG002 - nothing is hidden
        """See `Seal.seal`."""
        return plain

    def unseal(self, kept: bytes, *, name: bytes, bound: bytes) -> bytes | None:  # noqa: ARG002 - nothing was hidden
        """See `Seal.unseal`."""
        return kept


class Mac(Checksum):
    """Finds whatever was not written with one of *keys*; the first is the present one. Nothing is hidden."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._macs = [derive_key(key, "mac") for key in keys]

    def tag(self, name: bytes, payload: bytes) -> bytes:
        """See `Seal.tag`."""
        return _digest(self._macs[0], name, payload)

    def is_genuine(self, tag: bytes, name: bytes, payload: bytes) -> bool:
        """See `Seal.is_genuine`."""
        return any(hmac.compare_digest(tag, _digest(mac, name, payload)) for mac in self._macs)


class Encryption(Mac):
    """What `Mac` does, and the images can't be read: AES-256-GCM. Raises `ImportError` without `cryptography`."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        super().__init__(keys)
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._invalid = InvalidTag
        self._ciphers: list[AESGCM] = [AESGCM(derive_key(key, "encrypt")) for key in keys]

    def seal(self, plain: bytes, *, name: bytes, bound: bytes) -> bytes:
        """See `Seal.seal`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, plain, _associated_data(name, bound))

    def unseal(self, kept: bytes, *, name: bytes, bound: bytes) -> bytes | None:
        """See `Seal.unseal`."""
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(kept[:_NONCE_BYTES], kept[_NONCE_BYTES:], _associated_data(name, bound))
            except (self._invalid, ValueError):
                continue
        return None


def make_seal(kind: str, keys: Sequence[str]) -> Seal:
    """Return the seal *kind*: `none`, `mac` or `encrypt`."""
    raw = [key.encode() for key in keys]
    if kind == "none":
        return Checksum()
    return Mac(raw) if kind == "mac" else Encryption(raw)


def derive_key(key: bytes, purpose: str) -> bytes:
    """Return 32 bytes that follow from *key*, others for each *purpose*."""
    return hmac.digest(key, f"ims-proxy {purpose}".encode(), "sha256")


def _digest(key: bytes, name: bytes, payload: bytes) -> bytes:
    tag = hashlib.blake2b(length_prefixed([name]), digest_size=TAG_BYTES, key=key)
    tag.update(payload)
    return tag.digest()


def _associated_data(name: bytes, bound: bytes) -> bytes:
    return length_prefixed([name]) + bound
