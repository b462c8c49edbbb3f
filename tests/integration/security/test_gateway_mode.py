"""Gateway mode: callers without credentials of the cloud's, and the proxy's own on everything that goes up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from redis.asyncio import Redis

from proxy.core.messages import Fields, Request
from proxy.core.signing import find_signature_fault, parse_signature
from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.demo.filters import Caller
from proxy.demo.seed import ALPHA_PROJECT as PROJECT
from proxy.demo.seed import BETA_PROJECT as OTHER_PROJECT
from tests.support.iam import PASSWORD, IamLookalike
from tests.support.redis import RedisServer
from tests.support.running import ALPHA, Proxy, a_proxy
from tests.support.waiting import until

LIST = "/v2/images?limit=10"
SECRET_KEY = "a made-up secret key"
READS, WRITES = "key-of-the-reader-0123", "key-of-the-writer-0123"
FORGED = {
    "X-Auth-Token": ALPHA,
    "X-Project-Id": "forged",
    "X-Roles": "admin",
    "X-Identity-Status": "Confirmed",
    "X-Security-Token": "forged",
    "Cookie": "session=forged",
}
SIGNING = {"mode": "gateway", "access_key": "AKOWN", "secret_key": SECRET_KEY, "project_id": "own-project"}


def signed_well(call: RecordedCall, secret: str = SECRET_KEY, *, body: bool = False) -> bool:
    """Whether *call* is signed with *secret*, its host and its project with it."""
    request = Request(call.method, call.target, Fields(call.headers.items()), "")
    found = parse_signature(request.fields)
    covers = {"host", "x-sdk-date"} | ({"x-sdk-content-sha256"} if body else {"x-project-id"})
    return (
        found is not None
        and covers <= set(found.signed_names)
        and find_signature_fault(request, found, secret, now=time.time()) is None
    )


def by_signature(upstream: ImsLookalike, secrets: Mapping[str, str]) -> None:
    """Make *upstream* answer who signs with one of *secrets* as project alpha's, and 401 to anyone else."""

    async def authorise(call: RecordedCall) -> web.StreamResponse | None:
        found = parse_signature(Fields(call.headers.items()))
        if found is None or not signed_well(call, secrets.get(found.access_key, "")):
            return web.json_response({"error_code": "APIGW.0301", "error_msg": "signature"}, status=401)
        return None

    upstream.response_hook = authorise
    upstream._authenticate = lambda request: Caller("own", "a1fa0000000000000000000000000001")  # type: ignore[method-assign]


async def test_every_request_goes_up_signed_by_the_proxy(upstream: ImsLookalike) -> None:
    """Lists and what is passed through carry a signature of the proxy's, good for the upstream's own host."""
    by_signature(upstream, {"AKOWN": SECRET_KEY})
    async with a_proxy(upstream.base_url, identity=SIGNING) as proxy:
        first = await proxy.client.ask(LIST, token=None)
        assert first.status == 200, first.body
        assert (await proxy.client.ask(LIST, token="another caller's")).hit
        assert (await proxy.client.ask("/v2/schemas/image", token=None)).status == 200
        assert (await proxy.client.ask("/versions", token=None)).status in (200, 300)
    assert all(call.headers["Host"] == upstream.base_url.removeprefix("http://") for call in upstream.calls)
    assert all(signed_well(call) for call in upstream.calls)


async def test_no_credential_of_a_callers_goes_up(upstream: ImsLookalike) -> None:
    """Whatever a caller says of itself ends at the proxy, on lists and on what is passed through."""
    by_signature(upstream, {"AKOWN": SECRET_KEY})
    async with a_proxy(upstream.base_url, identity=SIGNING) as proxy:
        for target in (LIST, "/v2/schemas/image", "/v2/images?limit=10&limit=11"):
            assert (await proxy.client.ask(target, token=None, fields=FORGED.items())).status == 200
    sent = [(name.lower(), value) for call in upstream.calls for name, value in call.headers.items()]
    assert not {name for name, value in sent if value in FORGED.values()}
    assert {value for name, value in sent if name == "x-project-id"} == {"own-project"}


