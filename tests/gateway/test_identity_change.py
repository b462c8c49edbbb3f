"""The proxy's own identity is replaced while requests wait: who was told what, and where that is kept."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.messages import Request
from proxy.errors import IdentityChangedError
from tests.support.own_identity import IMAGE, LIST, MakeOwn, Own, make_own, own

__all__ = ["make_own", "own"]

ONE, TWO = "AK-ONE", "AK-TWO"


@pytest.mark.parametrize("target", [LIST, IMAGE])
async def test_what_the_new_identity_is_told_is_kept_for_it_alone(own: Own, target: str) -> None:
    """The key is replaced between the look into the store and the call: one other call serves all who waited."""
    own.store.gate.clear()
    crowd = await own.waiting(50, at=own.store.claiming, target=target)
    own.rotate(TWO)
    own.store.gate.set()
    assert {(got.status, got.shown) for got in await asyncio.gather(*crowd)} == {(200, TWO)}
    assert own.upstream.calls == [TWO]
    again = await own.get(target)
    assert (again.shown, again.hit) == (TWO, True)
    own.rotate(ONE)
    back = await own.get(target)
    assert (back.shown, back.hit) == (ONE, False)


@pytest.mark.parametrize("target", [LIST, IMAGE])
async def test_who_sees_two_rotations_is_told_to_come_again(own: Own, target: str) -> None:
    """Nothing was sent for it under any name; a second later the proxy will be whoever it is."""
    own.store.gate.clear()
    (waiting,) = await own.waiting(1, at=own.store.claiming, target=target)
    own.rotate(TWO)
    own.store.claiming.clear()
    own.store.gate.set()
    own.store.gate.clear()
    async with asyncio.timeout(60):
        await own.store.claiming.wait()
    own.rotate("AK-THREE")
    own.store.gate.set()
    with pytest.raises(IdentityChangedError) as told:
        await waiting
    assert (told.value.status, told.value.retry_after_s) == (503, 1.0)
    assert own.upstream.calls == []


@pytest.mark.parametrize("target", [LIST, IMAGE])
async def test_what_the_old_identity_is_told_is_kept_for_it_alone(own: Own, target: str) -> None:
    """The key is replaced while the upstream answers: what it says is the old one's, and given to nobody any more."""
    own.upstream.gate.clear()
    crowd = await own.waiting(20, at=own.upstream.asked, target=target)
    own.rotate(TWO)
    own.upstream.gate.set()
    assert {got.shown for got in await asyncio.gather(*crowd)} == {TWO}
    assert own.upstream.calls == [ONE, TWO]
    own.rotate(ONE)
    back = await own.get(target)
    assert (back.shown, back.hit) == (ONE, True)


@pytest.mark.parametrize("target", [LIST, IMAGE])
async def test_the_old_identitys_401_is_nobodys(own: Own, target: str) -> None:
    """A key that is deleted as soon as it is replaced is refused; who waited is answered by the new one."""
    own.upstream.gate.clear()
    (waiting,) = await own.waiting(1, at=own.upstream.asked, target=target)
    own.upstream.gone.add(ONE)
    own.rotate(TWO)
    own.upstream.gate.set()
    assert (await waiting).shown == TWO


@pytest.mark.parametrize("target", [LIST, IMAGE])
@pytest.mark.parametrize("status", [400, 404])
async def test_a_refusal_is_remembered_for_whom_it_was_given_to(own: Own, target: str, status: int) -> None:
    """The new identity is told 404: the old one, should it come back, is not told so from memory."""
    own.upstream.failing = status
    own.store.gate.clear()
    (waiting,) = await own.waiting(1, at=own.store.claiming, target=target)
    own.rotate(TWO)
    own.store.gate.set()
    assert (await waiting).status == status
    own.upstream.failing = None
    own.rotate(ONE)
    assert (await own.get(target)).shown == ONE


