"""A key's secret is taken from the proxy while requests signed by it wait."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from proxy.core.messages import Fields, Request
from proxy.core.signing import Signing, SigningKey
from tests.gateway.own import IMAGE, LIST, MakeOwn, make_own

__all__ = ["make_own"]

KEY = SigningKey("AK-CALLER", "the secret of a caller")


@pytest.mark.parametrize("target", [LIST, IMAGE])
async def test_a_signature_that_can_no_longer_be_verified_shares_nothing(
    make_own: MakeOwn, tmp_path: Path, target: str
) -> None:
    """Each of those who waited goes up on its own, as it came: whether it is still good is the upstream's to say."""
    secret = tmp_path / "secret"
    secret.write_text(KEY.secret)
    own = make_own(identity={"mode": "token", "keys": {KEY.access: secret}})
    signed = Signing(KEY, "ims.example").signed(Request("GET", target, Fields(), "id"), now=time.time())
    own.upstream.gate.clear()
    waiting = await own.waiting(1, at=own.upstream.asked, target=target, fields=signed.fields.lines)
    waiting.append(asyncio.ensure_future(own.get(target, fields=signed.fields.lines)))
    await asyncio.sleep(0)
    secret.write_text("another secret")
    own.upstream.gate.set()
    got = await asyncio.gather(*waiting)
    assert ["detail=key-replaced" in each.cache_status for each in got] == [True, True]
    assert len(own.upstream.calls) == 3
