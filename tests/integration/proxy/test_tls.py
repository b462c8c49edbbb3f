"""TLS towards callers and towards the upstream, with certificates made here."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest

from proxy.config import reload as watched
from proxy.demo.app import ImsLookalike
from proxy.runtime.app import run_proxy
from tests.support.certificates import Authority, Pair
from tests.support.commands import ON_FREE_PORTS, command
from tests.support.running import ALPHA, a_client, a_proxy, settings_for

LIST = b"GET /v2/images?limit=2 HTTP/1.1\r\nHost: %b\r\nX-Auth-Token: " + ALPHA.encode() + b"\r\n%b\r\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    """What the server shows: for localhost and 127.0.0.1."""
    return authority.pair("server", "localhost", "127.0.0.1")


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.file)


@dataclass(frozen=True, slots=True)
class Line:
    """A connection by TLS."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def shown(self) -> str:
        """The name on the certificate that the server showed."""
        told = self.writer.get_extra_info("peercert")
        return str(dict(pair for name in told["subject"] for pair in name)["commonName"])

    async def answer(self, host: bytes = b"localhost", target: bytes | None = None) -> tuple[bytes, bytes]:
        """Return head and body of the answer to a request."""
        request = LIST % (host, b"")
        self.writer.write(request if target is None else request.replace(b"/v2/images?limit=2", target))
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        return head, await self.reader.readexactly(int(length.partition(b":")[2]))


@asynccontextmanager
async def connected(url: str, context: ssl.SSLContext, name: str | None = "localhost") -> AsyncIterator[Line]:
    """Connect to *url*, asking for the certificate of *name*; None names none."""
    parts = urlsplit(url)
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port, ssl=context, server_hostname=name or ""
        )
        try:
            yield Line(reader, writer)
        finally:
            writer.close()


def shown(pair: Pair, **more: str) -> dict[str, str]:
    return {"tls_cert": str(pair.cert), "tls_key": str(pair.key), **more}


async def test_callers_speak_tls(upstream: ImsLookalike, authority: Authority, pair: Pair) -> None:
    """A caller that trusts the authority is answered, from memory too, and its links say https."""
    async with run_proxy(settings_for(upstream.base_url, server=shown(pair))) as started:
        assert started.url.startswith("https://")
        assert started.admin_url.startswith("http://")
        async with connected(started.url, trusting(authority)) as line:
            for _ in range(3):
                head, body = await line.answer()
                assert len(orjson.loads(body)["images"]) == 2
            assert b"Cache-Status: ims-proxy; hit" in head
            _, body = await line.answer(host=b"localhost:1", target=b"/versions")
            href = orjson.loads(body)["versions"][0]["links"][0]["href"]
            assert href == "https://localhost:1/v2/"


