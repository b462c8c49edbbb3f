"""A key's secret is taken from the proxy while requests signed by it wait."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.core.messages import Fields, Request
from proxy.core.signing import RequestSigner, SigningKey, parse_signature
from tests.support.own_identity import IMAGE, LIST, MakeOwn, make_own

__all__ = ["make_own"]

KEY = SigningKey("AK-CALLER", "the secret of a caller")


@pytest.mark.parametrize("target", [LIST, IMAGE])
async def test_a_signature_that_can_no_longer_be_verified_shares_nothing(
    make_own: MakeOwn, tmp_path: Path, target: str
) -> None:
    """Each of those who waited goes up on its own, as it came: whether it is still good is the upstream's to say."""
    secret = tmp_path / "secret"
    secret.write_text(KEY.secret_key)
    own = make_own(identity={"mode": "token", "access_keys": {KEY.access_key: secret}})
    signed = RequestSigner(KEY, "ims.example").sign(Request("GET", target, Fields(), "id"), now=time.time())
    own.upstream.gate.clear()
    waiting = await own.waiting(1, at=own.upstream.asked, target=target, fields=signed.fields.lines)
    waiting.append(asyncio.ensure_future(own.get(target, fields=signed.fields.lines)))
    await asyncio.sleep(0)
    secret.write_text("another secret")
    own.upstream.gate.set()
    got = await asyncio.gather(*waiting)
    assert ["detail=key-replaced" in each.cache_status for each in got] == [True, True]
    assert len(own.upstream.calls) == 3


async def test_a_signature_is_not_made_anew_with_a_secret_of_before(make_own: MakeOwn, tmp_path: Path) -> None:
    """The body that has to be read first comes slowly, and the secret is replaced: the request goes up as it came."""
    secret = tmp_path / "secret"
    secret.write_text(KEY.secret_key)
    own = make_own(identity={"mode": "token", "access_keys": {KEY.access_key: secret}})
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        begun.set()
        await go_on.wait()
        yield b"{}"

    request = Request("PATCH", IMAGE, Fields(), "id", body())
    digest = hashlib.sha256(b"{}").hexdigest()
    signed = RequestSigner(KEY, "ims.example").sign(request, payload_hash=digest, now=time.time() - 60)
    (waiting,) = await own.waiting(
        1, at=begun, target=IMAGE, method="PATCH", fields=signed.fields.lines, body=signed.body
    )
    secret.write_text("another secret")
    go_on.set()
    await waiting
    came = parse_signature(signed.fields)
    assert came is not None
    assert own.upstream.signed == [came.hex_digest]