@pytest.mark.parametrize("target", [LIST, IMAGE])
async def test_a_revalidation_for_the_old_identity_is_not_made_by_the_new(own: Own, target: str) -> None:
    """What is stale is given and fetched anew in the background, but by nobody else than whose it is."""
    await own.get(target)
    own.hand.now += 90
    own.store.gate.clear()
    own.store.claiming.clear()
    assert "stale-while-revalidate" in (await own.get(target)).cache_status
    await own.store.claiming.wait()
    own.rotate(TWO)
    own.store.gate.set()
    await own.settled()
    assert own.upstream.calls == [ONE]
    own.rotate(ONE)
    assert (await own.get(target)).shown == ONE


async def test_readahead_for_the_old_identity_is_not_done_by_the_new(make_own: MakeOwn) -> None:
    """The span behind a page is fetched by whose page it is, or not at all."""
    own = make_own(cache={"readahead": True})
    await own.get(LIST)
    await own.settled()
    own.upstream.calls.clear()
    own.store.gate.clear()
    own.store.claiming.clear()
    assert (await own.get(f"{LIST}&marker={ONE}-14")).hit
    await own.store.claiming.wait()
    own.rotate(TWO)
    own.store.gate.set()
    await own.settled()
    assert own.upstream.calls == []


@pytest.mark.parametrize("target", [LIST, IMAGE])
async def test_a_stale_answer_of_the_old_identity_stands_in_for_nothing(own: Own, target: str) -> None:
    """The upstream fails after the key was replaced: what the old one had is not given in the place of the error."""
    await own.get(target)
    own.hand.now += 200
    own.upstream.gate.clear()
    (waiting,) = await own.waiting(1, at=own.upstream.asked, target=target)
    own.rotate(TWO)
    own.upstream.failing = 503
    own.upstream.gate.set()
    assert (await waiting).status == 503
    own.rotate(ONE)
    stale = await own.get(target)
    assert (stale.shown, "stale-if-error" in stale.cache_status) == (ONE, True)


async def test_a_public_list_is_fetched_by_who_the_proxy_is(make_own: MakeOwn) -> None:
    """What all share is no identity's: who waits for it gets it, whoever the proxy is by then."""
    own = make_own(identity={"share_public": True})
    target = f"{LIST}&visibility=public"
    own.store.gate.clear()
    crowd = await own.waiting(20, at=own.store.claiming, target=target)
    own.rotate(TWO)
    own.store.gate.set()
    assert {got.status for got in await asyncio.gather(*crowd)} == {200}
    assert set(own.upstream.calls) == {TWO}


@pytest.mark.parametrize("target", ["/v2/images/an-image/file", "/versions"])
async def test_what_is_passed_through_goes_up_as_who_the_proxy_is(own: Own, target: str) -> None:
    """A key that is replaced between the look at whose budget counts and the signing costs nobody an error."""
    gateway = own.answering.gateway
    onward = gateway._prepare_forward

    async def rotated(request: Request, caller: str) -> Request:
        made = await onward(request, caller)
        own.rotate(TWO)
        return made

    gateway._prepare_forward = rotated  # type: ignore[method-assign]
    assert (await own.get(target)).status == 200
    assert own.upstream.calls == [TWO]


async def test_a_public_route_is_fetched_by_who_the_proxy_is(make_own: MakeOwn) -> None:
    """What has no partition is asked for as the proxy is, and stays when that changes."""
    own = make_own(cache={"routes": [{"path": "/open/*", "public": True, "ttl_s": 60}]})
    own.store.gate.clear()
    crowd = await own.waiting(20, at=own.store.claiming, target="/open/one")
    own.rotate(TWO)
    own.store.gate.set()
    assert {got.status for got in await asyncio.gather(*crowd)} == {200}
    assert own.upstream.calls == [TWO]
    own.rotate(ONE)
    again = await own.get("/open/one")
    assert (again.hit, again.shown) == (True, TWO)
