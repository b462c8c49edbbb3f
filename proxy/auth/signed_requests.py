"""Requests signed by keys whose secret is known here: whose they are, and how they go on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from proxy.core.messages import Fields, Request
from proxy.core.partition import NotShareable, Partitioner, Principal
from proxy.core.signing import (
    EMPTY_BODY_HASH,
    SUBJECT_FIELDS,
    UNSIGNED_PAYLOAD,
    RequestSigner,
    Signature,
    SigningKey,
    declared_payload_hash,
    find_signature_fault,
    parse_signature,
)
from proxy.http.body_buffering import buffer_small_body

_OTHER_CREDENTIALS: Final = ("cookie", "proxy-authorization", "x-auth-token", "x-subject-token")


class SignatureVerifier:
    """Verifies requests by the secrets of access keys, and signs them anew for *host*; *clock* gives epoch seconds."""

    def __init__(
        self, partitioner: Partitioner, *, secret: Callable[[str], str | None], host: str, clock: Callable[[], float]
    ) -> None:
        self._partitioner = partitioner
        self._secret = secret
        self._host = host
        self._clock = clock

    def authenticate(self, request: Request) -> Principal | NotShareable:
        """Return whose the signed *request* is: the key's, for the project and security token that are signed too."""
        found = self._find_signature(request.fields)
        if found is None or request.body is not None:
            return NotShareable.SIGNED
        given, secret = found
        if wrong := find_signature_fault(request, given, secret, now=self._clock()):
            return NotShareable(wrong.value)
        partition = self._partitioner.for_access_key(given.access_key, request.fields)
        credentials = tuple(name for name in SUBJECT_FIELDS if name != "x-security-token")
        signing = self._make_signer(request.fields, given, secret)
        return Principal(partition, partition, trusted_until=0.0, credential_names=credentials, signer=signing)

    def is_current(self, signing: RequestSigner) -> bool:
        """Whether the key of *signing* still has the secret that a signature was verified with."""
        return self._secret(signing.key.access_key) == signing.key.secret_key

    async def prepare_forward(self, request: Request) -> Request:
        """Return *request* signed anew where its signature is good, else as it came.

        A body is read to know its hash, unless the signature says that it leaves it out; one that is not small goes on
        as it comes, and the request under the signature that it has.
        """
        if self._find_signature(request.fields) is None:
            return request
        body = EMPTY_BODY_HASH
        if request.body is not None and declared_payload_hash(request.fields) != UNSIGNED_PAYLOAD:
            read, request = await buffer_small_body(request)
            if read is None:
                return request
            body = hashlib.sha256(read).hexdigest()
        elif request.body is not None:
            body = UNSIGNED_PAYLOAD
        found = self._find_signature(
            request.fields
        )  # only now: the body may have taken long, and the secret been replaced
        if found is None or find_signature_fault(request, *found, body_hash=body, now=self._clock()):
            return request
        given, secret = found
        return self._make_signer(request.fields, given, secret).sign(request, payload_hash=body, now=self._clock())

    def _find_signature(self, fields: Fields) -> tuple[Signature, str] | None:
        """Return the signature in *fields* and its key's secret, None where it is not that alone or none is known."""
        given = parse_signature(fields)
        if given is None or any(fields.get_all(name) for name in _OTHER_CREDENTIALS):
            return None
        secret = self._secret(given.access_key)
        return None if secret is None else (given, secret)

    def _make_signer(self, fields: Fields, given: Signature, secret: str) -> RequestSigner:
        return RequestSigner(SigningKey(given.access_key, secret, fields.get("x-security-token")), self._host)
