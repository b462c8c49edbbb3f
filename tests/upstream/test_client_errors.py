"""Why there is no connection, or no answer on it, in words that are right and quote nothing."""

from __future__ import annotations

import errno
import socket
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http_exceptions import BadStatusLine

from proxy.upstream.client import explain_connect_error, explain_response_error

KEY = ConnectionKey("ims.example", 443, True, True, None, None, None)
TLS = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1000)")
TLS.reason = "WRONG_VERSION_NUMBER"
LACKS_KEY_USAGE = (
    "CA cert does not include key usage extension (RFC 5280): "
    "renew it or its authority's, or set upstream.tls_strict = false"
)


def unverified(code: int, message: str) -> aiohttp.ClientConnectorCertificateError:
    """Return what aiohttp raises where OpenSSL's verification ends with *code*."""
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    error.verify_code, error.verify_message = code, message
    return aiohttp.ClientConnectorCertificateError(KEY, error)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            aiohttp.ClientConnectorError(KEY, OSError(errno.ECONNREFUSED, "Connect call failed ('192.0.2.1', 443)")),
            "no connection, Connection refused",
        ),
        (
            aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_NONAME, "Name or service not known")),
            "no connection, Name or service not known",
        ),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror()), "no connection, the name is not known"),
        (aiohttp.ClientConnectorError(KEY, OSError()), "no connection, broken off before it stood"),
        (aiohttp.ClientConnectorSSLError(KEY, TLS), "no TLS connection, WRONG_VERSION_NUMBER"),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError("192.0.2.1")), "certificate not accepted"),
        (unverified(10, "certificate has expired"), "certificate not accepted, certificate has expired"),
        (unverified(62, "not valid for 'ims.example'"), "certificate not accepted, it is another host's"),
        (unverified(64, "not valid for '192.0.2.1'"), "certificate not accepted, it is another host's"),
        (
            unverified(92, "CA cert does not include key usage extension"),
            "certificate not accepted, " + LACKS_KEY_USAGE,
        ),
    ],
    ids=[
        *("refused", "no such name", "no name, no words", "broken off", "no TLS", "certificate"),
        *("expired", "another name", "another address", "not strict"),
    ],
)
def test_it_is_told_by_whose_number_it_is(error: aiohttp.ClientConnectorError, said: str) -> None:
    """The system's, the resolver's and OpenSSL's are numbers of different lists; no address is quoted."""
    assert explain_connect_error(error) == said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (aiohttp.ServerDisconnectedError("s3cr3t"), "closed the connection before it answered"),
        (aiohttp.ClientPayloadError("s3cr3t"), "broke off in the middle of its answer"),
        (BadStatusLine("s3cr3t"), "answered what is not understood as HTTP/1.1"),
        (aiohttp.ClientOSError(errno.ECONNRESET, "s3cr3t"), "the connection broke, Connection reset by peer"),
        (ConnectionResetError("s3cr3t"), "the connection broke, ConnectionResetError"),
    ],
    ids=["closed", "half an answer", "no HTTP", "reset", "no number"],
)
def test_what_breaks_off_is_told_in_words(error: Exception, said: str) -> None:
    """Operators and callers read them, not the names of somebody's classes; the bytes that came are not quoted."""
    assert explain_response_error(error) == said
