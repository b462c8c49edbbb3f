"""What a request for a resource costs upstream, and what its callers get."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.core.cache_key import ALL_TAG, CacheKey
from proxy.core.cache_status import FwdReason
from proxy.core.routes import Forward
from proxy.errors import NotCachedError, RateLimitedError, UpstreamTimeoutError, UpstreamUnreachableError
from proxy.resources.request import ResourceRequest
from proxy.storage.base import FetchLock
from tests.support.listings import unreachable
from tests.support.resources import IMAGE, MOST_BYTES, Resources, says

TAGGED = ("ETag", '"a"')
LASTS = ("Cache-Control", "max-age=60")


@pytest.fixture
async def world() -> AsyncIterator[Resources]:
    """Resources with a lifetime of 60 s, given stale for 10, and for 100 while the upstream fails."""
    made = Resources()
    yield made
    made.upstream.gate.set()
    await made.gateway.close()


async def test_a_miss_asks_once_and_a_hit_not_at_all(world: Resources) -> None:
    """The second tells its age and what is left."""
    first = await world.get()
    assert (first.cache_status.fwd, first.cache_status.fwd_status) == (FwdReason.URI_MISS, 200)
    assert first.cache_status.stored
    world.hand.now += 7
    second = await world.get()
    assert (second.response.body, second.response.fields.get("age")) == (IMAGE, "7")
    assert (second.cache_status.fwd, second.cache_status.ttl_s) == (None, 53.0)
    assert second.replay_terms is not None
    assert len(world.upstream.requests) == 1


async def test_only_what_is_keyed_goes_upstream(world: Resources) -> None:
    """The token, the form of the API and what an answer may be negotiated by; nothing that could poison one."""
    await world.get(
        "/v2/images/a?x=1",
        X_Forwarded_Host="evil.example",
        X_Original_URL="/v2/other",
        X_Project_Id="beta",
        Accept="text/html;q=0.5,  application/JSON",
        X_Api_Version="S",
        User_Agent="a client",
        If_None_Match='"theirs"',
        Range="bytes=0-1",
        Accept_Encoding="br",
    )
    (request,) = world.upstream.requests
    assert (request.method, request.target) == ("GET", "/v2/images/a?x=1")
    assert {name.lower(): value for name, value in request.fields} == {
        "x-auth-token": "alpha",
        "accept": "application/json,text/html;q=0.5",
        "x-api-version": "Q",
        "accept-encoding": "identity",
        "user-agent": "ims-cache-proxy",
        "x-request-id": "request-id",
        "via": "1.1 ims-proxy",
    }


@pytest.mark.parametrize(
    "other",
    [
        {"token": "beta"},
        {"X_Api_Version": "A"},
        {"Accept": "text/plain"},
        {"Accept_Language": "de"},
        {"target": "/v2/images/a?b"},
    ],
)
async def test_what_may_make_an_answer_another_is_never_shared(world: Resources, other: dict[str, str]) -> None:
    """Partition, form, negotiation, query."""
    await world.get()
    await world.get(**other)
    assert len(world.upstream.requests) == 2


async def test_head_is_answered_by_the_same(world: Resources) -> None:
    """And a miss by HEAD brings the whole, for whoever comes next."""
    first = await world.get(method="HEAD")
    assert (first.response.body, world.upstream.requests[0].method) == (IMAGE, "GET")
    assert (await world.get()).cache_status.fwd is None
    assert len(world.upstream.requests) == 1


async def test_who_has_an_answer_is_told_so(world: Resources) -> None:
    """By the tag that it got, on a miss and on a hit; and a part of it is cut out here."""
    tag = (await world.get()).response.fields.get("etag") or ""
    assert (await world.get(If_None_Match=tag)).response.status == 304
    world.hand.now += 1000
    assert (await world.get(If_None_Match=tag)).response.status == 304
    assert (await world.get(Range="bytes=0-4")).response.body == IMAGE[:5]
    assert len(world.upstream.requests) == 2


async def test_a_stale_answer_is_asked_about_by_its_validators(world: Resources) -> None:
    """A 304 makes it fresh again, with the newer fields, and costs no body."""
    world.upstream.script = [says(TAGGED, LASTS, ("A", "1")), says(TAGGED, LASTS, ("A", "2"), status=304, body=b"")]
    await world.get("/own/a")
    world.hand.now += 61
    got = await world.get("/own/a")
    assert world.upstream.last("if-none-match") == ['"a"']
    assert (got.response.status, got.response.body, got.response.fields.get_all("a")) == (200, IMAGE, ["2"])
    assert (got.cache_status.fwd, got.cache_status.fwd_status, got.cache_status.stored) == (FwdReason.STALE, 304, True)
    world.hand.now += 59
    assert (await world.get("/own/a")).cache_status.fwd is None


@pytest.mark.parametrize(
    ("target", "line"),
    [
        pytest.param("/v2/images/a", ("Set-Cookie", "session=s3cr3t"), id="a cookie"),
        pytest.param("/v2/images/a", ("X-Subject-Token", "s3cr3t"), id="a token"),
        pytest.param("/v2/images/a", ("Cache-Control", "private"), id="private"),
        pytest.param("/v2/images/a", ("Cache-Control", "no-store"), id="no-store"),
        pytest.param("/public/a", ("Vary", "X-Auth-Token"), id="depends on the token"),
        pytest.param("/public/a", ("Set-Cookie", "session=s3cr3t"), id="a cookie, for everyone"),
    ],
)
async def test_a_304_that_is_about_who_asked_is_for_nobody_else(
    world: Resources, target: str, line: tuple[str, str]
) -> None:
    """What a whole answer may not be stored with it may not be given by a 304: who asked gets it, and it ends there."""
    world.upstream.script = [says(TAGGED, LASTS), says(TAGGED, line, status=304, body=b""), says(TAGGED, LASTS)]
    await world.get(target)
    world.hand.now += 300
    own = await world.get(target)
    assert (own.response.status, own.response.body, own.cache_status.stored) == (200, IMAGE, False)
    if line[0] in ("Set-Cookie", "X-Subject-Token"):
        assert own.response.fields.get(line[0]) == line[1]
    other = await world.get(target)
    assert other.response.fields.get("set-cookie") is other.response.fields.get("x-subject-token") is None
    assert len(world.upstream.requests) == 3
    assert not world.upstream.last("if-none-match")


async def test_a_304_that_sets_a_cookie_is_not_for_who_waited(world: Resources) -> None:
    """It is like a whole answer that sets one: each asks alone."""
    world.upstream.script = [says(TAGGED, LASTS)]
    await world.get()
    world.hand.now += 300
    world.upstream.usual = says(TAGGED, ("Set-Cookie", "session=s3cr3t"), status=304, body=b"")
    got = await world.crowd(world.get() for _ in range(4))
    assert len(world.upstream.requests) == 5
    assert not any(each.cache_status.collapsed for each in got)


async def test_a_304_may_say_that_an_answer_depends_on_more(world: Resources) -> None:
    """From then on it is given to who sends the same of that field too."""
    world.upstream.script = [
        says(TAGGED, LASTS),
        says(TAGGED, LASTS, ("Vary", "X-Tenant"), status=304, body=b""),
        says(LASTS, ("Vary", "X-Tenant"), body=b"beta's"),
    ]
    await world.get("/mine/a", X_Tenant="alpha")
    world.hand.now += 70
    assert (await world.get("/mine/a", X_Tenant="alpha")).cache_status.fwd_status == 304
    assert (await world.get("/mine/a", X_Tenant="beta")).response.body == b"beta's"
    assert (await world.get("/mine/a", X_Tenant="alpha")).response.body == IMAGE
    assert len(world.upstream.requests) == 3


async def test_a_refusal_is_for_who_asks_alike(world: Resources) -> None:
    """On a route of the standard's all fields go up, so a refusal may follow from each of them."""
    world.upstream.script = [says(status=404, body=b"none here")]
    assert (await world.get("/mine/a", X_Tenant="alpha")).response.status == 404
    assert (await world.get("/mine/a", X_Tenant="beta")).response.status == 200
    assert (await world.get("/mine/a", X_Tenant="alpha")).cache_status.detail == "negative"