async def test_it_is_read_only_by_default(upstream: ImsLookalike) -> None:
    """A write is refused in the proxy's own words, and the upstream hears nothing of it."""
    async with a_proxy(upstream.base_url, identity=SIGNING) as proxy:
        for method in ("POST", "PUT", "PATCH", "DELETE", "PROPFIND"):
            answer = await proxy.client.ask("/v2/images/x", method=method, token=None)
            assert answer.status == 403
            assert answer.json()["error_code"] == "PROXY.0403"
    assert not upstream.calls


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
async def test_a_read_stays_one_on_its_way_up(upstream: ImsLookalike, name: str) -> None:
    """To some servers such a field makes a GET a DELETE: none goes up, wherever the request is answered."""
    by_signature(upstream, {"AKOWN": SECRET_KEY})
    async with a_proxy(upstream.base_url, identity=SIGNING) as proxy:
        for target in (LIST, "/v2/images/x", "/v2/images/x/file"):
            await proxy.client.ask(target, token=None, fields=[(name, "DELETE")])
    assert [name in call.headers for call in upstream.calls] == [False] * 3


async def test_a_streamed_body_goes_up_under_an_unsigned_payload(upstream: ImsLookalike) -> None:
    """Where writes are allowed, the signature covers that the body is not covered."""
    async with a_proxy(upstream.base_url, identity={**SIGNING, "allow_writes": True}) as proxy:
        await proxy.client.ask("/v2/images", method="POST", token=None, body=b'{"name": "new"}')
    (call,) = upstream.calls
    assert call.headers["X-Sdk-Content-Sha256"] == "UNSIGNED-PAYLOAD"
    assert signed_well(call, body=True)


@pytest.fixture
def callers(tmp_path: Path) -> Path:
    """A file of two callers."""
    file = tmp_path / "callers.toml"
    file.write_text(f'[ci]\nkey = "{READS}"\n\n[builder]\nkey = "{WRITES}"\nallow_writes = true\n')
    return file


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param({}, 401, id="no key"),
        pytest.param({"X-Api-Key": "made-up"}, 401, id="a made-up key"),
        pytest.param({"X-Api-Key": READS}, 200, id="a key"),
        pytest.param({"Authorization": f"Bearer {READS}"}, 200, id="a bearer"),
        pytest.param({"Authorization": f"bearer {READS}"}, 200, id="schemes have no case"),
        pytest.param({"Authorization": f"Basic {READS}"}, 401, id="another scheme"),
        pytest.param({"Authorization": READS}, 401, id="no scheme"),
        pytest.param({"X-Api-Key": READS, "Authorization": "Bearer made-up"}, 401, id="a good and a bad one"),
        pytest.param({"X-Auth-Token": READS}, 401, id="in a field that is none of ours"),
    ],
)
async def test_callers_are_known_by_their_key(
    upstream: ImsLookalike, callers: Path, fields: dict[str, str], status: int
) -> None:
    """Only a named key lets anyone in, warm store or not, and it goes no further."""
    by_signature(upstream, {"AKOWN": SECRET_KEY})
    async with a_proxy(upstream.base_url, identity={**SIGNING, "api_keys_file": callers}) as proxy:
        assert (await proxy.client.ask(LIST, token=None, X_Api_Key=WRITES)).status == 200
        answer = await proxy.client.ask(LIST, token=None, fields=fields.items())
        assert answer.status == status
        if status == 401:
            assert answer.fields["WWW-Authenticate"] == "Bearer"
            assert READS not in answer.body.decode()
    assert READS not in str([dict(call.headers) for call in upstream.calls])


async def test_each_caller_is_allowed_or_denied_writes(upstream: ImsLookalike, callers: Path) -> None:
    """A caller whose table says so may write, no other."""
    async with a_proxy(upstream.base_url, identity={**SIGNING, "api_keys_file": callers}) as proxy:
        refused = await proxy.client.ask("/v2/images/x", method="DELETE", token=None, X_Api_Key=READS)
        assert refused.status == 403
        allowed = await proxy.client.ask("/v2/images/x", method="DELETE", token=None, X_Api_Key=WRITES)
        assert allowed.json().get("error_code") != "PROXY.0403"
    assert [call.method for call in upstream.calls] == ["DELETE"]


