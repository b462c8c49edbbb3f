"""What of a request's head has to be compared to know that two requests are answered alike from the store.

The gateway decides by the fields in `proxy.gateway.relevant_headers`; this file leaves out the others, and that is all
it knows of HTTP. What it does not understand at a glance is None, and goes to a real parser: anything that frames a
message or a connection, a line that is folded, ends otherwise than by CRLF, or has a byte in it that is not plain.

Why a mistake here can't show one caller what belongs to another: lines that count are not read but compared, byte for
byte and in their order, request line and credentials included, with those of a head that the parser has taken. A line
may be left out only if it is well-formed on its own, so that it can neither end the head, nor continue another line,
nor be another spelling of a name that counts.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.gateway.relevant_headers import BEARER, DECISIVE

_END: Final = b"\r\n\r\n"
METHODS: Final = (b"GET ", b"HEAD ")
_MOST_BYTES: Final = 64 * 1024
_MOST_LINES: Final = 100
_BEARER: Final = BEARER.encode()
_ID: Final = re.compile(rb"[ \t]*([A-Za-z0-9._:-]{1,128})[ \t]*").fullmatch
# token, colon, visible ASCII, blanks (RFC 9110 §5.1, §5.5): stricter than the RFC, which lets old bytes pass.
_IGNORED: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*").fullmatch


# What to do with a field's line: a member of an enumeration would take longer to look up than all of the rest.
_COUNTS, _FRAMES, _CONNECTION, _AUTHORIZATION, _REQUEST_ID = range(1, 6)


def _roles() -> dict[bytes, int]:
    """Return what to do with a field, by its name in lower case and as most clients spell it."""
    framing = (
        *("content-length", "content-encoding", "transfer-encoding", "te", "trailer", "expect", "upgrade"),
        *("keep-alive", "proxy-connection", "http2-settings"),
    )
    roles = dict.fromkeys(DECISIVE | {"host"}, _COUNTS) | dict.fromkeys(framing, _FRAMES)
    roles |= {"authorization": _AUTHORIZATION, "connection": _CONNECTION, "x-request-id": _REQUEST_ID}
    spelt = {name.title(): role for name, role in roles.items()}
    return {name.encode(): role for name, role in (roles | spelt).items()}


_ROLES: Final = _roles()


def alone(received: bytes) -> bool:
    """Whether *received* looks like one complete head of a request that changes nothing, and nothing behind it."""
    return received.startswith(METHODS) and received.find(_END) == len(received) - len(_END)


def compared(head: bytes) -> tuple[bytes, bytes] | None:
    """Return what of *head* counts, and the id that the request came with, empty for none.

    None where that can't be said at a glance.
    """
    lines = head.split(b"\r\n")
    breaks = len(lines) - 1
    if breaks > _MOST_LINES or len(head) > _MOST_BYTES or not head.endswith(_END):
        return None
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks:
        return None
    counting, request_id = [lines[0]], b""
    for line in lines[1:-2]:
        name = line[: line.find(b":")]
        role = _ROLES.get(name) or _ROLES.get(name.lower())
        if role == _COUNTS:
            counting.append(line)
        elif role is None:
            if _IGNORED(line) is None:
                return None
        elif role == _REQUEST_ID:
            value = _ID(line, len(name) + 1)
            if value is None or request_id:
                return None  # not one that is echoed
            request_id = value[1]
        elif role == _AUTHORIZATION and line[len(name) + 1 :].lstrip(b" ").lower().startswith(_BEARER):
            counting.append(line)
        elif role != _CONNECTION or line[len(name) + 1 :].strip(b" ").lower() != b"keep-alive":
            return None
    return b"\r\n".join(counting), request_id
