"""Redis by TLS, as far as the handshake: which certificates are accepted."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.errors import StoreUnavailableError
from proxy.stores.redis import connected
from tests.harness.certificates import Authority, Pair

LACKS = (
    "redis: certificate not accepted, Missing Authority Key Identifier (RFC 5280): renew it or its authority's, "
    "or add ssl_exclude_verify_flags=VERIFY_X509_STRICT to store.url"
)


@asynccontextmanager
async def a_server(pair: Pair) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Run what shows *pair* and hangs up on the first bytes; give its port, and what came after each handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    came: list[bytes] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], came
    finally:
        server.close()


@pytest.mark.parametrize("kind", ["rediss", "rediss+sentinel", "rediss+cluster"])
@pytest.mark.parametrize(
    ("more", "accepted"),
    [("", False), ("&ssl_exclude_verify_flags=VERIFY_X509_STRICT", True)],
    ids=["strict", "tolerant"],
)
async def test_a_certificate_without_key_identifier_is_accepted_on_request(
    tmp_path: Path, kind: str, more: str, accepted: bool
) -> None:
    """On every Python. Nothing is sent where it is not accepted, and the error of a single server names the cause."""
    authority = Authority(tmp_path, key_identifiers=False)
    async with a_server(authority.pair("redis", "127.0.0.1")) as (port, came):
        service = "/lists" if "sentinel" in kind else ""
        url = f"{kind}://127.0.0.1:{port}{service}?ssl_ca_certs={authority.file}{more}"
        store = connected(url, prefix="p:", keep_s=60.0, timeout_s=10.0)
        try:
            with pytest.raises(StoreUnavailableError) as failed:
                await store.ping()
        finally:
            await store.close()
        assert bool(came) == accepted
        if kind == "rediss":
            assert (str(failed.value) == LACKS) == (not accepted)
