"""Credentials -> the partition that may share an answer, or the reason there is none.

There is no key without a partition, and a `Partition` comes from a `Partitioner` only.

Several texts as one, to make a digest of: no delimiter can be forged.
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
from proxy.core.signing import SPEAKING, Flaw, Signing
from proxy.core.values import immutable


def delimited(parts: Iterable[str | bytes]) -> bytes:
    """Return *parts*, each behind its length: others, or the same divided otherwise, never make the same bytes."""
    raws = [part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape") for part in parts]
    return b"".join([b"%d:%b" % (len(raw), raw) for raw in raws])


_CHALLENGED: Final = frozenset({"proxy-authorization", "cookie", "x-subject-token", "x-security-token"})
UNPLACED: Final = "any"
_MOST_TOKENS: Final = 4096
_ESCAPED: Final = re.compile(r"%[0-9A-Fa-f]{2}")


class Unshared(Enum):
    """Why a caller's answers are shared with nobody, in the words of `Cache-Status` details."""

    NO_TOKEN = "no-token"  # noqa: S105 - a reason, no password
    TWO_TOKENS = "two-tokens"
    TWO_CREDENTIALS = "two-credentials"
    SIGNED = "signed"
    BAD_SIGNATURE = Flaw.WRONG.value
    SIGNATURE_SKEW = Flaw.SKEW.value
    UNSIGNED_FIELD = Flaw.UNSIGNED.value
    REFUSED = "token-refused"
    UNVERIFIED = "token-unverified"


@immutable
class Partition:
    """Who may share an answer: the *kind* of identity, and a keyed digest of it that gives nothing away.

    *project* is such a digest of the project whose images this identity sees, `UNPLACED` where it may see those of any
    project, None for a kind of identity that tells no project.
    """

    kind: str
    digest: str
    project: str | None = None


@immutable
class Scope:
    """What a token stands for, as IAM says it.

    *reach* is `project`, `admin-project`, `domain`, `system` or `unscoped`.
    """

    reach: str
    domain: str
    project: str
    roles: tuple[str, ...]
    user: str

    @property
    def placed(self) -> bool:
        """Whether it reaches one project."""
        return self.reach in ("project", "admin-project")


@immutable
class Who:
    """Whose request this is.

    Lists are shared by *partition*; those that may differ between the users of one project by *member*. *token* is the
    digest under which IAM's verdict is kept, where there is one: it is believed until *believed_until* without asking
    again, and the token ends at *expires_at*, both epoch seconds. *verified* says that somebody other than the upstream
    vouches for the identity, *public* that it may share public lists with others.
    *credentials* are the fields that go up for it; a signed request goes up anew by *signing*.
    """

    partition: Partition
    member: Partition
    verified: bool = False
    public: bool = False
    token: str | None = None
    expires_at: float = inf
    believed_until: float = inf
    credentials: tuple[str, ...] = ("x-auth-token",)
    signing: Signing | None = field(default=None, repr=False)


class Partitioner:
    """Makes partitions under one secret; replicas that share the secret make the same ones."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError(f"partition secret: {len(secret)} bytes, at least 16 are needed")
        self._secret = secret
        self._tokens: dict[bytes, Partition] = {}

    def of(self, fields: Fields) -> Partition | Unshared:
        """Return the partition of a request by its token, or why it has none.

        A token beside another credential has none: the upstream decides which of the two counts, and it alone.
        """
        if fields.get("authorization") is not None:
            return Unshared.TWO_CREDENTIALS if fields.get("x-auth-token") is not None else Unshared.SIGNED
        if fields.any(_CHALLENGED):
            return Unshared.TWO_CREDENTIALS
        tokens = fields.all("x-auth-token")
        if len(tokens) > 1:
            return Unshared.TWO_TOKENS
        if not tokens or not tokens[0]:
            return Unshared.NO_TOKEN
        return self.token(tokens[0])

    def token(self, token: str) -> Partition:
        """Return the partition of *token*; its percent-encoded spelling (python-glanceclient's) is the same token."""
        # A request's token is asked about several times, and so are the next one's: they are known by a keyed digest.
        known_as = hashlib.blake2b(
            token.encode("utf-8", "surrogateescape"), digest_size=16, key=self._secret[:64]
        ).digest()
        known = self._tokens.get(known_as)
        if known is None:
            if len(self._tokens) >= _MOST_TOKENS:
                self._tokens.clear()
            known = self._tokens[known_as] = self.hashed(hashlib.sha256(spelt(token)).digest())
        return known

    def hashed(self, sha256: bytes) -> Partition:
        """Return the partition of the token with this SHA-256, by which an operator can name it."""
        return self._made("token", sha256)

    def scoped(self, scope: Scope, *, user: bool) -> Partition:
        """Return the partition of all tokens with *scope*; with *user*, of one user's."""
        who = (scope.user,) if user else ()
        made = self._made("project", scope.reach, scope.domain, scope.project, str(len(who)), *who, *scope.roles)
        return replace(made, project=self.project(scope.project) if scope.placed else UNPLACED)

    def keyed(self, access: str, fields: Fields) -> Partition:
        """Return the partition of requests that the key *access* signed, speaking for whom *fields* say."""
        made = self._made("key", access, *(each for name in SPEAKING for each in (name, ",".join(fields.all(name)))))
        project = fields.get("x-project-id")
        return replace(made, project=self.project(project) if project else UNPLACED)

    def own(self, *names: str) -> Partition:
        """Return the partition of the proxy's own identity, which *names* tell apart from others."""
        return self._made("gateway", *names)

    def project(self, project_id: str) -> str:
        """Return what stands for the project with that id."""
        return self._made("project-id", project_id).digest

    @property
    def public(self) -> Partition:
        """The partition of what everyone may see."""
        return self._made("public")

    def _made(self, kind: str, *parts: str | bytes) -> Partition:
        """Return the partition of this *kind* whose identity *parts* tell."""
        named = kind.encode() + b"\0" + delimited(parts)
        return Partition(kind, hmac.digest(self._secret, named, "sha256")[:16].hex())


def spelt(token: str) -> bytes:
    """Return the bytes of *token*, its percent-encoding undone."""
    raw = token.encode("utf-8", "surrogateescape")
    return unquote_to_bytes(raw) if _ESCAPED.search(token) else raw


def variant(fields: Fields) -> str:
    """Return the form of the API that `X-Api-Version` selects, as the value that is sent upstream; `""` without one.

    A letter after M is the Queens form, M or one before it the Mitaka form (IMS API reference). Anything else is
    undocumented and stands for itself.
    """
    values = fields.all("x-api-version")
    if len(values) == 1 and len(values[0]) == 1 and "A" <= values[0] <= "Z":
        return "Q" if values[0] > "M" else "M"
    return ",".join(values)