async def test_a_caller_that_does_not_speak_tls_is_not_answered(upstream: ImsLookalike, pair: Pair) -> None:
    """Plain HTTP on the port gets no answer and no upstream call."""
    async with run_proxy(settings_for(upstream.base_url, server=shown(pair))) as started, asyncio.timeout(60):
        parts = urlsplit(started.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(LIST % (b"x", b""))
        assert not (await reader.read()).startswith(b"HTTP")
        writer.close()
        assert not upstream.calls


async def test_a_version_that_is_too_old_is_refused(upstream: ImsLookalike, authority: Authority, pair: Pair) -> None:
    """With `tls_min_version` 1.3 a caller that speaks 1.2 at the most gets no further than the handshake."""
    async with run_proxy(settings_for(upstream.base_url, server=shown(pair, tls_min_version="1.3"))) as started:
        old = trusting(authority)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with connected(started.url, old):
                pass
        async with connected(started.url, trusting(authority)) as line:
            assert line.writer.get_extra_info("ssl_object").version() == "TLSv1.3"


@pytest.mark.parametrize("name", ["localhost", None], ids=["a name", "no name"])
async def test_a_renewed_certificate_is_shown_without_dropping_a_connection(
    upstream: ImsLookalike, authority: Authority, pair: Pair, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """Who comes after the renewal sees the new one; who is connected goes on; a half-renewed pair changes nothing."""
    monkeypatch.setattr(watched, "CHECK_INTERVAL_S", 0.0)
    context = trusting(authority)
    context.check_hostname = False
    async with (
        run_proxy(settings_for(upstream.base_url, server=shown(pair))) as started,
        connected(started.url, context, name) as before,
    ):
        assert before.shown == "server"
        await before.answer()
        renewed = authority.pair("renewed", "localhost", "127.0.0.1")
        renewed.cert.replace(pair.cert)
        async with connected(started.url, context, name) as meanwhile:
            assert meanwhile.shown == "server"
        renewed.key.replace(pair.key)
        async with connected(started.url, context, name) as after:
            assert after.shown == "renewed"
            await after.answer()
        head, _ = await before.answer()
        assert head.startswith(b"HTTP/1.1 200 ")


async def test_the_command_serves_tls(upstream: ImsLookalike, authority: Authority, pair: Pair, tmp_path: Path) -> None:
    """As it is run, with the event loop that it is run with."""
    names = {f"SERVER__{name.upper()}": value for name, value in shown(pair).items()}
    async with command("serve", "--upstream", upstream.base_url, *ON_FREE_PORTS, at=tmp_path, **names) as proxy:
        url, _ = await proxy.listening()
        async with connected(url, trusting(authority)) as line:
            _, body = await line.answer(host=b"localhost:1", target=b"/versions")
            assert b"https://localhost:1/v2/" in body
            renewed = authority.pair("renewed", "localhost")
            renewed.key.replace(pair.key)
            renewed.cert.replace(pair.cert)
            name = "server"
            async with asyncio.timeout(60):
                while name != "renewed":  # it looks at the files once a second
                    async with connected(url, trusting(authority)) as another:
                        name = another.shown
            await line.answer()


@dataclass
class Upstream:
    """An upstream that speaks TLS: what callers named, and showed, and whether they went on from an earlier session."""

    url: str = ""
    names: list[str | None] = field(default_factory=list)
    shown: list[str | None] = field(default_factory=list)


@asynccontextmanager
async def an_upstream(
    pair: Pair, clients: Authority | None = None, *, most: str = "TLSv1_3"
) -> AsyncIterator[Upstream]:
    """Run an upstream that shows *pair*, and lets in only whom *clients* signed, if given."""
    upstream = Upstream()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    context.maximum_version = ssl.TLSVersion[most]
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients.file)

    def named(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        upstream.names.append(name)

    context.sni_callback = named

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = writer.get_extra_info("peercert") or {}
        subject = dict(pair for name in told.get("subject", ()) for pair in name)
        upstream.shown.append(subject.get("commonName"))
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                last = head.startswith(b"GET /once ")
                closing = b"Connection: close\r\n" if last else b""
                writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: 2\r\n\r\nok" % closing)
                if last:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "localhost", 0, family=2, ssl=context)
    upstream.url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()


async def test_the_upstream_is_trusted_by_its_authority(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    """With `ca_file` its certificate is believed, and it is told by name whom the proxy wants; without, it is not."""
    async with an_upstream(pair) as upstream:
        section = {"url": upstream.url, "ca_file": str(authority.file)}
        async with a_proxy(upstream.url, upstream=section) as proxy:
            assert (await proxy.client.ask("/a")).body == b"ok"
        assert upstream.names == ["localhost"]
        async with a_proxy(upstream.url) as proxy:
            refused = await proxy.client.ask("/a")
        assert (refused.status, refused.json()["error_msg"]) == (
            502,
            "localhost: certificate not accepted, unable to get local issuer certificate",
        )


async def test_a_chain_may_end_at_any_certificate_that_is_trusted(pair: Pair) -> None:
    """On every Python: `ca_file` may hold the certificate of the server alone, without its authority's."""
    async with an_upstream(pair) as upstream:
        section = {"url": upstream.url, "ca_file": str(pair.cert)}
        async with a_proxy(upstream.url, upstream=section) as proxy:
            assert (await proxy.client.ask("/a")).body == b"ok"


async def test_the_command_trusts_whom_the_system_trusts(
    authority: Authority, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An authority of the system's is believed, though what the command loads finds none of them."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    async with (
        an_upstream(pair) as upstream,
        command("serve", "--upstream", upstream.url, *ON_FREE_PORTS, at=tmp_path) as started,
    ):
        url, _ = await started.listening()
        async with a_client(url) as client:
            assert (await client.ask("/a")).body == b"ok"


async def test_a_certificate_of_another_host_is_not_accepted(authority: Authority) -> None:
    """The authority vouches for a name, not for everything that it signed."""
    async with an_upstream(authority.pair("other", "other.example")) as upstream:
        section = {"url": upstream.url, "ca_file": str(authority.file)}
        async with a_proxy(upstream.url, upstream=section) as proxy:
            refused = await proxy.client.ask("/a")
        assert refused.json()["error_msg"] == "localhost: certificate not accepted, it is another host's"


@pytest.mark.parametrize("of_iam", [False, True], ids=["upstream", "IAM"])
async def test_a_certificate_without_key_identifier_is_accepted_on_request(
    upstream: ImsLookalike, tmp_path: Path, caplog: pytest.LogCaptureFixture, of_iam: bool
) -> None:
    """With `tls_strict` the log names what it lacks and the setting, on every Python; without it is believed."""
    authority = Authority(tmp_path, key_identifiers=False)
    async with an_upstream(authority.pair("server", "localhost")) as strange:
        url = upstream.base_url if of_iam else strange.url
        identity = {"mode": "project", "iam_url": strange.url} if of_iam else {}
        for strict in (True, False):
            section = {"url": url, "ca_file": str(authority.file), "tls_strict": strict, "circuit_breaker_failures": 1}
            caplog.clear()
            async with a_proxy(url, upstream=section, identity=identity) as proxy:
                answer = await proxy.client.ask("/v2/images")
            reasons = [each.__dict__["event_fields"]["reason"] for each in caplog.records if each.msg == "circuit_open"]
            lacks = (
                "localhost: certificate not accepted, Missing Authority Key Identifier (RFC 5280): "
                "renew it or its authority's, or set upstream.tls_strict = false"
            )
            assert reasons == ([lacks] if strict else [])
            if not of_iam:
                assert (answer.status, lacks.encode() in answer.body) == ((502, True) if strict else (200, False))
            assert bool(strange.shown) == (not strict)


async def test_an_upstream_that_speaks_too_old_a_version_is_not_asked(authority: Authority, pair: Pair) -> None:
    """With `tls_min_version` 1.3 nothing is sent to one that speaks less."""
    async with an_upstream(pair, most="TLSv1_2") as upstream:
        section = {"url": upstream.url, "ca_file": str(authority.file)}
        async with a_proxy(upstream.url, upstream=section) as proxy:
            assert (await proxy.client.ask("/a")).status == 200
        async with a_proxy(upstream.url, upstream=section | {"tls_min_version": "1.3"}) as proxy:
            refused = await proxy.client.ask("/a")
        assert refused.status == 502
        # whether the alert comes before the end of the connection is the upstream's doing
        assert refused.json()["error_msg"].startswith(("localhost: no TLS connection, ", "localhost: no connection, "))


async def test_a_certificate_is_shown_to_an_upstream_that_asks(
    authority: Authority, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `client_cert` the proxy is let in, with a renewed one by that, and without it is not."""
    monkeypatch.setattr(watched, "CHECK_INTERVAL_S", 0.0)
    (tmp_path / "clients").mkdir()
    clients = Authority(tmp_path / "clients", "clients")
    ours = clients.pair("proxy")
    async with an_upstream(pair, clients) as upstream:
        section = {"url": upstream.url, "ca_file": str(authority.file)}
        async with a_proxy(upstream.url, upstream=section) as proxy:
            assert (await proxy.client.ask("/a", method="POST")).status == 502
        section |= {"client_cert": str(ours.cert), "client_key": str(ours.key)}
        upstream.shown.clear()
        async with a_proxy(upstream.url, upstream=section) as proxy:
            assert (await proxy.client.ask("/a")).status == 200
            assert upstream.shown == ["proxy"]
            renewed = clients.pair("renewed")
            renewed.cert.replace(ours.cert)
            renewed.key.replace(ours.key)
            assert (await proxy.client.ask("/a")).status == 200
            assert upstream.shown == ["proxy", "renewed"]


Spoil = Callable[[Pair, Authority], object]


@pytest.mark.parametrize(
    ("spoil", "setting", "fact"),
    [
        pytest.param(lambda pair, _: pair.cert.unlink(), "tls_cert", "No such file or directory", id="no certificate"),
        pytest.param(lambda pair, _: pair.key.unlink(), "tls_key", "No such file or directory", id="no key"),
        pytest.param(lambda pair, _: pair.cert.write_text("x"), "tls_cert", "holds no certificate", id="noise"),
        pytest.param(lambda pair, _: pair.key.write_text("x"), "tls_key", "holds no private key", id="noise as key"),
        pytest.param(
            lambda pair, authority: authority.pair("another").key.replace(pair.key),
            "tls_key",
            "is not the key of the certificate",
            id="another's key",
        ),
        pytest.param(
            lambda pair, authority: authority.pair("server", passphrase=b"a passphrase"),
            "tls_key",
            "has a passphrase",
            id="a passphrase",
        ),
    ],
)
async def test_what_can_not_be_used_is_said_beforehand(
    authority: Authority, pair: Pair, tmp_path: Path, spoil: Spoil, setting: str, fact: str
) -> None:
    """`check` names setting, file and what is wrong with it, and asks nobody for a passphrase."""
    spoil(pair, authority)
    names = {f"SERVER__{name.upper()}": value for name, value in shown(pair).items()}
    async with command("check", "--upstream", "http://ims", at=tmp_path, **names) as check:
        assert await check.ended() == 2
    file = pair.cert if setting == "tls_cert" else pair.key
    (line,) = check.errors.decode().splitlines()
    assert line.startswith(f"ims-proxy: server.{setting}: {file}: {fact} (")
