"""Requests like one that was answered before: over real sockets, with a clock held by hand."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from email.utils import formatdate

import pytest

from proxy.core.cache_key import ALL_TAG
from proxy.core.messages import Fields, Response
from proxy.core.purge import PurgeOrder
from proxy.server.fast_path import HeadDigester
from tests.support.listings import ROWS
from tests.support.model import Model
from tests.support.server_world import LIFETIME_S, World, a_world, head


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A front before an upstream with one listing."""
    async with a_world() as made:
        yield made


async def test_repeats(world: World) -> None:
    """The same bytes get the same answer again without a walk through the gateway, and each is counted."""
    line = await world.warm()
    counted = world.counted()
    answers = [await line.get() for _ in range(5)]
    assert world.gateway.whole == 0
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert all(answer.fields["Cache-Status"] == "ims-proxy; hit; ttl=59" for answer in answers)
    assert len({answer.fields["X-Request-Id"] for answer in answers}) == 5
    assert world.counted() == counted + 5


async def test_another_connection(world: World) -> None:
    """An answer is repeated on a connection that never asked before."""
    await world.warm()
    await (await world.line()).get()
    assert world.gateway.whole == 0


async def test_same_as_the_whole_way(world: World) -> None:
    """A repeated answer differs in nothing but its request id from the one that went the whole way."""
    line = await world.warm()
    repeated = await line.get(X_Request_Id="mine")
    assert world.gateway.whole == 0
    whole = await line.get(X_Request_Id="mine", X_Unheard_Of="\N{LATIN SMALL LETTER E WITH ACUTE}")
    assert world.gateway.whole == 1
    assert repeated == whole


async def test_fields_that_decide_nothing(world: World) -> None:
    """A request that differs in what nothing is decided by gets the same answer at once, each time."""
    line = await world.warm()
    body = (await line.get()).body
    for number in range(5):
        answer = await line.get(
            User_Agent=f"agent/{number}", Traceparent=f"00-{number:032x}-{number:016x}-01", Connection="keep-alive"
        )
        assert answer.body == body
    assert world.gateway.whole == 0


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"Content_Length": "0"}, id="length"),
        pytest.param({"TE": "trailers"}, id="codings"),
        pytest.param({"Connection": "X-Auth-Token"}, id="named by Connection"),
        pytest.param({"X_Old": "\N{LATIN SMALL LETTER E WITH ACUTE}"}, id="old bytes"),
    ],
)
async def test_unusual_heads(world: World, other: dict[str, str]) -> None:
    """What is not plain goes to the parser, though it may be answered the same."""
    line = await world.warm()
    await line.get(**other)
    assert world.gateway.whole == 1


async def test_request_ids(world: World) -> None:
    """The caller's id is echoed though it is another one each time, and one that is not sane is not."""
    line = await world.warm(X_Request_Id="first")
    assert (await line.get(X_Request_Id="second")).fields["X-Request-Id"] == "second"
    assert world.gateway.whole == 0
    assert (await line.get(X_Request_Id="not sane")).fields["X-Request-Id"] not in ("not sane", "second")
    assert world.gateway.whole == 1


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"token": "beta"}, id="token"),
        pytest.param({"target": "/v2/images?limit=4"}, id="window"),
        pytest.param({"Accept_Encoding": "gzip"}, id="coding"),
        pytest.param({"X_Api_Version": "M"}, id="variant"),
        pytest.param({"method": "HEAD"}, id="method"),
        pytest.param({"X_Auth_Token": "beta"}, id="second token"),
        pytest.param({"Authorization": "Basic eA=="}, id="second credential"),
    ],
)
async def test_other_bytes(world: World, other: dict[str, str]) -> None:
    """Whatever else differs goes the whole way."""
    line = await world.warm()
    await line.send(head(**other))
    await line.answer(bodiless=other.get("method") == "HEAD")
    assert world.gateway.whole == 1


async def test_two_tokens(world: World) -> None:
    """Two tokens whose requests alternate on one connection each get what is theirs."""
    line = await world.line()
    alpha = await line.get(token="alpha")
    world.upstream.model = Model(("theirs",))
    beta = await line.get(token="beta")
    world.hand.now += 0.25
    for _ in range(3):
        assert (await line.get(token="alpha")).body == alpha.body
        assert (await line.get(token="beta")).body == beta.body
    assert world.gateway.whole == 4
    assert alpha.body != beta.body


async def test_head_and_not_modified(world: World) -> None:
    """HEAD and 304 are repeated as they were, without a body."""
    line = await world.line()
    tag = (await line.get()).fields["ETag"]
    world.hand.now += 0.25
    for request in (head("HEAD"), head(If_None_Match=tag)):
        answers = []
        for _ in range(3):
            await line.send(request)
            answers.append(await line.answer(bodiless=True))
        assert len({(answer.status, answer.fields["ETag"]) for answer in answers}) == 1
    assert answers[-1].status == 304
    assert world.gateway.whole == 3