@pytest.mark.parametrize("said", ["private", "no-store"])
async def test_a_refusal_about_who_asked_is_not_remembered(world: Resources, said: str) -> None:
    """As it is given to nobody who waited for it."""
    world.upstream.script = [says(("Cache-Control", said), status=404, body=b"not for you")]
    assert (await world.get()).response.status == 404
    assert (await world.get()).response.status == 200


async def test_a_304_that_names_another_answer_is_not_believed(world: Resources) -> None:
    """The resource is asked for anew, without a condition."""
    world.upstream.script = [says(TAGGED, LASTS), says(("ETag", '"b"'), status=304, body=b""), says(LASTS, body=b"new")]
    await world.get("/own/a")
    world.hand.now += 61
    assert (await world.get("/own/a")).response.body == b"new"
    assert [request.fields.get_all("if-none-match") for request in world.upstream.requests] == [[], ['"a"'], []]


async def test_a_304_that_nobody_asked_for_is_an_error(world: Resources) -> None:
    """There is nothing that it could speak of."""
    world.upstream.script = [says(status=304, body=b"")]
    with pytest.raises(UpstreamUnreachableError):
        await world.get("/own/a")


async def test_a_newer_answer_that_may_not_be_kept_takes_the_place_of_the_old(world: Resources) -> None:
    """What the upstream no longer says is given to nobody, not even while it fails."""
    await world.get()
    world.hand.now += 80
    world.upstream.script = [says(("Cache-Control", "no-store"), body=b"new"), unreachable()]
    assert (await world.get()).response.body == b"new"
    with pytest.raises(UpstreamTimeoutError):
        await world.get()


