"""Bodies in a content coding."""

from __future__ import annotations

import asyncio
import threading
import zlib

import pytest

from proxy.caching import bounded as codings
from proxy.caching.bounded import EncodedBodies

BODY = b"0123456789" * 200


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The codings that were made, in order."""
    kept: list[str] = []

    def counted(body: bytes, coding: str) -> bytes:
        kept.append(coding)
        return zlib.compress(body, wbits=31)

    monkeypatch.setattr(codings, "encode", counted)
    return kept


async def test_a_body_is_coded_once(made: list[str]) -> None:
    """Per resource, bytes and coding; what any of them changes is coded anew."""
    bodies = EncodedBodies(1 << 20)
    asked = [
        ("k", BODY, "gzip"),
        ("k", BODY, "gzip"),
        ("k", BODY, "zstd"),
        ("k", BODY + b"x", "gzip"),
        ("l", BODY, "gzip"),
    ]
    got = [await bodies.get_or_encode(*each) for each in asked]
    assert [zlib.decompress(each, wbits=31) for each in got] == [body for _, body, _ in asked]
    assert made == ["gzip", "zstd", "gzip", "gzip"]


async def test_only_so_much_is_remembered(made: list[str]) -> None:
    """What was asked for longest ago goes first; what is too large for all of it is coded each time."""
    bodies = EncodedBodies(600)  # two of about 240 bytes, with what an entry takes beside them
    for key in ("a", "b", "a", "c", "a", "b"):
        await bodies.get_or_encode(key, BODY, "gzip")
    assert len(made) == 4
    none = EncodedBodies(10)
    for _ in range(2):
        assert zlib.decompress(await none.get_or_encode("a", BODY, "gzip"), wbits=31) == BODY
    assert len(made) == 6


async def test_a_long_body_is_coded_once_for_all_who_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is, who asks for it waits for the same; one whose caller went away is there for the others."""
    opened, made = threading.Event(), []

    def held(body: bytes, coding: str) -> bytes:
        made.append(coding)
        assert opened.wait(20)
        return zlib.compress(body, wbits=31)

    monkeypatch.setattr(codings, "encode", held)
    body = bytes(range(256)) * 1000
    bodies = EncodedBodies(1 << 20)
    first, *others = [asyncio.create_task(bodies.get_or_encode("k", body, "gzip")) for _ in range(9)]

    async def leave() -> None:
        first.cancel()
        opened.set()

    await asyncio.create_task(leave())  # begun after them, so that all of them wait by then
    got = await asyncio.gather(*others)
    assert {zlib.decompress(each, wbits=31) for each in got} == {body}
    assert first.cancelled()
    assert await bodies.get_or_encode("k", body, "gzip") == got[0]
    assert made == ["gzip"]
    await bodies.close()
