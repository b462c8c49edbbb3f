"""Every secret that was used is looked for in everything that the proxy leaves behind or says."""

from __future__ import annotations

import hashlib
import logging
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest
from click.testing import CliRunner
from redis.asyncio import Redis

from proxy.cli import cli
from proxy.core.messages import Fields, Request
from proxy.core.signing import Signing, SigningKey
from proxy.demo.server import Lookalike
from proxy.telemetry import JsonFormatter
from tests.harness.iam import PASSWORD, IamLookalike
from tests.harness.redis import RedisServer
from tests.security.test_attacks import everything
from tests.web.conftest import Proxy, a_proxy

TOKEN, BAD_TOKEN = "demo-token-alpha", "demo-token-of-nobody"
KEY_SECRET, OWN_SECRET = "the-secret-of-a-callers-key", "the-secret-of-the-proxys-key"
CALLER_KEY, ADMIN_TOKEN = "the-key-of-a-caller-0123", "the-token-of-the-operators"
IDENTITY_SECRET, STORE_KEY = "the-secret-of-the-digests", "the-key-that-seals-values"
SECURITY_TOKEN = "the-security-token-of-a-temporary-key"
ADMIN_PATHS = ("/metrics", "/readyz", "/stats", "/", f"/explain?target=/v2/images?tag={BAD_TOKEN[:4]}")
SECRETS = (
    *(TOKEN, BAD_TOKEN, KEY_SECRET, OWN_SECRET, CALLER_KEY, ADMIN_TOKEN),
    *(IDENTITY_SECRET, STORE_KEY, SECURITY_TOKEN, PASSWORD),
)


def spellings(secret: str) -> Iterator[bytes]:
    """Yield *secret* as it might turn up: plain, escaped, encoded, or as a hash that anyone could compute."""
    raw = secret.encode()
    yield from (raw, quote(secret, safe="").encode(), b64encode(raw).rstrip(b"="), raw.hex().encode())
    for name in ("md5", "sha1", "sha256", "sha512"):
        digest = hashlib.new(name, raw, usedforsecurity=False)
        yield from (digest.digest()[:16], digest.hexdigest()[:32].encode())


def leaked(said: bytes) -> list[str]:
    """Return which secrets stand in *said*, by their first letters."""
    return [secret for secret in SECRETS if any(each in said for each in spellings(secret))]