async def test_an_answer_is_given_stale_while_it_is_fetched_anew(world: Resources) -> None:
    """In its window, and the next caller gets the new one."""
    await world.get()
    world.hand.now += 65
    world.upstream.usual = says(body=b'{"status":"active","name":"new"}')
    stale = await world.get()
    assert (stale.response.body, stale.cache_status.detail) == (IMAGE, "stale-while-revalidate")
    assert stale.cache_status.ttl_s == -5.0
    assert stale.replay_terms is None
    await world.settled()
    assert b"new" in (await world.get()).response.body
    assert len(world.upstream.requests) == 2


async def test_nothing_is_revalidated_unasked_where_the_budget_runs_low(world: Resources) -> None:
    """A stale answer is good enough, and a call is left for who needs one."""
    await world.get()
    world.hand.now += 65
    world.low = True
    assert (await world.get()).cache_status.detail == "budget-low"
    await world.settled()
    assert len(world.upstream.requests) == 1


@pytest.mark.parametrize("failure", [unreachable(), says(status=503, body=b"no"), says(status=429, body=b"no")])
async def test_an_answer_is_given_stale_while_the_upstream_fails(
    world: Resources, failure: UpstreamTimeoutError
) -> None:
    """In its window, whichever way it fails; after it, the failure is told."""
    await world.get()
    world.hand.now += 159
    world.upstream.script = [failure]
    got = await world.get()
    assert (got.response.body, got.cache_status.detail, got.cache_status.fwd) == (
        IMAGE,
        "stale-if-error",
        FwdReason.STALE,
    )
    world.hand.now += 1
    world.upstream.script = [unreachable()]
    with pytest.raises(UpstreamTimeoutError):
        await world.get()


async def test_one_call_too_many_takes_nothing_away(world: Resources) -> None:
    """That the upstream counts calls says nothing of the resource: what is kept of it goes on being given."""
    await world.get()
    world.hand.now += 65
    world.upstream.usual = says(status=429, body=b"no")
    for detail in ("stale-while-revalidate", "stale-while-revalidate", "stale-if-error"):
        got = await world.get()
        assert (got.response.body, got.cache_status.detail) == (IMAGE, detail)
        await world.settled()
        world.hand.now += 4


async def test_an_error_that_takes_its_time_is_no_longer_stood_in_for(world: Resources) -> None:
    """What may be given stale is decided when it is given."""
    await world.get()
    world.hand.now += 150
    world.upstream.gate.clear()
    world.upstream.asked.clear()
    world.upstream.script = [unreachable()]
    asking = asyncio.create_task(world.get())
    await world.upstream.asked.wait()
    world.hand.now += 20
    world.upstream.gate.set()
    with pytest.raises(UpstreamTimeoutError):
        await asking


