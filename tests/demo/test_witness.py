"""What tests ask of the witness: throttling, scripts, the calls it remembers, starting and stopping."""

import asyncio

import aiohttp
import pytest
from aiohttp import web

from proxy.demo.app import ImsLookalike, RecordedCall
from proxy.demo.seed import TOKENS, make_demo_catalogue
from proxy.demo.throttle import ThrottlePolicy
from tests.support.demo_images import Ask


async def test_throttling_is_per_project_and_announced() -> None:
    """Each project has its own window, whatever is asked in it, and is told what is left."""
    now = 1_000.0
    async with (
        ImsLookalike(make_demo_catalogue(8), TOKENS, throttle=ThrottlePolicy(2, 60), clock=lambda: now) as lookalike,
        aiohttp.ClientSession(base_url=lookalike.base_url) as client,
    ):

        async def listed(token: str, target: str = "/v2/images") -> tuple[int, str | None, dict[str, object]]:
            async with client.get(target, headers={"X-Auth-Token": token}) as response:
                return response.status, response.headers.get("X-Apig-RateLimit-User"), await response.json()

        assert (await listed("demo-token-alpha"))[:2] == (200, "remain:1,limit:2,time:1 minute")
        bad_request = await listed("demo-token-alpha-reader", "/v2/images?limit=x")
        assert bad_request[:2] == (400, "remain:0,limit:2,time:1 minute")
        status, header, body = await listed("demo-token-alpha")
        assert (status, header, body["error_code"]) == (429, None, "APIGW.0308")
        assert (await listed("demo-token-beta"))[0] == 200
        assert (await listed("demo-token-alpha", "/versions"))[:2] == (200, None)
        assert (await listed("demo-token-unknown"))[0] == 401
        now += 60
        assert (await listed("demo-token-alpha"))[:2] == (200, "remain:1,limit:2,time:1 minute")


async def test_a_script_answers_instead_or_lets_the_answer_come(lookalike: ImsLookalike, ask: Ask) -> None:
    """A script's answer takes the place of the API's, and None lets that come."""

    async def once_unavailable(call: RecordedCall) -> web.StreamResponse | None:
        return web.Response(status=503, text=call.target) if len(lookalike.calls) == 1 else None

    lookalike.response_hook = once_unavailable
    response, body = await ask("GET", "/v2/images?limit=1")
    assert (response.status, body) == (503, b"/v2/images?limit=1")
    response, _ = await ask("GET", "/v2/images?limit=1")
    assert response.status == 200
    assert [call.status for call in lookalike.calls] == [503, 200]
    assert lookalike.call_counts == {"GET /v2/images": 2}


async def test_a_call_is_seen_while_it_waits(lookalike: ImsLookalike, ask: Ask) -> None:
    """A call is noted when it arrives, and its status when it is answered."""
    arrived, gate = asyncio.Event(), asyncio.Event()

    async def held(_: RecordedCall) -> web.StreamResponse | None:
        arrived.set()
        await gate.wait()
        return None

    lookalike.response_hook = held
    asking = asyncio.create_task(ask("GET", "/v2/images"))
    async with asyncio.timeout(60):
        await arrived.wait()
        assert [(call.method, call.status) for call in lookalike.calls] == [("GET", None)]
        gate.set()
        response, _ = await asking
    assert response.status == lookalike.calls[0].status == 200


async def test_a_script_can_hang_up(lookalike: ImsLookalike, ask: Ask) -> None:
    """A script that hangs up breaks the connection before there is an answer."""

    async def cut(call: RecordedCall) -> web.StreamResponse | None:
        call.abort_connection()
        return None

    lookalike.response_hook = cut
    with pytest.raises(aiohttp.ClientConnectionError):
        await ask("POST", "/v2/images", body={})


async def test_no_token_shows_in_a_call_that_is_printed(lookalike: ImsLookalike, ask: Ask) -> None:
    """A call has its token and does not print it."""
    await ask("GET", "/v2/images")
    assert lookalike.calls[0].headers["X-Auth-Token"] == "demo-token-alpha"
    assert "demo-token" not in repr(lookalike.calls[0])


async def test_it_forgets_and_starts_again(lookalike: ImsLookalike, ask: Ask) -> None:
    """It forgets its calls, closes twice, and starts again on the same port."""
    await ask("GET", "/v2/images")
    lookalike.clear_recorded_calls()
    assert (len(lookalike.calls), lookalike.call_counts.total()) == (0, 0)
    before = lookalike.base_url
    await lookalike.close()
    await lookalike.close()
    assert await lookalike.start(port=int(before.rpartition(":")[2])) == before
    response, _ = await ask("GET", "/v2/images")
    assert response.status == 200


async def test_a_port_that_is_taken_is_an_error(lookalike: ImsLookalike) -> None:
    """To start on a port that is taken raises `OSError`."""
    other = ImsLookalike(make_demo_catalogue(0), TOKENS)
    with pytest.raises(OSError, match="address already in use"):
        await other.start(port=int(lookalike.base_url.rpartition(":")[2]))
    await other.close()


async def test_latency_is_slept(lookalike: ImsLookalike, ask: Ask) -> None:
    """An answer takes at least the latency that is set."""
    lookalike.latency_s = 0.05
    began = asyncio.get_running_loop().time()
    await ask("GET", "/v2/images")
    assert asyncio.get_running_loop().time() - began >= 0.05