async def test_gzip(world: World) -> None:
    """Each coding is repeated to those who asked for it."""
    plain = await world.warm(target="/v2/images?limit=50")
    packed = await world.warm(target="/v2/images?limit=50", Accept_Encoding="gzip")
    world.gateway.whole = 0
    assert (await plain.get(target="/v2/images?limit=50")).body.startswith(b"{")
    answer = await packed.get(target="/v2/images?limit=50", Accept_Encoding="gzip")
    assert answer.body.startswith(b"\x1f\x8b")
    assert answer.fields["Content-Encoding"] == "gzip"
    assert world.gateway.whole == 0


async def test_age(world: World) -> None:
    """Age, lifetime and what is left are those of the moment, second by second, until the upstream is asked again."""
    line = await world.warm()
    began = world.hand.now
    for second in range(int(LIFETIME_S)):
        world.hand.now = began + second
        for _ in range(2):
            answer = await line.get()
            assert answer.fields["Age"] == str(second)
            assert answer.fields["Cache-Control"] == f"private, max-age={59 - second}"
            assert answer.fields["Cache-Status"] == f"ims-proxy; hit; ttl={59 - second}"
            assert answer.date == formatdate(int(world.hand.now), usegmt=True)
    assert not world.upstream.targets
    assert world.gateway.whole == 0
    world.hand.now = began + LIFETIME_S
    assert (await line.get()).fields["Cache-Status"].startswith("ims-proxy; fwd=")


async def test_clock_steps_back(world: World) -> None:
    """What was remembered at a time that has not come yet is not given."""
    line = await world.warm()
    world.hand.now -= 3600
    await line.get()
    assert world.gateway.whole == 1


async def test_verdict() -> None:
    """When the acceptance of the token ends, so does the repeating, and the upstream is asked."""
    async with a_world(verdict_ttl_s=0.5) as world:
        line = await world.warm()
        await line.get()
        assert world.gateway.whole == 0
        world.hand.now += 0.25
        await line.get()
        assert len(world.upstream.targets) == 1


async def test_write(world: World) -> None:
    """After a write has succeeded, nobody gets what was there before it."""
    line = await world.warm()
    world.upstream.model = Model(("new", *ROWS))
    writer = await world.line()
    await writer.send(head("DELETE", "/v2/images/i001"))
    assert (await writer.answer()).status == 204
    assert b'"new"' in (await line.get()).body


async def test_purge(world: World) -> None:
    """After a purge the upstream is asked."""
    line = await world.warm()
    await world.gateway.purge(PurgeOrder((ALL_TAG,)))
    await line.get()
    assert len(world.upstream.targets) == 1


async def test_rejected_token(world: World) -> None:
    """A 401 to the token, on any path, ends the repeating of what it was shown."""
    line = await world.warm()
    world.upstream.status = 401
    await line.send(head(target="/v2/images/i001"))
    assert (await line.answer()).status == 401
    await line.get()
    assert len(world.upstream.targets) == 1


async def test_strangers(world: World) -> None:
    """A 401 to made-up tokens, on any path, leaves what others are shown; one to a token among those does not."""
    line, stranger = await world.warm(), await world.line()
    world.upstream.status = 401
    world.upstream.failing = Response(401, Fields([("Content-Length", "0")]))
    for number in range(3):
        for target in ("/v2/images?limit=3", "/v2/images/i001", "/v2/images/i001/members"):
            await stranger.send(head(target=target, token=f"made-up-{number}"))
            assert (await stranger.answer()).status == 401
    whole = world.gateway.whole
    assert (await line.get()).status == 200
    assert world.gateway.whole == whole
    await stranger.send(head(target="/v2/images/i001/members"))
    assert (await stranger.answer()).status == 401
    assert (await line.get()).status == 401


async def test_401_of_the_list(world: World) -> None:
    """A 401 in the place of a list is never repeated."""
    world.upstream.failing = Response(401, Fields([("Content-Length", "0")]))
    line = await world.line()
    for count in range(1, 4):
        assert (await line.get()).status == 401
        assert len(world.upstream.targets) == count


async def test_refreshed(world: World) -> None:
    """Who has seen a newer list, having asked for one, does not get the older one again."""
    line = await world.warm()
    world.upstream.model = Model(("new", *ROWS))
    assert b'"new"' in (await line.get(Cache_Control="no-cache")).body
    assert b'"new"' in (await line.get()).body


async def test_directives(world: World) -> None:
    """A caller with demands on age or lifetime is looked at each time."""
    line = await world.warm(Cache_Control="max-age=10")
    await line.get(Cache_Control="max-age=10")
    assert world.gateway.whole == 1


async def test_drain(world: World) -> None:
    """Once the memory is closed nothing is repeated, and nothing remembered."""
    line = await world.warm()
    world.memo.close()
    await line.get()
    await line.get()
    assert world.gateway.whole == 2
    assert len(world.memo) == 0


async def test_pipelined(world: World) -> None:
    """Two heads in one packet are answered in order, the whole way, and the connection is as good as before."""
    line = await world.warm()
    await line.send(head() + head(target="/v2/images?limit=4"))
    assert (await line.answer()).body != (await line.answer()).body
    assert world.gateway.whole == 2
    await line.get()
    await line.get()
    assert world.gateway.whole <= 3