@pytest.mark.parametrize("low", [True, False])
async def test_a_stale_answer_saves_a_call_where_the_budget_runs_low(world: Resources, low: bool) -> None:
    """Who could be given it then waits for no turn; else it waits for what is new."""
    await world.get()
    world.hand.now += 80
    world.low = low
    await world.get()
    assert world.upstream.requests[-1].context.may_wait is not low


async def test_a_write_makes_every_answer_one_to_be_asked_about(world: Resources) -> None:
    """Law 8: nothing from before it is given after it, also not while the upstream fails."""
    world.upstream.script = [says(TAGGED), unreachable(), says(TAGGED, status=304, body=b"")]
    await world.get()
    await world.store.invalidate([ALL_TAG], now=world.hand.now)
    with pytest.raises(UpstreamTimeoutError):
        await world.get()
    assert (await world.get()).cache_status.fwd_status == 304
    assert (await world.get()).cache_status.fwd is None


@pytest.mark.parametrize("status", ["queued", "saving", "importing", "uploading", "pending_delete"])
async def test_an_image_about_to_change_is_not_held(world: Resources, status: str) -> None:
    """Whoever waits for it sees each change."""
    world.upstream.usual = says(body=b'{"status":"%b"}' % status.encode())
    for _ in range(2):
        assert (await world.get()).cache_status.detail == "transient"
    assert len(world.upstream.requests) == 2


async def test_an_image_is_held_briefly_while_a_job_runs(world: Resources) -> None:
    """A write has lately begun one whose end will change images."""
    await world.store.invalidate([ALL_TAG], pending_s=30.0, now=world.hand.now)
    assert (await world.get()).cache_status.ttl_s == 2.0


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_errors_reach_who_asked_and_are_not_stored(world: Resources, status: int) -> None:
    """As they came; a 404 is remembered for some seconds in its partition."""
    world.upstream.script = [says(("X-Own", "1"), status=status, body=b"no")] * 2
    for _ in range(2):
        got = await world.get()
        assert (got.response.status, got.response.body, got.response.fields.get("x-own")) == (status, b"no", "1")
        assert not got.cache_status.stored
    assert len(world.upstream.requests) == (1 if status == 404 else 2)
    await world.get(token="beta")
    world.hand.now += 6
    world.upstream.script = []
    assert (await world.get()).response.status == 200


async def test_what_tells_of_one_call_is_for_who_made_it(world: Resources) -> None:
    """So is what `no-cache` names; others get the rest."""
    lines = (
        ("X-Apig-RateLimit-User", "remain:1"),
        ("Cache-Control", 'max-age=9, no-cache="a"'),
        ("A", "1"),
        ("B", "2"),
    )
    world.upstream.usual = says(*lines)
    first, second = await world.get(), await world.get()
    assert [got.response.fields.get_all("b") for got in (first, second)] == [["2"], ["2"]]
    for name in ("x-apig-ratelimit-user", "a"):
        assert (len(first.response.fields.get_all(name)), second.response.fields.get_all(name)) == (1, [])


@pytest.mark.parametrize("stated", [True, False])
async def test_what_is_too_long_goes_through(world: Resources, stated: bool) -> None:
    """Whether it says so or not; for a while nobody tries again."""
    body = b"x" * (MOST_BYTES + 1)
    world.upstream.usual = says(*([("Content-Length", str(len(body)))] if stated else []), body=body)
    assert await world.got("/public/a") == Forward("body-too-large")
    assert await world.got("/public/a") == Forward("body-too-large")
    assert len(world.upstream.requests) == 1
    world.hand.now += 301
    world.upstream.usual = says(body=body[1:])
    assert (await world.get("/public/a")).response.body == body[1:]


async def test_a_body_that_does_not_end_is_given_up() -> None:
    """Within its time, whatever comes meanwhile; nobody waits longer for it."""
    world = Resources(within_s=0.5)
    world.upstream.hanging = True
    with pytest.raises(UpstreamTimeoutError):
        await world.get()
    world.upstream.hanging = False
    assert (await world.get()).response.status == 200
    await world.gateway.close()


