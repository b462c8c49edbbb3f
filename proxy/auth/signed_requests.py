"""Requests signed by keys whose secret is known here: whose they are, and how they go on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from proxy.core.messages import Fields, Request
from proxy.core.partition import Partitioner, Unshared, Who
from proxy.core.signing import (
    NO_BODY,
    SPEAKING,
    UNSIGNED_PAYLOAD,
    Signature,
    Signing,
    SigningKey,
    flaw,
    signature,
    stated_payload,
)
from proxy.http.body_buffering import whole_if_small

_BESIDE: Final = ("cookie", "proxy-authorization", "x-auth-token", "x-subject-token")


class Signatures:
    """Verifies requests by the secrets of access keys, and signs them anew for *host*; *clock* gives epoch seconds."""

    def __init__(
        self, partitioner: Partitioner, *, secret: Callable[[str], str | None], host: str, clock: Callable[[], float]
    ) -> None:
        self._partitioner = partitioner
        self._secret = secret
        self._host = host
        self._clock = clock

    def who(self, request: Request) -> Who | Unshared:
        """Return whose the signed *request* is: the key's, for the project and security token that are signed too."""
        found = self._known(request.fields)
        if found is None or request.body is not None:
            return Unshared.SIGNED
        given, secret = found
        if wrong := flaw(request, given, secret, now=self._clock()):
            return Unshared(wrong.value)
        partition = self._partitioner.keyed(given.access, request.fields)
        credentials = tuple(name for name in SPEAKING if name != "x-security-token")
        signing = self._signing(request.fields, given, secret)
        return Who(partition, partition, believed_until=0.0, credentials=credentials, signing=signing)

    def holds(self, signing: Signing) -> bool:
        """Whether the key of *signing* still has the secret that a signature was verified with."""
        return self._secret(signing.key.access) == signing.key.secret

    async def onward(self, request: Request) -> Request:
        """Return *request* signed anew where its signature is good, else as it came.

        A body is read to know its hash, unless the signature says that it leaves it out; one that is not small goes on
        as it comes, and the request under the signature that it has.
        """
        if self._known(request.fields) is None:
            return request
        body = NO_BODY
        if request.body is not None and stated_payload(request.fields) != UNSIGNED_PAYLOAD:
            read, request = await whole_if_small(request)
            if read is None:
                return request
            body = hashlib.sha256(read).hexdigest()
        elif request.body is not None:
            body = UNSIGNED_PAYLOAD
        found = self._known(request.fields)  # only now: the body may have taken long, and the secret been replaced
        if found is None or flaw(request, *found, body=body, now=self._clock()):
            return request
        given, secret = found
        return self._signing(request.fields, given, secret).signed(request, payload=body, now=self._clock())

    def _known(self, fields: Fields) -> tuple[Signature, str] | None:
        """Return the signature in *fields* and its key's secret, None where it is not that alone or none is known."""
        given = signature(fields)
        if given is None or any(fields.all(name) for name in _BESIDE):
            return None
        secret = self._secret(given.access)
        return None if secret is None else (given, secret)

    def _signing(self, fields: Fields, given: Signature, secret: str) -> Signing:
        return Signing(SigningKey(given.access, secret, fields.get("x-security-token")), self._host)