async def test_a_caller_whose_key_is_taken_while_it_waits_is_told_so(
    upstream: ImsLookalike, callers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the fetch that another began, and hears what it would have heard had it come later."""
    monkeypatch.setattr("proxy.config.reload.CHECK_INTERVAL_S", 0.0)
    by_signature(upstream, {"AKOWN": SECRET_KEY})
    authorise, asked, go_on = upstream.response_hook, asyncio.Event(), asyncio.Event()

    async def held(call: RecordedCall) -> web.StreamResponse | None:
        asked.set()
        await go_on.wait()
        assert authorise is not None
        return await authorise(call)

    def leave_the_writer() -> None:
        callers.write_text(f'[builder]\nkey = "{WRITES}"\n')

    upstream.response_hook = held
    async with a_proxy(upstream.base_url, identity={**SIGNING, "api_keys_file": callers}) as proxy:
        leads = asyncio.ensure_future(proxy.client.ask(LIST, token=None, X_Api_Key=WRITES))
        await asked.wait()
        follows = asyncio.ensure_future(proxy.client.ask(LIST, token=None, X_Api_Key=READS))

        async def both_wait() -> bool:
            return await proxy.metric("ims_proxy_collapsed_requests_total") == 1

        await until(both_wait)
        leave_the_writer()
        go_on.set()
        told, served = await asyncio.gather(follows, leads)
    assert (told.status, told.fields["WWW-Authenticate"], told.json()["error_code"]) == (401, "Bearer", "PROXY.0401")
    assert served.status == 200
    assert len(upstream.calls) == 1


async def test_keys_that_rotate_are_read_again(
    upstream: ImsLookalike, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporary keys are taken from their files as they change, and what the old identity saw is not the new one's."""
    monkeypatch.setattr("proxy.config.reload.CHECK_INTERVAL_S", 0.0)
    by_signature(upstream, {"AK1": "first secret", "AK2": "second secret"})
    files = {name: tmp_path / name for name in ("access_key", "secret_key", "security_token")}

    def write(*values: str) -> None:
        for file, value in zip(files.values(), values, strict=True):
            file.write_text(f"{value}\n")

    write("AK1", "first secret", "first token")
    parts: dict[str, Any] = {name: file.read_text().strip() for name, file in files.items()}
    paths = {f"{name}_file": file for name, file in files.items()}
    async with a_proxy(upstream.base_url, identity={"mode": "gateway", **parts, **paths, "project_id": "p"}) as proxy:
        assert (await proxy.client.ask(LIST, token=None)).status == 200
        write("AK2", "second secret", "second token of another length")

        async def asked_anew() -> bool:
            again = await proxy.client.ask(LIST, token=None)
            assert again.status == 200
            return not again.hit

        await until(asked_anew)  # the files count once they have come to rest
    assert [call.headers["X-Security-Token"] for call in upstream.calls] == [
        "first token",
        "second token of another length",
    ]


def with_password(iam: IamLookalike, **more: object) -> dict[str, object]:
    return {
        "mode": "gateway",
        "iam_url": iam.url,
        "user": "robot",
        "domain": "acme",
        "password": PASSWORD,
        "project_id": "a1fa0000000000000000000000000001",
        **more,
    }


async def ask_by_issued_tokens(upstream: ImsLookalike, iam: IamLookalike, proxy: Proxy, query: str) -> int:
    """Ask for a list that was not asked for before, with *upstream* knowing what *iam* has issued."""

    async def know(call: RecordedCall) -> web.StreamResponse | None:
        token = call.headers.get("X-Auth-Token", "")
        if token.startswith("issued-") and token in iam.tokens:
            upstream.tokens[token] = upstream.tokens[ALPHA]
        return None

    upstream.response_hook = know
    return (await proxy.client.ask(f"{LIST}&name={query}", token=None)).status


async def test_a_token_is_fetched_once_and_renewed_in_time(upstream: ImsLookalike, iam: IamLookalike) -> None:
    """One token serves all requests until it is about to end."""
    async with a_proxy(upstream.base_url, identity=with_password(iam)) as proxy:
        assert [await ask_by_issued_tokens(upstream, iam, proxy, query) for query in "abc"] == [200] * 3
    assert iam.issued == 1
    assert {call.headers["X-Auth-Token"][:7] for call in upstream.calls} == {"issued-"}


async def test_a_revoked_token_of_our_own_is_replaced(upstream: ImsLookalike, iam: IamLookalike) -> None:
    """A 401 to the proxy's own token is answered with another token, once, and no caller sees it."""
    async with a_proxy(upstream.base_url, identity=with_password(iam)) as proxy:
        assert await ask_by_issued_tokens(upstream, iam, proxy, "a") == 200
        for name in [name for name in iam.tokens if name.startswith("issued-")]:
            del iam.tokens[name], upstream.tokens[name]
        assert await ask_by_issued_tokens(upstream, iam, proxy, "b") == 200
    assert iam.issued == 2


async def test_without_a_token_to_be_had_what_is_stored_is_given(upstream: ImsLookalike, iam: IamLookalike) -> None:
    """With IAM away and no token, a stored list is given; without one the caller hears of it in the proxy's words."""
    identity, cache = with_password(iam), {"ttl_s": 0.001, "stale_while_revalidate_s": 0, "transient_ttl_s": 0.001}
    async with a_proxy(upstream.base_url, identity=identity, cache=cache) as proxy:
        assert await ask_by_issued_tokens(upstream, iam, proxy, "") == 200
        for name in [name for name in iam.tokens if name.startswith("issued-")]:
            del iam.tokens[name], upstream.tokens[name]
        iam.failing = 503
        stale = await proxy.client.ask(f"{LIST}&name=", token=None)
        assert stale.status == 200
        assert "stale-if-error" in stale.cache_status
        never = await proxy.client.ask(f"{LIST}&name=never", token=None)
        assert never.status == 502
        assert "IAM" in never.json()["error_msg"]
        assert PASSWORD not in never.body.decode()


async def test_on_a_route_of_the_standards_callers_credentials_end_here_too(
    upstream: ImsLookalike, tmp_path: Path
) -> None:
    """All else that a caller sends goes up there; its key does not, nor who it says it is: all share the answer."""
    callers = tmp_path / "callers.toml"
    callers.write_text(f'[reader]\nkey = "{READS}"\n')
    seen: list[RecordedCall] = []

    async def told(call: RecordedCall) -> web.StreamResponse:
        seen.append(call)
        return web.json_response({}, headers={"Cache-Control": "max-age=60"})

    upstream.response_hook = told
    routes = [{"path": "/v2/schemas/*", "honor_vary": True}]
    identity = SIGNING | {"api_keys_file": str(callers)}
    async with a_proxy(upstream.base_url, identity=identity, cache={"routes": routes}) as proxy:
        forged = FORGED | {"X-Api-Key": READS, "X-Http-Method-Override": "DELETE", "X-Harmless": "1"}
        answer = await proxy.client.ask("/v2/schemas/image", token=None, fields=forged.items())
    assert answer.status == 200
    (call,) = seen
    assert signed_well(call)
    assert call.headers["X-Harmless"] == "1"
    assert call.headers["X-Project-Id"] == "own-project"
    assert READS not in str(call.headers)
    assert "forged" not in str(call.headers)
    assert ALPHA not in str(call.headers)
    assert "admin" not in str(call.headers)


async def test_replicas_that_rotate_one_after_the_other_share_no_answers_meanwhile(
    upstream: ImsLookalike, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer, redis: Redis
) -> None:
    """On one Redis each gives what its own identity sees: who has the new key already, and who still has the old."""
    monkeypatch.setattr("proxy.config.reload.CHECK_INTERVAL_S", 0.0)
    projects = {"AK1": PROJECT, "AK2": OTHER_PROJECT}
    by_signature(upstream, dict.fromkeys(projects, SECRET_KEY))

    def seen_by(request: web.BaseRequest) -> Caller:
        found = parse_signature(Fields(request.headers.items()))
        assert found is not None
        return Caller("own", projects[found.access_key])

    upstream._authenticate = seen_by  # type: ignore[method-assign]
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_text("AK1")
    identities = [SIGNING | {"access_key_file": file, "secret": "a secret of the fleet's own"} for file in files]
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(
                a_proxy(upstream.base_url, identity=identity, store={"url": redis_server.url})
            )
            for identity in identities
        ]

        async def shown(proxy: Proxy) -> list[str]:
            return (await proxy.client.ask(LIST, token=None)).ids

        before = await shown(first)
        assert await shown(second) == before
        files[0].write_text("AK2")

        async def changed(proxy: Proxy) -> bool:
            return await shown(proxy) != before  # an answer may be repeated for a second

        await until(lambda: changed(first))
        assert await shown(second) == before
        files[1].write_text("AK2")
        await until(lambda: changed(second))
        assert await shown(second) == await shown(first)
    assert len(upstream.calls) == 2