@pytest.mark.parametrize(
    ("fields", "asks"),
    [
        ({"Cache_Control": "no-cache"}, True),
        ({"Cache_Control": "max-age=6"}, True),
        ({"Cache_Control": "max-age=7"}, False),
        ({"Cache_Control": "min-fresh=54"}, True),
        ({"Cache_Control": "min-fresh=53"}, False),
        ({"Pragma": "no-cache"}, True),
        ({"Cache_Control": "only-if-cached"}, False),
    ],
)
async def test_what_the_caller_demands_is_met(world: Resources, fields: dict[str, str], asks: bool) -> None:
    """By an answer of 7 s with 53 s left."""
    await world.get()
    world.hand.now += 7
    got = await world.get(**fields)
    assert len(world.upstream.requests) == (2 if asks else 1)
    assert got.cache_status.fwd is (FwdReason.REQUEST if asks else None)  # RFC 9211 §2.2
    assert got.replay_terms is None


async def test_who_wants_only_what_is_stored_is_told_when_there_is_nothing(world: Resources) -> None:
    """504, and nothing was asked."""
    with pytest.raises(NotCachedError):
        await world.get(Cache_Control="only-if-cached")
    assert world.upstream.requests == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"Cache_Control": "no-store"}, "no-store"),
        ({"If_Match": '"a"'}, "precondition"),
        ({"Authorization": "x"}, "two-credentials"),
        ({"token": ""}, "no-token"),
        ({"Cookie": "a=b"}, "two-credentials"),
    ],
)
def test_what_can_t_be_shared_goes_through(fields: dict[str, str], reason: str) -> None:
    """And says why."""
    assert Resources().ask(**fields) == Forward(reason)


async def test_a_crowd_costs_one_call(world: Resources) -> None:
    """A hundred callers with one token wait for one fetch."""
    got = await world.crowd(world.get() for _ in range(100))
    assert len(world.upstream.requests) == 1
    assert sorted(each.cache_status.collapsed for each in got) == [False] + [True] * 99


