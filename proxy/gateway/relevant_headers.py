"""The fields of a request that can change what is answered from the store: data that the gateway is built on.

What is decided there is decided with these alone, for of a request that may be answered from the store the gateway
keeps no others. So whoever sends another field, however it reads, is answered the same, and whoever compares requests
need not compare it. A decision that needs one more field has to name it here, or it never sees it.
"""

from __future__ import annotations

from typing import Final

from proxy.core.messages import Fields, Request

RELEVANT_FIELDS: Final = frozenset(
    {
        # who asks
        "authorization",
        "cookie",
        "proxy-authorization",
        "x-api-key",
        "x-auth-token",
        "x-security-token",
        "x-subject-token",
        # for what, and in which form
        "accept",
        "accept-encoding",
        "accept-language",
        "x-api-version",
        # under which conditions, and how urgently
        "cache-control",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "pragma",
        "range",
        "x-request-priority",
        # by which way, which a trusted proxy may say
        "forwarded",
        "x-forwarded-host",
        "x-forwarded-prefix",
        "x-forwarded-proto",
    }
)


# Credentials of this scheme are all that their field says; a signature may cover any other field too.
BEARER_PREFIX: Final = "bearer "


def with_relevant_fields(request: Request) -> Request:
    """Return *request* with the fields that count before anything is sent upstream: all of them where it is signed."""
    lines = []
    for line in request.fields.lines:
        name = line[0].lower()
        if name in RELEVANT_FIELDS:
            if name == "authorization" and line[1][: len(BEARER_PREFIX)].lower() != BEARER_PREFIX:
                return request
            lines.append(line)
    # Not `dataclasses.replace`, which takes as long as all of the above: this is done for every request.
    return Request(
        request.method,
        request.target,
        Fields(lines),
        request.request_id,
        request.body,
        request.context,
        request.on_interim,
    )
