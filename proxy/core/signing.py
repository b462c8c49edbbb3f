"""SDK-HMAC-SHA256, by which Huawei Cloud's access keys sign requests: sign and verify.

A signature covers method, path, query, the fields that it names, and the hash of the body. What it does not name,
anyone on the way may have added: a field that says who is asking counts only where it is signed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import field, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from proxy.core.messages import Fields, Request
from proxy.core.values import immutable

SKEW_S: Final = 15 * 60.0
UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
# Fields that say for whom a request speaks, beside the key.
SPEAKING: Final = ("x-domain-id", "x-project-id", "x-security-token")

_ALGORITHM: Final = "SDK-HMAC-SHA256"
NO_BODY: Final = hashlib.sha256(b"").hexdigest()
_DATE: Final = "%Y%m%dT%H%M%SZ"
_OWN: Final = ("authorization", "host", "x-sdk-date", "x-sdk-content-sha256", "x-security-token")
_AUTHORIZATION: Final = re.compile(
    rf"{_ALGORITHM} +Access=([^\s,]+), *SignedHeaders=([a-z0-9;_-]+), *Signature=([0-9a-f]{{64}})", re.ASCII
)


class Flaw(Enum):
    """Why a signature does not vouch for a request."""

    WRONG = "bad-signature"
    SKEW = "signature-skew"
    UNSIGNED = "unsigned-field"


@immutable
class SigningKey:
    """An access key and its secret; a temporary one comes with a *security_token*."""

    access: str
    secret: str = field(repr=False)
    security_token: str | None = field(default=None, repr=False)


@immutable
class Signature:
    """What an `Authorization` field says: which key signed, the *names* it signed, lower-case, and the result."""

    access: str
    names: tuple[str, ...]
    digits: str = field(repr=False)


@immutable
class Signing:
    """Signs requests to *host* with *key*."""

    key: SigningKey
    host: str

    def signed(self, request: Request, *, payload: str = UNSIGNED_PAYLOAD, now: float) -> Request:
        """Return *request* signed at *now*, epoch seconds, in the place of whatever signed it before.

        *payload* is the hash of its body; one that still comes is not covered: `UNSIGNED-PAYLOAD`.
        """
        date = datetime.fromtimestamp(now, UTC).strftime(_DATE)
        lines = [("Host", self.host), ("X-Sdk-Date", date)]
        if self.key.security_token is not None:
            lines.append(("X-Security-Token", self.key.security_token))
        if request.body is None:
            payload = NO_BODY
        else:
            lines.append(("X-Sdk-Content-Sha256", payload))
        made = replace(request, fields=request.fields.without(_OWN).plus(*lines))
        covered = {name.lower() for name, _ in lines} | {name for name in SPEAKING if made.fields.all(name)}
        names = tuple(sorted(covered))
        digits = _digits(made, names, payload, date, self.key.secret)
        said = f"{_ALGORITHM} Access={self.key.access}, SignedHeaders={';'.join(names)}, Signature={digits}"
        return replace(made, fields=made.fields.plus(("Authorization", said)))


def signature(fields: Fields) -> Signature | None:
    """Return the signature in *fields*, None where there is none, or none that can be read."""
    lines = fields.all("authorization")
    said = _AUTHORIZATION.fullmatch(lines[0]) if len(lines) == 1 else None
    return Signature(said[1], tuple(said[2].split(";")), said[3]) if said else None


def flaw(request: Request, given: Signature, secret: str, *, body: str = NO_BODY, now: float) -> Flaw | None:
    """Return why *given* does not vouch for *request* with a body of that hash, None where it does.

    The date has to be signed and at most 15 minutes off; so does each field that says for whom the request speaks.
    """
    dates = request.fields.all("x-sdk-date")
    payload = stated_payload(request.fields, body)
    if len(dates) != 1 or payload not in (body, UNSIGNED_PAYLOAD) or "x-sdk-date" not in given.names:
        return Flaw.WRONG
    if any(len(request.fields.all(name)) != 1 for name in given.names):
        return Flaw.WRONG
    if not hmac.compare_digest(_digits(request, given.names, payload, dates[0], secret), given.digits):
        return Flaw.WRONG
    if any(request.fields.all(name) and name not in given.names for name in SPEAKING):
        return Flaw.UNSIGNED
    try:
        signed_at = datetime.strptime(dates[0], _DATE).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return Flaw.WRONG
    return Flaw.SKEW if abs(now - signed_at) > SKEW_S else None


def stated_payload(fields: Fields, body: str = "") -> str:
    """Return the hash of the body as *fields* state it, *body* where they don't; `""` where they state two."""
    stated = fields.all("x-sdk-content-sha256") or [body]
    return stated[0] if len(stated) == 1 else ""


def _digits(request: Request, names: Iterable[str], payload: str, date: str, secret: str) -> str:
    canonical = hashlib.sha256(canonical_request(request, tuple(names), payload)).hexdigest()
    to_sign = f"{_ALGORITHM}\n{date}\n{canonical}".encode("utf-8", "surrogateescape")
    return hmac.new(secret.encode(), to_sign, "sha256").hexdigest()


def canonical_request(request: Request, names: tuple[str, ...], payload: str) -> bytes:
    """Return what a signature of the fields *names* covers; *payload* is the body's hash as it is stated."""
    path = "/".join(_escaped(unquote_to_bytes(segment)) for segment in request.path.split("/"))
    lines = "".join(f"{name}:{(request.fields.get(name) or '').strip()}\n" for name in sorted(names))
    parts = (
        request.method,
        path if path.endswith("/") else f"{path}/",
        _canonical_query(request.query),
        lines,
        ";".join(names),
        payload,
    )
    return "\n".join(parts).encode("utf-8", "surrogateescape")


def _canonical_query(raw: str) -> str:
    pairs = []
    for piece in filter(None, raw.split("&")):
        name, _, value = piece.replace("+", " ").partition("=")
        pairs.append((unquote_to_bytes(name), unquote_to_bytes(value)))
    return "&".join(f"{_escaped(name)}={_escaped(value)}" for name, value in sorted(pairs))


def _escaped(raw: bytes) -> str:
    return quote_from_bytes(raw, safe="~")