async def test_who_leads_may_go_away(world: Resources) -> None:
    """The fetch goes on for those who wait for it."""
    world.upstream.gate.clear()
    leader = asyncio.create_task(world.get())
    await world.upstream.asked.wait()
    follower = asyncio.create_task(world.get())
    await asyncio.sleep(0)
    leader.cancel()
    await asyncio.gather(leader, return_exceptions=True)
    world.upstream.gate.set()
    assert (await follower).response.body == IMAGE
    assert len(world.upstream.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_nobody_is_refused_in_another_s_place(world: Resources, status: int) -> None:
    """Who waited asks with its own credential."""
    world.upstream.gate.clear()
    world.upstream.script = [says(status=status, body=b"no")]
    leader = asyncio.create_task(world.get())
    await world.upstream.asked.wait()
    follower = asyncio.create_task(world.get())
    await asyncio.sleep(0)
    world.upstream.gate.set()
    assert (await leader).response.status == status
    assert (await follower).response.status == 200


async def test_a_crowd_on_an_upstream_that_fails_is_no_crowd(world: Resources) -> None:
    """Who led is told of the failure, and those who waited share the next."""
    world.upstream.usual = says(("X-Apig-RateLimit-User", "remain:1"), status=500, body=b"no")
    got = await world.crowd(world.get() for _ in range(20))
    assert {each.response.status for each in got} == {500}
    for each in got:  # what tells of one call is for who made it
        assert each.cache_status.collapsed is not each.response.fields.contains_any(
            frozenset({"x-apig-ratelimit-user"})
        )
    assert len(world.upstream.requests) <= 3


async def test_what_is_no_store_is_never_shared_with_who_waited(world: Resources) -> None:
    """Not even the second time: each asks alone."""
    world.upstream.usual = says(("Cache-Control", "no-store"))
    got = await world.crowd(world.get() for _ in range(5))
    assert len(world.upstream.requests) == 5
    assert not any(each.cache_status.collapsed for each in got)


async def test_a_cookie_is_for_nobody_who_waited(world: Resources) -> None:
    """An answer that sets one is about who asked: others ask alone, though they share a partition."""
    world.upstream.usual = says(("Set-Cookie", "session=s3cr3t"))
    got = await world.crowd(world.get() for _ in range(5))
    assert len(world.upstream.requests) == 5
    assert not any(each.cache_status.collapsed for each in got)


async def test_who_had_no_patience_does_not_decide_for_others(world: Resources) -> None:
    """A leader that was refused a call is followed by one who may wait longer."""
    world.upstream.gate.clear()
    world.upstream.script = [RateLimitedError("budget: no call")]
    leader = asyncio.create_task(world.get())
    await world.upstream.asked.wait()
    follower = asyncio.create_task(world.get())
    await asyncio.sleep(0)
    world.upstream.gate.set()
    with pytest.raises(RateLimitedError):
        await leader
    assert (await follower).response.status == 200


async def test_a_token_is_believed_for_as_long_as_verdicts_are() -> None:
    """Then the upstream is asked again, whatever the answer's lifetime, and what it refuses is dropped."""
    world = Resources(verdict_ttl_s=30.0)
    await world.get()
    world.hand.now += 29
    assert (await world.get()).cache_status.fwd is None
    world.hand.now += 1
    world.upstream.script = [says(status=401, body=b"revoked")]
    assert (await world.get()).response.status == 401
    assert (await world.get()).cache_status.fwd_status == 200
    await world.gateway.close()


@pytest.mark.parametrize("wishes", [{}, {"Cache_Control": "no-cache"}], ids=["verdict", "no-cache"])
async def test_another_replica_s_fetch_in_vain_brings_back_nothing(
    monkeypatch: pytest.MonkeyPatch, wishes: dict[str, str]
) -> None:
    """Who waited for it does not take for its outcome what was there before, and found wanting: it asks."""
    world = Resources(verdict_ttl_s=30.0)
    await world.get()
    if not wishes:
        world.hand.now += 31
    own, held = world.store.acquire_lock, [True]

    async def acquire_lock(key: CacheKey, marker: str, *, now: float) -> FetchLock:
        """Say once that somebody else has it."""
        return (
            FetchLock(world.store.state(key, now=now), None) if held and held.pop() else await own(key, marker, now=now)
        )

    monkeypatch.setattr(world.store, "acquire_lock", acquire_lock)
    world.upstream.script = [says(status=401, body=b"no")]
    assert (await world.get(**wishes)).response.status == 401
    await world.gateway.close()


async def test_a_public_answer_is_everyone_s(world: Resources) -> None:
    """By configuration only: no partition, whatever the token; and a refusal is still nobody else's."""
    world.upstream.script = [says(status=404, body=b"no")]
    assert (await world.get("/public/a")).response.status == 404
    assert (await world.get("/public/a", token="alpha")).cache_status.fwd is FwdReason.URI_MISS
    assert (await world.get("/public/a", token="beta")).cache_status.fwd is None
    assert (await world.get("/public/a", token="")).cache_status.fwd is None
    assert world.upstream.last("x-auth-token") == ["alpha"]


@pytest.mark.parametrize("status", [401, 403])
async def test_who_is_refused_takes_a_public_answer_from_nobody(world: Resources, status: int) -> None:
    """It is about who asked, and anyone may ask there: what is kept stands in for an upstream that fails."""
    await world.get("/public/a")
    world.hand.now += 80
    world.upstream.script = [says(status=status, body=b"no"), unreachable()]
    assert (await world.get("/public/a", token="made-up")).response.status == status
    assert (await world.get("/public/a", token="beta")).cache_status.detail == "stale-if-error"


async def test_an_answer_to_authorization_is_public_only_if_it_says_so(world: Resources) -> None:
    """RFC 9111 §3.5, on a public route too."""
    for lines, others in (((), FwdReason.URI_MISS), ((("Cache-Control", "public, max-age=9"),), None)):
        world.upstream.usual = says(*lines)
        target = f"/public/{len(lines)}"
        await world.get(target, token="", Authorization="Basic x")
        assert (await world.get(target, token="beta")).cache_status.fwd is others


def test_a_signed_request_is_not_altered() -> None:
    """Nor is its answer stored, though the route is public."""
    signed = "SDK-HMAC-SHA256 Access=a, SignedHeaders=host, Signature=b"
    assert Resources().ask("/public/a", token="", Authorization=signed) == Forward("signed")


async def test_where_vary_counts_the_upstream_s_vary_selects(world: Resources) -> None:
    """All goes up but conditions, and what proxies say of a request; one resource has several answers."""
    world.upstream.usual = says(LASTS, ("Vary", "Foo"))
    await world.get("/vary/a", Foo="1", Other="x", X_Forwarded_Host="evil", Forwarded="host=evil", Range="bytes=0-1")
    sent = {name.lower() for name, _ in world.upstream.requests[0].fields}
    assert {"foo", "other"} <= sent
    assert not {"range", "forwarded", "x-forwarded-host"} & sent
    other = await world.get("/vary/a", Foo="2")
    assert other.cache_status.fwd is FwdReason.MISS
    assert (await world.get("/vary/a", Foo="1", Other="y")).cache_status.fwd is None
    assert (await world.get("/vary/a", Foo="2")).cache_status.fwd is None
    assert len(world.upstream.requests) == 2


async def test_what_the_upstream_s_vary_may_name_is_looked_at_each_time(world: Resources) -> None:
    """Such an answer is not repeated to who sends the same but for a field that decides nothing elsewhere."""
    told = [("Cache-Control", "private, max-age=60"), ("CDN-Cache-Control", "max-age=60")]
    world.upstream.usual = says(*told, ("Vary", "Foo"))
    await world.get("/mine/a", Foo="1")
    hit = await world.get("/mine/a", Foo="1")
    assert hit.response.fields.get_all("cache-control") == ["private, max-age=60"]
    assert (hit.cache_status.fwd, hit.replay_terms) == (None, None)


@pytest.mark.parametrize(
    "body",
    [b"<html>come back later</html>", b'{"properties": {', b"", b'{"a": NaN}'],
    ids=["a page", "cut", "none", "NaN"],
)
async def test_a_200_that_is_not_json_is_kept_for_nobody(world: Resources, body: bytes) -> None:
    """Where answers are JSON, what something in between says reaches who asked; the next caller asks anew."""
    world.upstream.script = [says(body=body)]
    got = await world.get("/json/a")
    assert (got.response.body, got.cache_status.stored, got.cache_status.detail) == (body, False, "not-json")
    assert (await world.get("/json/a")).response.body == IMAGE
    assert (await world.get("/json/a")).cache_status.fwd is None


@pytest.mark.parametrize("target", ["/public/a", "/vary/a"])
async def test_on_a_public_route_only_what_is_public_is_shared_with_who_waited(world: Resources, target: str) -> None:
    """What may not be stored is for who asked, however often others waited for it in vain."""
    world.upstream.usual = says(("Cache-Control", "max-age=0"))
    got = await world.crowd(world.get(target, token=f"t{number}") for number in range(6))
    assert not any(each.cache_status.collapsed for each in got)
    assert sorted(each.fields.get("x-auth-token") or "" for each in world.upstream.requests) == [
        f"t{n}" for n in range(6)
    ]


def test_no_credential_stands_in_what_flights_and_claims_are_known_by(world: Resources) -> None:
    """Requests that differ in one alone wait for the same answer, which may be given to both or to none."""
    mine, theirs = world.ask("/vary/a", token="mine", Foo="1"), world.ask("/vary/a", token="theirs", Foo="1")
    other = world.ask("/vary/a", token="mine", Foo="2")
    assert isinstance(mine, ResourceRequest)
    assert isinstance(theirs, ResourceRequest)
    assert isinstance(other, ResourceRequest)
    assert mine.collapse_key == theirs.collapse_key != other.collapse_key


async def test_a_token_counts_as_accepted_from_when_it_was_sent() -> None:
    """The upstream answers after a minute; when in that minute it looked at the token, nobody knows."""
    world = Resources(verdict_ttl_s=50.0)
    await world.get("/v2/images/a")
    world.upstream.gate.clear()
    world.upstream.asked.clear()
    slow = asyncio.create_task(world.get("/v2/images/b"))
    await world.upstream.asked.wait()
    world.hand.now += 40
    world.upstream.gate.set()
    await slow
    world.hand.now += 9
    assert (await world.get("/v2/images/a")).cache_status.fwd is None
    world.hand.now += 1
    assert (await world.get("/v2/images/a")).cache_status.fwd is not None
    await world.gateway.close()
