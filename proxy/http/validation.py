"""What a request's head has to be before anything is made of it.

The parser refuses most of what two servers could divide or address differently. This is the rest: what it lets pass.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from proxy.core.values import immutable

# Visible ASCII and no fragment: origin-form (RFC 9112 §3.2.1).
_ORIGIN_FORM: Final = re.compile(r"/[\x21\x22\x24-\x7e]*", re.ASCII)
_ABSOLUTE_FORM: Final = re.compile(r"https?://([^/?#]*)(.*)", re.ASCII | re.IGNORECASE)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9._-]*)|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?", re.ASCII)
_TOKEN_PATTERN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a token of RFC 9110 §5.6.2
_CODING: Final = re.compile(_TOKEN_PATTERN + r"(?:[ \t]*;.*)?", re.ASCII)

ASTERISK_FORM: Final = "*"  # the target that names the server itself, of OPTIONS only (RFC 9112 §3.2.4)
MAX_LENGTH_DIGITS: Final = 19  # of a length that counts bytes; with more, zeros too, some read it and others fail
_VERSIONS: Final = ((1, 0), (1, 1))


@immutable
class MalformedRequest:
    """Why a head is refused, and the *status* that says so; *message* quotes nothing of it."""

    message: str
    status: int = 400


def find_malformation(
    *, version: tuple[int, int], hosts: list[str], codings: list[str], lengths: Sequence[str] = ()
) -> MalformedRequest | None:
    """Return what is wrong with a head.

    *hosts*, *codings* and *lengths* are its values of `Host`, `Transfer-Encoding` and `Content-Length`.
    """
    if version not in _VERSIONS:
        return MalformedRequest("request: neither HTTP/1.1 nor HTTP/1.0")
    if len(hosts) > 1:
        return MalformedRequest("Host: stands more than once")
    if hosts and not is_host(hosts[0]):
        return MalformedRequest("Host: not one name or address with an optional port")
    if any(len(length) > MAX_LENGTH_DIGITS for length in lengths):
        return MalformedRequest("Content-Length: too many digits")
    return _find_framing_fault(version, codings) if codings else None


def _find_framing_fault(version: tuple[int, int], codings: list[str]) -> MalformedRequest | None:
    """Return what is wrong with codings; only `chunked`, and nothing beside it, is undone here (RFC 9112 §6.1)."""
    if version < (1, 1):
        return MalformedRequest("Transfer-Encoding: in a request of HTTP/1.0")
    if len(codings) == 1 and codings[0].lower() == "chunked":
        return None
    named = [coding.strip(" \t") for value in codings for coding in value.split(",")]
    if all(map(_CODING.fullmatch, named)) and named[-1].lower() == "chunked":
        return MalformedRequest("Transfer-Encoding: a coding that this proxy does not know", 501)
    return MalformedRequest("Transfer-Encoding: not chunked")


def is_host(text: str) -> bool:
    """Whether *text* is a name or an address with an optional port: neither user, nor path, nor list (RFC 9110 §7.2).

    RFC 3986 §3.2.2 lets a name hold more than letters, digits, dots and dashes; no name of a host does, but for
    the underscore.
    """
    found = _HOST.fullmatch(text)
    return found is not None and int(found[1] or 0) <= 65535


def serialize_head(lines: Sequence[str]) -> bytes:
    """Return *lines* of a head as they are sent; what stands in them need not be UTF-8 (RFC 9110 §5.5).

    Raises `ValueError` for a line break or a NUL within one: what follows would be read as another field.
    """
    head = "\r\n".join(lines)
    if "\0" in head or head.count("\n") >= len(lines) or head.count("\r") >= len(lines):
        raise ValueError("head: a line break or a NUL within a line")
    return head.encode("utf-8", "surrogateescape")


def is_token(text: str) -> bool:
    """Whether *text* can be a method, or the name of a field (RFC 9110 §5.6.2)."""
    return re.fullmatch(_TOKEN_PATTERN, text) is not None


def to_origin_form(method: str, target: str, host: str | None) -> str | MalformedRequest:
    """Return *target* as a path with a query, or `ASTERISK_FORM`.

    An absolute one is accepted (RFC 9112 §3.2.2) where it names the *host* that the request names anyway; its scheme
    and authority say nothing more, and go no further.
    """
    if target.startswith("/"):
        path = target
    elif absolute := _ABSOLUTE_FORM.fullmatch(target):
        if not is_host(absolute[1]) or (host is not None and absolute[1].lower() != host.lower()):
            return MalformedRequest("request target: names another host than Host does")
        path = absolute[2] if absolute[2].startswith("/") else f"/{absolute[2]}"
        if method == "OPTIONS" and not absolute[2]:
            return ASTERISK_FORM  # RFC 9112 §3.2.4
    elif target == ASTERISK_FORM and method == "OPTIONS":
        return ASTERISK_FORM
    else:
        path = ""
    if not _ORIGIN_FORM.fullmatch(path):
        return MalformedRequest("request target: not a path with a query in visible ASCII characters")
    return path
