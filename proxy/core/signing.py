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

MAX_SKEW_S: Final = 15 * 60.0
UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
# Fields that say for whom a request speaks, beside the key.
SUBJECT_FIELDS: Final = ("x-domain-id", "x-project-id", "x-security-token")

_ALGORITHM: Final = "SDK-HMAC-SHA256"
EMPTY_BODY_HASH: Final = hashlib.sha256(b"").hexdigest()
_DATE_FORMAT: Final = "%Y%m%dT%H%M%SZ"
_SIGNATURE_FIELDS: Final = ("authorization", "host", "x-sdk-date", "x-sdk-content-sha256", "x-security-token")
_AUTHORIZATION: Final = re.compile(
    rf"{_ALGORITHM} +Access=([^\s,]+), *SignedHeaders=([a-z0-9;_-]+), *Signature=([0-9a-f]{{64}})", re.ASCII
)


class SignatureFault(Enum):
    """Why a signature does not vouch for a request."""

    WRONG = "bad-signature"
    SKEW = "signature-skew"
    UNSIGNED = "unsigned-field"


@immutable
class SigningKey:
    """An access key and its secret; a temporary one comes with a *security_token*."""

    access_key: str
    secret_key: str = field(repr=False)
    security_token: str | None = field(default=None, repr=False)


@immutable
class Signature:
    """What an `Authorization` field says: which key signed, the *signed_names* it signed, lower-case, and the
    result.
    """

    access_key: str
    signed_names: tuple[str, ...]
    hex_digest: str = field(repr=False)


@immutable
class RequestSigner:
    """Signs requests to *host* with *key*."""

    key: SigningKey
    host: str

    def sign(self, request: Request, *, payload_hash: str = UNSIGNED_PAYLOAD, now: float) -> Request:
        """Return *request* signed at *now*, epoch seconds, in the place of whatever signed it before.

        *payload_hash* is the hash of its body; one that still comes is not covered: `UNSIGNED-PAYLOAD`.
        """
        date = datetime.fromtimestamp(now, UTC).strftime(_DATE_FORMAT)
        lines = [("Host", self.host), ("X-Sdk-Date", date)]
        if self.key.security_token is not None:
            lines.append(("X-Security-Token", self.key.security_token))
        if request.body is None:
            payload_hash = EMPTY_BODY_HASH
        else:
            lines.append(("X-Sdk-Content-Sha256", payload_hash))
        made = replace(request, fields=request.fields.without(_SIGNATURE_FIELDS).plus(*lines))
        covered = {name.lower() for name, _ in lines} | {name for name in SUBJECT_FIELDS if made.fields.get_all(name)}
        names = tuple(sorted(covered))
        digits = _compute_signature(made, names, payload_hash, date, self.key.secret_key)
        said = f"{_ALGORITHM} Access={self.key.access_key}, SignedHeaders={';'.join(names)}, Signature={digits}"
        return replace(made, fields=made.fields.plus(("Authorization", said)))


def parse_signature(fields: Fields) -> Signature | None:
    """Return the signature in *fields*, None where there is none, or none that can be read."""
    lines = fields.get_all("authorization")
    said = _AUTHORIZATION.fullmatch(lines[0]) if len(lines) == 1 else None
    return Signature(said[1], tuple(said[2].split(";")), said[3]) if said else None


def find_signature_fault(
    request: Request, signature: Signature, secret: str, *, body_hash: str = EMPTY_BODY_HASH, now: float
) -> SignatureFault | None:
    """Return why *signature* does not vouch for *request* with a body of that hash, None where it does.

    The date has to be signed and at most 15 minutes off; so does each field that says for whom the request speaks.
    """
    dates = request.fields.get_all("x-sdk-date")
    payload = declared_payload_hash(request.fields, body_hash)
    if len(dates) != 1 or payload not in (body_hash, UNSIGNED_PAYLOAD) or "x-sdk-date" not in signature.signed_names:
        return SignatureFault.WRONG
    if any(len(request.fields.get_all(name)) != 1 for name in signature.signed_names):
        return SignatureFault.WRONG
    if not hmac.compare_digest(
        _compute_signature(request, signature.signed_names, payload, dates[0], secret), signature.hex_digest
    ):
        return SignatureFault.WRONG
    if any(request.fields.get_all(name) and name not in signature.signed_names for name in SUBJECT_FIELDS):
        return SignatureFault.UNSIGNED
    try:
        signed_at = datetime.strptime(dates[0], _DATE_FORMAT).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return SignatureFault.WRONG
    return SignatureFault.SKEW if abs(now - signed_at) > MAX_SKEW_S else None


def declared_payload_hash(fields: Fields, body: str = "") -> str:
    """Return the hash of the body as *fields* state it, *body* where they don't; `""` where they state two."""
    stated = fields.get_all("x-sdk-content-sha256") or [body]
    return stated[0] if len(stated) == 1 else ""


def _compute_signature(request: Request, names: Iterable[str], payload: str, date: str, secret: str) -> str:
    canonical = hashlib.sha256(canonical_request(request, tuple(names), payload)).hexdigest()
    to_sign = f"{_ALGORITHM}\n{date}\n{canonical}".encode("utf-8", "surrogateescape")
    return hmac.new(secret.encode(), to_sign, "sha256").hexdigest()


def canonical_request(request: Request, names: tuple[str, ...], payload: str) -> bytes:
    """Return what a signature of the fields *names* covers; *payload* is the body's hash as it is stated."""
    path = "/".join(_escape(unquote_to_bytes(segment)) for segment in request.path.split("/"))
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
    return "&".join(f"{_escape(name)}={_escape(value)}" for name, value in sorted(pairs))


def _escape(raw: bytes) -> str:
    return quote_from_bytes(raw, safe="~")
