"""Credentials -> the partition that may share an answer, or the reason there is none.

There is no key without a partition, and a `Partition` comes from a `Partitioner` only.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import unquote_to_bytes

from proxy.core.messages import Fields

_CHALLENGED: Final = ("authorization", "proxy-authorization", "cookie", "x-subject-token", "x-security-token")
_ESCAPED: Final = re.compile(r"%[0-9A-Fa-f]{2}")


class Unshared(Enum):
    """Why a caller's answers are shared with nobody, in the words of `Cache-Status` details."""

    NO_TOKEN = "no-token"  # noqa: S105 - a reason, no password
    TWO_TOKENS = "two-tokens"
    TWO_CREDENTIALS = "two-credentials"
    SIGNED = "signed"


@dataclass(frozen=True, slots=True)
class Partition:
    """Who may share an answer: *kind* of identity and a keyed digest that gives nothing of it away."""

    kind: str
    digest: str


class Partitioner:
    """Makes partitions under one secret; replicas that share the secret make the same ones."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError(f"partition secret: {len(secret)} bytes, at least 16 are needed")
        self._secret = secret

    def of(self, fields: Fields) -> Partition | Unshared:
        """Return the partition of a request by its token, or why it has none.

        A token beside another credential has none: the upstream decides which of the two counts, and it alone.
        """
        if fields.get("authorization") is not None:
            return Unshared.TWO_CREDENTIALS if fields.get("x-auth-token") is not None else Unshared.SIGNED
        if any(fields.get(name) is not None for name in _CHALLENGED):
            return Unshared.TWO_CREDENTIALS
        tokens = fields.all("x-auth-token")
        if len(tokens) > 1:
            return Unshared.TWO_TOKENS
        if not tokens or not tokens[0]:
            return Unshared.NO_TOKEN
        return self.token(tokens[0])

    def token(self, token: str) -> Partition:
        """Return the partition of *token*; its percent-encoded spelling (python-glanceclient's) is the same token."""
        raw = token.encode("utf-8", "surrogateescape")
        spelt = unquote_to_bytes(raw) if _ESCAPED.search(token) else raw
        return Partition("token", hmac.digest(self._secret, b"token\0" + spelt, "sha256")[:16].hex())


def variant(fields: Fields) -> str:
    """Return the form of the API that `X-Api-Version` selects, as the value that is sent upstream; `""` without one.

    A letter after M is the Queens form, M or one before it the Mitaka form (IMS API reference). Anything else is
    undocumented and stands for itself.
    """
    values = fields.all("x-api-version")
    if len(values) == 1 and len(values[0]) == 1 and "A" <= values[0] <= "Z":
        return "Q" if values[0] > "M" else "M"
    return ",".join(values)
