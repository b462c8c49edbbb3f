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
from aiohttp import web
from click.testing import CliRunner
from redis.asyncio import Redis

from proxy.cli import cli
from proxy.core.messages import Fields, Request
from proxy.core.signing import RequestSigner, SigningKey
from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.observability.logging import JsonFormatter
from proxy.upstream.keystone import IssuedToken
from tests.integration.security.test_attacks import everything
from tests.support.iam import PASSWORD, SECRET_KEY, IamLookalike
from tests.support.redis import RedisServer
from tests.support.running import Proxy, a_proxy, settings_for

TOKEN, BAD_TOKEN = "demo-token-alpha", "demo-token-of-nobody"
KEY_SECRET, OWN_SECRET = "the-secret-of-a-callers-key", "the-secret-of-the-proxys-key"
CALLER_KEY, ADMIN_TOKEN = "the-key-of-a-caller-0123", "the-token-of-the-operators"
IDENTITY_SECRET, STORE_KEY = "the-secret-of-the-digests", "the-key-that-seals-values"
SECURITY_TOKEN = "the-security-token-of-a-temporary-key"
ADMIN_PATHS = ("/metrics", "/readyz", "/stats", "/", f"/explain?target=/v2/images?tag={BAD_TOKEN[:4]}")
REDIS_PASSWORD = "the-password-of-the-redis"
SECRETS = (
    *(TOKEN, BAD_TOKEN, KEY_SECRET, OWN_SECRET, CALLER_KEY, ADMIN_TOKEN),
    *(IDENTITY_SECRET, STORE_KEY, SECURITY_TOKEN, PASSWORD, SECRET_KEY, REDIS_PASSWORD),
)


def spellings(secret: str) -> Iterator[bytes]:
    """Yield *secret* as it might turn up: plain, escaped, encoded, or as a hash that anyone could compute."""
    raw = secret.encode()
    yield from (raw, quote(secret, safe="").encode(), b64encode(raw).rstrip(b"="), raw.hex().encode())
    for name in ("md5", "sha1", "sha256", "sha512"):
        digest = hashlib.new(name, raw, usedforsecurity=False)
        yield from (digest.digest()[:16], digest.hexdigest()[:32].encode())


def leaked(said: bytes, *more: str) -> list[str]:
    """Return which secrets stand in *said*; *more* are those that were made during the run."""
    return [secret for secret in (*SECRETS, *more) if any(each in said for each in spellings(secret))]


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
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    """A client of a Redis that asks for a password."""
    with RedisServer(tmp_path, options=("--requirepass", REDIS_PASSWORD)) as server:
        client: Redis = Redis.from_url(f"redis://:{REDIS_PASSWORD}@127.0.0.1:{server.port}/0")
        yield client
        await client.aclose()


@pytest.fixture
async def proxies(
    upstream: ImsLookalike, iam: IamLookalike, redis: Redis, tmp_path: Path
) -> AsyncIterator[dict[str, Proxy]]:
    """A proxy in each mode, over one Redis, sealed with a key; the upstream knows what IAM issues."""

    async def know(_: RecordedCall) -> web.StreamResponse | None:
        upstream.tokens |= dict.fromkeys(issued(iam), upstream.tokens[TOKEN])
        return None

    upstream.response_hook = know
    files = {"AK": KEY_SECRET, "callers.toml": f'[ci]\nkey = "{CALLER_KEY}"\n'}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    gateway = {"mode": "gateway", "api_keys_file": tmp_path / "callers.toml", "project_id": "p"}
    modes: dict[str, dict[str, object]] = {
        "token": {"access_keys": {"AK": tmp_path / "AK"}},
        "project": {"mode": "project", "iam_url": iam.url, "share_public": True},
        "signing": {**gateway, "access_key": "AKOWN", "secret_key": OWN_SECRET, "security_token": SECURITY_TOKEN},
        "password": {**gateway, "iam_url": iam.url, "user": "u", "domain": "d", "password": PASSWORD},
        "exchange": {
            **gateway,
            "iam_url": iam.url,
            "access_key": "AK2",
            "secret_key": SECRET_KEY,
            "access_key_use": "token",
        },
    }
    port = redis.connection_pool.connection_kwargs["port"]
    url = f"redis://:{REDIS_PASSWORD}@127.0.0.1:{port}/0"
    store = {"url": url, "seal": "mac", "key": STORE_KEY}
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


def issued(iam: IamLookalike) -> list[str]:
    """Return the tokens that *iam* gave to proxies."""
    return [name for name in iam.tokens if name.startswith("issued-")]


async def test_no_secret_stands_in_anything_that_is_kept_or_said(
    proxies: dict[str, Proxy], redis: Redis, iam: IamLookalike, heard: Heard
) -> None:
    """Requests good and bad in every mode leave no secret in Redis, logs, metrics, errors or admin answers."""
    said: list[bytes] = []
    targets = ["/v2/images?limit=5", "/v2/images?visibility=public&limit=5", "/v2/images?limit=x"]
    targets += ["/v2/images/none", "/v2/schemas/image", "/v2/schemas/images", "/versions"]
    for proxy in proxies.values():
        signed = RequestSigner(SigningKey("AK", KEY_SECRET, SECURITY_TOKEN), proxy.client.url.removeprefix("http://"))
        for target in targets:
            by_key = signed.sign(Request("GET", target, Fields(), ""), now=time.time())
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
    assert b"IMS3" in kept
    assert b'"images":' in b"".join(said)
    assert b":own:" in kept
    made = issued(iam)
    assert len(made) == 2
    assert leaked(kept, *made) == []
    assert leaked(b"\n".join(said), *made) == []
    assert heard.lines
    assert leaked("\n".join(heard.lines).encode(), *made) == []


def test_no_secret_stands_in_the_settings_as_python_shows_them(tmp_path: Path) -> None:
    """A traceback, a debugger or a log of settings shows stars, and no password that stands in a URL."""
    settings = settings_for(
        "http://127.0.0.1:1",
        identity={"secret": IDENTITY_SECRET, "secret_key": OWN_SECRET, "security_token": SECURITY_TOKEN}
        | {"password": PASSWORD, "access_keys": {"AK": tmp_path / "AK"}},
        store={"url": f"redis://:{REDIS_PASSWORD}@127.0.0.1:1/0", "key": STORE_KEY, "key_previous": STORE_KEY},
        admin={"token": ADMIN_TOKEN},
    )
    shown = (repr(settings), str(settings), repr(settings.store), str(settings.identity), repr(vars(settings)))
    assert "AK" in shown[0]
    assert leaked("\n".join(shown).encode()) == []
    issued_token, key = IssuedToken(BAD_TOKEN, 0.0, 1.0), SigningKey("AK", KEY_SECRET, SECURITY_TOKEN)
    assert leaked(f"{issued_token!r} {key!r} {RequestSigner(key, 'host')!r}".encode()) == []


def test_no_secret_stands_in_what_the_command_line_prints(tmp_path: Path) -> None:
    """`check` masks secrets, right or wrong, and `explain` shows of credentials only that they are there."""
    environment = {
        "IMS_PROXY_UPSTREAM__URL": "http://127.0.0.1:1",
        "IMS_PROXY_IDENTITY__SECRET": IDENTITY_SECRET,
        "IMS_PROXY_STORE__KEY": STORE_KEY,
        "IMS_PROXY_STORE__URL": f"redis://u:{REDIS_PASSWORD}@127.0.0.1:1/0",
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
        "IMS_PROXY_IDENTITY__API_KEYS_FILE": str(callers),
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
