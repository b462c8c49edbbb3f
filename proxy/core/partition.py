"""Turns credentials into the partition that may share an answer, or the reason there is none.

There is no key without a partition, and a `Partition` comes from a `Partitioner` only. Its digest is made of
length-prefixed parts, so no delimiter can be forged.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import field, replace
from enum import Enum
from math import inf
from typing import Final
from urllib.parse import unquote_to_bytes

from proxy.core.messages import Fields
from proxy.core.signing import SUBJECT_FIELDS, RequestSigner, SignatureFault
from proxy.core.values import immutable


def length_prefixed(parts: Iterable[str | bytes]) -> bytes:
    """Return *parts*, each behind its length: others, or the same divided otherwise, never make the same bytes."""
    raws = [part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape") for part in parts]
    return b"".join([b"%d:%b" % (len(raw), raw) for raw in raws])


_OTHER_CREDENTIALS: Final = frozenset({"proxy-authorization", "cookie", "x-subject-token", "x-security-token"})
ANY_PROJECT: Final = "any"
_MAX_TOKENS: Final = 4096
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")


class NotShareable(Enum):
    """Why a caller's answers are shared with nobody, in the words of `Cache-Status` details."""

    NO_TOKEN = "no-token"  # noqa: S105 - a reason, no password
    TWO_TOKENS = "two-tokens"
    TWO_CREDENTIALS = "two-credentials"
    SIGNED = "signed"
    BAD_SIGNATURE = SignatureFault.WRONG.value
    SIGNATURE_SKEW = SignatureFault.SKEW.value
    UNSIGNED_FIELD = SignatureFault.UNSIGNED.value
    REFUSED = "token-refused"
    UNVERIFIED = "token-unverified"


@immutable
class Partition:
    """Who may share an answer: the *kind* of identity, and a keyed digest of it that gives nothing away.

    *project* is such a digest of the project whose images this identity sees, `ANY_PROJECT` where it may see those of
    any project, None for a kind of identity that tells no project.
    """

    kind: str
    digest: str
    project: str | None = None


@immutable
class TokenScope:
    """What a token stands for, as IAM says it.

    *kind* is `project`, `admin-project`, `domain`, `system` or `unscoped`.
    """

    kind: str
    domain: str
    project: str
    roles: tuple[str, ...]
    user: str

    @property
    def is_project_scoped(self) -> bool:
        """Whether it reaches one project."""
        return self.kind in ("project", "admin-project")


@immutable
class Principal:
    """Whose request this is.

    Lists are shared by *partition*; those that may differ between the users of one project by *user_partition*.
    *token_digest* is the digest under which IAM's verdict is kept, where there is one: it is believed until
    *trusted_until* without asking again, and the token ends at *expires_at*, both epoch seconds. *is_verified* says
    that somebody other than the upstream vouches for the identity, *may_share_public* that it may share public lists
    with others. *credential_names* are the fields that go up for it; a signed request goes up anew by *signer*.
    """

    partition: Partition
    user_partition: Partition
    is_verified: bool = False
    may_share_public: bool = False
    token_digest: str | None = None
    expires_at: float = inf
    trusted_until: float = inf
    credential_names: tuple[str, ...] = ("x-auth-token",)
    signer: RequestSigner | None = field(default=None, repr=False)


class Partitioner:
    """Makes partitions under one secret; replicas that share the secret make the same ones."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError(f"partition secret: {len(secret)} bytes, at least 16 are needed")
        self._secret = secret
        self._tokens: dict[bytes, Partition] = {}

    def from_fields(self, fields: Fields) -> Partition | NotShareable:
        """Return the partition of a request by its token, or why it has none.

        A token beside another credential has none: the upstream decides which of the two counts, and it alone.
        """
        if fields.get("authorization") is not None:
            return NotShareable.TWO_CREDENTIALS if fields.get("x-auth-token") is not None else NotShareable.SIGNED
        if fields.contains_any(_OTHER_CREDENTIALS):
            return NotShareable.TWO_CREDENTIALS
        tokens = fields.get_all("x-auth-token")
        if len(tokens) > 1:
            return NotShareable.TWO_TOKENS
        if not tokens or not tokens[0]:
            return NotShareable.NO_TOKEN
        return self.for_token(tokens[0])

    def for_token(self, token: str) -> Partition:
        """Return the partition of *token*; percent-encoded, as python-glanceclient sends it, it is the same token."""
        # A request asks about its token several times, and so do the next ones: results are kept by a keyed digest.
        cached_as = hashlib.blake2b(
            token.encode("utf-8", "surrogateescape"), digest_size=16, key=self._secret[:64]
        ).digest()
        known = self._tokens.get(cached_as)
        if known is None:
            if len(self._tokens) >= _MAX_TOKENS:
                self._tokens.clear()
            known = self._tokens[cached_as] = self.for_token_hash(hashlib.sha256(decode_token(token)).digest())
        return known

    def for_token_hash(self, sha256: bytes) -> Partition:
        """Return the partition of the token with this SHA-256, by which an operator can name it."""
        return self._derive("token", sha256)

    def for_scope(self, scope: TokenScope, *, per_user: bool) -> Partition:
        """Return the partition of all tokens with *scope*; with *per_user*, of one user's."""
        principal = (scope.user,) if per_user else ()
        made = self._derive(
            "project", scope.kind, scope.domain, scope.project, str(len(principal)), *principal, *scope.roles
        )
        return replace(made, project=self.project_digest(scope.project) if scope.is_project_scoped else ANY_PROJECT)

    def for_access_key(self, access: str, fields: Fields) -> Partition:
        """Return the partition of requests that the key *access* signed, speaking for whom *fields* say."""
        made = self._derive(
            "key", access, *(each for name in SUBJECT_FIELDS for each in (name, ",".join(fields.get_all(name))))
        )
        project = fields.get("x-project-id")
        return replace(made, project=self.project_digest(project) if project else ANY_PROJECT)

    def for_own_identity(self, *names: str) -> Partition:
        """Return the partition of the proxy's own identity, which *names* tell apart from others."""
        return self._derive("gateway", *names)

    def project_digest(self, project_id: str) -> str:
        """Return what stands for the project with that id."""
        return self._derive("project-id", project_id).digest

    @property
    def public_partition(self) -> Partition:
        """The partition of what everyone may see."""
        return self._derive("public")

    def _derive(self, kind: str, *parts: str | bytes) -> Partition:
        """Return the partition of this *kind* whose identity *parts* tell."""
        named = kind.encode() + b"\0" + length_prefixed(parts)
        return Partition(kind, hmac.digest(self._secret, named, "sha256")[:16].hex())


def decode_token(token: str) -> bytes:
    """Return the bytes of *token*, its percent-encoding undone."""
    raw = token.encode("utf-8", "surrogateescape")
    return unquote_to_bytes(raw) if _ESCAPE.search(token) else raw


def api_variant(fields: Fields) -> str:
    """Return the form of the API that `X-Api-Version` selects, as the value that is sent upstream; `""` without one.

    A letter after M is the Queens form, M or one before it the Mitaka form (IMS API reference). Anything else is
    undocumented and stands for itself.
    """
    values = fields.get_all("x-api-version")
    if len(values) == 1 and len(values[0]) == 1 and "A" <= values[0] <= "Z":
        return "Q" if values[0] > "M" else "M"
    return ",".join(values)
