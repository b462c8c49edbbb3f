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

_OTHER_CREDENTIAL_FIELDS: Final = ("cookie", "proxy-authorization", "x-auth-token", "x-subject-token")


class SignatureVerifier:
    """Verifies requests by the secrets of access keys, and signs them anew for *host*; *clock* gives epoch seconds."""

    def __init__(
        self,
        partitioner: Partitioner,
        *,
        find_secret: Callable[[str], str | None],
        host: str,
        clock: Callable[[], float],
    ) -> None:
        self._partitioner = partitioner
        self._find_secret = find_secret
        self._host = host
        self._clock = clock

    def authenticate(self, request: Request) -> Principal | NotShareable:
        """Return whose the signed *request* is: the key's, for the project and security token that are signed too."""
        found = self._find_signature(request.fields)
        if found is None or request.body is not None:
            return NotShareable.SIGNED
        signature, secret = found
        if fault := find_signature_fault(request, signature, secret, now=self._clock()):
            return NotShareable(fault.value)
        partition = self._partitioner.for_access_key(signature.access_key, request.fields)
        credentials = tuple(name for name in SUBJECT_FIELDS if name != "x-security-token")
        signer = self._make_signer(request.fields, signature, secret)
        return Principal(partition, partition, trusted_until=0.0, credential_names=credentials, signer=signer)

    def is_current(self, signer: RequestSigner) -> bool:
        """Whether the key of *signer* still has the secret that a signature was verified with."""
        return self._find_secret(signer.key.access_key) == signer.key.secret_key

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
        signature, secret = found
        return self._make_signer(request.fields, signature, secret).sign(request, payload_hash=body, now=self._clock())

    def _find_signature(self, fields: Fields) -> tuple[Signature, str] | None:
        """Return the signature in *fields* and its key's secret, None where it is not that alone or none is known."""
        signature = parse_signature(fields)
        if signature is None or any(fields.get_all(name) for name in _OTHER_CREDENTIAL_FIELDS):
            return None
        secret = self._find_secret(signature.access_key)
        return None if secret is None else (signature, secret)

    def _make_signer(self, fields: Fields, signature: Signature, secret: str) -> RequestSigner:
        return RequestSigner(SigningKey(signature.access_key, secret, fields.get("x-security-token")), self._host)
