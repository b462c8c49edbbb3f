"""Why there is no connection, in words that are right and quote nothing."""

from __future__ import annotations

import errno
import socket
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from proxy.upstream.unconnected import why_unconnected

KEY = ConnectionKey("ims.example", 443, True, True, None, None, None)
TLS = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1000)")
TLS.reason = "WRONG_VERSION_NUMBER"


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
    ],
    ids=["refused", "no such name", "no name, no words", "broken off", "no TLS", "certificate"],
)
def test_it_is_told_by_whose_number_it_is(error: aiohttp.ClientConnectorError, said: str) -> None:
    """The system's, the resolver's and OpenSSL's are numbers of different lists; no address is quoted."""
    assert why_unconnected(error) == said
