"""Redis by TLS, as far as the handshake: which certificates are accepted."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from proxy.errors import StoreUnavailableError
from proxy.storage.redis import connect
from tests.storage.test_tiered import a_replica
from tests.support.certificates import Authority, Pair
from tests.support.ports import free_port
from tests.support.processes import LOOPBACK
from tests.support.redis import RedisServer

pytestmark = pytest.mark.integration

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
        store = connect(url, prefix="p:", keep_s=60.0, timeout_s=10.0)
        try:
            with pytest.raises(StoreUnavailableError) as failed:
                await store.ping()
        finally:
            await store.close()
        assert bool(came) == accepted
        if kind == "rediss":
            assert (str(failed.value) == LACKS) == (not accepted)


# An SSL error ends a connection without its writer being told, and asyncio warns of that when the writer is dropped.
@pytest.mark.filterwarnings("ignore:.*StreamWriter.__del__:pytest.PytestUnraisableExceptionWarning")
async def test_redis_that_hangs_behind_tls_is_found_back(tmp_path: Path) -> None:
    """To close a connection by TLS takes an answer: what does not come ends neither the wait nor the search."""
    authority, port = Authority(tmp_path), free_port()
    pair = authority.pair("redis", LOOPBACK)
    by_tls = {
        "tls-port": port,
        "tls-cert-file": pair.cert,
        "tls-key-file": pair.key,
        "tls-ca-cert-file": authority.file,
    }
    words = [word for name, value in by_tls.items() for word in (f"--{name}", str(value))]
    with RedisServer(tmp_path, options=(*words, "--tls-auth-clients", "no")) as server:
        async with a_replica(f"rediss://{LOOPBACK}:{port}/0?ssl_ca_certs={authority.file}") as store:
            await asyncio.gather(*(store.ping() for _ in range(40)))
            server.pause()
            async with asyncio.timeout(60):
                while not store.breaker.is_open:
                    with suppress(StoreUnavailableError):
                        await store.ping()
            server.resume()
            async with asyncio.timeout(60):
                while store.breaker.is_open:
                    await asyncio.sleep(0.01)
            await store.ping()
