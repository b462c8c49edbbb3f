"""Whose rejection makes what was given so far unfit to be given again."""

from __future__ import annotations

import pytest

from proxy.auth import token_acceptance as credentials
from proxy.auth.token_acceptance import TokenAcceptance
from proxy.core.freshness import TrustPeriod
from proxy.core.partition import Partition, Principal
from proxy.storage.memory import MemoryStore

NOW = 1_767_225_600.0


def who(name: str, *, token: str | None = None) -> Principal:
    """Return who has the credential *name*; a *token* is one that IAM was asked about."""
    partition = Partition("token", name)
    return Principal(partition, partition, is_verified=token is not None, token_digest=token)


@pytest.fixture
def made() -> TokenAcceptance:
    """What the upstream said so far: nothing."""

    async def drop(digest: str, surely: bool) -> None:
        """Nobody keeps a verdict."""

    return TokenAcceptance(MemoryStore(1 << 20), trust=TrustPeriod(ttl_s=300.0), clock=lambda: NOW, drop=drop)


async def test_who_was_shown_nothing_ends_nothing(made: TokenAcceptance) -> None:
    """A 401 to one that was shown something counts each time, one to a stranger only where an operator orders it."""
    made.record_shown(who("alpha"))
    made.record_shown(who("a project", token="t1"))
    await made.record_rejected(who("made-up"))
    await made.record_rejected(who("a project", token="t2"))
    assert made.rejections == 0
    for number, each in enumerate((who("alpha"), who("another spelling", token="t1"), who("alpha")), 1):
        await made.record_rejected(each)
        assert made.rejections == number
    await made.record_rejected(who("made-up"), certain=True)
    assert made.rejections == 4


async def test_too_many_to_note(made: TokenAcceptance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where some are forgotten, all that was given counts as unfit, so that nothing of theirs is left."""
    monkeypatch.setattr(credentials, "_MAX_SHOWN", 3)
    for name in ("a", "b", "c", "a"):
        made.record_shown(who(name))
    assert made.rejections == 0
    made.record_shown(who("d"))
    assert made.rejections == 1
    await made.record_rejected(who("a"))
    assert made.rejections == 1
    await made.record_rejected(who("d"))
    assert made.rejections == 2
