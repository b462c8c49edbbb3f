"""A caller's key is taken from the file while its request waits: it is told so, and nobody else suffers for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.errors import ForbiddenError, UnauthorizedError
from tests.support.own_identity import ANOTHER, IMAGE, LIST, READER, MakeOwn, Own, make_own, own

__all__ = ["make_own", "own"]

FILE = "/v2/images/an-image/file"


@pytest.mark.parametrize("target", [LIST, IMAGE])
@pytest.mark.parametrize("removed_leads", [True, False])
async def test_who_was_removed_gets_nothing_of_a_flight_and_others_do(
    own: Own, target: str, removed_leads: bool
) -> None:
    """One fetch for both, whoever began it: who has a key still takes what it brings, who has none is told so."""
    first, second = (READER, ANOTHER) if removed_leads else (ANOTHER, READER)
    own.upstream.gate.clear()
    tasks = await own.waiting(1, at=own.upstream.asked, target=target, key=first)
    tasks.append(asyncio.ensure_future(own.get(target, key=second)))
    await asyncio.sleep(0)
    own.allow(ANOTHER)
    own.upstream.gate.set()
    removed, stays = tasks if removed_leads else reversed(tasks)
    with pytest.raises(UnauthorizedError, match="no valid key"):
        await removed
    assert (await stays).status == 200
    assert len(own.upstream.calls) == 1


@pytest.mark.parametrize("target", [LIST, IMAGE])
async def test_who_was_removed_is_told_no_refusal_of_the_upstreams_either(own: Own, target: str) -> None:
    """A 404 says what is not there, which is for those who may come in."""
    own.upstream.gate.clear()
    own.upstream.failing = 404
    (waiting,) = await own.waiting(1, at=own.upstream.asked, target=target)
    own.allow(ANOTHER)
    own.upstream.gate.set()
    with pytest.raises(UnauthorizedError):
        await waiting


@pytest.mark.parametrize("target", [FILE, "/versions"])
async def test_nothing_goes_up_any_more_for_who_was_removed(make_own: MakeOwn, target: str) -> None:
    """What would be passed through waits for its turn: when that comes its key is gone, and the next one goes up."""
    own = make_own(upstream={"max_connections": 1})
    own.upstream.gate.clear()
    (before,) = await own.waiting(1, at=own.upstream.asked, target=LIST, key=ANOTHER)
    removed = asyncio.ensure_future(own.get(target))
    stays = asyncio.ensure_future(own.get(target, key=ANOTHER))
    await asyncio.sleep(0)
    own.allow(ANOTHER)
    own.upstream.gate.set()
    with pytest.raises(UnauthorizedError, match="no valid key"):
        await removed
    assert [got.status for got in await asyncio.gather(before, stays)] == [200, 200]
    assert len(own.upstream.calls) == 2


@pytest.mark.parametrize("keys", [(), (ANOTHER,)], ids=["may only read", "is gone"])
async def test_a_key_that_may_no_longer_write_does_not(own: Own, keys: tuple[str, ...]) -> None:
    """It may while its body comes slowly, and no longer when all of it is there: the upstream hears nothing of it."""
    own.allow(READER)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        begun.set()
        await go_on.wait()
        yield b"{}"

    (writing,) = await own.waiting(1, at=begun, target=IMAGE, method="PATCH", body=body())
    own.allow(*keys, reads=() if keys else (READER,))
    go_on.set()
    with pytest.raises(UnauthorizedError if keys else ForbiddenError):
        await writing
    assert not own.upstream.calls
