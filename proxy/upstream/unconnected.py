"""Why there is no connection, or no answer on it, in words that hold no address and no byte of what was sent."""

from __future__ import annotations

import os
import socket

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from proxy.core.tls_verification import why_unverified


def why_unconnected(error: aiohttp.ClientConnectorError, *, tolerate: str = "set upstream.tls_strict = false") -> str:
    """Return why *error* kept us from connecting; what it says itself may name an address.

    *tolerate* is what to do to accept certificates that lack what RFC 5280 requires.
    """
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return why_unverified(error.certificate_error, tolerate=tolerate)
        case aiohttp.ClientConnectorSSLError():  # whose number is one of TLS, not of the system
            return f"no TLS connection, {getattr(error.os_error, 'reason', None) or 'failed'}"
        case _:
            return f"no connection, {_by_number(error.os_error)}"


def why_unanswered(error: Exception) -> str:
    """Return why *error* kept us from an answer on a connection that stood."""
    match error:
        case aiohttp.ServerDisconnectedError():
            return "closed the connection before it answered"
        case aiohttp.ClientPayloadError():
            return "broke off in the middle of its answer"
        case HttpProcessingError() | aiohttp.ClientResponseError():
            return "answered what is not understood as HTTP/1.1"
        case OSError(errno=int(number)):
            return f"the connection broke, {os.strerror(number)}"
        case _:
            return f"the connection broke, {type(error).__name__}"


def _by_number(error: OSError) -> str:
    if isinstance(error, socket.gaierror):  # whose numbers are the resolver's, and its words too
        return error.strerror or "the name is not known"
    return os.strerror(error.errno) if error.errno else "broken off before it stood"