async def test_second_head_before_the_answer(world: World) -> None:
    """A head that comes while another is under way waits for its turn, though its answer is at hand."""
    line = await world.warm()
    world.upstream.gate.clear()
    await line.send(head(target="/v2/images?limit=9"))
    async with asyncio.timeout(60):
        await world.upstream.asked.wait()
    await line.send(head())
    world.upstream.gate.set()
    assert b"limit=9" in (await line.answer()).body
    assert b"limit=3" in (await line.answer()).body


@pytest.mark.parametrize("at", [1, 4, 20, len(head()) - 4, len(head()) - 1])
async def test_split(world: World, at: int) -> None:
    """A head in two packets is one head, and the second packet is none, whatever it looks like."""
    line = await world.warm()
    request = head()
    await line.send(request[:at])
    await (await world.line()).get(target="/v2/images?limit=7")  # by its answer, what was sent before has arrived
    await line.send(request[at:])
    assert (await line.answer()).status == 200
    assert world.gateway.whole == 2
    await line.get()
    await line.get()
    assert world.gateway.whole <= 3


async def test_body_that_looks_like_a_head(world: World) -> None:
    """What a request carries is its body, though the same bytes as a head would have an answer."""
    line = await world.warm()
    await line.send(head("PUT", "/v2/images/i001/file", Content_Length=str(len(head()))))
    await line.send(head())
    assert (await line.answer()).status == 204
    assert world.gateway.whole == 1


async def test_list_with_a_body(world: World) -> None:
    """A request with a body is never repeated: it is passed through each time."""
    line = await world.line()
    for _ in range(3):
        await line.send(head(Content_Length="2") + b"{}")
        await line.answer()
    assert world.gateway.whole == 3
    assert len(world.memo) == 0


@pytest.mark.parametrize("fields", [{"Connection": "close"}, {"version": "1.0"}], ids=["close", "HTTP/1.0"])
async def test_last_request(world: World, fields: dict[str, str]) -> None:
    """The last request of a connection goes the whole way, and the connection is closed after it."""
    await world.warm()
    for count in (1, 2):
        line = await world.line()
        answer = await line.get(**fields)
        assert answer.status == 200
        assert await line.ended()
        assert world.gateway.whole == count


async def test_in_use(world: World) -> None:
    """The store hears once in a second, not more, that what it gave is in use."""
    line = await world.warm()
    for _ in range(3):
        world.hand.now += 1.0
        for _ in range(5):
            await line.get()
    assert world.gateway.whole == 0
    assert world.store.uses == 3


async def test_flood(world: World) -> None:
    """Heads that come once or twice push out each other, and not one that comes all the time; no bound is exceeded."""
    line = await world.warm()
    for number in range(1200):
        for _ in range(2):
            await line.get(Accept=f"text/{number}")
        if number % 50 == 0:
            world.hand.now += 0.5
            world.gateway.whole = 0
            await line.get()
            assert world.gateway.whole == 0, number
    assert len(world.memo) < 1000
    assert world.memo.stored_bytes <= 1 << 20


async def test_what_decides(world: World) -> None:
    """Nothing is decided by a field that is not compared: those who decide don't see it."""
    line = await world.line()
    await line.get(User_Agent="agent", X_Trace="1", If_None_Match="none")
    assert world.door.shown == {"x-auth-token", "if-none-match"}


async def test_a_second_ends(world: World) -> None:
    """What a repeated answer says in whole seconds is what one says that goes the whole way at that moment."""
    line = await world.warm()
    for _ in range(3):
        world.hand.now += 0.9
        repeated = await line.get(X_Request_Id="mine")
        assert world.gateway.whole == 0
        whole = await line.get(X_Request_Id="mine", TE="trailers")
        assert repeated == whole
        world.gateway.whole = 0


async def test_nothing_is_kept_of_a_head(world: World) -> None:
    """When a connection has ended, nothing that came over it is held: a token least of all."""
    line = await world.warm(token="a-token-that-is-nowhere-else")
    line.writer.close()
    await line.writer.wait_closed()
    await (await world.line()).get(token="beta")  # by its answer, the end of the other has arrived
    kept = [each for each in gc.get_objects() if isinstance(each, HeadDigester)]
    assert not any(
        b"nowhere-else" in getattr(each, name) for each in kept for name in ("_last_head", "_last_relevant_head")
    )


@pytest.mark.parametrize("target", ["/v2/images?limit=3&name=", "/v2/cloudimages?limit=3&name="])
@pytest.mark.parametrize("length", [1, 10_000])
async def test_no_more_is_kept_than_is_counted(target: str, length: int) -> None:
    """Neither long queries nor long tokens take more memory than there is for answers to be given again."""
    async with a_world() as world:
        line = await world.warm()
        tracemalloc.start()
        try:
            for number in range(20):
                for _ in range(2):
                    await line.get(target=f"{target}{number}{length * 'n'}", token=f"{number}{length * 't'}")
            await line.get()  # now the connection keeps no long head
            counted = world.memo.stored_bytes
            gc.collect()
            taken, _ = tracemalloc.get_traced_memory()
            world.memo.close()
            gc.collect()
            left, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken - left < counted
