"""However requests, rotations and waits interleave, nobody is shown what another identity was told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import IdentityChangedError
from tests.support.own_identity import IMAGE, LIST, Own, made_own

KEYS = ("AK-ONE", "AK-TWO", "AK-THREE")
TARGETS = (LIST, IMAGE, f"{LIST}&name=other", f"{LIST}&marker=of-any-4")

STEPS = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from(TARGETS)),
    st.tuples(st.just("rotate"), st.sampled_from(KEYS)),
    st.tuples(st.just("store"), st.booleans()),
    st.tuples(st.just("upstream"), st.booleans()),
    st.tuples(st.just("time"), st.sampled_from([30.0, 90.0, 200.0])),
)


async def _asked(own: Own, target: str) -> None:
    """Assert that the answer is of who the proxy is when it comes; two rotations under one request are told as such."""
    try:
        got = await own.get(target)
    except IdentityChangedError:
        return
    assert (got.status, got.shown) == (200, own.key_file.read_text())


async def _lived(own: Own, steps: list[tuple[tuple[str, object], int]]) -> None:
    """Take *steps*, each so many turns of the loop behind the one before, and look at what everyone has got then."""
    asking: list[asyncio.Task[None]] = []
    for (kind, value), turns in steps:
        for _ in range(turns):
            await asyncio.sleep(0)
        match kind, value:
            case "ask", str(target):
                asking.append(asyncio.create_task(_asked(own, target)))
            case "rotate", str(key):
                own.rotate(key)
            case "store" | "upstream", bool(opens):
                gate = own.store.gate if kind == "store" else own.upstream.gate
                gate.set() if opens else gate.clear()
            case "time", float(seconds):
                own.hand.now += seconds
            case step:
                raise AssertionError(step)
    own.store.gate.set()
    own.upstream.gate.set()
    await asyncio.gather(*asking)
    await own.settled()
    for key in KEYS:
        own.rotate(key)
        for target in TARGETS:
            await _asked(own, target)
            await _asked(own, target)


@given(st.lists(st.tuples(STEPS, st.sampled_from([0, 1, 5, 30])), min_size=3, max_size=30))
@settings(max_examples=60)
def test_an_answer_is_of_who_the_proxy_is(steps: list[tuple[tuple[str, object], int]]) -> None:
    """In any order of events, whether stored, collapsed, stale or fetched, and when each identity comes back."""

    async def lived() -> None:
        own = made_own(Path(directory), cache={"readahead": True})
        try:
            await _lived(own, steps)
        finally:
            await own.close()

    with TemporaryDirectory() as directory, patch("proxy.config.reload.CHECK_INTERVAL_S", 0.0):
        asyncio.run(lived())