class Heard(logging.Handler):
    """Everything that was logged, by anyone, at any level, as the proxy formats it and as Python would."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep *record*."""
        self.lines += [JsonFormatter().format(record), logging.Formatter().format(record), repr(record.__dict__)]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What is logged while the test runs."""
    handler = Heard()
    root, own = logging.getLogger(), logging.getLogger("ims_proxy")
    levels = root.level, own.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    own.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(levels[0])
    own.setLevel(levels[1])


@pytest.fixture
async def proxies(
    upstream: Lookalike, iam: IamLookalike, redis_server: RedisServer, redis: Redis, tmp_path: Path
) -> AsyncIterator[dict[str, Proxy]]:
    """A proxy in each mode, over one Redis, sealed with a key."""
    files = {"AK": KEY_SECRET, "callers.toml": f'[ci]\nkey = "{CALLER_KEY}"\n'}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    gateway = {"mode": "gateway", "callers": tmp_path / "callers.toml", "project_id": "p"}
    modes: dict[str, dict[str, object]] = {
        "token": {"keys": {"AK": tmp_path / "AK"}},
        "project": {"mode": "project", "iam_url": iam.url, "share_public": True},
        "signing": {**gateway, "access_key": "AKOWN", "secret_key": OWN_SECRET, "security_token": SECURITY_TOKEN},
        "password": {**gateway, "iam_url": iam.url, "user": "u", "domain": "d", "password": PASSWORD},
    }
    store = {"url": redis_server.url, "timeout_ms": 5000, "seal": "mac", "key": STORE_KEY}
    async with AsyncExitStack() as stack:
        yield {
            mode: await stack.enter_async_context(
                a_proxy(
                    upstream.base_url,
                    identity={**identity, "secret": IDENTITY_SECRET},
                    store=store,
                    admin={"token": ADMIN_TOKEN},
                    log={"access": True},
                )
            )
            for mode, identity in modes.items()
        }


async def test_no_secret_stands_in_anything_that_is_kept_or_said(
    proxies: dict[str, Proxy], redis: Redis, heard: Heard
) -> None:
    """Requests good and bad in every mode leave no secret in Redis, logs, metrics, errors or admin answers."""
    said: list[bytes] = []
    targets = ("/v2/images?limit=5", "/v2/images?visibility=public&limit=5", "/v2/images?limit=x", "/v2/images/none")
    for proxy in proxies.values():
        signed = Signing(SigningKey("AK", KEY_SECRET, SECURITY_TOKEN), proxy.client.url.removeprefix("http://"))
        for target in targets:
            by_key = signed.signed(Request("GET", target, Fields(), ""), now=time.time())
            for fields in (
                [("X-Auth-Token", TOKEN)],
                [("X-Auth-Token", quote(TOKEN, safe="").replace("-", "%2D"))],
                [("X-Auth-Token", BAD_TOKEN)],
                [("X-Api-Key", CALLER_KEY)],
                [("X-Api-Key", CALLER_KEY + "x")],
                [("X-Auth-Token", TOKEN), ("X-Subject-Token", BAD_TOKEN), ("Cookie", f"t={BAD_TOKEN}")],
                list(by_key.fields),
            ):
                answer = await proxy.client.ask(target, token=None, fields=fields)
                said += [answer.body, str(list(answer.fields.items())).encode()]
        for broken in (f"GET / HTTP/1.1\r\nX-Auth-Token: {TOKEN}\x01\r\n\r\n", f"{TOKEN} / HTTP/1.1\r\n\r\n"):
            said.append(await proxy.client.raw(broken.encode()))
        order = orjson.dumps({"token_digest": hashlib.sha256(TOKEN.encode()).hexdigest()})
        operator = {"Authorization": f"Bearer {ADMIN_TOKEN}"}.items()
        for token in ("", "x"):
            fields = [*operator] if not token else [("Authorization", f"Bearer {token}")]
            said.append((await proxy.purge(order, fields=fields)).body)
        said += [(await proxy.admin.ask(path, token=None, fields=operator)).body for path in ADMIN_PATHS]
    kept = await everything(redis)
    assert b"IMS2" in kept
    assert b'"images":' in b"".join(said)
    assert leaked(kept) == []
    assert leaked(b"\n".join(said)) == []
    assert heard.lines
    assert leaked("\n".join(heard.lines).encode()) == []


def test_no_secret_stands_in_what_the_command_line_prints(tmp_path: Path) -> None:
    """`check` masks secrets, right or wrong, and `explain` shows of credentials only that they are there."""
    environment = {
        "IMS_PROXY_UPSTREAM__URL": "http://127.0.0.1:1",
        "IMS_PROXY_IDENTITY__SECRET": IDENTITY_SECRET,
        "IMS_PROXY_STORE__KEY": STORE_KEY,
        "IMS_PROXY_ADMIN__TOKEN": ADMIN_TOKEN,
    }
    own = {
        "IMS_PROXY_IDENTITY__MODE": "gateway",
        "IMS_PROXY_IDENTITY__ACCESS_KEY": "AKOWN",
        "IMS_PROXY_IDENTITY__SECRET_KEY": OWN_SECRET,
        "IMS_PROXY_IDENTITY__SECURITY_TOKEN": SECURITY_TOKEN,
    }
    callers = tmp_path / "callers.toml"
    callers.write_text(f'[ci]\nkey = "{CALLER_KEY}"\nkey = 1')
    wrong = {
        "IMS_PROXY_STORE__KEY_PREVIOUS": PASSWORD[:8],
        "IMS_PROXY_IDENTITY__PASSWORD": PASSWORD,
        "IMS_PROXY_IDENTITY__CALLERS": str(callers),
    }
    run = CliRunner()
    good = run.invoke(cli, ["check"], env=environment | own)
    assert good.exit_code == 0, good.output
    bad = run.invoke(cli, ["check"], env=environment | own | wrong)
    assert bad.exit_code == 2
    explained = run.invoke(
        cli, ["explain", "/v2/images", "-H", f"X-Auth-Token: {TOKEN}", "-H", f"Cookie: {BAD_TOKEN}"], env=environment
    )
    assert explained.exit_code == 0, explained.output
    assert leaked((good.output + bad.output + explained.output).encode()) == []
