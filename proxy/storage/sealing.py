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

from proxy.core.partition import delimited

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TAG_BYTES: Final = 16
_NONCE_BYTES: Final = 12


class Seal(Protocol):
    """Seals values. *name* is what a value is kept under, *bound* what of it stays readable."""

    def tag(self, name: bytes, payload: bytes) -> bytes:
        """Return the tag of *payload*."""
        ...

    def genuine(self, tag: bytes, name: bytes, payload: bytes) -> bool:
        """Return whether *tag* is one of *payload*."""
        ...

    def closed(self, plain: bytes, *, name: bytes, bound: bytes) -> bytes:
        """Return *plain* as it is kept."""
        ...

    def opened(self, kept: bytes, *, name: bytes, bound: bytes) -> bytes | None:
        """Return what `closed` was given, None where it was not that."""
        ...


class Checksum:
    """Finds damage, and no more: whoever writes to Redis can make one. Nothing is hidden."""

    def tag(self, name: bytes, payload: bytes) -> bytes:
        """See `Seal.tag`: SHA-256, which many processors have instructions for."""
        tag = hashlib.sha256(delimited([name]))
        tag.update(payload)
        return tag.digest()[:TAG_BYTES]

    def genuine(self, tag: bytes, name: bytes, payload: bytes) -> bool:
        """See `Seal.genuine`."""
        return hmac.compare_digest(tag, self.tag(name, payload))

    def closed(self, plain: bytes, *, name: bytes, bound: bytes) -> bytes:  # noqa: ARG002 - nothing is hidden
        """See `Seal.closed`."""
        return plain

    def opened(self, kept: bytes, *, name: bytes, bound: bytes) -> bytes | None:  # noqa: ARG002 - nothing was hidden
        """See `Seal.opened`."""
        return kept


class Mac(Checksum):
    """Finds whatever was not written with one of *keys*; the first is the present one. Nothing is hidden."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._macs = [derived(key, "mac") for key in keys]

    def tag(self, name: bytes, payload: bytes) -> bytes:
        """See `Seal.tag`."""
        return _digest(self._macs[0], name, payload)

    def genuine(self, tag: bytes, name: bytes, payload: bytes) -> bool:
        """See `Seal.genuine`."""
        return any(hmac.compare_digest(tag, _digest(mac, name, payload)) for mac in self._macs)


class Encryption(Mac):
    """What `Mac` does, and the images can't be read: AES-256-GCM. Raises `ImportError` without `cryptography`."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        super().__init__(keys)
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._invalid = InvalidTag
        self._ciphers: list[AESGCM] = [AESGCM(derived(key, "encrypt")) for key in keys]

    def closed(self, plain: bytes, *, name: bytes, bound: bytes) -> bytes:
        """See `Seal.closed`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, plain, _associated(name, bound))

    def opened(self, kept: bytes, *, name: bytes, bound: bytes) -> bytes | None:
        """See `Seal.opened`."""
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(kept[:_NONCE_BYTES], kept[_NONCE_BYTES:], _associated(name, bound))
            except (self._invalid, ValueError):
                continue
        return None


def sealing(kind: str, keys: Sequence[str]) -> Seal:
    """Return the seal *kind*: `none`, `mac` or `encrypt`."""
    raw = [key.encode() for key in keys]
    if kind == "none":
        return Checksum()
    return Mac(raw) if kind == "mac" else Encryption(raw)


def derived(key: bytes, purpose: str) -> bytes:
    """Return 32 bytes that follow from *key*, others for each *purpose*."""
    return hmac.digest(key, f"ims-proxy {purpose}".encode(), "sha256")


def _digest(key: bytes, name: bytes, payload: bytes) -> bytes:
    tag = hashlib.blake2b(delimited([name]), digest_size=TAG_BYTES, key=key)
    tag.update(payload)
    return tag.digest()


def _associated(name: bytes, bound: bytes) -> bytes:
    return delimited([name]) + bound
